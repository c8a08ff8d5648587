"""Recordings of what real programs do to their memory, and their replay on an address space."""

from __future__ import annotations

from aspf._exports import publish as _publish

from ._perf import (
    RecordedFault,
    parse_perf,
)
from ._record import (
    RecordingFailed,
    record,
)
from ._recording import (
    Event,
    Recording,
    Segment,
    parse_recording,
)
from ._replay import (
    Difference,
    Replay,
    Replayed,
)
from ._strace import (
    RecordedCall,
    RecordedSignal,
    parse_strace,
)

__all__ = (
    "Difference",
    "Event",
    "RecordedCall",
    "RecordedFault",
    "RecordedSignal",
    "Recording",
    "RecordingFailed",
    "Replay",
    "Replayed",
    "Segment",
    "parse_perf",
    "parse_recording",
    "parse_strace",
    "record",
)

_publish(__name__, globals())

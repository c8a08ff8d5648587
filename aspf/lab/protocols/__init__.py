"""The protocols, one file each, in the order in which they came up."""

from __future__ import annotations

from aspf.lab.protocols._hooks import Hold, Protocol
from aspf.lab.protocols.jan2010 import Jan2010
from aspf.lab.protocols.mmap_sem import MmapSem
from aspf.lab.protocols.rfc2009 import Rfc2009
from aspf.lab.protocols.rfc2009_bias import Rfc2009Bias
from aspf.lab.protocols.rfc2009_bias_reply import Rfc2009BiasReply
from aspf.lab.protocols.rfc2009_repaired import Rfc2009Repaired
from aspf.lab.protocols.rfc2009_wake0 import Rfc2009Wake0

__all__ = (
    "Hold",
    "Jan2010",
    "MmapSem",
    "Protocol",
    "Rfc2009",
    "Rfc2009Bias",
    "Rfc2009BiasReply",
    "Rfc2009Repaired",
    "Rfc2009Wake0",
)

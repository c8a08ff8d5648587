"""One schedule as plain data, and the forms that it can be given: JSON, Perfetto, a page. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from aspf.race._diagram import EVERYWHERE, draw
from aspf.race._page import render
from aspf.race._wait_for import cycle_among, describe_cycle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aspf.race._record import Event
    from aspf.race._wait_for import Wait

__all__ = ("FORMAT", "VERSION", "Recording")

FORMAT: Final = "aspf.race.recording"
VERSION: Final = 1
_INTEGER = re.compile(r"-?\d{1,15}")
_MICROSECONDS = 1_000_000


@final
@dataclass(frozen=True, slots=True)
class Recording:
    """Everything that happened in one schedule.

    It holds text and numbers only, nothing of the program.
    """

    #: The program's name.
    program: str
    #: Repeats the schedule.
    token: str
    #: ``"passes"``, or what `Failure.kind` says.
    verdict: str
    #: What went wrong, or what was returned, in one line.
    summary: str
    #: The tasks' names, by number; the main task is 0.
    tasks: Mapping[int, str]
    events: tuple[Event, ...]
    turns: tuple[tuple[int, float], ...]
    waits: tuple[Wait, ...]
    #: One line for each context switch that was found necessary, if it was minimised.
    switches: tuple[str, ...] = ()

    @property
    def diagram(self) -> str:
        """The interleaving as text, a column for each task."""
        return draw([event.row for event in self.events], self.tasks)

    @property
    def cycle(self) -> list[str]:
        """A deadlock's circle of waiting tasks, in words; empty where none is known."""
        return describe_cycle(cycle_among(self.waits), self.tasks)

    def as_json(self) -> str:
        """Write the recording for a program to read.

        The object's ``format`` is ``"aspf.race.recording"`` and its ``version`` 1. Within a
        version keys are added, never changed or taken away. Values of cells are their ``repr``.

        Returns:
            JSON text, ended by a newline.
        """
        document = {
            "format": FORMAT,
            "version": VERSION,
            "program": self.program,
            "token": self.token,
            "verdict": self.verdict,
            "summary": self.summary,
            "tasks": [{"number": n, "name": name} for n, name in self.tasks.items()],
            "turns": [{"task": task, "time": time} for task, time in self.turns],
            "events": [_event(event) for event in self.events],
            "waits": [wait._asdict() for wait in self.waits],
            "cycle": [wait.task for wait in cycle_among(self.waits)],
            "switches": list(self.switches),
        }
        return json.dumps(document, indent=1) + "\n"

    def as_perfetto(self) -> str:
        """Write the recording in the trace format of Chrome, which ui.perfetto.dev opens.

        Each task is a thread. A turn of a task takes no virtual time; so that it can be seen, it
        is drawn one microsecond long, after all that came before it. Cells that hold integers
        are counters.

        Returns:
            JSON text, ended by a newline.
        """
        events = [*self._threads(), *self._slices(), *self._sleeps(), *self._marks()]
        document = {"displayTimeUnit": "ns", "traceEvents": events}
        return json.dumps(document, indent=1) + "\n"

    def html(self) -> str:
        """Write one page that needs nothing else: lanes of the tasks, to step through by keys.

        Returns:
            An HTML document.
        """
        return render(self)

    def _threads(self) -> Iterator[dict[str, object]]:
        yield _perfetto("M", 0, "process_name", args={"name": self.program})
        for number, name in self.tasks.items():
            yield _perfetto("M", number, "thread_name", args={"name": name})
            yield _perfetto("M", number, "thread_sort_index", args={"sort_index": number})

    def _slices(self) -> Iterator[dict[str, object]]:
        texts: dict[int, list[str]] = {}
        for event in self.events:
            if event.kind in {"access", "line", "yields", "sleeps", "ends"}:
                texts.setdefault(event.turn, []).append(event.text)
        for turn, (task, _) in enumerate(self.turns, 1):
            did = texts.get(turn, [])
            name = next((text for text in did if not text.startswith("sleeps")), "runs")
            yield _perfetto("X", task, name, ts=self._start(turn), dur=1, args={"did": did})

    def _sleeps(self) -> Iterator[dict[str, object]]:
        end = self._end()
        for event in self.events:
            if event.kind == "sleeps":
                start = self._start(event.turn) + 1
                after = enumerate(self.turns[event.turn :], event.turn + 1)
                woken = next((self._start(n) for n, (task, _) in after if task == event.task), end)
                if woken > start:
                    yield _perfetto("X", event.task, event.text, ts=start, dur=woken - start)

    def _marks(self) -> Iterator[dict[str, object]]:
        for event in self.events:
            now = round(event.time * _MICROSECONDS) + event.turn
            if event.kind == "time":
                yield _perfetto("i", 0, event.text, ts=now, s="g")
            elif event.kind in {"cancelled", "never woken"}:
                yield _perfetto("i", event.task, event.text, ts=now, s="t")
            elif event.kind == "timed out" or "***" in event.text:
                yield _perfetto("i", event.task, event.text, ts=now - 1, s="t")
            elif event.kind == "access" and _INTEGER.fullmatch(event.after):
                value = {"value": int(event.after)}
                yield _perfetto("C", event.task, event.cell, ts=now - 1, args=value)

    def _start(self, turn: int) -> int:
        return round(self.turns[turn - 1][1] * _MICROSECONDS) + turn - 1

    def _end(self) -> int:
        last = max((event.time for event in self.events), default=0.0)
        return round(last * _MICROSECONDS) + len(self.turns)


def _perfetto(phase: str, thread: int, name: str, **more: object) -> dict[str, object]:
    return {"ph": phase, "pid": 1, "tid": thread, "name": name, **more}


def _event(event: Event) -> dict[str, object]:
    """Leave out what an event of its kind doesn't have."""
    fields = event._asdict()
    if event.kind != "access":
        for name in ("cell", "before", "after", "changed"):
            del fields[name]
    if event.task == EVERYWHERE:
        fields["task"] = None
        del fields["where"]
    return fields

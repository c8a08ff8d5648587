"""A recorded schedule as one HTML page without anything from outside. Pure.

The table is complete as it stands, for readers without JavaScript and for printing; the script
only moves a mark through it and keeps the list of the cells' values. What the program calls things
is text, never markup: it is escaped in the table, and in the data of the script.
"""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from aspf.race._diagram import EVERYWHERE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aspf.race._record import Event
    from aspf.race._recording import Recording

__all__ = ("render",)


def render(recording: Recording) -> str:
    """Fill the page."""
    template = files("aspf.race").joinpath("_page.html").read_text(encoding="utf-8")
    columns = sorted({event.task for event in recording.events} - {EVERYWHERE})
    parts = {
        "title": escape(f"{recording.program}: {recording.verdict}"),
        "program": escape(recording.program),
        "verdict": escape(recording.verdict),
        "summary": escape(recording.summary.removeprefix(f"{recording.verdict}: ")),
        "token": escape(recording.token),
        "why": "".join(_why(recording)),
        "heads": "".join(f'<th scope="col">{escape(recording.tasks[n])}</th>' for n in columns),
        "rows": "".join(_rows(recording.events, columns)),
        "data": _data(recording.events),
    }
    # Split, not replaced one after the other: a name may look like a place in the template.
    head, *rest = template.split("{{")
    filled = (part.partition("}}") for part in rest)
    return head + "".join(parts[name] + tail for name, _, tail in filled)


def _why(recording: Recording) -> Iterator[str]:
    names = recording.tasks
    if recording.cycle:
        yield _list("The deadlock: each waits for the next", recording.cycle[1:], "cycle")
    elif recording.waits:
        lines = [
            f"{names[wait.task]} waits for {wait.what}" + (f" ({wait.where})" if wait.where else "")
            for wait in recording.waits
        ]
        yield _list("The deadlock: who waits for what", lines, "waits")
    if recording.switches:
        yield _list("The context switches that it takes", recording.switches, "switches")


def _list(title: str, lines: Sequence[str], name: str) -> str:
    items = "".join(f"<li>{escape(line.strip())}</li>" for line in lines)
    return f'<section><h2>{title}</h2><ol id="{name}">{items}</ol></section>'


def _rows(events: Sequence[Event], columns: Sequence[int]) -> Iterator[str]:
    lanes = _Lanes(events, columns)
    before = None
    for i, event in enumerate(events):
        lanes.advance(i, event)
        switch = " switch" if before not in (None, event.task) else ""
        before = event.task
        time = f'<th scope="row">{i + 1}</th><td class="time">{event.time:g} s</td>'
        if event.task == EVERYWHERE:
            cells = (
                f'<td class="everywhere" colspan="{max(len(columns), 1)}">{escape(event.text)}</td>'
            )
        else:
            cells = "".join(
                _cell(event) if n == event.task else f'<td class="{lanes.state(n)}"></td>'
                for n in columns
            )
        yield f'<tr class="{escape(event.kind).replace(" ", "-")}{switch}">{time}{cells}</tr>\n'


def _cell(event: Event) -> str:
    mark = " mark" if "***" in event.text else ""
    title = f' title="{escape(event.where)}"' if event.where else ""
    return (
        f'<td class="here{mark}"{title}><span style="--depth:{event.depth}">'
        f"{escape(event.text)}</span></td>"
    )


class _Lanes:
    """What each task is doing beside the one that has the row."""

    def __init__(self, events: Sequence[Event], columns: Sequence[int]) -> None:
        self._last = {event.task: i for i, event in enumerate(events)}
        self._states = dict.fromkeys(columns, "absent")

    def advance(self, i: int, event: Event) -> None:
        asleep = event.kind in {"sleeps", "never woken"}
        gone = i == self._last[event.task]
        self._states[event.task] = "asleep" if asleep else "absent" if gone else "ready"

    def state(self, task: int) -> str:
        return self._states[task]


def _data(events: Sequence[Event]) -> str:
    """What the script needs of each event; no ``<`` that could end the element."""
    rows = [
        {
            "task": event.task,
            "text": event.text,
            "where": event.where,
            **(
                {"cell": event.cell, "before": event.before, "after": event.after}
                if event.kind == "access"
                else {}
            ),
        }
        for event in events
    ]
    return json.dumps(rows).replace("<", "\\u003c")

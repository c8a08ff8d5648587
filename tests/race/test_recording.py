"""One schedule as data: JSON, Perfetto, and the page, which is tried in a browser."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import trio
from _golden import check_golden
from race._programs import deadlock01, use_after_free

from aspf.race import Cell, Lifetime, Recording, explore, note, record

GOLDEN = Path(__file__).parent / "golden"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)


async def patience() -> None:
    """Everything that a page can show: names like markup, time, a time-out, a value of text."""
    tries, state = Cell(0, "tries"), Cell("<new>", "state", lifetime=Lifetime("{{data}}"))

    async def patient() -> None:
        with trio.move_on_after(1.5):
            await state.wait_until(lambda text: text == "ready")
        note("gave up: </script><b>&amp;")
        await tries.update(lambda n: n - 1)

    async def slow() -> None:
        await trio.sleep(2)
        await state.set("ready")
        await trio.Event().wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(patient, name="the <i>patient</i> one")
        nursery.start_soon(slow, name="the slow one")


def recording() -> Recording:
    (failure,) = explore(patience, minimise=True, search="exhaustive").failures
    assert failure.recording.as_json() == failure.as_json()
    assert failure.recording.as_perfetto() == failure.as_perfetto()
    assert failure.recording.html() == failure.html()
    return failure.recording


def cancelled() -> Recording:
    """A cancellation, which a passing schedule may have, too."""

    async def program() -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever, name="a sleeper")
        return "done"

    return record(program, "aspf1:program:0,1,c1,1,0")


@pytest.mark.parametrize(
    ("name", "made"), [("patience", recording), ("cancelled", cancelled)], ids=["fails", "passes"]
)
def test_json(name: str, made: Any) -> None:
    """Byte for byte: programs read it, on every Python."""
    text = made().as_json()
    check_golden(GOLDEN / f"{name}.json", text)
    assert json.loads(text)["format"] == "aspf.race.recording"


@pytest.mark.parametrize(
    ("name", "made"), [("patience", recording), ("cancelled", cancelled)], ids=["fails", "passes"]
)
def test_perfetto(name: str, made: Any) -> None:
    """Byte for byte what the viewer was tried with; and what it needs to draw at all."""
    text = made().as_perfetto()
    check_golden(GOLDEN / f"{name}.perfetto.json", text)
    events = json.loads(text)["traceEvents"]
    assert {event["ph"] for event in events} <= set("MXiC")
    for thread in {event["tid"] for event in events}:
        slices = [e for e in events if e["ph"] == "X" and e["tid"] == thread]
        slices.sort(key=lambda e: e["ts"])
        for one, following in itertools.pairwise(slices):
            assert one["ts"] + one["dur"] <= following["ts"]
    assert all(event["dur"] > 0 for event in events if event["ph"] == "X")


def test_an_empty_recording() -> None:
    """A program that fails in its first step has nothing to show, and a page all the same."""

    async def program() -> None:
        raise KeyError(1)

    (failure,) = explore(program, search="exhaustive").failures
    assert json.loads(failure.as_json())["events"] == []
    assert len(json.loads(failure.as_perfetto())["traceEvents"]) == 4
    assert "KeyError: 1" in failure.html()


def test_only_time() -> None:
    """A page with a row for all tasks, and no lane."""

    async def program() -> None:
        pass

    bare = record(program, "aspf1:program:0")
    event = recording().events[0]._replace(task=-1, kind="time", text="time passes")
    page = Recording(*(getattr(bare, n) for n in bare.__slots__[:5]), (event,), (), ()).html()
    assert '<td class="everywhere" colspan="1">time passes</td>' in page


class Page(HTMLParser):
    """What is in a page, and whether its elements nest."""

    VOID = frozenset({"meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.setdefault(self.open[-1], []).append(data)


def test_the_page_is_whole() -> None:
    """Names of the program must stay text, and nothing may be fetched from elsewhere."""
    page = Page(recording().html())
    assert page.open == []
    assert {name for name, _ in page.attributes} & {"src", "href", "data", "action"} == set()
    assert page.texts["th"][2:4] == ["the <i>patient</i> one", "the slow one"]
    assert "gave up: </script><b>&amp;" in page.texts["span"]
    assert len(page.texts["script"]) == 2  # the data, and the script: neither was cut short
    assert [e["task"] for e in json.loads(page.texts["script"][0])] == [
        e.task for e in recording().events
    ]
    assert not re.search(r"https?:|url\(|@import", recording().html())


def test_the_page_says_why() -> None:
    """A reader would have to find the circle of a deadlock in the lanes."""
    assert "each waits for the next" in explore(deadlock01, search="exhaustive").failures[0].html()
    assert "who waits for what" in recording().html()
    assert "The deadlock" not in explore(use_after_free, search="exhaustive").failures[0].html()
    assert (
        "The context switches"
        in explore(use_after_free, minimise=True, search="exhaustive").failures[0].html()
    )


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str) -> None:
    """Text needs 4.5 to 1 in both schemes, and lines 3 to 1 (WCAG 2.2, 1.4.3 and 1.4.11)."""
    style = files("aspf.race").joinpath("_page.html").read_text(encoding="utf-8")
    palettes = [dict(re.findall(r"--(\w+): (#\w{6});", part)) for part in style.split("@media")]
    colours = palettes[0] if scheme == "light" else palettes[1]

    def contrast(a: str, b: str) -> float:
        darker, lighter = sorted((luminance(colours[a]), luminance(colours[b])))
        return (lighter + 0.05) / (darker + 0.05)

    for ground in ("paper", "panel", "here"):
        assert all(contrast(text, ground) >= 4.5 for text in ("ink", "soft", "mark"))
    assert contrast("lane", "paper") >= 3
    assert contrast("edge", "paper") >= 3
    assert contrast("edge", "panel") >= 4.5


DRIVER = """
<script>
const seen = [];
window.addEventListener("error", (error) => seen.push("error: " + error.message));
function look() {
  const current = [...document.querySelectorAll("tr[aria-current]")];
  seen.push({
    rows: current.map((row) => row.rowIndex),
    position: document.getElementById("position").textContent,
    now: document.getElementById("now").textContent,
    cells: [...document.querySelectorAll("#cells tr")].map(
      (row) => [...row.cells].map((cell) => cell.textContent).join("=")),
  });
}
look();
for (const key of KEYS) {
  document.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
  look();
}
for (const id of ["first", "next", "last", "previous"]) {
  document.getElementById(id).click();
  look();
}
document.querySelectorAll("#lanes tbody tr")[2].click();
look();
document.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", ctrlKey: true }));
document.dispatchEvent(new KeyboardEvent("keydown", { key: "x" }));
look();
const box = document.createElement("pre");
box.id = "seen";
box.textContent = JSON.stringify(seen);
document.body.append(box);
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the page's script was not run")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """The keys, the mark, the values of the cells and the words for a screen reader go together."""
    made = recording()
    last = len(made.events)
    keys = ["ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowUp", "End", "ArrowDown"]
    keys += ["PageUp", "Home", "PageDown"]
    page = tmp_path / "page.html"
    script = DRIVER.replace("KEYS", json.dumps(keys))
    page.write_text(made.html().replace("</body>", f"{script}</body>"), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    dom = Page(re.sub(r"<(br|link)[^>]*>", "", shown.stdout))
    seen = json.loads(dom.texts["pre"][0])

    # A new task begins a new stretch; the page counts from 1.
    starts = [
        i for i, e in enumerate(made.events, 1) if i == 1 or e.task != made.events[i - 2].task
    ]
    moved = [1, 2, 3, 2, 1, 1, last, last, starts[-2] if starts[-1] == last else starts[-1]]
    expected = [*moved, 1, starts[1], 1, 2, last, last - 1, 3, 3]
    assert [look["rows"] for look in seen] == [[row] for row in expected]
    for look in seen:
        (row,) = look["rows"]
        event = made.events[row - 1]
        assert look["position"] == f"Event {row} of {last}"
        name = made.tasks.get(event.task, "all")
        assert look["now"] == f"{name}: {event.text}"
        values = {"state": "'<new>'", "tries": "0"}
        values |= {e.cell: e.after for e in made.events[:row] if e.cell}
        assert sorted(look["cells"]) == sorted(f"{k}={v}" for k, v in values.items())

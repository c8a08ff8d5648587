"""Pictures of the kernel's recorded answers: what was mapped before a call, and after it."""

from __future__ import annotations

from typing import Any

Case = dict[str, Any]
# So wide is a page: a VMA of one page has room for its permissions ...
WIDE = 6
# ... or, where there are many pages and no VMA is shorter than three, ...
NARROW = 2
PAGES = 14
SHORT = {"lo": " locked", "dc": " dontcopy"}


def picture(case: Case) -> str:
    """Draw a case: the call, the VMAs before and after it, and which pages had been written to."""
    vmas = [*case["before"], *case["after"]]
    first = min(int(vma[0]) for vma in vmas)
    pages = range(first, max(int(vma[1]) for vma in vmas))
    column = WIDE if len(pages) <= PAGES else NARROW
    written = {op[1] for op in case["setup"] if op[0] == "w"}
    rows = {
        "page": [f"{p if column == WIDE or p % 5 == 0 else '':<{column}}" for p in pages],
        "before": _row(case["before"], pages, column),
        "written": [f"{' *' if p in written else '':<{column}}" for p in pages],
        "after": _row(case["after"], pages, column),
    }
    if not written:
        del rows["written"]
    lines = [case["name"], f"    {_call(case)}", ""]
    lines += [f"    {name:9}{''.join(row)}" for name, row in rows.items()]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def pictures(cases: list[Case], *groups: str) -> str:
    """Draw every case of the groups that changes or keeps a map."""
    return "\n".join(picture(c) for c in cases if c["group"] in groups and c["before"])


def _call(case: Case) -> str:
    name, *arguments = case["op"]
    result = case["ret"]
    if isinstance(result, int):
        result = f"page {result}" if name in {"mmap", "mremap"} else "ok"
    return f"{name}({', '.join(map(str, arguments))}) = {result}"


def _row(vmas: list[list[Any]], pages: range, column: int) -> list[str]:
    row = [" "] * (len(pages) * column)
    for start, end, permissions, *rest in vmas:
        width = (end - start) * column
        at = (start - pages.start) * column
        label = f"{permissions}{_what(*rest)}"[: width - 2]
        row[at : at + width] = f"[{label:-<{width - 2}}]"
    return row


def _what(kind: str, offset: int | None = None, flags: str = "") -> str:
    """Say what is mapped, and from which page on; nothing for private anonymous memory."""
    name = kind.partition(":")[2]
    said = "" if kind == "anon" else f" {name}+{offset}"
    return said + "".join(text for flag, text in SHORT.items() if flag in flags.split())

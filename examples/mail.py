"""Reproduce the race of the mail of December 2009, and see which repair survives.

The mail finds a VMA without mmap_sem and holds it by a reference count; munmap waits until nobody
does. A reply to it shows an order in which munmap is never woken. The explorer finds that order by
itself, and tries every order of the protocols that were proposed to repair it.
"""

from __future__ import annotations

from aspf.lab import format_table, lost_wakeup, survey


def main() -> None:
    """Find the lost wake-up, then compare the protocol with its repairs."""
    exploration, failure = lost_wakeup()
    print(f"{exploration.program}: schedule {failure.schedule} fails, munmap sleeps for ever.\n")
    print(failure.diagram)

    print("Every order of one page fault and one munmap:\n")
    print(format_table(survey()), end="")


if __name__ == "__main__":
    main()

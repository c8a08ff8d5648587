"""The group of commands and what they share."""

from __future__ import annotations

import click

from ._faults import faults
from ._maps import maps
from ._race import race, replay
from ._trace import trace

__all__ = ("aspf",)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aspf")
def aspf() -> None:
    """Asynchronous speculative page faults.

    Find a range without a lock, hold it while you use it, and never take it away from someone who
    still holds it.
    """


aspf.add_command(faults)
aspf.add_command(maps)
aspf.add_command(race)
aspf.add_command(replay)
aspf.add_command(trace)

"""Commands that tell which time was read, and which is missing."""

import sys
from typing import Final

import click

from publisher.cli.values import Moment

_FROM: Final = "ISO instant with offset, or -24h."


@click.command()
@click.option("--from", "since", type=Moment(), help=f"{_FROM} The operation's start if not given.")
@click.option("--to", "until", type=Moment(), help=f"{_FROM} Now if not given.")
@click.option("--operation", metavar="NAME", help="One of several; all when not given.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def gaps(since: str | None, until: str | None, operation: str | None, *, as_json: bool) -> None:
    """List the stretches of time that are missing.

    Reads the state topic, and changes nothing there. What is ahead of the
    live pass is not missing: `status` tells how far behind it is.

    Exit codes: 0 nothing is missing, 1 something is or cannot be told,
    2 settings cannot work.
    """
    from publisher.commands import coverage as command  # noqa: PLC0415

    sys.exit(command.gaps(since, until, operation, as_json=as_json))


@click.command()
@click.option("--from", "since", type=Moment(), help=f"{_FROM} The last 7 days if not given.")
@click.option("--to", "until", type=Moment(), help=f"{_FROM} Now if not given.")
@click.option("--operation", metavar="NAME", help="One of several; all when not given.")
@click.option("--json", "as_json", is_flag=True, help="Stretches and windows as one JSON object.")
def coverage(since: str | None, until: str | None, operation: str | None, *, as_json: bool) -> None:
    """Draw which time was read, and how old it was then: a line per day.

    Reads the state topic, and changes nothing there. A cell shows the worst
    that is in it. With --json each committed window is told as well: when it
    was asked, by which pass, and how many rows it held.

    Exit codes: 0 nothing is missing, 1 something is or cannot be told,
    2 settings cannot work.
    """
    from publisher.commands import coverage as command  # noqa: PLC0415

    sys.exit(command.calendar(since, until, operation, as_json=as_json))


COMMANDS: Final = (gaps, coverage)

"""Decides what to read again when rows come back after an implausibly long silence.

A server that has lost the report answers like a server where nobody writes. So the windows
read in such a run may not have been empty. The journal alone shows the run, and the journal
survives restarts.
"""

from collections.abc import Iterable
from datetime import timedelta
from itertools import takewhile
from typing import Final

from publisher.model import Instant, Window, iso
from publisher.signals import HintGiven
from publisher.state.checkpoint import REPLAY, Entry
from publisher.state.gaps import Gaps, added, clear_of

SILENT_POLLS: Final = 288
"""So many polls without a row are implausible: a day, at 5 minutes."""
NIGHT: Final = timedelta(days=1)
"""A shorter silence may be a night, at any number of polls."""


def implausible(poll_every: timedelta) -> timedelta:
    """How long a silence must last until the windows read during it are in doubt."""
    return max(poll_every * SILENT_POLLS, NIGHT)


def silent_run(newest_first: Iterable[Entry], silent_after: timedelta) -> list[Entry]:
    """The reads since the last read with a row, newest first, if they span `silent_after`.

    `newest_first` is the journal. A parked window was not read, and a replay sends no
    request: neither ends a run nor belongs to it.
    """
    silent = takewhile(lambda entry: not entry.rows or entry.pass_name == REPLAY, newest_first)
    run = [entry for entry in silent if entry.start < entry.end]
    return run if run and run[0].read_at - run[-1].read_at >= silent_after else []


def doubted(
    gaps: Gaps, run: Iterable[Entry], forgotten: Gaps
) -> tuple[tuple[Window, ...], Instant | None]:
    """Add the windows of the run to the gaps. Return these, and when the run began.

    Forgotten time and the time near it stay out, because they would be published twice.
    """
    since = None
    for entry in run:
        since = entry.read_at
        for window in clear_of(forgotten, [Window(entry.start, entry.end)]):
            gaps = added(gaps, window)
    return tuple(gaps), since


def rows_again(operation: str, since: Instant) -> HintGiven:
    """The hint to give when a silence has ended."""
    return HintGiven(
        f"operation {operation} shows rows again, after none since {iso(since)}: what was read"
        " meanwhile is read once more",
        operation,
    )

"""When rows come back after implausibly long without any: what is then read once more.

A server that has lost the report answers like one where nobody writes. So what was read
in such a run is not known to be empty. The journal tells the run: nothing of it is
remembered elsewhere, and it outlives restarts.
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
"""So many polls without a row are implausibly long: a day, at 5 minutes."""
NIGHT: Final = timedelta(days=1)
"""Shorter than this is a night, however often it was asked about."""


def implausible(poll_every: timedelta) -> timedelta:
    """From how long without a row on what was read meanwhile is in doubt."""
    return max(poll_every * SILENT_POLLS, NIGHT)


def silent_run(newest_first: Iterable[Entry], least: timedelta) -> list[Entry]:
    """The reads since the last that showed a row, newest first, if they took at least so long.

    A parked window was not read, and a replay asks nobody: they neither end a run nor
    belong to it.
    """
    silent = takewhile(lambda entry: not entry.rows or entry.pass_name == REPLAY, newest_first)
    run = [entry for entry in silent if entry.start < entry.end]
    return run if run and run[0].read_at - run[-1].read_at >= least else []


def doubted(
    gaps: Gaps, run: Iterable[Entry], forgotten: Gaps
) -> tuple[tuple[Window, ...], Instant | None]:
    """The gaps with what was read in the run, and when the run began.

    Nothing is read again of forgotten time, or near it: it would be published twice.
    """
    since = None
    for entry in run:
        since = entry.read_at
        for window in clear_of(forgotten, [Window(entry.start, entry.end)]):
            gaps = added(gaps, window)
    return tuple(gaps), since


def rows_again(operation: str, since: Instant) -> HintGiven:
    """What to tell when a silence has ended."""
    return HintGiven(
        f"operation {operation} shows rows again, after none since {iso(since)}: what was read"
        " meanwhile is read once more",
        operation,
    )

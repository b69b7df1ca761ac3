"""Which journal entries go, and what of the timeline is forgotten with them.

Rules of this file:
- Forgotten time is never read again, so nothing goes that a pass, a gap or a backfill may
  still come near to.
- The clock forgets nothing: an outage of a month leaves all as it is.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from publisher.model import Backfill, Instant, Progress, Unconfirmed, Window
from publisher.state.checkpoint import LIVE, Checkpoint, Entry
from publisher.state.gaps import FAR, LAST_STRETCH, NEAR, Gaps, added, near
from publisher.wolkvox.server_clock import LARGEST

TOMBSTONES_PER_COMMIT: Final = 500
BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Older than any message."""
BEHIND: Final = LARGEST + LAST_STRETCH
"""How far behind its cursor live may ask: what lies before the time that a clock says."""


def spared(gaps: Gaps, backfills: Iterable[Backfill], unconfirmed: Iterable[Unconfirmed]) -> Gaps:
    """Where old windows are still needed: what is read there must be known for published.

    As far around as `FAR`: a corrected zone makes gaps of time that was read in another zone.
    """
    return (
        *gaps,
        *(Window(stretch.start, stretch.end) for stretch in backfills if stretch.active),
        *(stretch.window for stretch in unconfirmed),
    )


def forget_before(passes: Mapping[str, Progress], horizon: timedelta) -> Instant:
    """Where entries may go: as far behind every cursor as a request reaches back from it.

    That is the padding and, where the clocks go back, all of the repeated hour; from where a
    clock is that is behind what was read, as far as that is believed.
    """
    oldest = min(progress.cursor for progress in passes.values())
    return min(passes[LIVE].cursor - horizon, oldest - BEHIND) - NEAR


def outlived(
    journal: Iterable[Entry], passes: Mapping[str, Progress], horizon: timedelta, spared: Gaps
) -> list[Entry]:
    """The entries that go with one commit, oldest first."""
    return [*islice(_old(journal, forget_before(passes, horizon), spared), TOMBSTONES_PER_COMMIT)]


def _old(journal: Iterable[Entry], bound: Instant, spared: Gaps) -> Iterator[Entry]:
    """Up to the first that is too young; those near what is spared stay."""
    for entry in journal:
        if not near(spared, entry.start, entry.end, FAR):
            if entry.end >= bound:
                return
            yield entry


def forgotten_with(forgotten: tuple[Window, ...], gone: Iterable[Entry]) -> tuple[Window, ...]:
    """The forgotten stretches once these entries are gone; those that cover nothing add nothing."""
    for entry in gone:
        if entry.start < entry.end:
            forgotten = added(forgotten, Window(entry.start, entry.end))
    return forgotten


def not_remembered(checkpoint: Checkpoint, horizon: timedelta) -> tuple[Window, ...]:
    """Near these stretches nobody can say what was published, or it would be forgotten at once."""
    until = forget_before(checkpoint.passes, horizon)
    return added(checkpoint.forgotten, Window(BEGINNING, until))

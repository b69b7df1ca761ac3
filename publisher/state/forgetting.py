"""Decides which journal entries are removed, and which time is forgotten with them.

Rules of this file:
- Forgotten time is never read again. So an entry stays as long as a pass, a gap or a backfill
  may still come near its window.
- The clock alone forgets nothing: an outage of a month leaves everything as it is.
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
"""How far behind its cursor live may ask: the last stretch before the time that a slow clock
says."""


def spared(gaps: Gaps, backfills: Iterable[Backfill], unconfirmed: Iterable[Unconfirmed]) -> Gaps:
    """The time whose old entries are still needed: what is read there may be published already.

    Entries within `FAR` of it are needed too: a corrected zone makes gaps of time that was read in
    another zone.
    """
    return (
        *gaps,
        *(Window(stretch.start, stretch.end) for stretch in backfills if stretch.active),
        *(stretch.window for stretch in unconfirmed),
    )


def forget_before(passes: Mapping[str, Progress], horizon: timedelta) -> Instant:
    """Entries that end before this instant may go.

    They lie `horizon` behind the live cursor, and no request reaches back to them from any cursor.
    A request reaches back by its padding and, where the clocks go back, by all of the repeated
    hour. It begins at the time of a clock that is behind what was read, as far as such a clock is
    believed.
    """
    oldest = min(progress.cursor for progress in passes.values())
    return min(passes[LIVE].cursor - horizon, oldest - BEHIND) - NEAR


def outlived(
    journal: Iterable[Entry], passes: Mapping[str, Progress], horizon: timedelta, spared: Gaps
) -> list[Entry]:
    """The entries that are removed with one commit, oldest first."""
    return [*islice(_old(journal, forget_before(passes, horizon), spared), TOMBSTONES_PER_COMMIT)]


def _old(journal: Iterable[Entry], bound: Instant, spared: Gaps) -> Iterator[Entry]:
    """The old entries, up to the first that is too young. Entries near spared time stay."""
    for entry in journal:
        if not near(spared, entry.start, entry.end, FAR):
            if entry.end >= bound:
                return
            yield entry


def forgotten_with(forgotten: tuple[Window, ...], gone: Iterable[Entry]) -> tuple[Window, ...]:
    """The forgotten stretches once the entries are gone. An entry that covers nothing adds none."""
    for entry in gone:
        if entry.start < entry.end:
            forgotten = added(forgotten, Window(entry.start, entry.end))
    return forgotten


def not_remembered(checkpoint: Checkpoint, horizon: timedelta) -> tuple[Window, ...]:
    """The stretches that the state does not remember, or would forget at once.

    Near them it cannot say what was published.
    """
    until = forget_before(checkpoint.passes, horizon)
    return added(checkpoint.forgotten, Window(BEGINNING, until))

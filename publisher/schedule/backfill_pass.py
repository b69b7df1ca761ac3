"""Reads history that a person asked for: a pass over a fixed range, after everything else.

Rules of this file:
- A request says what a person wants of a backfill. The checkpoint says how far it is. To apply
  the same request twice changes nothing, so requests need no counting.
- A backfill takes a step only where the loop would otherwise wait, one answer at a time.
- It never parks a window. What cannot be read is tried again (`attempts.py`), and a person may
  cancel the backfill.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from publisher.model import SECOND, Backfill, Instant, Standing, Window
from publisher.schedule.attempts import Tries
from publisher.schedule.passes import QUICK, TARGET_ROWS, Pass, Read, Step, Wait
from publisher.schedule.quota import Budget
from publisher.settings import PublisherSettings, duration_text
from publisher.state.checkpoint import BACKFILL
from publisher.state.gaps import Gaps, clear_of, removed

KEPT: Final = 10
"""So many ended backfills are still listed. A backfill takes 200 bytes of every checkpoint."""
DAILY_REQUESTS: Final = 300
"""Of a usual quota of 1000. Live and re-reads need about 350, repair 48; the rest is reserve.

Failures in a row cost tries instead: 48 a day, as for repair."""
BACKFILLING: Final = Pass(BACKFILL, BACKFILL, timedelta(), timedelta(), timedelta())
"""Its cursor is stored with its range, not among the passes."""


@dataclass(frozen=True, slots=True)
class BackfillRequest:
    """What a person wants of a backfill: the live record of its key in the commands topic."""

    id: str
    start: Instant
    end: Instant
    again: bool
    wanted: Standing
    """RUNNING, PAUSED or CANCELLED."""


@dataclass(slots=True)
class Stride:
    """The window width and the request limits of a backfill; in memory only."""

    width: timedelta
    """The width of the next window."""
    widest: timedelta
    settle: timedelta
    """Time younger than this is left to live."""
    tries: Tries
    budget: Budget = field(default_factory=lambda: Budget(DAILY_REQUESTS))
    last_failed: bool = False
    """The last request failed."""

    @classmethod
    def starting(cls, settings: PublisherSettings) -> "Stride":
        """Begin with narrow windows, as live does."""
        width = min(settings.poll_every, settings.max_window)
        return cls(width, settings.max_window, settings.overlap, Tries(settings.poll_every))

    def wake(self, now: Instant) -> Instant | None:
        """When the next request may be sent; None = the day's requests are spent."""
        return None if self.budget.is_spent(now) else self.tries.wake(now)

    def answered(self, window: Window, now: Instant, rows: int, took: float) -> None:
        """Continue at once, wider when the answer was small and quick.

        So live waits for a single answer at most. `took` is the request's duration in seconds.
        """
        self.budget.spend(now)
        self.last_failed = False
        self.tries.answered()
        if rows > TARGET_ROWS or took > QUICK:
            self.width = max(window.width / 2, SECOND)
        elif rows * 2 <= TARGET_ROWS and window.width >= self.width:
            self.width = min(self.width * 2, self.widest)

    def failed(self, window: Window, now: Instant, *, halve: bool) -> None:
        """Try again a poll later. `halve`: the window may be the cause, so ask for half of it.

        Failures in a row cost tries, not the day's requests: a long outage of the API would use
        these up. The first failure costs a request like any other. So an occasional window that
        is too large costs no more than that.
        """
        if not self.last_failed:
            self.budget.spend(now)
        self.tries.failed(now, in_a_row=self.last_failed)
        self.last_failed = True
        if halve:
            self.width = max(window.width / 2, SECOND)


def meanwhile(
    step: Step,
    backfills: Sequence[Backfill],
    stride: Stride,
    now: Instant,
    gaps: Gaps,
    forgotten: Gaps = (),
) -> Step:
    """Return the step, or a window of history where the step would be a wait."""
    running = current(backfills)
    if not isinstance(step, Wait) or running is None:
        return step
    wake = stride.wake(now)
    if wake is None:
        return step
    if now < wake:
        return Wait(min(step.until, wake))
    readable = _readable(running, forgotten)
    if not readable:
        return step  # the backfill ends at the next look at the requests
    # Time in a gap is left to repair. But repair would not publish again, as `again` wants.
    pieces = readable
    for gap in () if running.again else gaps:
        pieces = removed(pieces, gap.start, gap.end)
    if pieces:
        start, piece_end = pieces[0].start, pieces[0].end
    else:  # all the rest is a gap: reading its last second ends the pass
        piece_end = readable[-1].end
        start = max(readable[-1].start, piece_end - SECOND)
    end = min(start + stride.width, piece_end, now - stride.settle)
    return Read(BACKFILLING, Window(start, end), ends_round=True) if start < end else step


def _readable(backfill: Backfill, forgotten: Gaps) -> tuple[Window, ...]:
    """The part of its range that is left. Only a backfill with `again` reads forgotten time."""
    if backfill.cursor >= backfill.end:
        return ()
    rest = [Window(backfill.cursor, backfill.end)]
    return tuple(rest) if backfill.again else clear_of(forgotten, rest)


def _moved_on(backfill: Backfill, forgotten: Gaps) -> Backfill:
    """Move the backfill behind forgotten time. It is done where nothing else is left to read."""
    if not backfill.active:
        return backfill
    readable = _readable(backfill, forgotten)
    if readable:
        return replace(backfill, cursor=readable[0].start)
    return replace(backfill, cursor=backfill.end, standing=Standing.DONE)


def current(backfills: Iterable[Backfill]) -> Backfill | None:
    """The backfill that reads next: the oldest that runs."""
    return next((backfill for backfill in backfills if backfill.standing is Standing.RUNNING), None)


def advanced(
    backfills: Sequence[Backfill],
    step: Read,
    covered_until: Instant,
    rows: int,
    new: int,
    forgotten: Gaps = (),
) -> tuple[Backfill, ...]:
    """Return the backfills after the step's window is committed.

    `rows` and `new` are the rows of the window and those of them that were new.
    """
    running = current(backfills) if step.pass_ is BACKFILLING else None
    if running is None:
        return tuple(backfills)
    cursor = min(max(running.cursor, covered_until), running.end)
    moved = replace(running, cursor=cursor, rows=running.rows + rows, new=running.new + new)
    moved = _moved_on(moved, forgotten)
    return tuple(moved if backfill is running else backfill for backfill in backfills)


def with_requests(
    backfills: Sequence[Backfill],
    backfill_requests: Sequence[BackfillRequest],
    sequence: int,
    forgotten: Gaps = (),
) -> tuple[Backfill, ...]:
    """Return the backfills as the requests want them.

    `sequence` belongs to the commit that stores them. A backfill without `again` passes over
    forgotten time.

    An ended backfill is kept as long as its request is in the topic. The commands remove the
    requests that `outlived` returns, and only then an ended backfill is dropped here. A backfill
    with `again` starts only when no other backfill with `again` is active, because for it only
    what was published since its start counts as published.
    """
    wanted = {request.id: request for request in backfill_requests}
    updated = [
        replace(backfill, standing=wanted[backfill.id].wanted)
        if backfill.active and backfill.id in wanted
        else backfill
        for backfill in backfills
        if backfill.active or backfill.id in wanted
    ]
    ids = {backfill.id for backfill in updated}
    for request in backfill_requests:
        busy = (
            request.again
            and request.wanted is not Standing.CANCELLED
            and any(backfill.again and backfill.active for backfill in updated)
        )
        if request.id not in ids and not busy:
            new = Backfill(
                request.id,
                request.start,
                request.end,
                request.again,
                request.start,
                request.wanted,
                sequence,
            )
            readable_width = sum(
                (window.width for window in _readable(new, forgotten)), timedelta()
            )
            skipped_seconds = (new.end - new.start - readable_width) // SECOND
            updated.append(_moved_on(replace(new, skipped_seconds=skipped_seconds), forgotten))
    return tuple(updated)


def skipped(backfill: Backfill) -> str:
    """The hint to give where a backfill passes over a part of its range."""
    return (
        f"backfill {backfill.id} skips {duration_text(backfill.skipped_seconds * SECOND)} of its"
        " range: what was published of it is forgotten (PUBLISHER_HORIZON), and reading it would"
        " publish messages twice; --again publishes all of a range once more"
    )


def outlived(
    backfill_requests: Sequence[BackfillRequest], backfills: Iterable[Backfill]
) -> list[str]:
    """The ids of the requests that may be removed: all ended ones except the last `KEPT`.

    A request is removed before the checkpoint drops its ended backfill, never after. Otherwise
    the request would start the backfill anew.
    """
    ended_ids = {backfill.id for backfill in backfills if not backfill.active}
    ended = [request.id for request in backfill_requests if request.id in ended_ids]
    return ended[:-KEPT]


def lost(backfill_requests: Iterable[BackfillRequest]) -> tuple[Backfill, ...]:
    """Return the requests as cancelled backfills, because their progress is lost with the state.

    A request with `again` that ended long ago would publish once more if it started anew.
    """
    standing = Standing.CANCELLED
    return tuple(
        Backfill(
            request.id, request.start, request.end, request.again, request.start, standing, since=0
        )
        for request in backfill_requests
    )

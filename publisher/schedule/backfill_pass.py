"""History that a person asked for: a pass over a fixed range, after everything else.

Rules of this file:
- A request says what a person wants of a backfill. The checkpoint says how far it is. Applying the
  same request twice changes nothing, so nobody counts requests.
- A backfill takes a step only where the loop would otherwise wait, one answer at a time.
- It never parks a window: what cannot be read is tried again (`attempts.py`), and a person may
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
"""Ended backfills that are still told; each takes 200 bytes of every checkpoint."""
DAILY_REQUESTS: Final = 300
"""Of a usual quota of 1000: live and re-reads need about 350, repair 48; the rest is reserve.

What fails again and again costs tries instead, 48 a day like repair's."""
BACKFILLING: Final = Pass(BACKFILL, BACKFILL, timedelta(), timedelta(), timedelta())
"""Its cursor stands with its range, not among the passes."""


@dataclass(frozen=True, slots=True)
class BackfillRequest:
    """What is wanted of one backfill: the live record of its key in the commands topic."""

    id: str
    start: Instant
    end: Instant
    again: bool
    wanted: Standing
    """RUNNING, PAUSED or CANCELLED."""


@dataclass(slots=True)
class Stride:
    """How fast it walks: in memory only."""

    width: timedelta
    widest: timedelta
    settle: timedelta
    """Younger time is left to live."""
    tries: Tries
    budget: Budget = field(default_factory=lambda: Budget(DAILY_REQUESTS))
    fails: bool = False
    """The last request failed."""

    @classmethod
    def starting(cls, settings: PublisherSettings) -> "Stride":
        """Begin narrow, as live does."""
        width = min(settings.poll_every, settings.max_window)
        return cls(width, settings.max_window, settings.overlap, Tries(settings.poll_every))

    def wake(self, now: Instant) -> Instant | None:
        """When the next request may be made; None = the day's requests are spent."""
        return None if self.budget.is_spent(now) else self.tries.wake(now)

    def answered(self, window: Window, now: Instant, rows: int, took: float) -> None:
        """Go on at once, wider when the answer was small and quick: live waits for one at most."""
        self.budget.spend(now)
        self.fails = False
        self.tries.answered()
        if rows > TARGET_ROWS or took > QUICK:
            self.width = max(window.width / 2, SECOND)
        elif rows * 2 <= TARGET_ROWS and window.width >= self.width:
            self.width = min(self.width * 2, self.widest)

    def failed(self, window: Window, now: Instant, *, halve: bool) -> None:
        """Try again a poll later, with half of it unless that says nothing about the window.

        Failures in a row cost tries and not the day's requests, which an API that is away for
        long would use up. The first of them is a request like others: windows that are too
        large now and then cost no more than that.
        """
        if not self.fails:
            self.budget.spend(now)
        self.tries.failed(now, in_a_row=self.fails)
        self.fails = True
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
    """The step, or a window of history where it would be a wait."""
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
        return step  # it ends with the next look at the orders
    # What lies in a gap is left to repair, which would not publish it again, though.
    pieces = readable
    for gap in () if running.again else gaps:
        pieces = removed(pieces, gap.start, gap.end)
    if pieces:
        start, most = pieces[0].start, pieces[0].end
    else:  # the rest is a gap: a second of it ends the pass
        most = readable[-1].end
        start = max(readable[-1].start, most - SECOND)
    end = min(start + stride.width, most, now - stride.settle)
    return Read(BACKFILLING, Window(start, end), ends_round=True) if start < end else step


def _readable(backfill: Backfill, forgotten: Gaps) -> tuple[Window, ...]:
    """What is left to be read of its range. Only one that publishes again reads forgotten time."""
    if backfill.cursor >= backfill.end:
        return ()
    rest = [Window(backfill.cursor, backfill.end)]
    return tuple(rest) if backfill.again else clear_of(forgotten, rest)


def _moved_on(backfill: Backfill, forgotten: Gaps) -> Backfill:
    """The backfill behind the forgotten time that comes next; done where nothing else comes."""
    if not backfill.active:
        return backfill
    readable = _readable(backfill, forgotten)
    if readable:
        return replace(backfill, cursor=readable[0].start)
    return replace(backfill, cursor=backfill.end, standing=Standing.DONE)


def current(backfills: Iterable[Backfill]) -> Backfill | None:
    """The backfill whose turn it is: the oldest that runs."""
    return next((backfill for backfill in backfills if backfill.standing is Standing.RUNNING), None)


def advanced(
    backfills: Sequence[Backfill],
    step: Read,
    covered_until: Instant,
    rows: int,
    new: int,
    forgotten: Gaps = (),
) -> tuple[Backfill, ...]:
    """The backfills once the step's window is committed."""
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
    """The backfills as the requests want them. `sequence` is that of the commit that says so.

    A backfill without `again` passes over forgotten time.

    A backfill that has ended is kept as long as its request is in the topic. The commands remove
    the requests that `outlived` returns, and only then the ends are forgotten here. A backfill
    with `again` starts only when no other of that kind runs, because what counts as published is
    what was published since it started.
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
            read = sum((window.width for window in _readable(new, forgotten)), timedelta())
            skipped = (new.end - new.start - read) // SECOND
            updated.append(_moved_on(replace(new, skipped_seconds=skipped), forgotten))
    return tuple(updated)


def skipped(backfill: Backfill) -> str:
    """What to tell where a backfill passes over a part of its range."""
    return (
        f"backfill {backfill.id} skips {duration_text(backfill.skipped_seconds * SECOND)} of its"
        " range: what was published of it is forgotten (PUBLISHER_HORIZON), and reading it would"
        " publish messages twice; --again publishes all of a range once more"
    )


def outlived(
    backfill_requests: Sequence[BackfillRequest], backfills: Iterable[Backfill]
) -> list[str]:
    """The ids of the requests that may be removed: ended, and not among the last that ended.

    A request is removed before its end is forgotten, never after: a checkpoint that has forgotten
    the end would start it anew.
    """
    over = {backfill.id for backfill in backfills if not backfill.active}
    ended = [request.id for request in backfill_requests if request.id in over]
    return ended[:-KEPT]


def lost(backfill_requests: Iterable[BackfillRequest]) -> tuple[Backfill, ...]:
    """The requests as cancelled backfills, because their progress is lost with the state.

    Started anew, a request with `again` that ended long ago would publish once more.
    """
    ended = Standing.CANCELLED
    return tuple(
        Backfill(
            request.id, request.start, request.end, request.again, request.start, ended, since=0
        )
        for request in backfill_requests
    )

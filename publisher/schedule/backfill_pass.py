"""History that a person asked for: a pass over a fixed range, after everything else.

Rules of this file:
- An order says what is wanted of a backfill, the checkpoint how far it is: obeying
  the same order twice changes nothing, so nobody counts orders.
- It takes a step only where the loop would otherwise wait, one answer at a time.
- It never parks: what cannot be read is tried again (`tries.py`), and a person may cancel it.
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
    """The one whose turn it is: the oldest that runs."""
    return next((one for one in backfills if one.standing is Standing.RUNNING), None)


def advanced(
    backfills: Sequence[Backfill],
    step: Read,
    covered_until: Instant,
    rows: int,
    new: int,
    forgotten: Gaps = (),
) -> tuple[Backfill, ...]:
    """The backfills once the step's window is committed."""
    mine = current(backfills) if step.pass_ is BACKFILLING else None
    if mine is None:
        return tuple(backfills)
    cursor = min(max(mine.cursor, covered_until), mine.end)
    moved = replace(mine, cursor=cursor, rows=mine.rows + rows, new=mine.new + new)
    moved = _moved_on(moved, forgotten)
    return tuple(moved if one is mine else one for one in backfills)


def with_requests(
    backfills: Sequence[Backfill],
    backfill_requests: Sequence[BackfillRequest],
    sequence: int,
    forgotten: Gaps = (),
) -> tuple[Backfill, ...]:
    """The backfills as the orders want them; `sequence` is that of the commit which says so.

    One that publishes nothing again passes over forgotten time.

    What has ended stays so for as long as its order stands: who orders removes the orders that
    `outlived` tells, and only then their ends are forgotten here. One that publishes
    again is taken up only when no other such one is under way: what counts as
    published is what was published since it was taken up.
    """
    wanted = {backfill_request.id: backfill_request for backfill_request in backfill_requests}
    found = [
        replace(one, standing=wanted[one.id].wanted) if one.active and one.id in wanted else one
        for one in backfills
        if one.active or one.id in wanted
    ]
    known = {one.id for one in found}
    for backfill_request in backfill_requests:
        busy = (
            backfill_request.again
            and backfill_request.wanted is not Standing.CANCELLED
            and any(one.again and one.active for one in found)
        )
        if backfill_request.id not in known and not busy:
            new = Backfill(
                backfill_request.id,
                backfill_request.start,
                backfill_request.end,
                backfill_request.again,
                backfill_request.start,
                backfill_request.wanted,
                sequence,
            )
            read = sum((window.width for window in _readable(new, forgotten)), timedelta())
            skipped = (new.end - new.start - read) // SECOND
            found.append(_moved_on(replace(new, skipped_seconds=skipped), forgotten))
    return tuple(found)


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
    """The ids of the orders that may be removed: ended, and not among the last that did.

    An order goes before its end is forgotten, never after: a checkpoint that has forgotten it
    would take it for a new one.
    """
    over = {one.id for one in backfills if not one.active}
    ended = [
        backfill_request.id for backfill_request in backfill_requests if backfill_request.id in over
    ]
    return ended[:-KEPT]


def lost(backfill_requests: Iterable[BackfillRequest]) -> tuple[Backfill, ...]:
    """The orders as backfills that have ended: how far they were, nobody knows any more.

    Obeyed anew, one that had published again long ago would do it once more.
    """
    ended = Standing.CANCELLED
    return tuple(
        Backfill(one.id, one.start, one.end, one.again, one.start, ended, since=0)
        for one in backfill_requests
    )

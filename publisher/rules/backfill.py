"""History that a person asked for: a pass over a fixed range, after everything else. Pure.

Rules of this file:
- An order says what is wanted of a backfill, the checkpoint how far it is: obeying
  the same order twice changes nothing, so nobody counts orders.
- It takes a step only where the loop would otherwise wait, one answer at a time.
- It never parks: what cannot be read is tried again, and a person may cancel it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from publisher.model import SECOND, Backfill, Instant, Standing, Window
from publisher.rules.gaps import Gaps, before_next, beyond
from publisher.rules.quota import Budget
from publisher.rules.records import BACKFILL
from publisher.rules.schedule import QUICK, TARGET_ROWS, Pass, Read, Step, Wait
from publisher.settings import PublisherSettings

KEPT: Final = 10
"""Ended backfills that are still told; each takes 200 bytes of every checkpoint."""
DAILY_REQUESTS: Final = 300
"""Of a usual quota of 1000: live and re-reads need about 350, repair 48; the rest is reserve."""
BACKFILLING: Final = Pass(BACKFILL, BACKFILL, timedelta(), timedelta(), timedelta())
"""Its cursor stands with its range, not among the passes."""


@dataclass(frozen=True, slots=True)
class Order:
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
    pause: timedelta
    due: Instant | None = None
    """Not before, after a failure."""
    budget: Budget = field(default_factory=lambda: Budget(DAILY_REQUESTS))

    @classmethod
    def starting(cls, settings: PublisherSettings) -> "Stride":
        """Begin narrow, as live does."""
        width = min(settings.poll_every, settings.max_window)
        return cls(width, settings.max_window, settings.overlap, settings.poll_every)

    def answered(self, window: Window, now: Instant, rows: int, took: float) -> None:
        """Go on at once, wider when the answer was small and quick: live waits for one at most."""
        self.budget.spend(now)
        self.due = None
        if rows > TARGET_ROWS or took > QUICK:
            self.width = max(window.width / 2, SECOND)
        elif rows * 2 <= TARGET_ROWS and window.width >= self.width:
            self.width = min(self.width * 2, self.widest)

    def failed(self, window: Window, now: Instant, *, halve: bool) -> None:
        """Try again a poll later, with half of it unless that says nothing about the window."""
        self.budget.spend(now)
        self.due = now + self.pause
        if halve:
            self.width = max(window.width / 2, SECOND)


def meanwhile(
    step: Step, backfills: Sequence[Backfill], stride: Stride, now: Instant, gaps: Gaps
) -> Step:
    """The step, or a window of history where it would be a wait."""
    running = current(backfills)
    if not isinstance(step, Wait) or running is None or stride.budget.free_at(now):
        return step
    if stride.due and now < stride.due:
        return Wait(min(step.until, stride.due))
    # What lies in a gap is left to repair, which would not publish it again, though.
    known = () if running.again else gaps
    start = min(beyond(known, running.cursor), running.end)
    limit = min(running.end, now - stride.settle)
    if start == running.end:  # the rest is a gap: a second of it ends the pass
        start, known = running.end - SECOND, ()
    if start >= limit:
        return step
    end = before_next(known, start, min(start + stride.width, limit))
    return Read(BACKFILLING, Window(start, end), ends_round=True)


def current(backfills: Iterable[Backfill]) -> Backfill | None:
    """The one whose turn it is: the oldest that runs."""
    return next((one for one in backfills if one.standing is Standing.RUNNING), None)


def advanced(
    backfills: Sequence[Backfill], step: Read, covered_until: Instant, rows: int, new: int
) -> tuple[Backfill, ...]:
    """The backfills once the step's window is committed."""
    mine = current(backfills) if step.pass_ is BACKFILLING else None
    if mine is None:
        return tuple(backfills)
    cursor = min(max(mine.cursor, covered_until), mine.end)
    standing = Standing.DONE if cursor == mine.end else mine.standing
    moved = replace(
        mine, cursor=cursor, standing=standing, rows=mine.rows + rows, new=mine.new + new
    )
    return tuple(moved if one is mine else one for one in backfills)


def obeyed(
    backfills: Sequence[Backfill], orders: Sequence[Order], sequence: int
) -> tuple[Backfill, ...]:
    """The backfills as the orders want them; `sequence` is that of the commit which says so.

    What has ended stays so for as long as its order stands: who orders removes the orders that
    `outlived` tells, and only then their ends are forgotten here. One that publishes
    again is taken up only when no other such one is under way: what counts as
    published is what was published since it was taken up.
    """
    wanted = {order.id: order for order in orders}
    found = [
        replace(one, standing=wanted[one.id].wanted) if one.active and one.id in wanted else one
        for one in backfills
        if one.active or one.id in wanted
    ]
    known = {one.id for one in found}
    for order in orders:
        busy = (
            order.again
            and order.wanted is not Standing.CANCELLED
            and any(one.again and one.active for one in found)
        )
        if order.id not in known and not busy:
            found.append(
                Backfill(
                    order.id,
                    order.start,
                    order.end,
                    order.again,
                    order.start,
                    order.wanted,
                    sequence,
                )
            )
    return tuple(found)


def outlived(orders: Sequence[Order], backfills: Iterable[Backfill]) -> list[str]:
    """The ids of the orders that may be removed: ended, and not among the last that did.

    An order goes before its end is forgotten, never after: a checkpoint that has forgotten it
    would take it for a new one.
    """
    over = {one.id for one in backfills if not one.active}
    ended = [order.id for order in orders if order.id in over]
    return ended[:-KEPT]


def lost(orders: Iterable[Order]) -> tuple[Backfill, ...]:
    """The orders as backfills that have ended: how far they were, nobody knows any more.

    Obeyed anew, one that had published again long ago would do it once more.
    """
    ended = Standing.CANCELLED
    return tuple(
        Backfill(one.id, one.start, one.end, one.again, one.start, ended, since=0) for one in orders
    )

"""What was read late, and only once: when it is read a second time.

Rules of this file:
- Late is what no re-read will come by any more: it was too old for the longest one when it
  was read. The report may have hidden rows at that moment.
- It is read again some hours later, and not sooner: a silent gap takes minutes.
- Whoever reads it again, that will do. What is being confirmed is not late once more.
- It takes a step only where the loop would otherwise wait.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from publisher.model import Instant, Unconfirmed, Window
from publisher.schedule.backfill_pass import Stride
from publisher.schedule.passes import REREAD, Pass, Read, Step, Wait, passes_of, with_passes
from publisher.settings import PublisherSettings
from publisher.state.checkpoint import REPLAY, Checkpoint, Entry
from publisher.state.gaps import NEAR, Gaps, added, clear_of, removed

LONGEST_WAIT: Final = timedelta(hours=6)
LATE: Final = Pass(f"{REREAD}-late", REREAD, timedelta(), timedelta(), timedelta())
"""Reads what is unconfirmed, hence without a cursor of its own."""
_PARTS: Final = 3
"""Instants at which something becomes due, within a wait: they are few, so stretches are few."""


@dataclass(frozen=True, slots=True)
class Confirming:
    """What counts as late, and how long it waits."""

    longest: str = ""
    """The pass that reads everything last, and may read as late as it wants; empty = no re-reads,
    so nothing is read twice."""
    late_from: timedelta = timedelta()
    """Time at least so old when it is read is unconfirmed."""
    wait: timedelta = timedelta()

    @classmethod
    def of(cls, settings: PublisherSettings) -> "Confirming":
        """A wait before the longest re-read, so that this comes by later than that."""
        *_, longest = passes_of(settings)
        if not longest.delay:
            return cls()
        wait = min(LONGEST_WAIT, max(longest.delay / 4, settings.poll_every * 3))
        # What live reads at every poll is not late, however short the re-reads are.
        usual = settings.overlap + settings.poll_every * 2
        return cls(longest.name, max(longest.delay - wait, usual), wait)

    def due(self, read_at: Instant) -> Instant:
        """When what was read then is read again, at the earliest."""
        part = self.wait / _PARTS
        begin = datetime(2000, 1, 1, tzinfo=UTC)
        return begin + -((begin - read_at - self.wait) // part) * part


def confirmed(
    unconfirmed: Sequence[Unconfirmed],
    entry: Entry,
    confirming: Confirming,
    latest: Instant | None = None,
) -> tuple[Unconfirmed, ...]:
    """What is unconfirmed once a window was read, at `latest` at the latest.

    `read_at` is the earliest that it can have been. The wait begins with the latest: a clock that
    was behind must not let both readings fall into one silent gap.
    """
    left: list[Unconfirmed] = []
    for stretch in unconfirmed:
        read = entry.start < entry.end and stretch.due <= entry.read_at
        pieces = removed([stretch.window], entry.start, entry.end) if read else (stretch.window,)
        left += [Unconfirmed(piece, stretch.due) for piece in pieces]
    end = min(entry.end, entry.read_at - confirming.late_from)
    if (
        not confirming.longest
        or entry.pass_name in (confirming.longest, LATE.name, REPLAY)
        or entry.start >= end
    ):
        return tuple(left)
    fresh = clear_of(
        [stretch.window for stretch in unconfirmed], [Window(entry.start, end)], timedelta()
    )
    due = confirming.due(max(entry.read_at, latest or entry.read_at))
    windows = tuple(stretch.window for stretch in left if stretch.due == due)
    for window in fresh:
        windows = added(windows, window)
    left = [stretch for stretch in left if stretch.due != due]
    return tuple(sorted((*left, *(Unconfirmed(window, due) for window in windows)), key=_start))


def resumed(
    checkpoint: Checkpoint, journal: Iterable[Entry], settings: PublisherSettings
) -> Checkpoint:
    """The checkpoint with the passes of the settings.

    Where these are others than before, the journal tells what is unconfirmed: none of them
    may come by any more where one of before would have.
    """
    passes = with_passes(
        checkpoint.passes, passes_of(settings), checkpoint.start, checkpoint.forgotten
    )
    if passes.keys() == checkpoint.passes.keys():
        return checkpoint
    unconfirmed: tuple[Unconfirmed, ...] = ()
    for entry in journal:
        unconfirmed = confirmed(unconfirmed, entry, Confirming.of(settings))
    unconfirmed = remembered(unconfirmed, checkpoint.forgotten, NEAR)
    return replace(checkpoint, passes=passes, unconfirmed=unconfirmed)


def remembered(
    unconfirmed: Iterable[Unconfirmed], forgotten: Gaps, distance: timedelta
) -> tuple[Unconfirmed, ...]:
    """As much of it as lies so far from forgotten time."""
    return tuple(
        Unconfirmed(window, stretch.due)
        for stretch in unconfirmed
        for window in clear_of(forgotten, [stretch.window], distance)
    )


@dataclass(slots=True)
class Second:
    """How fast and where it reads a second time: in memory only."""

    stride: Stride
    behind: Instant | None = None
    """What failed ends here: first comes what lies behind it."""

    @classmethod
    def starting(cls, settings: PublisherSettings, backfills: Stride) -> "Second":
        """With the daily budget of the backfills."""
        stride = Stride.starting(settings)
        stride.budget = backfills.budget
        return cls(stride)

    def failed(self, window: Window, now: Instant, *, halve: bool) -> None:
        """Try something else later, with half the width unless that says nothing about it."""
        self.behind = window.end
        self.stride.failed(window, now, halve=halve)


def meanwhile(
    step: Step, unconfirmed: Iterable[Unconfirmed], second: Second, now: Instant, gaps: Gaps
) -> Step:
    """The step, or a window to be read a second time where it would be a wait."""
    stride = second.stride
    if not isinstance(step, Wait):
        return step
    wake = stride.wake(now)
    if wake is None or now < wake:
        return step
    # What lies in a gap is left to repair.
    due = [stretch.window for stretch in unconfirmed if stretch.due <= now]
    pieces = clear_of(gaps, due, timedelta())
    if not pieces:
        return step
    behind = second.behind
    rest = removed(pieces, pieces[0].start, behind) if behind and behind > pieces[0].start else ()
    piece = (rest or pieces)[0]
    return Read(
        LATE, Window(piece.start, min(piece.start + stride.width, piece.end)), ends_round=True
    )


def _start(stretch: Unconfirmed) -> Instant:
    return stretch.window.start

"""Decides when time that was read late, and only once, is read a second time.

Rules of this file:
- Time is read late if no re-read will cover it any more: when it was read, it was already too
  old for the longest re-read. The report may have hidden rows at that moment.
- It is read again some hours later, and not sooner, because a silent gap lasts minutes.
- A reading by any pass counts as the second reading. That reading is not late again.
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
"""Reads what is unconfirmed. It has no cursor of its own."""
_PARTS: Final = 3
"""Due times are rounded up to so many instants within a wait. So few stretches are kept."""


@dataclass(frozen=True, slots=True)
class Confirming:
    """What counts as late, and how long the second reading waits."""

    longest: str = ""
    """The pass with the longest delay. What it reads needs no second reading, however late it is.
    Empty = there are no re-reads, so nothing is read a second time."""
    late_from: timedelta = timedelta()
    """Time is unconfirmed if it is at least so old when it is read."""
    wait: timedelta = timedelta()
    """How long to wait at least until the second reading."""

    @classmethod
    def of(cls, settings: PublisherSettings) -> "Confirming":
        """Time is late from a wait before the longest re-read on.

        So the longest re-read of younger time comes after more than a wait.
        """
        *_, longest = passes_of(settings)
        if not longest.delay:
            return cls()
        wait = min(LONGEST_WAIT, max(longest.delay / 4, settings.poll_every * 3))
        # What live reads at every poll is not late, however short the re-reads are.
        live_reach = settings.overlap + settings.poll_every * 2
        return cls(longest.name, max(longest.delay - wait, live_reach), wait)

    def due(self, read_at: Instant) -> Instant:
        """The earliest second reading of what was read at `read_at`."""
        part = self.wait / _PARTS
        epoch = datetime(2000, 1, 1, tzinfo=UTC)
        return epoch + -((epoch - read_at - self.wait) // part) * part


def confirmed(
    unconfirmed: Sequence[Unconfirmed],
    entry: Entry,
    confirming: Confirming,
    latest: Instant | None = None,
) -> tuple[Unconfirmed, ...]:
    """Return what is unconfirmed after a window was read.

    `entry` is the window's entry in the journal. Its `read_at` is the earliest time at which the
    window can have been read, `latest` the latest. The wait begins at the latest: otherwise a
    clock that was behind might let both readings fall into the same silent gap.
    """
    remaining: list[Unconfirmed] = []
    for stretch in unconfirmed:
        confirms = entry.start < entry.end and stretch.due <= entry.read_at
        pieces = (
            removed([stretch.window], entry.start, entry.end) if confirms else (stretch.window,)
        )
        remaining += [Unconfirmed(piece, stretch.due) for piece in pieces]
    end = min(entry.end, entry.read_at - confirming.late_from)
    if (
        not confirming.longest
        or entry.pass_name in (confirming.longest, LATE.name, REPLAY)
        or entry.start >= end
    ):
        return tuple(remaining)
    fresh = clear_of(
        [stretch.window for stretch in unconfirmed], [Window(entry.start, end)], timedelta()
    )
    due = confirming.due(max(entry.read_at, latest or entry.read_at))
    windows = tuple(stretch.window for stretch in remaining if stretch.due == due)
    for window in fresh:
        windows = added(windows, window)
    remaining = [stretch for stretch in remaining if stretch.due != due]
    return tuple(
        sorted((*remaining, *(Unconfirmed(window, due) for window in windows)), key=_start)
    )


def resumed(
    checkpoint: Checkpoint, journal: Iterable[Entry], settings: PublisherSettings
) -> Checkpoint:
    """Return the checkpoint with the passes of the settings.

    Where the passes have changed, what is unconfirmed is computed anew from the journal: a former
    pass would have read some time again that no present pass reads again.
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
    """The parts of the unconfirmed time that are at least `distance` from forgotten time."""
    return tuple(
        Unconfirmed(window, stretch.due)
        for stretch in unconfirmed
        for window in clear_of(forgotten, [stretch.window], distance)
    )


@dataclass(slots=True)
class Second:
    """The position and the request limits of second readings; in memory only."""

    stride: Stride
    behind: Instant | None = None
    """The end of the last window that failed. What lies behind it is read first."""

    @classmethod
    def starting(cls, settings: PublisherSettings, backfills: Stride) -> "Second":
        """Begin; the daily budget is shared with the backfills."""
        stride = Stride.starting(settings)
        stride.budget = backfills.budget
        return cls(stride)

    def failed(self, window: Window, now: Instant, *, halve: bool) -> None:
        """Try another window later. `halve`: the window may be the cause, so halve the width."""
        self.behind = window.end
        self.stride.failed(window, now, halve=halve)


def meanwhile(
    step: Step, unconfirmed: Iterable[Unconfirmed], second: Second, now: Instant, gaps: Gaps
) -> Step:
    """Return the step, or a window to read a second time where the step would be a wait."""
    stride = second.stride
    if not isinstance(step, Wait):
        return step
    wake = stride.wake(now)
    if wake is None or now < wake:
        return step
    # Time in a gap is left to repair.
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

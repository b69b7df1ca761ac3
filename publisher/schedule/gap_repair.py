"""Repairs gaps: it reads them again piece by piece, at most an hour between two tries.

A round begins with the whole gaps, the widest first. When a piece fails, its first half is
next and its second half comes last, down to a second. So within a few requests either some
rows are read or another place is tried, and a gap shrinks around what cannot be read.
Failures cost tries (`attempts.py`); a piece that was read costs none. So the next try is
always near, even after many failures, and all pieces follow at once when the report
recovers. All of this is in memory only.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from publisher.model import SECOND, Instant, Window
from publisher.schedule.attempts import Tries
from publisher.state.gaps import Gaps

FRUITLESS: Final = 48
"""Failures in a row after which a round begins anew. A whole gap may be readable sooner."""


@dataclass(slots=True)
class Repair:
    """The state of the current round over the gaps."""

    settle: timedelta
    """Time younger than this is not asked for: live's overlap will not read it again."""
    pause: timedelta
    """How long to wait after a piece that failed: a poll."""
    widest: timedelta
    """The widest piece of a new round."""
    pieces: list[Window] = field(default_factory=list)
    """The pieces of this round that are still to be read."""
    due_at: Instant | None = None
    """The earliest next request, after a round or a parked window."""
    tries: Tries = field(init=False)
    fruitless_count: int = 0
    """Failures since a piece was read last."""

    def __post_init__(self) -> None:
        self.tries = Tries(self.pause)

    def next(self, gaps: Gaps, now: Instant) -> Window | Instant | None:
        """Return the piece to ask for now, or when to call again. None without gaps."""
        if not gaps:
            self.pieces, self.due_at = [], None
            return None
        wake = self._wake(now)
        if now < wake:
            return wake
        if not self.pieces:
            self.pieces, self.fruitless_count = self._settled(gaps, now), 0
        if not self.pieces:
            return min(gap.start + min(gap.width, self.pause) for gap in gaps) + self.settle
        return self.pieces[0]

    def _wake(self, now: Instant) -> Instant:
        if self.due_at and self.due_at - now > max(self.pause, self.settle):
            self.due_at = None  # the clock has gone back
        return max(self.due_at or now, self.tries.wake(now))

    def hurry(self) -> None:
        """The API answers again after failures: allow the next try at once."""
        self.due_at = None
        self.tries.hurry()

    def answered(self, piece: Window, now: Instant) -> None:
        """The piece was published: continue with the next piece at once."""
        self.fruitless_count, self.due_at = 0, None
        self.tries.answered()
        self._take(piece)
        if not self.pieces:
            self.due_at = now + self.pause

    def failed(self, piece: Window, now: Instant, *, halve: bool) -> None:
        """Continue after a pause. `halve`: the failure may be due to the piece, so split it."""
        self.tries.failed(now)
        if not halve:
            return
        self.fruitless_count += 1
        self._take(piece)
        if piece.width > SECOND:
            middle = piece.start + piece.width / 2
            self.pieces = [
                Window(piece.start, middle), *self.pieces, Window(middle, piece.end)
            ]  # fmt: skip
        if self.fruitless_count >= FRUITLESS:
            self.pieces = []

    def _take(self, piece: Window) -> None:
        """Remove a piece that was asked for.

        It may be only the first part of what `next` returned, where that was cut to fit into one
        request. Then the rest stays.
        """
        remaining = []
        for listed in self.pieces:
            if listed.start != piece.start:
                remaining.append(listed)
            elif piece.end < listed.end:
                remaining.append(Window(piece.end, listed.end))
        self.pieces = remaining

    def _settled(self, gaps: Gaps, now: Instant) -> list[Window]:
        """The parts of the gaps that may be asked for, without slivers of a gap still too young."""
        pieces = []
        for gap in gaps:
            end = min(gap.end, now - self.settle)
            start = gap.start
            if end - start < min(gap.width, self.pause):
                continue
            while start < end:
                pieces.append(Window(start, min(start + self.widest, end)))
                start = pieces[-1].end
        return sorted(pieces, key=lambda piece: piece.width, reverse=True)

"""How gaps are read again: piece by piece, and never longer than an hour apart.

A round begins with the gaps as they are, the widest first. Of a piece that fails
the first half is next and the second half last, down to a second: so every few
requests something comes out, or another place is tried, and a gap shrinks around
what cannot be read. Failures cost tries (`attempts.py`); a piece that was read costs
none. So whatever has failed for however long, the next try is near, and when the
report recovers all pieces follow it at once. In memory only.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from publisher.model import SECOND, Instant, Window
from publisher.schedule.attempts import Tries
from publisher.state.gaps import Gaps

FRUITLESS: Final = 48
"""Failures in a row after which a round begins anew: the whole may be readable sooner."""


@dataclass(slots=True)
class Repair:
    """Where the round over the gaps is."""

    settle: timedelta
    """Younger time is not asked for: live's overlap will not read it again."""
    pause: timedelta
    """After a piece that failed: a poll."""
    widest: timedelta
    pieces: list[Window] = field(default_factory=list)
    """Not asked for yet in this round."""
    due: Instant | None = None
    """Not before, after a round or a window that was parked."""
    tries: Tries = field(init=False)
    fruitless: int = 0
    """Failures since a piece was read last."""

    def __post_init__(self) -> None:
        self.tries = Tries(self.pause)

    def next(self, gaps: Gaps, now: Instant) -> Window | Instant | None:
        """The piece to ask for now, or when to look again; None without gaps."""
        if not gaps:
            self.pieces, self.due = [], None
            return None
        wake = self._wake(now)
        if now < wake:
            return wake
        if not self.pieces:
            self.pieces, self.fruitless = self._settled(gaps, now), 0
        if not self.pieces:
            return min(gap.start + min(gap.width, self.pause) for gap in gaps) + self.settle
        return self.pieces[0]

    def _wake(self, now: Instant) -> Instant:
        if self.due and self.due - now > max(self.pause, self.settle):
            self.due = None  # the clock has gone back
        return max(self.due or now, self.tries.wake(now))

    def hurry(self) -> None:
        """The API answers again after failures: bring the next try forward."""
        self.due = None
        self.tries.hurry()

    def answered(self, piece: Window, now: Instant) -> None:
        """The piece was published: go on with the next one at once."""
        self.fruitless, self.due = 0, None
        self.tries.answered()
        self._take(piece)
        if not self.pieces:
            self.due = now + self.pause

    def failed(self, piece: Window, now: Instant, *, halve: bool) -> None:
        """Go on after a pause: with halves, unless the failure says nothing about the piece."""
        self.tries.failed(now)
        if not halve:
            return
        self.fruitless += 1
        self._take(piece)
        if piece.width > SECOND:
            middle = piece.start + piece.width / 2
            self.pieces = [
                Window(piece.start, middle), *self.pieces, Window(middle, piece.end)
            ]  # fmt: skip
        if self.fruitless >= FRUITLESS:
            self.pieces = []

    def _take(self, piece: Window) -> None:
        """It was asked; where it was cut to one request only the first part of what `next` said."""
        left = []
        for other in self.pieces:
            if other.start != piece.start:
                left.append(other)
            elif piece.end < other.end:
                left.append(Window(piece.end, other.end))
        self.pieces = left

    def _settled(self, gaps: Gaps, now: Instant) -> list[Window]:
        """What of the gaps may be asked for; no slivers of one that is still too young."""
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

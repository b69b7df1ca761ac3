"""How gaps are read again: piece by piece, seldom, within a daily budget. Pure.

A round begins with the gaps as they are, the widest first. Of a piece that fails
the first half is next and the second half last, down to a second: so every few
requests something comes out, or another place is tried, and a gap shrinks around
what cannot be read. All of this is in memory only.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from publisher.model import SECOND, Instant, Window
from publisher.rules.gaps import Gaps
from publisher.rules.quota import Budget

DAILY_REQUESTS: Final = 48
FIRST_REST: Final = 6
LONGEST_REST: Final = 72
"""Polls after a round, doubling while rounds bring nothing: half an hour to six, at 5 minutes."""


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
    budget: Budget = field(default_factory=lambda: Budget(DAILY_REQUESTS))
    fruitless: int = 0
    """Failures since a piece was read last."""
    brought: bool = False
    """This round has read something."""
    rest: int = FIRST_REST

    def next(self, gaps: Gaps, now: Instant) -> Window | Instant | None:
        """The piece to ask for now, or when to look again; None without gaps."""
        if not gaps:
            self.pieces, self.due, self.rest = [], None, FIRST_REST
            return None
        wake = max(filter(None, (self.due, self.budget.free_at(now))), default=now)
        if now < wake:
            return wake
        if not self.pieces:
            self.pieces = self._settled(gaps, now)
            self.fruitless, self.brought = 0, False
        if not self.pieces:
            return min(gap.start + min(gap.width, self.pause) for gap in gaps) + self.settle
        return self.pieces[0]

    def answered(self, piece: Window, now: Instant) -> None:
        """The piece was published: go on with the next one at once."""
        self.budget.spend(now)
        self.fruitless, self.brought, self.due = 0, True, None
        self._take(piece)
        self._end_round(now)

    def failed(self, piece: Window, now: Instant, *, halve: bool) -> None:
        """Go on after a pause: with halves, unless the failure says nothing about the piece."""
        self.budget.spend(now)
        self.due = now + self.pause
        if not halve:
            return
        self.fruitless += 1
        self._take(piece)
        if piece.width > SECOND:
            middle = piece.start + piece.width / 2
            self.pieces = [
                Window(piece.start, middle), *self.pieces, Window(middle, piece.end)
            ]  # fmt: skip
        self._end_round(now)

    def _take(self, piece: Window) -> None:
        """It was asked; where the clocks go back only the first part of what `next` offered."""
        left = []
        for each in self.pieces:
            if each.start != piece.start:
                left.append(each)
            elif piece.end < each.end:
                left.append(Window(piece.end, each.end))
        self.pieces = left

    def _end_round(self, now: Instant) -> None:
        """When all is asked, or so much was in vain that the whole may be readable sooner."""
        if self.pieces and self.fruitless < DAILY_REQUESTS:
            return
        self.pieces = []
        self.rest = FIRST_REST if self.brought else self.rest
        self.due = now + self.pause * self.rest
        self.rest = min(self.rest * 2, LONGEST_REST)

    def _settled(self, gaps: Gaps, now: Instant) -> list[Window]:
        """What of the gaps may be asked for; no slivers of one that is still too young."""
        found = []
        for gap in gaps:
            end = min(gap.end, now - self.settle)
            start = gap.start
            if end - start < min(gap.width, self.pause):
                continue
            while start < end:
                found.append(Window(start, min(start + self.widest, end)))
                start = found[-1].end
        return sorted(found, key=lambda piece: piece.width, reverse=True)

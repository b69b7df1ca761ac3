"""The server's clock, as far as its answers tell."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from publisher.model import DAY, Instant

LARGEST: Final = timedelta(hours=1)
"""A larger skew is a wrong clock or a wrong server, not a drift: the operation is held."""

RESOLUTION: Final = timedelta(seconds=2)
"""Skews that differ by less are the same one."""


def too_large(skew: timedelta) -> str:
    """What to say of a skew beyond `LARGEST`."""
    side = "ahead of" if skew > timedelta() else "behind"
    return (
        f"the server's clock is {abs(skew.total_seconds()):.0f} s {side} ours: correct the"
        " clock of this machine (or the server's)"
    )


UNDATED_POLLS: Final = 12
"""So many polls without a usable date (an hour, at 5 minutes) are told of."""


@dataclass(slots=True)
class ServerClock:
    """Our clock plus the measured skew; before the first answer, simply our clock."""

    skew: timedelta = timedelta()
    """The server's clock minus ours, by the last answer that was believed."""
    before: tuple[timedelta, timedelta] = (timedelta(), timedelta())
    """The same by the two answers before it; by no answer, our clock is right."""

    undated_since: Instant | None = None
    """When the first answer in a row came that had no usable date, by our clock."""

    warned_at: Instant | None = None
    newest: Instant | None = None
    """When the newest message occurred: the server has lived through that, whatever our clock."""

    @property
    def start_skew(self) -> timedelta:
        """By how much a start told by our clock may be wrong: a day, where no answer is dated."""
        return self.skew if self.undated_since is None else -DAY

    def saw(self, occurred: Iterable[str]) -> None:
        """Messages of these seconds have come (RFC 3339)."""
        times = [datetime.fromisoformat(second) for second in occurred]
        self.newest = max([*times, *([self.newest] if self.newest else [])], default=None)

    def lived_until(self, now: Instant, covered_until: Instant) -> Instant:
        """What an answer without a date covers: `now` is our clock's word alone.

        Only up to the newest message, or to a day ago; never less than was covered before.
        """
        return min(now, max(now - DAY, covered_until, self.newest or covered_until))

    def undated(self, ours: Instant, *, usable: bool, patience: timedelta) -> Instant | None:
        """Remember whether an answer had a usable date; since when none has, every `patience`."""
        if usable:
            self.undated_since = self.warned_at = None
            return None
        self.undated_since = self.undated_since or ours
        if ours - (self.warned_at or self.undated_since) < patience:
            return None
        self.warned_at = ours
        return self.undated_since

    def now(self, ours: Instant) -> Instant:
        """The server's time at our time `ours`; never ahead of the truth by design.

        The smallest skew counts: two wrong answers may cost a poll or two, but must not
        settle time too early.
        """
        return ours + min(self.skew, *self.before)

    def correct(self, date: Instant, received_at: Instant) -> None:
        """An answer's `Date` was earlier than what we had asked for: it counts at once."""
        self.skew = min(self.skew, date - received_at)

    def observe(self, date: Instant, received_at: Instant) -> timedelta:
        """Learn from an answer's `Date`; returns the skew.

        `Date` is rounded down to a second and arrives late, so a single answer
        shows too small a skew: within that resolution the largest one counts,
        which keeps the server's time from jumping back and forth.
        Beyond `LARGEST` the operation is held: of a server that far ahead nothing is learned,
        of one that far behind that it is not later than that.
        """
        seen = date - received_at
        if seen > LARGEST:
            return seen
        self.before = self.skew, self.before[0]
        close = abs(seen - self.skew) <= RESOLUTION
        self.skew = max(self.skew, seen) if close else seen
        return self.skew

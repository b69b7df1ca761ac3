"""The server's clock, as far as its answers tell. Pure."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from publisher.model import Instant

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


@dataclass(slots=True)
class ServerClock:
    """Our clock plus the measured skew; before the first answer, simply our clock."""

    skew: timedelta = timedelta()
    """The server's clock minus ours, by the last answer that was believed."""
    before: tuple[timedelta, timedelta] = (timedelta(), timedelta())
    """The same by the two answers before it; by no answer, our clock is right."""

    def now(self, ours: Instant) -> Instant:
        """The server's time at our time `ours`; never ahead of the truth by design.

        The smallest skew counts: two wrong answers may cost a poll or two, but must not
        settle time too early.
        """
        return ours + min(self.skew, *self.before)

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

"""Estimates the server's clock from the `Date` headers of its answers.

The schedule runs by the server's time. A wrong clock, on either side, must cost a few polls
at most, and never a message.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from publisher.model import DAY, Instant

LARGEST: Final = timedelta(hours=1)
"""A larger skew means a wrong clock or a wrong server, not a drift. It holds the operation."""

RESOLUTION: Final = timedelta(seconds=2)
"""Skews that differ by no more than this count as equal."""


def too_large(skew: timedelta) -> str:
    """The error text for a skew beyond `LARGEST`."""
    side = "ahead of" if skew > timedelta() else "behind"
    return (
        f"the server's clock is {abs(skew.total_seconds()):.0f} s {side} ours: correct the"
        " clock of this machine (or the server's)"
    )


UNDATED_POLLS: Final = 12
"""After so many polls without a usable date (an hour, at 5 minutes) a warning is due."""


@dataclass(slots=True)
class ServerClock:
    """Our clock plus the measured skew. Before the first answer it is our clock."""

    skew: timedelta = timedelta()
    """The server's clock minus ours, by the last answer that was accepted."""
    earlier_skews: tuple[timedelta, timedelta] = (timedelta(), timedelta())
    """The skews by the two answers before it. Without an answer our clock counts as right."""

    undated_since: Instant | None = None
    """When the current run of answers without a usable date began, by our clock."""

    warned_at: Instant | None = None
    newest_message_at: Instant | None = None
    """When the newest message occurred. The server is past this time, whatever our clock says."""

    @property
    def start_skew(self) -> timedelta:
        """How wrong a start by our clock may be: the skew, or a day where answers have no date."""
        return self.skew if self.undated_since is None else -DAY

    def saw(self, occurred: Iterable[str]) -> None:
        """Note the times (RFC 3339) at which the messages of an answer occurred."""
        times = [datetime.fromisoformat(second) for second in occurred]
        self.newest_message_at = max(
            [*times, *([self.newest_message_at] if self.newest_message_at else [])], default=None
        )

    def lived_until(self, now: Instant, covered_until: Instant) -> Instant:
        """Until when an answer without a date covers time; `now` rests on our clock alone.

        It covers time up to the newest message or up to a day ago, whichever is later. It never
        covers less than `covered_until`, what was covered before, nor more than `now`.
        """
        return min(now, max(now - DAY, covered_until, self.newest_message_at or covered_until))

    def undated(self, our_now: Instant, *, usable: bool, patience: timedelta) -> Instant | None:
        """Note whether an answer had a `usable` date.

        When a warning is due, which is once in every `patience`, it returns since when no answer
        has had one.
        """
        if usable:
            self.undated_since = self.warned_at = None
            return None
        self.undated_since = self.undated_since or our_now
        if our_now - (self.warned_at or self.undated_since) < patience:
            return None
        self.warned_at = our_now
        return self.undated_since

    def now(self, our_now: Instant) -> Instant:
        """The server's time at our time `our_now`. By design it is never ahead of the truth.

        The smallest of the last three skews counts. So two wrong answers may cost a poll or
        two, but do not settle time too early.
        """
        return our_now + min(self.skew, *self.earlier_skews)

    def correct(self, date: Instant, received_at: Instant) -> None:
        """Apply at once the `Date` of an answer that is earlier than the time we had asked for."""
        self.skew = min(self.skew, date - received_at)

    def observe(self, date: Instant, received_at: Instant) -> timedelta:
        """Learn from an answer's `Date`, and return the skew.

        `Date` is rounded down to a second and arrives late, so a single answer shows too small
        a skew. Among skews within `RESOLUTION` the largest counts, which keeps the server's
        time from jumping back and forth.
        Beyond `LARGEST` the caller holds the operation. A server that far ahead changes nothing
        here; a server that far behind still sets the skew.
        """
        measured_skew = date - received_at
        if measured_skew > LARGEST:
            return measured_skew
        self.earlier_skews = self.skew, self.earlier_skews[0]
        close = abs(measured_skew - self.skew) <= RESOLUTION
        self.skew = max(self.skew, measured_skew) if close else measured_skew
        return self.skew

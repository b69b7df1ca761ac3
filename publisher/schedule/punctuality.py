"""Checks whether new messages have dates near the server's clock, as in the right time zone.

A configured zone too far east asks for times in the future: live finds nothing, and only
re-reads find messages, which are then hours old. A zone too far west finds messages of the
future, if the report filters by another column than `date`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from publisher.model import Instant

NEAR: Final = timedelta(hours=1)
WINDOWS: Final = 6
"""A warning is due after so many windows, over at least `LONG`, whose messages were all far off."""
NEVER_POLLS: Final = 24
"""A hint is due after so many polls (2 h at 5 minutes) of an operation that never showed a row."""
FIRST_WINDOWS: Final = 3
FIRST_LONG: Final = timedelta(hours=3)
"""These apply while no message was near since the start, as in an operation with a wrong zone."""
LONG: Final = timedelta(days=1)
"""A night or a free afternoon may bring only late messages."""


@dataclass(slots=True)
class Punctuality:
    """Counts windows in a row whose new messages were all far off the server's clock."""

    far_since: Instant | None = None
    window_count: int = 0
    ever_near: bool = False
    """A new message was near once. Then `LONG` and `WINDOWS` apply, else the `FIRST_...` limits."""
    rowless_since: Instant | None = None
    hinted: bool = False
    """The hint was given, or is not needed because rows have come."""

    def never_a_row(self, now: Instant, poll_every: timedelta, *, seen: bool) -> Instant | None:
        """Return since when an operation that never showed a row has been read, if a hint is due.

        This happens once. `seen`: the answer holds rows, or earlier rows are remembered.
        """
        if seen:
            self.rowless_since, self.hinted = None, True
            return None
        self.rowless_since = self.rowless_since or now
        if self.hinted or now - self.rowless_since < poll_every * NEVER_POLLS:
            return None
        self.hinted = True
        return self.rowless_since

    def notice(
        self, occurred: Iterable[str], now: Instant, covered_until: Instant
    ) -> timedelta | None:
        """Check when a window's new messages occurred (RFC 3339).

        If a warning is due, it returns the offset of the message nearest to `now`. A negative
        offset lies in the past. After a warning the count begins anew, so the warning repeats
        while the fault lasts. `covered_until` belongs to live: while live catches up, all
        messages may be far off, and nothing is counted.
        """
        if now - covered_until >= NEAR:
            return None
        offsets = [datetime.fromisoformat(second) - now for second in occurred]
        if not offsets:
            return None
        nearest = min(offsets, key=abs)
        if abs(nearest) < NEAR:
            self.far_since, self.window_count, self.ever_near = None, 0, True
            return None
        self.far_since, self.window_count = self.far_since or now, self.window_count + 1
        least_count = WINDOWS if self.ever_near else FIRST_WINDOWS
        warn_after = LONG if self.ever_near else FIRST_LONG
        if self.window_count < least_count or now - self.far_since < warn_after:
            return None
        self.far_since, self.window_count = None, 0
        return nearest

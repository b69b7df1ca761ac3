"""Whether messages come with dates near the server's clock, as they do in the right zone.

A zone that is too far east asks for times that are still to come: live finds nothing,
and only re-reads find messages, hours old. One too far west, where the report filters by
another column than `date`, finds messages of the future.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from publisher.model import Instant

NEAR: Final = timedelta(hours=1)
WINDOWS: Final = 6
"""So many windows with new messages, over at least `LONG`, and not one of them was near."""
NEVER_POLLS: Final = 24
"""An operation that has shown no row at all for so many polls (2 h at 5 minutes) is told of."""
FIRST_WINDOWS: Final = 3
FIRST_LONG: Final = timedelta(hours=3)
"""Sooner where no message was ever near since the start: so a wrong zone looks from the first."""
LONG: Final = timedelta(days=1)
"""A night or a free afternoon may bring nothing but late messages."""


@dataclass(slots=True)
class Punctuality:
    """The windows in a row whose new messages were all far off the server's clock."""

    since: Instant | None = None
    windows: int = 0
    ever: bool = False
    """A new message was near once: then a day decides, else the first windows do."""
    rowless_since: Instant | None = None
    hinted: bool = False

    def never_a_row(self, now: Instant, poll_every: timedelta, *, seen: bool) -> Instant | None:
        """Since when an operation that never showed a row has shown none; told once, when long.

        `seen`: an answer holds rows, or some are remembered.
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
        """Look at when a window's new messages occurred; how far off the nearest is, if steadily.

        Negative = in the past. After that it begins anew, so it is told again while it lasts.
        `covered_until` is live's: while it catches up, all may be far off.
        """
        if now - covered_until >= NEAR:
            return None
        offsets = [datetime.fromisoformat(second) - now for second in occurred]
        if not offsets:
            return None
        nearest = min(offsets, key=abs)
        if abs(nearest) < NEAR:
            self.since, self.windows, self.ever = None, 0, True
            return None
        self.since, self.windows = self.since or now, self.windows + 1
        long = LONG if self.ever else FIRST_LONG
        if self.windows < (WINDOWS if self.ever else FIRST_WINDOWS) or now - self.since < long:
            return None
        self.since, self.windows = None, 0
        return nearest

"""Whether messages come with dates near the server's clock, as they do in the right zone. Pure.

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
LONG: Final = timedelta(days=1)
"""A night or a free afternoon may bring nothing but late messages."""


@dataclass(slots=True)
class Punctuality:
    """The windows in a row whose new messages were all far off the server's clock."""

    since: Instant | None = None
    windows: int = 0

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
            self.since, self.windows = None, 0
            return None
        self.since, self.windows = self.since or now, self.windows + 1
        if self.windows < WINDOWS or now - self.since < LONG:
            return None
        self.since, self.windows = None, 0
        return nearest

"""Limits how often something that fails is tried again.

It is always tried again, at most 12 polls later. Failures in a row cost tries, and tries come
back at a steady rate. One try is reserved for the moment when the API answers again. So even
after a long outage nothing waits until the next day. All of this is in memory only.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from publisher.model import Instant
from publisher.schedule.quota import Bucket

TRIES: Final = 24
"""So many failures may follow a poll apart: enough to shrink a gap to the second that fails."""
REST: Final = 6
"""Polls until a try comes back: 48 tries a day, at 5 minutes. Because one try is reserved, two
tries are at most 12 polls apart."""


@dataclass(slots=True)
class Tries:
    """The tries of one reader, and its pause after a failure."""

    pause: timedelta
    """How long to wait after a failure: a poll."""
    due_at: Instant | None = None
    """The earliest next request, after a failure."""
    hurried: bool = False
    """The API answers again after failures, so the reserved try may be used."""
    allowance: Bucket = field(init=False)

    def __post_init__(self) -> None:
        self.allowance = Bucket.of(TRIES, self.pause.total_seconds() * REST)

    def wake(self, now: Instant) -> Instant:
        """When the next request may be sent; `now` = at once."""
        if self.due_at and self.due_at - now > self.pause:
            self.due_at = None  # the clock has gone back
        kept = 0 if self.hurried else 1
        refill_after = timedelta(seconds=self.allowance.wait(now.timestamp(), kept))
        return max(self.due_at or now, now + refill_after)

    def failed(self, now: Instant, *, in_a_row: bool = True) -> None:
        """Wait for a pause, or longer where tries run short. With `in_a_row` it costs a try."""
        if in_a_row:
            self.allowance.spend(now.timestamp())
        self.due_at, self.hurried = now + self.pause, False

    def answered(self) -> None:
        """An answer came: continue at once."""
        self.due_at, self.hurried = None, False

    def hurry(self) -> None:
        """The API answers again after failures: allow the next try at once."""
        self.due_at, self.hurried = None, True

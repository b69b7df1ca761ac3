"""When something that fails is tried again: always, and never longer than 12 polls apart.

Failures in a row cost tries, which come back one by one. One of them is kept for when the API
answers again. So nothing that has failed for however long is left alone until a day has passed.
In memory only.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from publisher.model import Instant
from publisher.schedule.quota import Bucket

TRIES: Final = 24
"""So many failures may come a poll apart: what shrinks a gap to the second that fails."""
REST: Final = 6
"""Polls until one try comes back: 48 a day, at 5 minutes. With the one that is kept two tries are
12 polls apart at most."""


@dataclass(slots=True)
class Tries:
    """The tries of one reader, and its pause after a failure."""

    pause: timedelta
    """A poll."""
    due: Instant | None = None
    """Not before, after a failure."""
    hurried: bool = False
    """The API answers again after failures: the try that is kept may be used."""
    left: Bucket = field(init=False)

    def __post_init__(self) -> None:
        self.left = Bucket.of(TRIES, self.pause.total_seconds() * REST)

    def wake(self, now: Instant) -> Instant:
        """When the next request may be made; `now` = at once."""
        if self.due and self.due - now > self.pause:
            self.due = None  # the clock has gone back
        kept = 0 if self.hurried else 1
        rest = timedelta(seconds=self.left.wait(now.timestamp(), kept))
        return max(self.due or now, now + rest)

    def failed(self, now: Instant, *, in_a_row: bool = True) -> None:
        """Wait for a pause, and longer where tries are short; `in_a_row`: it costs one."""
        if in_a_row:
            self.left.spend(now.timestamp())
        self.due, self.hurried = now + self.pause, False

    def answered(self) -> None:
        """Go on at once."""
        self.due, self.hurried = None, False

    def hurry(self) -> None:
        """The API answers again after failures: bring the next try forward."""
        self.due, self.hurried = None, True

"""How long to wait before the same step is tried again."""

from datetime import timedelta
from typing import Final

from publisher.errors import Fenced, NeedsOperator, PublisherError, Stage, StepError

FIRST_SECONDS: Final = 1.0
RESTORE_LONGEST_SECONDS: Final = 60.0
FENCED_FIRST_SECONDS: Final = 80.0
FENCED_LONGEST_SECONDS: Final = 900.0


def pause(error: PublisherError, attempt: int, poll_every: timedelta, jitter: float) -> float:
    """Seconds until the next attempt; `attempt` counts from 1, `jitter` is in [0, 1).

    Doubles from one second (for what needs a person, from half a poll). Never
    longer than two polls: whatever the fault was, work goes on within three
    polls of its end. Two exceptions: a server that asked for more, or that may
    still be busy with a request we gave up on; and the way back after another
    process has taken our place, which begins at a minute.
    """
    poll = poll_every.total_seconds()
    spread = 0.75 + jitter / 4
    growth = 2.0 ** min(attempt - 1, 30)
    if isinstance(error, Fenced):
        return min(FENCED_FIRST_SECONDS * growth, FENCED_LONGEST_SECONDS) * spread
    longest = 2 * poll
    first = min(FIRST_SECONDS, poll)
    if isinstance(error, NeedsOperator):
        first = poll / 2
    elif error.stage is Stage.RESTORE:
        # Only these attempts cost no request of the daily quota.
        longest = min(longest, RESTORE_LONGEST_SECONDS)
    asked = error.retry_after if isinstance(error, StepError) else None
    return max(min(first * growth, longest) * spread, asked or 0.0)

"""Decides how long to wait before a failed step is tried again.

The pause doubles with each failure, but stays short: the service must go on soon after a
fault ends.
"""

from datetime import timedelta
from typing import Final

from publisher.errors import Fenced, NeedsOperator, PublisherError, Stage, StepError

FIRST_SECONDS: Final = 1.0
RESTORE_LONGEST_SECONDS: Final = 60.0
FENCED_FIRST_SECONDS: Final = 80.0
FENCED_LONGEST_SECONDS: Final = 900.0


def pause(error: PublisherError, attempt: int, poll_every: timedelta, jitter: float) -> float:
    """Seconds until the next attempt; `attempt` counts from 1, `jitter` is in [0, 1).

    The pause doubles from one second; for an error that needs a person it doubles from half
    a poll. It is never longer than two polls, so work goes on within three polls after any
    fault ends. There are two exceptions. The server may ask for more, or may still be busy
    with a request that we gave up. And after another process has taken our place the way
    back begins at a minute.
    """
    poll_seconds = poll_every.total_seconds()
    spread = 0.75 + jitter / 4
    growth = 2.0 ** min(attempt - 1, 30)
    if isinstance(error, Fenced):
        return min(FENCED_FIRST_SECONDS * growth, FENCED_LONGEST_SECONDS) * spread
    longest_seconds = 2 * poll_seconds
    first_seconds = min(FIRST_SECONDS, poll_seconds)
    if isinstance(error, NeedsOperator):
        first_seconds = poll_seconds / 2
    elif error.stage is Stage.RESTORE:
        # A restore costs no request of the daily quota; every other attempt does.
        longest_seconds = min(longest_seconds, RESTORE_LONGEST_SECONDS)
    asked_seconds = error.retry_after if isinstance(error, StepError) else None
    return max(min(first_seconds * growth, longest_seconds) * spread, asked_seconds or 0.0)

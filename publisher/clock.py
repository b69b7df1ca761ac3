"""Time as the machine tells it, and the stop that wakes every sleeper.

Tests replace this clock by one that they set themselves.
"""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime

from publisher.model import Instant


class MachineClock:
    """Implements `context.Clock` for a single event loop."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()

    def now(self) -> Instant:
        """Our own wall clock in UTC. It may be wrong, and it may jump."""
        return datetime.now(UTC)

    def elapsed(self) -> float:
        """Seconds on the monotonic clock. Only differences have a meaning."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds, or at once at a stop. Meanwhile other tasks run."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested. Then the loops finish their current steps and return."""
        return self._stop.is_set()

    async def stop_requested(self) -> None:
        """Return once a stop is requested."""
        await self._stop.wait()

    def request_stop(self) -> None:
        """Wake every sleeper, now and later. Call it only from the thread of the event loop."""
        self._stop.set()

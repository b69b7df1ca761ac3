"""Time as the machine has it."""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime

from publisher.model import Instant


class MachineClock:
    """Fits `context.Clock`; belongs to one event loop."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()

    def now(self) -> Instant:
        """Our own wall clock, UTC; may be wrong and may jump."""
        return datetime.now(UTC)

    def elapsed(self) -> float:
        """Seconds on a clock that never goes back; only differences mean something."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after that long, or at once when a stop was requested; let others run."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    @property
    def stopping(self) -> bool:
        """A stop was requested: finish the step in hand and return."""
        return self._stop.is_set()

    async def stop_requested(self) -> None:
        """Return once a stop is requested."""
        await self._stop.wait()

    def request_stop(self) -> None:
        """Wake every sleeper, for good. From the loop's own thread only."""
        self._stop.set()

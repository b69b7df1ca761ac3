"""Watches whether the loops of the operations still run.

A loop announces by when its next beat comes. A loop that misses this deadline is overdue.
"""

import time
from collections.abc import Callable
from typing import Final

FIRST_BREATH: Final = 60.0
"""Seconds until a loop must beat for the first time."""


class Liveness:
    """Deadlines by operation, on a clock that never goes back.

    `beat(operation)` sets the first deadline. So a loop that never starts is noticed as well.
    """

    def __init__(self, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._elapsed = elapsed
        self._deadlines: dict[str, float] = {}
        self._dead: set[str] = set()

    def beat(self, operation: str) -> Callable[[float], None]:
        """Return the function by which the operation's loop says that it is alive.

        Its argument is the number of seconds until the next beat at the latest.
        """

        def alive(seconds: float) -> None:
            self._deadlines[operation] = self._elapsed() + seconds

        alive(FIRST_BREATH)
        return alive

    def died(self, operation: str) -> None:
        """Remember for good that the operation's loop has ended without being asked to."""
        self._dead.add(operation)

    def overdue(self) -> list[str]:
        """The operations whose loop has died or has missed its deadline, sorted."""
        now = self._elapsed()
        late = {name for name, deadline in self._deadlines.items() if now > deadline}
        return sorted(late | self._dead)

    def complaints(self) -> list[str]:
        """A line for every operation that is overdue, for a person."""
        now = self._elapsed()
        return [
            f"{name}: its loop has died"
            if name in self._dead
            else f"{name}: its loop hangs, {now - self._deadlines[name]:.0f} s beyond its limit"
            for name in self.overdue()
        ]

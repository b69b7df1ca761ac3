"""Do our loops still breathe? Each says by when it will be heard again."""

import time
from collections.abc import Callable
from typing import Final

FIRST_BREATH: Final = 60.0
"""Seconds that a loop may take from being announced to its first beat."""


class Liveness:
    """Deadlines by operation, on a clock that never goes back.

    An operation counts from `beat(operation)` on, so that a loop that never
    starts is noticed as well.
    """

    def __init__(self, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._elapsed = elapsed
        self._deadlines: dict[str, float] = {}
        self._dead: set[str] = set()

    def beat(self, operation: str) -> Callable[[float], None]:
        """Return what the operation's loop calls: "alive, and again within so many seconds"."""

        def alive(seconds: float) -> None:
            self._deadlines[operation] = self._elapsed() + seconds

        alive(FIRST_BREATH)
        return alive

    def died(self, operation: str) -> None:
        """Remember that the operation's loop has ended though nobody asked it to: for good."""
        self._dead.add(operation)

    def overdue(self) -> list[str]:
        """Name the operations whose loop has died or should have been heard by now, sorted."""
        now = self._elapsed()
        late = {name for name, deadline in self._deadlines.items() if now > deadline}
        return sorted(late | self._dead)

    def complaints(self) -> list[str]:
        """Write one line for each operation that is overdue, for a person."""
        now = self._elapsed()
        return [
            f"{name}: its loop has died"
            if name in self._dead
            else f"{name}: its loop hangs, {now - self._deadlines[name]:.0f} s beyond its limit"
            for name in self.overdue()
        ]

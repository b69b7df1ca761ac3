"""What one operation's loop works with: its doors, its task, its memory.

The three doors to the outside are Protocols; edges fit them by shape, tests
bring their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import random
from typing import Protocol

from publisher.model import Answer, Batch, Instant, Request, Restored
from publisher.rules.backfill import BACKFILLING, Order, Stride
from publisher.rules.parking import Suspect
from publisher.rules.punctuality import Punctuality
from publisher.rules.quota import Quota
from publisher.rules.repair import Repair
from publisher.rules.schedule import REPAIRING, Pace, Pass, Read, passes_of
from publisher.rules.skew import ServerClock
from publisher.rules.state import State
from publisher.rules.zone import Zone
from publisher.settings import PublisherSettings
from publisher.signals import Emit


class Source(Protocol):
    """The reports API with one token. At most one request is in flight at a time."""

    async def read(self, request: Request) -> Answer:
        """Ask once. Raises Transient when there is no whole answer; never retries."""
        ...

    async def token_info(self) -> Answer:
        """Ask for the daily quota, under the same terms; it costs one of it."""
        ...


class Log(Protocol):
    """Kafka, as one operation sees it: a log of transactions with a state beside them."""

    async def restore(self) -> Restored:
        """Take over (fences every predecessor, settles its open transaction), then read.

        Raises Transient or Held; whoever calls tries again.
        """
        ...

    async def commit(self, batch: Batch) -> None:
        """All of the batch or nothing. Returned = visible to read_committed readers.

        Raises Stop when the outcome is unknown, certain only after `restore()`.
        """
        ...


class Orders(Protocol):
    """What people want of an operation, told through Kafka."""

    async def read(self) -> Sequence[Order] | None:
        """All orders that stand, the oldest first; None = there is no place for them to be seen.

        Raises Transient or Held; changes nothing.
        """
        ...


class Clock(Protocol):
    """Time, driven by the machine or by a test."""

    def now(self) -> Instant:
        """Our own wall clock, UTC."""
        ...

    def elapsed(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that long, or at once when a stop was requested."""
        ...

    @property
    def stopping(self) -> bool:
        """A stop was requested: finish the step in hand and return."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """One operation: what to publish, through which doors."""

    operation: str
    zone: Zone
    settings: PublisherSettings
    source: Source
    log: Log
    clock: Clock
    emit: Emit
    beat: Callable[[float], None]
    """Says "alive, and again within so many seconds", for `/healthz`."""
    jitter: Callable[[], float] = random
    """A number in [0, 1) that spreads pauses; a test brings its own to be able to replay."""
    orders: Orders | None = None
    """None = nobody orders anything: a preview."""
    zone_replaces: str = ""
    """The zone that was wrong so far, as a person has confirmed; empty = none."""


@dataclass(slots=True)
class Memory:
    """What a loop knows; all of it may be lost, only `state` is worth restoring."""

    passes: tuple[Pass, ...]
    pace: Pace
    quota: Quota
    stride: Stride
    server: ServerClock = field(default_factory=ServerClock)
    state: State | None = None
    """None = must be restored before the next step."""
    step: Read | None = None
    """The step in hand."""
    attempt: int = 0
    """Steps in a row that failed."""
    suspect: Suspect = field(default_factory=Suspect)
    puzzled: int = 0
    """Answers in a row that were not understood; after the first the decoder forgives."""
    only_404_since: Instant | None = None
    look_again: float = 0.0
    """When to look for orders, on the clock that never goes back."""
    deaf: bool = False
    """The last look at the orders failed."""
    punctuality: Punctuality = field(default_factory=Punctuality)

    @classmethod
    def starting(cls, settings: PublisherSettings) -> "Memory":
        """Know nothing yet."""
        return cls(
            passes_of(settings),
            Pace.starting(settings),
            Quota(settings.poll_every),
            Stride.starting(settings),
        )

    def published(self, step: Read, now: Instant, rows: int, took: float) -> None:
        """The step is done: whoever walks there goes on behind its window."""
        if step.pass_ is BACKFILLING:
            self.stride.answered(step.window, now, rows, took)
        else:
            self.pace.answered(step, now, rows, took)
        self.suspect.answered(step)
        self.attempt, self.step = 0, None

    def aside(self, step: Read) -> Repair | Stride | None:
        """Who reads that window beside the passes: repair or a backfill; None = a pass does."""
        if step.pass_ is REPAIRING:
            return self.pace.repair
        return self.stride if step.pass_ is BACKFILLING else None

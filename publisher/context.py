"""What the loop of one operation works with: its ports, its context and what it remembers.

The ports to the outside are Protocols. The classes in `wolkvox/`, `kafka/` and `clock.py` fit them
by shape; tests bring their own.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from random import random
from typing import Any, Protocol

from publisher.model import Answer, Batch, Instant, Request, Restored
from publisher.schedule import second_reading
from publisher.schedule.backfill_pass import BACKFILLING, BackfillRequest, Stride, meanwhile
from publisher.schedule.failing_window import FailingWindow
from publisher.schedule.gap_repair import Repair
from publisher.schedule.passes import REPAIRING, Pace, Pass, Read, Step, Wait, next_step, passes_of
from publisher.schedule.punctuality import Punctuality
from publisher.schedule.quota import Quota
from publisher.schedule.record_counts import Counts
from publisher.schedule.second_reading import LATE, Second
from publisher.settings import PublisherSettings
from publisher.signals import Emit
from publisher.state.state import State
from publisher.wolkvox.request import LONGEST_REQUEST
from publisher.wolkvox.server_clock import ServerClock
from publisher.wolkvox.timezone import Zone


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
        """Take over, which fences every predecessor and settles its open transaction; then read.

        Raises Transient or NeedsOperator; the caller tries again.
        """
        ...

    async def commit(self, batch: Batch) -> None:
        """Publish all of the batch or nothing. After it returns, read_committed readers see it.

        Raises StateUncertain when the outcome is unknown; only `restore()` shows it.
        """
        ...


class BackfillRequests(Protocol):
    """The backfills that people request, read from the commands topic."""

    async def read(self) -> Sequence[BackfillRequest] | None:
        """All requests in the topic, the oldest first; None = the topic does not exist.

        Raises Transient or NeedsOperator. Changes nothing.
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
class OperationContext:
    """One operation: its settings and its ports."""

    operation: str
    zone: Zone
    settings: PublisherSettings
    source: Source
    log: Log
    clock: Clock
    emit: Emit
    beat: Callable[[float], None]
    """Reports to `/healthz`: alive, and the next report comes within so many seconds."""
    jitter: Callable[[], float] = random
    """A number in [0, 1) that spreads pauses. Tests bring their own to be able to replay a run."""
    backfill_requests: BackfillRequests | None = None
    """None in a preview, which takes no requests."""
    zone_replaces: str = ""
    """The wrong time zone used so far, as the settings confirm it; empty = none."""

    async def wait(self, task: asyncio.Future[Any], seconds: float) -> None:
        """Return when the task is done, after so many seconds, or at a stop. The task goes on."""
        await asyncio.sleep(0)  # a task that is ready at once takes no time
        if task.done():
            return
        pause = asyncio.ensure_future(self.clock.sleep(seconds))
        try:
            await asyncio.wait([task, pause], return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()


@dataclass(slots=True)
class LoopState:
    """What a loop remembers. All of it may be lost; only `state` is restored."""

    passes: tuple[Pass, ...]
    pace: Pace
    quota: Quota
    stride: Stride
    second: Second
    server: ServerClock = field(default_factory=ServerClock)
    state: State | None = None
    """None = must be restored before the next step."""
    newest_published: int = -1
    """The last transaction of the operation in the messages topic, as of the last restore."""
    events_gone_reported: bool = False
    step: Read | None = None
    """The step in hand."""
    attempt: int = 0
    """Steps in a row that failed."""
    failing_window: FailingWindow = field(default_factory=FailingWindow)
    longest: timedelta = LONGEST_REQUEST
    """What one request may ask for; less once nothing came for nearly as much."""
    counts: Counts = field(default_factory=Counts)
    counter_told: bool = False
    only_404_since: Instant | None = None
    look_again: float = 0.0
    """When to look for orders, on the clock that never goes back."""
    look: asyncio.Future[Sequence[BackfillRequest] | None] | None = None
    """The look at the orders that is under way beside the loop, or done and not yet used."""
    commands_unreadable: bool = False
    """The last look at the orders failed."""
    punctuality: Punctuality = field(default_factory=Punctuality)

    @classmethod
    def starting(cls, settings: PublisherSettings) -> "LoopState":
        """Know nothing yet."""
        stride = Stride.starting(settings)
        return cls(
            passes_of(settings),
            Pace.starting(settings),
            Quota(settings.poll_every),
            stride,
            Second.starting(settings, stride),
        )

    def next_step(
        self, state: State, now: Instant, *, quota_low: bool, history: bool, live_first: bool
    ) -> Step:
        """The most urgent step of all passes, or of the others where it is their turn.

        `frugal`: the day's quota is nearly spent. `history`: time may be read a second time, and
        backfills. `live_first`: the others have to wait anyway.
        """
        next_of = partial(self._next_of, state, now, quota_low, history)
        others_turn, self.pace.others_turn = self.pace.others_turn, False
        if others_turn and not live_first:
            step = next_of(self.asking[1:])
            if isinstance(step, Read):
                return step
            if self.quota.due(now):
                return Wait(now)
        return next_of(self.asking)

    def _next_of(
        self, state: State, now: Instant, quota_low: bool, history: bool, passes: Sequence[Pass]
    ) -> Step:
        checkpoint = state.checkpoint
        step = next_step(
            passes,
            checkpoint.passes,
            self.pace,
            now,
            state.read_until,
            checkpoint.gaps,
            quota_low=quota_low,
        )
        if not history:
            return step
        step = second_reading.meanwhile(
            step, checkpoint.unconfirmed, self.second, now, checkpoint.gaps
        )
        return meanwhile(
            step, checkpoint.backfills, self.stride, now, checkpoint.gaps, checkpoint.forgotten
        )

    @property
    def undated(self) -> bool:
        """The server's clock is not known: then nobody knows how old anything is."""
        return self.server.undated_since is not None

    @property
    def asking(self) -> tuple[Pass, ...]:
        """The passes that may ask; re-reads wait for the server's clock."""
        return self.passes[:1] if self.undated else self.passes

    def published(self, step: Read, now: Instant, rows: int, took: float) -> None:
        """The step is done: whoever walks there goes on behind its window."""
        if step.pass_ is BACKFILLING:
            self.stride.answered(step.window, now, rows, took)
        elif step.pass_ is LATE:
            self.second.stride.answered(step.window, now, rows, took)
        else:
            self.pace.answered(step, now, rows, took)
        self.failing_window.answered(step)
        if self.attempt:
            self.pace.repair.hurry()
            self.stride.tries.hurry()
            self.second.stride.tries.hurry()
        self.attempt, self.step = 0, None

    def aside(self, step: Read) -> Repair | Stride | Second | None:
        """Who reads that window beside the passes; None = a pass does."""
        if step.pass_ is LATE:
            return self.second
        if step.pass_ is REPAIRING:
            return self.pace.repair
        return self.stride if step.pass_ is BACKFILLING else None

"""What the loop of an operation works with: its ports, its context and its memory.

The ports to the outside are Protocols. The classes in `wolkvox/`, `kafka/` and `clock.py`
implement them without inheriting from them; tests bring their own implementations.
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
    """The reports API with a single token. At most one request is in flight at a time."""

    async def read(self, request: Request) -> Answer:
        """Ask once and never retry. Raises Transient if no complete answer arrives."""
        ...

    async def token_info(self) -> Answer:
        """Ask for the daily quota, under the same terms. This costs a request of the quota."""
        ...


class Log(Protocol):
    """Kafka as an operation sees it: a log of transactions, and the state of the operation."""

    async def restore(self) -> Restored:
        """Take over the operation, then read its state.

        Taking over fences every predecessor and ends its open transaction. Raises Transient or
        NeedsOperator; the caller tries again.
        """
        ...

    async def commit(self, batch: Batch) -> None:
        """Publish all of the batch or nothing. When it returns, read_committed readers see it.

        Raises StateUncertain if the outcome is unknown. Then only `restore()` shows it.
        """
        ...


class BackfillRequests(Protocol):
    """The backfills that people request, read from the commands topic."""

    async def read(self) -> Sequence[BackfillRequest] | None:
        """Return all requests in the topic, oldest first; None = the topic does not exist.

        Raises Transient or NeedsOperator. Changes nothing.
        """
        ...


class Clock(Protocol):
    """The time, from the machine or from a test."""

    def now(self) -> Instant:
        """Our own wall clock in UTC."""
        ...

    def elapsed(self) -> float:
        """Seconds on the monotonic clock, which never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds, or at once when a stop is requested."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested. Then the loop finishes its current step and returns."""
        ...


@dataclass(frozen=True, slots=True)
class OperationContext:
    """An operation: its settings and its ports."""

    operation: str
    zone: Zone
    settings: PublisherSettings
    source: Source
    log: Log
    clock: Clock
    emit: Emit
    beat: Callable[[float], None]
    """Reports to `/healthz` that the loop is alive and will report again within so many seconds."""
    jitter: Callable[[], float] = random
    """Returns a number in [0, 1) that spreads the pauses. Tests replace it to repeat a run."""
    backfill_requests: BackfillRequests | None = None
    """None in a preview, which applies no requests."""
    zone_replaces: str = ""
    """The wrong time zone that was used so far, as the settings confirm; empty = none."""
    label: str = ""
    """What events carry as `source`; empty = the operation's name."""

    async def wait(self, task: asyncio.Future[Any], seconds: float) -> None:
        """Return when the task is done, after so many seconds, or at a stop. The task goes on."""
        await asyncio.sleep(0)  # lets a task that is ready at once finish
        if task.done():
            return
        pause = asyncio.ensure_future(self.clock.sleep(seconds))
        try:
            await asyncio.wait([task, pause], return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()


@dataclass(slots=True)
class LoopState:
    """The memory of a loop. All of it may be lost. Only `state` is restored from Kafka."""

    passes: tuple[Pass, ...]
    pace: Pace
    quota: Quota
    stride: Stride
    second: Second
    server: ServerClock = field(default_factory=ServerClock)
    state: State | None = None
    """None = it must be restored before the next step."""
    newest_published: int = -1
    """The last transaction of the operation in the messages topic, as of the last restore."""
    events_gone_reported: bool = False
    """`EventsGone` was emitted; it is reported only once."""
    step: Read | None = None
    """The step that is being done."""
    attempt: int = 0
    """How many steps in a row have failed."""
    failing_window: FailingWindow = field(default_factory=FailingWindow)
    longest: timedelta = LONGEST_REQUEST
    """How much time a request may ask for. It shrinks once such a long request showed no rows."""
    counts: Counts = field(default_factory=Counts)
    counter_told: bool = False
    """The hint about a counter that lies was given."""
    only_404_since: Instant | None = None
    """Since when all answers were 404s, or when that was reported last; None = they are not."""
    look_again: float = 0.0
    """When to read the commands topic again, in seconds on the monotonic clock."""
    look: asyncio.Future[Sequence[BackfillRequest] | None] | None = None
    """The read of the commands topic: under way beside the loop, or done and not yet used."""
    commands_unreadable: bool = False
    """The last read of the commands topic failed."""
    punctuality: Punctuality = field(default_factory=Punctuality)

    @classmethod
    def starting(cls, settings: PublisherSettings) -> "LoopState":
        """Return the memory of a loop that has done nothing yet."""
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
        """Return the most urgent step of all passes, or of all but live if it is their turn.

        `quota_low`: the day's quota is nearly spent. `history`: backfills may read, and late time
        may be read a second time. `live_first`: the other passes have to wait in any case.
        """
        next_step_of = partial(self._next_step_of, state, now, quota_low, history)
        others_turn, self.pace.others_turn = self.pace.others_turn, False
        if others_turn and not live_first:
            step = next_step_of(self.asking[1:])
            if isinstance(step, Read):
                return step
            if self.quota.due(now):
                return Wait(now)
        return next_step_of(self.asking)

    def _next_step_of(
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
        """Whether the server's clock is unknown. Then the age of all rows is unknown, too."""
        return self.server.undated_since is not None

    @property
    def asking(self) -> tuple[Pass, ...]:
        """The passes that may ask. While the server's clock is unknown, only live may."""
        return self.passes[:1] if self.undated else self.passes

    def published(self, step: Read, now: Instant, row_count: int, took_seconds: float) -> None:
        """Note that the step is done. Its pass goes on behind the window."""
        if step.pass_ is BACKFILLING:
            self.stride.answered(step.window, now, row_count, took_seconds)
        elif step.pass_ is LATE:
            self.second.stride.answered(step.window, now, row_count, took_seconds)
        else:
            self.pace.answered(step, now, row_count, took_seconds)
        self.failing_window.answered(step)
        if self.attempt:
            self.pace.repair.hurry()
            self.stride.tries.hurry()
            self.second.stride.tries.hurry()
        self.attempt, self.step = 0, None

    def aside(self, step: Read) -> Repair | Stride | Second | None:
        """Return what reads the window of the step beside the passes; None = a pass reads it."""
        if step.pass_ is LATE:
            return self.second
        if step.pass_ is REPAIRING:
            return self.pace.repair
        return self.stride if step.pass_ is BACKFILLING else None

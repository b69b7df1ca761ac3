"""Looks at orders and quota never stand in the way of live, however long they take."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Never

import pytest

from publisher.context import OperationContext
from publisher.errors import Reason, Stage, Transient
from publisher.model import Answer, Request
from publisher.schedule.backfill_pass import BackfillRequest
from publisher.settings import PublisherSettings
from publisher.signals import HintGiven, WindowPublished
from tests.fakes import NOON, FakeClock, MemoryCluster, MemoryKafka, ScriptedSource, raising
from tests.test_flow import OPERATION, POLL, Life, slow

LATE = timedelta(seconds=1)
"""What a look may cost live at most."""
HOUR = timedelta(hours=1)


class Hangs:
    """Never answers; counts who waits for it."""

    def __init__(self) -> None:
        self.asked = 0
        self.waiting = 0
        self.begun = asyncio.Event()

    async def __call__(self) -> Never:
        self.asked += 1
        self.waiting += 1
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1
        raise AssertionError


class FrozenOrders:
    """Fits `context.BackfillRequests`: a broker that is connected to and silent."""

    def __init__(self) -> None:
        self.hangs = Hangs()

    async def read(self) -> Sequence[BackfillRequest] | None:
        return await self.hangs()


class SilentQuota(ScriptedSource):
    """A report that answers at once, beside a quota that never does."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.hangs = Hangs()

    async def read(self, request: Request) -> Answer:
        assert not self.hangs.waiting, "two requests of one token in flight"
        return await super().read(request)

    async def token_info(self) -> Answer:
        return await self.hangs()


def alive(source: ScriptedSource, clock: FakeClock, poll: timedelta = POLL) -> Life:
    log = MemoryCluster(MemoryKafka()).log(OPERATION)
    return Life(clock, source, log, PublisherSettings(poll_every=poll, rereads=()))


def on_time(source: ScriptedSource, poll: timedelta) -> bool:
    return all(
        later - earlier <= poll + LATE + timedelta(seconds=0.5)  # an answer takes as long
        for earlier, later in pairwise(source.asked_at)
    )


async def test_a_frozen_broker_delays_no_poll() -> None:
    """One look is under way all the time; a stop ends it."""
    clock = FakeClock()
    source = ScriptedSource(clock)
    life = alive(source, clock)
    life.backfill_requests = backfill_requests = FrozenOrders()
    await life.run_for(2 * HOUR)
    assert len(source.asked_at) >= 24
    assert on_time(source, POLL)
    assert backfill_requests.hangs.asked == 1
    assert not backfill_requests.hangs.waiting, "left behind at the stop"


@pytest.mark.parametrize("poll", [timedelta(seconds=1), timedelta(seconds=20), POLL])
async def test_a_silent_quota_delays_no_poll(poll: timedelta) -> None:
    """The question is given up when live is due, and is off the wire before live asks."""
    clock = FakeClock()
    source = SilentQuota(clock)
    life = alive(source, clock, poll)
    await life.run_for(300 * poll)
    assert source.hangs.asked >= 3
    assert len(source.asked_at) >= 150
    assert on_time(source, poll)
    assert life.failures == []


async def test_a_stop_does_not_wait_for_the_quota() -> None:
    """Asked 3 polls after the start; the stop comes while nobody answers."""
    clock = FakeClock()
    source = SilentQuota(clock)
    life = alive(source, clock)
    running = asyncio.ensure_future(life.run_for(HOUR))
    async with asyncio.timeout(30):
        await source.hangs.begun.wait()
        clock.stop()
        await running
    assert not source.hangs.waiting


async def test_a_look_that_fails_late_is_reported_once() -> None:
    """The next look begins a minute after the failure, and live keeps its rhythm."""
    clock = FakeClock()
    source = ScriptedSource(clock)
    life = alive(source, clock)
    looked: list[float] = []
    broken = asyncio.Event()

    class Slow:
        async def read(self) -> Sequence[BackfillRequest] | None:
            looked.append(clock.elapsed())
            broken.clear()
            await broken.wait()
            raise Transient(Stage.RESTORE, Reason.KAFKA_UNREACHABLE, "Kafka cannot be reached")

    life.backfill_requests = Slow()
    life.listener = lambda signal: broken.set() if isinstance(signal, WindowPublished) else None
    await life.run_for(2 * HOUR)
    assert len(looked) > 20
    for later in looked[1:]:
        failed_at = max(at for at in published(life) if at < later)
        assert 60 <= later - failed_at <= 66
    assert len(life.heard(HintGiven)) == 1
    assert on_time(source, POLL)


async def test_orders_are_not_looked_at_before_the_first_window() -> None:
    """Until then the start itself may move; no commit of orders may come in between."""
    clock = FakeClock()
    source = ScriptedSource(clock, *[raising(slow)] * 3)
    life = alive(source, clock)
    looks: list[int] = []

    class Counted:
        async def read(self) -> Sequence[BackfillRequest] | None:
            looks.append(len(life.heard(WindowPublished)))
            return ()

    life.backfill_requests = Counted()
    await life.run_for(HOUR)
    assert len(life.failures) >= 3
    assert looks
    assert min(looks) == 1


def published(life: Life) -> list[float]:
    return [(signal.committed_at - NOON).total_seconds() for signal in life.heard(WindowPublished)]


async def test_a_wait_takes_what_is_ready_and_leaves_the_rest() -> None:
    """`Job.wait` spends no time on a task that is done, and ends none that is not."""
    clock = FakeClock()
    life = alive(ScriptedSource(clock), clock)
    context = OperationContext(
        OPERATION, life.zone, life.settings, life.source, life.log, clock, life.emit, print
    )

    async def at_hand() -> None:
        pass

    ready = asyncio.ensure_future(at_hand())
    await context.wait(ready, 10)
    assert ready.done()
    assert clock.elapsed() == 0
    never = asyncio.ensure_future(asyncio.Event().wait())
    await context.wait(never, 10)
    assert clock.elapsed() == 10
    assert not never.done()
    never.cancel()

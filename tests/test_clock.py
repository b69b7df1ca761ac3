"""The machine's clock, and the deadlines by which loops must be heard."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from publisher.clock import MachineClock
from publisher.telemetry.health import FIRST_BREATH, Liveness

LONG = 3600.0


async def test_now_is_aware_and_utc() -> None:
    now = MachineClock().now()
    assert now.tzinfo is UTC
    assert abs(datetime.now(UTC) - now) < timedelta(seconds=5)


async def test_elapsed_never_goes_back() -> None:
    clock = MachineClock()
    readings = [clock.elapsed() for _ in range(100)]
    assert readings == sorted(readings)


async def test_a_sleep_ends_by_itself() -> None:
    await MachineClock().sleep(0.001)


@pytest.mark.parametrize("seconds", [0.0, -5.0])
async def test_a_sleep_of_nothing_lets_others_run(seconds: float) -> None:
    ran = asyncio.Event()
    asyncio.get_running_loop().call_soon(ran.set)
    await MachineClock().sleep(seconds)
    assert ran.is_set()


async def test_a_stop_wakes_every_sleeper_at_once() -> None:
    clock = MachineClock()
    sleepers = [asyncio.create_task(clock.sleep(LONG)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not clock.stopping
    clock.request_stop()
    async with asyncio.timeout(5):
        await asyncio.gather(*sleepers, clock.stop_requested())
    assert clock.stopping


async def test_after_a_stop_nobody_sleeps() -> None:
    clock = MachineClock()
    clock.request_stop()
    clock.request_stop()
    async with asyncio.timeout(5):
        await clock.sleep(LONG)


async def test_a_cancelled_sleep_is_cancelled() -> None:
    clock = MachineClock()
    sleeper = asyncio.create_task(clock.sleep(LONG))
    await asyncio.sleep(0)
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper
    assert not clock.stopping


class Elapsed:
    """Seconds that stand still until they are moved."""

    seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def test_a_loop_is_overdue_when_its_own_deadline_has_passed() -> None:
    elapsed = Elapsed()
    liveness = Liveness(elapsed)
    beat = liveness.beat("wv0010")
    liveness.beat("wv0041")(500)
    beat(100)
    elapsed.seconds += 100
    assert liveness.overdue() == []
    elapsed.seconds += 30
    assert liveness.overdue() == ["wv0010"]
    assert liveness.complaints() == ["wv0010: its loop hangs, 30 s beyond its limit"]
    beat(100)
    assert liveness.overdue() == []


def test_a_loop_that_never_starts_is_noticed() -> None:
    elapsed = Elapsed()
    liveness = Liveness(elapsed)
    liveness.beat("wv0010")
    elapsed.seconds += FIRST_BREATH + 1
    assert liveness.overdue() == ["wv0010"]


def test_a_loop_that_died_stays_dead() -> None:
    liveness = Liveness(Elapsed())
    beat = liveness.beat("wv0010")
    liveness.died("wv0010")
    beat(100)
    assert liveness.overdue() == ["wv0010"]
    assert liveness.complaints() == ["wv0010: its loop has died"]

"""Kill -9, at random moments, of the publisher and of the broker: nothing lost, nothing doubled.

`make chaos ROUNDS=30` runs as many rounds as asked, `CHAOS_SEED` repeats the moments of a run.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import pytest

from sandbox.kafka import Broker
from sandbox.processes import until
from tests.harness import Differences, Publisher, Rig, rig, tell

ROUNDS: Final = int(os.environ.get("CHAOS_ROUNDS", "0"))
SEED: Final = int(os.environ.get("CHAOS_SEED", "0")) or time.time_ns() % 1_000_000
PUBLISHER_KILLS: Final = ROUNDS or 4
BROKER_KILLS: Final = ROUNDS // 3 or 1
BROKER_FREEZES: Final = ROUNDS // 3 or 1
FREEZE_SECS: Final = 20.0

HISTORY: Final = 15 + 2 * ROUNDS
"""Minutes; enough for most rounds to strike in the middle of a flood."""

WORLD: Final = {"rate": 14_400, "history": f"{HISTORY}m", "late": 0.02, "latest": "3s"}
SETTINGS: Final = {
    "PUBLISHER_POLL_EVERY": "300ms",
    "PUBLISHER_OVERLAP": "2s",
    "PUBLISHER_REREADS": "4s,8s",
    "PUBLISHER_START": f"-{HISTORY + 1}m",
    "PUBLISHER_MAX_WINDOW": "5s",  # many small transactions to hit
}

pytestmark = pytest.mark.timeout(120 + 60 * ROUNDS)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as one:
        yield one
        one.thaw()


async def test_kills_of_the_publisher(kafka: Broker, tmp_path: Path) -> None:
    """However often and wherever it is killed, the next start goes on without a trace."""
    draw = Random(SEED)
    async with rig(kafka.bootstrap, tmp_path, WORLD, SETTINGS) as one:
        for number in range(1, PUBLISHER_KILLS + 1):
            publisher = one.start()
            # From the middle of its imports to the middle of a catch-up.
            moment = draw.uniform(0.1, 4.0)
            await asyncio.sleep(moment)
            assert publisher.alive, publisher.child.output[-3000:]
            publisher.kill()
            await _tell_round(one, number, f"publisher killed after {moment:.2f} s")
        one.start()
        await _judge(one)


async def test_kills_and_freezes_of_the_broker(broker: Broker, tmp_path: Path) -> None:
    """A broker that dies or halts under it: the same process waits, and goes on."""
    draw = Random(SEED)
    rounds = ["kill"] * BROKER_KILLS + ["freeze"] * BROKER_FREEZES
    draw.shuffle(rounds)
    async with rig(broker.bootstrap, tmp_path / "rig", WORLD, SETTINGS) as one:
        publisher = one.start()
        await publisher.logged(event="Window published")
        for number, what in enumerate(rounds, start=1):
            moment = draw.uniform(0.0, 2.0)
            await asyncio.sleep(moment)
            if what == "kill":
                broker.kill()
                away = draw.uniform(0.0, 3.0)
                await asyncio.sleep(away)
                await asyncio.to_thread(broker.start)
            else:
                away = FREEZE_SECS
                broker.freeze()
                await asyncio.sleep(away)
                broker.thaw()
            assert publisher.alive, publisher.child.output[-3000:]
            back = await _work_goes_on(one, publisher)
            text = (
                f"broker: {what} after {moment:.2f} s, away {away:.1f} s, back {back:.1f} s later"
            )
            await _tell_round(one, number, text)
        await _judge(one)
        assert publisher.alive
        assert len(one.starts) == 1


async def _work_goes_on(one: Rig, publisher: Publisher) -> float:
    """Wait for the next commit; the seconds it took."""
    began = time.time()

    def published() -> int:
        return sum(line.get("event") == "Window published" for line in publisher.lines)

    count = published()

    def more() -> bool:
        return published() > count

    try:
        await until(more, 75, "a window", every=0.1)
    except TimeoutError:
        raise AssertionError(publisher.child.output[-3000:]) from None
    return time.time() - began


async def _tell_round(one: Rig, number: int, what: str) -> None:
    events = await one.read_patiently()
    assert len({event.value["event_id"] for event in events}) == len(events), what
    tell(f"seed {SEED}, round {number}: {what}; {len(events)} events, none twice")


async def _judge(one: Rig) -> Differences:
    found = await one.settled(90)
    tell(f"seed {SEED}: {found}")
    assert found.promised > 10_000
    assert found.none, f"seed {SEED}: {found}"
    assert (await one.api.stats(1))["max_in_flight"] <= 2  # a killed one's request may linger
    return found

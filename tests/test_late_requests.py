"""History is caught up while requests of its transactions arrive late, twice or never.

The real service, a real Kafka, and a proxy before each of its brokers that understands frames. In
between the service is killed. At the end the messages are compared with what the simulator says.

`make chaos` runs 1,000 transactions on one broker and on three. `LATE_TRANSACTIONS` is their
number, `LATE_BROKERS` the clusters to run on, `LATE_SEED` repeats the draws of a run.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Final

import orjson
import pytest
from aiokafka import AIOKafkaConsumer

from sandbox.consume import partitions_of
from sandbox.kafka import Broker, Cluster
from sandbox.processes import until
from sandbox.wolkvox.report import identity
from tests.frame_proxy import (
    ADD_PARTITIONS,
    END_TXN,
    INIT_PRODUCER_ID,
    PRODUCE,
    Copy,
    Fate,
    Faults,
    free_port,
    proxied,
)
from tests.harness import Fields, Rig, create_topic, flat, rig, tell

TRANSACTIONS: Final = int(os.environ.get("LATE_TRANSACTIONS", "40"))
BROKERS: Final = [int(count) for count in os.environ.get("LATE_BROKERS", "1").split(",")]
SEED: Final = int(os.environ.get("LATE_SEED", "0")) or time.time_ns() % 1_000_000
KILLS: Final = max(2, TRANSACTIONS // 50)

LONGEST: Final = 60.0 if TRANSACTIONS > 100 else 3.0
"""Seconds that a copy may be held back, where it is not delivered behind a certain request."""

WINDOW: Final = 20.0
"""Seconds of the report in a transaction: 440 rows, which are four to five batches."""
HISTORY: Final = timedelta(seconds=WINDOW * TRANSACTIONS)
SLICE: Final = 1800
"""Seconds of truth to ask for at once."""

WORLD: Final = {
    "rate": 20_000,
    "history": f"{HISTORY.total_seconds() + 60:.0f}s",
    "late": 0.0,
    "twins": 0.0,
    "long_texts": 0.0,
}
SETTINGS: Final = {
    "KAFKA_COMPRESSION_TYPE": "none",
    "PUBLISHER_POLL_EVERY": "1s",
    "PUBLISHER_OVERLAP": "15s",
    "PUBLISHER_REREADS": "",
    "PUBLISHER_MAX_WINDOW": f"{WINDOW:.0f}s",
    "PUBLISHER_MAX_EVENT_BYTES": "10000",
}

SHARES: Final = {END_TXN: 0.3, PRODUCE: 0.04, ADD_PARTITIONS: 0.05, INIT_PRODUCER_ID: 0.05}
"""How many of these requests something happens to."""
SOMETHING: Final = (Fate.LATE, Fate.LATE, Fate.TWICE, Fate.UNANSWERED, Fate.DROPPED)
BEHIND: Final = (1, 1, 1, 2, 3, 5, 40, None)
"""Behind how many answers to later Produce requests a copy arrives; None = at a random time."""
NEVER: Final = 1 << 60

pytestmark = pytest.mark.timeout(240 + 3 * TRANSACTIONS)


@pytest.fixture(params=BROKERS)
def brokers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[int, int]]:
    """A running Kafka of so many brokers: by the port of a proxy that of the broker behind it."""
    ports = [free_port() for _ in range(request.param)]
    with ExitStack() as stack:
        if request.param == 1:
            overrides = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{ports[0]}"}
            running = [stack.enter_context(Broker(tmp_path / "kafka", overrides=overrides))]
        else:
            cluster = Cluster(tmp_path / "kafka", count=request.param)
            for member, port in zip(cluster.brokers, ports, strict=True):
                member.advertised = f"127.0.0.1:{port}"
            running = [*stack.enter_context(cluster).brokers]
        behind = [int(broker.bootstrap.rpartition(":")[2]) for broker in running]
        yield dict(zip(ports, behind, strict=True))


class Weather:
    """What happens to requests, by chance; and kills of the service where they hurt most."""

    def __init__(self, faults: Faults) -> None:
        self._draw = Random(SEED)
        self._faults = faults
        self.kills = 0
        self.rig: Rig | None = None
        faults.decide = self._decide
        faults.on_late = self._arrived

    def _decide(self, key: int, _frame: bytes) -> Fate:
        if self._draw.random() > SHARES[key]:
            return Fate.PASSED
        self._faults.behind = self._draw.choice(BEHIND) or NEVER
        return self._draw.choice(SOMETHING)

    def _arrived(self, copy: Copy) -> None:
        """A late commit is in: the service dies, with one half of a transaction sent."""
        often = (self.kills + 1) * TRANSACTIONS / (KILLS + 1)
        ended = sum(self._faults.counts[f"EndTxn {fate.name.lower()}"] for fate in Fate)
        if self.rig and copy.key == END_TXN and self.kills < KILLS and ended > often:
            self.kills += 1
            self.rig.starts[-1].kill()
            self.rig.start()

    async def blow(self) -> None:
        """Deliver what is held back without a place, at random times."""
        while True:
            await asyncio.sleep(self._draw.uniform(0, LONGEST / 3))
            for copy in [copy for copy in self._faults.held if copy.behind > NEVER / 2]:
                if copy in self._faults.held and self._draw.random() < 0.5:
                    await self._faults.deliver(copy)

    def end(self) -> None:
        """Nothing happens to requests any more."""
        self._faults.decide = lambda _key, _frame: Fate.PASSED


async def test_history_behind_late_requests(brokers: dict[int, int], tmp_path: Path) -> None:
    """0 lost, 0 doubled, in a messages topic of one partition."""
    faults = Faults()
    bootstrap = ",".join(f"127.0.0.1:{port}" for port in brokers)
    async with proxied(faults, brokers), rig(bootstrap, tmp_path, WORLD, SETTINGS) as one:
        # Takes 80 kB at once, so a window takes several requests.
        await create_topic(bootstrap, one.topic, max_message_bytes="80000")
        start = datetime.now(UTC) - HISTORY
        one.settings["PUBLISHER_START"] = start.isoformat()
        weather = Weather(faults)
        weather.rig = one
        blowing = asyncio.create_task(weather.blow())
        began = time.monotonic()
        one.start()
        await until(lambda: _caught_up(one), 120 + 2 * TRANSACTIONS, "the present", every=0.5)
        took = time.monotonic() - began
        weather.end()
        blowing.cancel()
        settled = time.time()
        await until(lambda: _caught_up(one, settled), 60, "what was said meanwhile", every=0.5)
        assert await one.starts[-1].stop() == 0
        seen = await _seen(bootstrap, one.topic)
        shown, promised = await _shown(one, start.timestamp(), settled)
        # The lines of all starts: they share a file, and the first one reads it from its beginning.
        restores = sum(line.get("event") == "State restored" for line in one.starts[0].lines)
        tell(
            f"seed {SEED}, {len(brokers)} brokers: {promised.total():,} rows in {took:.0f} s,"
            f" {weather.kills} kills, {restores} restores; {dict(sorted(faults.counts.items()))}"
        )
        ended = sum(faults.counts[f"EndTxn {fate.name.lower()}"] for fate in Fate)
        assert ended > TRANSACTIONS / 2
        assert weather.kills
        lost, doubled = promised - seen, seen - shown
        assert (lost.total(), doubled.total()) == (0, 0), f"seed {SEED}"


async def _caught_up(one: Rig, moment: float | None = None) -> bool:
    """Whether the newest window that was published ends at the present, or behind that moment."""
    ends = [line["to"] for line in one.starts[-1].lines if line.get("event") == "Window published"]
    end = max((datetime.fromisoformat(end).timestamp() for end in ends), default=0.0)
    return end > (moment + 10 if moment else time.time() - 10)


async def _shown(one: Rig, begin: float, end: float) -> tuple[Counter[int], Counter[int]]:
    """The rows that some window has shown; and of them those that must be there."""
    shown, promised = Counter[int](), Counter[int]()
    at = begin - 120
    while at < time.time():
        for row in await one.api.truth(at, at + SLICE):
            digest = _digest(row)
            shown[digest] += 1
            promised[digest] += row["_visible_at"] <= end and row["_closed"] >= begin
        at += SLICE
    return shown, promised


async def _seen(bootstrap: str, topic: str) -> Counter[int]:
    """All committed events."""
    return Counter([_digest(flat(value, {})) async for value in _events(bootstrap, topic)])


async def _events(bootstrap: str, topic: str) -> AsyncIterator[Fields]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=8_388_608,
    )
    await consumer.start()
    try:
        consumer.assign(await partitions_of(bootstrap, topic))
        for partition, end in (await consumer.end_offsets(consumer.assignment())).items():
            while await consumer.position(partition) < end:
                fetched = await consumer.getmany(partition, timeout_ms=100)
                for record in fetched.get(partition, ()):
                    yield orjson.loads(record.value)
    finally:
        await consumer.stop()


def _digest(row: Fields) -> int:
    return int.from_bytes(blake2b(identity(row, row), digest_size=8).digest())

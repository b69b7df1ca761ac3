"""Faults of several brokers under the real service: nothing lost or doubled, and soon live again.

`make chaos FAULTS=60` draws 60 of them on brokers with Kafka's own time limits; `SEED` repeats the
draws of a run. Without it some of them happen, on brokers that notice faults sooner.
"""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

import pytest

from publisher.kafka import (
    clients as kafka_client,
)
from publisher.kafka import (
    connect as kafka_connect,
)
from publisher.kafka import (
    transaction as kafka_transaction,
)
from sandbox.consume import Reader
from sandbox.kafka import Cluster
from tests import brokers, kafka_tools
from tests.brokers import Fault, Stage
from tests.fakes import event
from tests.harness import Differences, rig, tell
from tests.test_kafka import Publisher

FAULTS: Final = int(os.environ.get("FAULTS", "0"))
SEED: Final = int(os.environ.get("SEED", "0")) or time.time_ns() % 1_000_000
LONGEST_STALL: Final = 25.0
"""Seconds."""

SOME: Final[tuple[Fault, ...]] = (
    brokers.leaders_moved,
    brokers.partitions_added,
    brokers.broker_replaced,
    brokers.coordinator_frozen,
)

KAFKAS_OWN: Final = {
    "broker.session.timeout.ms": "9000",
    "broker.heartbeat.interval.ms": "2000",
    "replica.lag.time.max.ms": "30000",
}
"""What the sandbox makes shorter."""

WORLD: Final = {"rate": 14_400, "history": "2m"}

pytestmark = pytest.mark.timeout(300 + 60 * FAULTS)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Of its own: topics of other tests may have lost what they had on a broker for good."""
    with Cluster(tmp_path / "kafka", overrides=KAFKAS_OWN if FAULTS else {}) as cluster:
        yield cluster


async def test_faults_of_brokers(cluster: Cluster, tmp_path: Path) -> None:
    """One process lives through all of them."""
    draw = Random(SEED)
    faults = [brokers.ALL[number % len(brokers.ALL)] for number in range(FAULTS)] or [*SOME]
    draw.shuffle(faults)
    stalls = defaultdict[str, list[float]](list)
    settings = {"PUBLISHER_START": "-3m"}
    async with rig(cluster.bootstrap, tmp_path / "rig", WORLD, settings) as one:
        stage = Stage(cluster, one, one.start(), draw)
        await stage.live(0)
        for number, fault in enumerate(faults, start=1):
            if FAULTS:
                await asyncio.sleep(draw.uniform(0, 2))
            seconds = await stage.strike(fault)
            stalls[fault.__name__].append(seconds)
            tell(f"seed {SEED}, {number}: {fault.__name__}, live again after {seconds:.1f} s")
        found = await one.settled(90)
    for name, times in sorted(stalls.items()):
        tell(f"{name}: {len(times)} times, median {median(times):.1f} s, worst {max(times):.1f} s")
    every = [seconds for times in stalls.values() for seconds in times]
    tell(
        f"seed {SEED}: {len(every)} faults, median {median(every):.1f} s, worst {max(every):.1f} s"
    )
    tell(f"seed {SEED}: {found}")
    assert wrong(found) == [], f"seed {SEED}"
    assert max(every) < LONGEST_STALL, f"seed {SEED}: {dict(stalls)}"
    assert len(one.starts) == 1


def wrong(found: Differences) -> list[str]:
    """All but the order: more partitions move conversations."""
    return [*found.lost, *found.duplicated, *found.altered, *found.foreign]


async def test_a_request_to_a_lost_broker_is_given_up(
    kafka_cluster: Cluster, cluster_topics: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the cluster has another leader, and not only when the request has timed out."""
    monkeypatch.setattr(kafka_client, "LOST_BROKER_MS", 200)
    monkeypatch.setattr(kafka_client, "REQUEST_MS", 60_000)
    monkeypatch.setattr(kafka_connect, "ANSWER_SECONDS", 2.0)
    for each in ("SEND_SECONDS", "COMMIT_SECONDS"):  # however slow this machine is
        monkeypatch.setattr(kafka_transaction, each, 50.0)
    async with AsyncExitStack() as stack:
        publisher = Publisher(cluster_topics, stack)
        await publisher.begin()
        await publisher.write(event("1", b"1"))
        async with kafka_tools.administering(publisher.bootstrap) as admin:
            [topic] = await admin.describe_topics([publisher.state.topic])
        [leader] = [
            partition["leader"]
            for partition in topic["partitions"]
            if partition["partition"] == publisher.state.partition
        ]
        kafka_cluster.broker(leader).freeze()
        try:
            await publisher.write(event("1", b"2"))
        finally:
            kafka_cluster.broker(leader).thaw()
        await asyncio.to_thread(kafka_cluster.wait_for, 3)
        assert await publisher.texts() == ["1", "2"]


if FAULTS:  # it takes a minute

    @pytest.mark.parametrize("who", ["service", "admin"])
    async def test_messages_topic_is_deleted(cluster: Cluster, tmp_path: Path, who: str) -> None:
        """Told at error level, whoever makes it again; and what comes later is there."""
        async with rig(cluster.bootstrap, tmp_path / "rig", WORLD) as one:
            publisher = one.start()
            stage = Stage(cluster, one, publisher, Random(SEED))
            await stage.live(0)
            await asyncio.sleep(70 if who == "admin" else 0)  # the ends are compared every minute
            began = time.time()
            await kafka_tools.delete(cluster.bootstrap, one.topic)
            if who == "admin":
                await kafka_tools.create(cluster.bootstrap, one.topic, partitions=6, replicas=3)
            await stage.live(began + 3)
            tell(f"{who}: live again {time.time() - began:.1f} s after the topic was deleted")
            line = await publisher.logged(100, event="Published events are gone from their topic")
            assert line["level"] == "error"
            assert line["topic"] == one.topic
            one.reader = Reader(cluster.bootstrap, one.topic)  # the offsets begin anew
            one.events.clear()
            found = await one.settled(20, since=time.time() - 5)
            assert not found.lost
            assert not found.duplicated

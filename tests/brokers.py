"""A cluster under the real service, and what may happen to its brokers.

Each fault is repaired before it returns. `Stage.strike` tells how long the service took to be
live again: from the fault, or from the repair where nothing could be published before.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from itertools import pairwise
from random import Random
from typing import Any, Final, NamedTuple

from aiokafka.admin import NewPartitions
from aiokafka.client import CoordinationType
from aiokafka.protocol.admin import AlterPartitionReassignmentsRequest_v0
from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.types import Array, Int16, Int32, Schema, String

from publisher.kafka.cluster import partition_of
from sandbox.kafka import Cluster
from sandbox.kafka.cluster import Member
from sandbox.processes import until
from tests import kafka_tools
from tests.harness import Publisher, Rig

OPERATION: Final = "wv0010"
PRESENT_SECONDS: Final = 5.0
"""A window that ends so close to now is live."""
AWAY_SECONDS: Final = 12.0
"""Longest time that a broker is away where it is not away until the service is live again."""
PATIENCE_SECONDS: Final = 60.0


class _LeadersElected(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 43
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                (
                    "partitions",
                    Array(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("error_message", String("utf-8")),
                    ),
                ),
            ),
        ),
    )


class _ElectLeaders(RequestStruct):  # type: ignore[misc]
    """Make the first replica of each partition its leader; null = of all topics."""

    API_KEY = 43
    API_VERSION = 0
    RESPONSE_TYPE = _LeadersElected
    SCHEMA = Schema(
        ("topics", Array(("topic", String("utf-8")), ("partitions", Array(Int32)))),
        ("timeout_ms", Int32),
    )

    def prepare(self, _versions: Mapping[int, tuple[int, int]]) -> RequestStruct:
        return self


class _Reassign(AlterPartitionReassignmentsRequest_v0):  # type: ignore[misc]
    def prepare(self, _versions: Mapping[int, tuple[int, int]]) -> RequestStruct:
        return self


class Commit(NamedTuple):
    """A window of live that was published."""

    at: float
    end: float
    """Of the window."""

    @property
    def live(self) -> bool:
        return self.at - self.end < PRESENT_SECONDS


class Stage:
    """The brokers, and the service that publishes to them."""

    def __init__(self, cluster: Cluster, rig: Rig, publisher: Publisher, draw: Random) -> None:
        self.cluster = cluster
        self.rig = rig
        self.publisher = publisher
        self.draw = draw
        self.repaired_at: float | None = None
        """When publishing became possible again, where it was not."""

    async def strike(self, fault: "Fault") -> float:
        """Let it happen, and wait until all is well; the seconds until live again."""
        self.repaired_at = None
        began = time.time()
        await fault(self)
        await asyncio.to_thread(self.cluster.wait_for, len(self.cluster.brokers))
        await asyncio.to_thread(self.cluster.wait_in_sync)
        healed = time.time()
        await self.live(healed)
        assert self.publisher.alive, self.publisher.child.output[-3000:]
        return self._stalled(self.repaired_at or began, healed)

    async def live(self, since: float) -> None:
        """Return once a window of live was published after that moment, at the present."""

        def there() -> bool:
            return any(commit.at > since and commit.live for commit in self._commits())

        try:
            await until(there, PATIENCE_SECONDS, "a window of live", every=0.1)
        except TimeoutError:
            raise AssertionError(self.publisher.child.output[-3000:]) from None

    async def away(self) -> None:
        """Return when the broker that is away may come back."""
        if self.draw.random() < 0.5:
            await asyncio.sleep(self.draw.uniform(0, AWAY_SECONDS))
        else:
            await self.live(time.time() + 2)  # not by a commit that is on its way already

    async def complaint(self, since: float) -> None:
        """Return once the service has said, after that moment, that Kafka is in its way."""

        def said() -> bool:
            return any(
                line["event"].startswith("Step failed")
                and line["reason"].startswith(("kafka_", "outcome_"))
                for line in self.publisher.lines
                if _at(line["timestamp"]) > since
            )

        await until(said, PATIENCE_SECONDS, "a complaint", every=0.1)

    async def leader(self) -> Member:
        """Of the partition of the state, or of some partition of the messages."""
        state, messages = self.rig.settings["PUBLISHER_STATE_TOPIC"], self.rig.topic
        async with kafka_tools.administering(self.rig.bootstrap) as admin:
            topic = self.draw.choice([state, messages])
            [described] = await admin.describe_topics([topic])
        leaders = {each["partition"]: each["leader"] for each in described["partitions"]}
        partition = partition_of(OPERATION) if topic == state else self.draw.choice([*leaders])
        return self.cluster.broker(leaders[partition])

    async def coordinator(self) -> Member:
        """Of the transactions."""
        name = f"{self.rig.settings['PUBLISHER_TRANSACTIONAL_ID']}-{partition_of(OPERATION)}"
        async with kafka_tools.administering(self.rig.bootstrap) as admin:
            lookup = admin._client.coordinator_lookup
            return self.cluster.broker(await lookup(CoordinationType.TRANSACTION, name))

    def _commits(self) -> list[Commit]:
        return [
            Commit(_at(line["timestamp"]), _at(line["to"]))
            for line in self.publisher.lines
            if line["event"].startswith("Window published") and line["pass"] == "live"
        ]

    def _stalled(self, since: float, healed: float) -> float:
        """The longest time from a commit until one at the present, between these moments."""
        commits = [commit.at for commit in self._commits() if commit.live]
        before = max((at for at in commits if at <= since), default=since)
        after = next(at for at in commits if at > healed)
        during = [max(before, since), *(at for at in commits if since < at < after), after]
        return max(later - earlier for earlier, later in pairwise(during))


def _at(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


# --- what may happen ------------------------------------------------------------------------------

Fault = Callable[[Stage], Awaitable[None]]


async def leaders_moved(stage: Stage) -> None:
    """Every partition gets its replicas in another order, and the first one leads it."""
    moved = [stage.rig.topic, stage.rig.settings["PUBLISHER_STATE_TOPIC"], "__transaction_state"]
    async with kafka_tools.administering(stage.rig.bootstrap) as admin:
        topics: list[Any] = [
            (topic["topic"], [_rotated(partition) for partition in topic["partitions"]], {})
            for topic in await admin.describe_topics(moved)
        ]
        answer = await admin._send_request(_Reassign(10_000, topics, {}))
        assert answer.error_code == 0, answer
        answer = await admin._send_request(_ElectLeaders(None, 10_000))
        assert answer.topics, "no leader was moved"


def _rotated(partition: Mapping[str, Any]) -> tuple[int, list[int], dict[int, bytes]]:
    first, *others = partition["replicas"]
    return partition["partition"], [*others, first], {}


async def _killed(stage: Stage, member: Member) -> None:
    await asyncio.to_thread(member.kill)
    await stage.away()
    await asyncio.to_thread(member.start)


async def _frozen(stage: Stage, member: Member) -> None:
    await asyncio.to_thread(member.freeze)
    try:
        await stage.away()
    finally:
        await asyncio.to_thread(member.thaw)


async def leader_killed(stage: Stage) -> None:
    await _killed(stage, await stage.leader())


async def leader_frozen(stage: Stage) -> None:
    await _frozen(stage, await stage.leader())


async def coordinator_killed(stage: Stage) -> None:
    await _killed(stage, await stage.coordinator())


async def coordinator_frozen(stage: Stage) -> None:
    await _frozen(stage, await stage.coordinator())


async def broker_replaced(stage: Stage) -> None:
    """A leader is lost with its disk; an empty broker takes its place."""
    await asyncio.to_thread((await stage.leader()).replace)


async def controller_killed(stage: Stage) -> None:
    await asyncio.to_thread(stage.cluster.controller.kill)
    await asyncio.sleep(stage.draw.uniform(0, AWAY_SECONDS))
    await asyncio.to_thread(stage.cluster.controller.start)


async def controller_frozen(stage: Stage) -> None:
    stage.cluster.controller.freeze()
    try:
        await asyncio.sleep(stage.draw.uniform(0, AWAY_SECONDS))
    finally:
        stage.cluster.controller.thaw()


async def two_away(stage: Stage) -> None:
    """Nothing can be published until they are back, and the service says so."""
    began = time.time()
    first, second = stage.draw.sample(stage.cluster.brokers, 2)
    freeze = stage.draw.random() < 0.5
    await asyncio.to_thread(first.kill)
    await asyncio.to_thread(second.freeze if freeze else second.kill)
    try:
        await stage.complaint(began)
    finally:
        await asyncio.to_thread(second.thaw)
    await asyncio.gather(*(asyncio.to_thread(member.start) for member in (first, second)))
    stage.repaired_at = time.time()


async def rolling_restart(stage: Stage) -> None:
    for member in stage.cluster.brokers:
        await asyncio.to_thread(member.restart)
        await asyncio.to_thread(stage.cluster.wait_for, len(stage.cluster.brokers))
        await asyncio.to_thread(stage.cluster.wait_in_sync)


async def partitions_added(stage: Stage) -> None:
    """The messages topic gets one more."""
    async with kafka_tools.administering(stage.rig.bootstrap) as admin:
        [topic] = await admin.describe_topics([stage.rig.topic])
        more = NewPartitions(len(topic["partitions"]) + 1)
        await admin.create_partitions({stage.rig.topic: more})


ALL: Final[tuple[Fault, ...]] = (
    leaders_moved,
    leader_killed,
    leader_frozen,
    coordinator_killed,
    coordinator_frozen,
    broker_replaced,
    controller_killed,
    controller_frozen,
    two_away,
    rolling_restart,
    partitions_added,
)

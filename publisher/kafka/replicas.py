"""How many replicas a new topic gets.

Rules of this file:
- The brokers that are up do not tell how many there are: who starts beside one of three brokers
  waits for the others, because nothing adds replicas to a topic later.
- The brokers' own default is never undercut. Only they know it without a right to be granted:
  so they are asked whether they could create the topic with it, and nothing is created.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateTopicsRequest_v3, CreateTopicsResponse_v3
from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v1
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int8,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from publisher.errors import NeedsOperator, Reason, Stage
from publisher.kafka.clients import CALL_SECONDS

PROMISED: Final = 3
"""Replicas of a topic where there are so many brokers."""

TOO_FEW_BROKERS: Final = 38
"""Kafka's error: more replicas than brokers that are up."""

SAFE: Final = {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}
"""Settings of topics with more than one replica."""

_BROKERS_DEFAULT: Final = -1


class _TopicsCreated(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 19
    API_VERSION = 4
    SCHEMA = CreateTopicsResponse_v3.SCHEMA


class _CreateTopics(RequestStruct):  # type: ignore[misc]
    """Version 4, the first that may leave the replicas to the brokers; aiokafka knows up to 3."""

    API_KEY = 19
    API_VERSION = 4
    RESPONSE_TYPE = _TopicsCreated
    SCHEMA = CreateTopicsRequest_v3.SCHEMA

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> RequestStruct:
        """What a connection asks of a request before it sends it."""
        if versions.get(self.API_KEY, (0, 0))[1] >= self.API_VERSION:
            return self
        # Kafka before 2.4: it looks at nothing, and the answer "it could" changes nothing.
        return CreateTopicsRequest_v3([], self.timeout, True)


class _ClusterDescribed(Response):  # type: ignore[misc]
    API_KEY = 60
    API_VERSION = 2
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("error_message", CompactString("utf-8")),
        ("endpoint_type", Int8),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("fenced", Boolean),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_operations", Int32),
        ("tags", TaggedFields),
    )


class _DescribeCluster(RequestStruct):  # type: ignore[misc]
    """The first version that names brokers that are down as well (Kafka 4.0); aiokafka has none."""

    FLEXIBLE_VERSION = True
    API_KEY = 60
    API_VERSION = 2
    RESPONSE_TYPE = _ClusterDescribed
    SCHEMA = Schema(
        ("cluster_operations", Boolean),
        ("endpoint_type", Int8),
        ("fenced", Boolean),
        ("tags", TaggedFields),
    )

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> RequestStruct:
        """What a connection asks of a request before it sends it."""
        if versions.get(self.API_KEY, (0, 0))[1] >= self.API_VERSION:
            return self
        return MetadataRequest_v1([])


def registered_brokers() -> Any:
    """Ask for all brokers that ever joined, where the cluster tells; else for those that are up."""
    return _DescribeCluster(False, 1, True, {})


def with_the_default(topic: str, partitions: int) -> Any:
    """Ask whether the topic could have as many replicas as is the brokers' default."""
    new: tuple[Any, ...] = (topic, partitions, _BROKERS_DEFAULT, [], [])
    return _CreateTopics([new], int(CALL_SECONDS * 1000), True)


def replicas_of_new(up: int, seen: int, servers: int) -> int:
    """How many replicas a new topic is to have.

    `up`: brokers that are up; `seen`: brokers that are, or have joined once, or hold replicas of
    any topic; `servers`: servers that KAFKA_BOOTSTRAP_SERVERS names.
    """
    return min(PROMISED, max(up, seen, servers))


def brokers_seen(topics: Iterable[Mapping[str, Any]]) -> set[int]:
    """The brokers that hold replicas of these topics, up or not."""
    return {
        node
        for topic in topics
        for partition in topic["partitions"]
        for node in partition["replicas"]
    }


async def replicas_wanted(
    admin: AIOKafkaAdminClient, servers: Iterable[str], topic: str, partitions: int
) -> int:
    """How many replicas new topics get. Raises NeedsOperator while too few brokers are up for them.

    `topic` is one of the new ones, of so many partitions.
    """
    up = {node["node_id"] for node in (await admin.describe_cluster())["brokers"]}
    registered = await admin._send_request(registered_brokers())  # noqa: SLF001 - no other way
    seen = up | {broker[0] for broker in registered.brokers}
    seen |= brokers_seen(await admin.describe_topics(None))
    replicas = replicas_of_new(len(up), len(seen), len(set(servers)))
    if len(up) < replicas:
        raise too_few_brokers(topic, len(up), replicas)
    if len(up) < PROMISED:
        answer = await admin._send_to_controller(with_the_default(topic, partitions))  # noqa: SLF001
        if any(code == TOO_FEW_BROKERS for _name, code, *_ in answer.topic_errors):
            raise too_few_brokers(topic, len(up), "default.replication.factor")
    return replicas


def too_few_brokers(topic: str, up: int, wanted: int | str) -> NeedsOperator:
    """Why a topic is not created yet."""
    return NeedsOperator(
        Stage.RESTORE,
        Reason.KAFKA_TOPIC,
        f"topic {topic} is missing, and too few brokers are up to give it enough replicas"
        f" (up: {up}, wanted: {wanted}): start the others, or create the topic yourself",
    )

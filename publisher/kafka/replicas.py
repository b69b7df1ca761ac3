"""Decides how many replicas a new topic gets.

Rules of this file:
- The number of brokers that are up does not say how many exist. A service that starts while one of
  three brokers is up waits for the others, because nothing adds replicas to a topic later.
- A topic never gets fewer replicas than the brokers' own default. Reading that default needs a
  right to be granted. So the brokers are asked whether they could create the topic with their
  default, which needs no such right. Nothing is created by that.
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
"""Replicas of a new topic if there are so many brokers."""

TOO_FEW_BROKERS: Final = 38
"""Kafka's error: the topic would have more replicas than brokers are up."""

SAFE: Final = {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}
"""Settings of a topic that has several replicas."""

_BROKERS_DEFAULT: Final = -1
"""A replication factor that means the brokers' default."""


class _TopicsCreated(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 19
    API_VERSION = 4
    SCHEMA = CreateTopicsResponse_v3.SCHEMA


class _CreateTopics(RequestStruct):  # type: ignore[misc]
    """CreateTopics version 4, the first that can leave the number of replicas to the brokers.

    aiokafka implements up to version 3.
    """

    API_KEY = 19
    API_VERSION = 4
    RESPONSE_TYPE = _TopicsCreated
    SCHEMA = CreateTopicsRequest_v3.SCHEMA

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> RequestStruct:
        """The request in a version that the broker supports; the connection calls this to send."""
        if versions.get(self.API_KEY, (0, 0))[1] >= self.API_VERSION:
            return self
        # Kafka before 2.4: this form checks no topic, so its answer refuses nothing.
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
    """DescribeCluster version 2 (Kafka 4.0), the first that also lists brokers that are down.

    aiokafka does not implement that request.
    """

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
        """This request; for an older broker the one that lists the brokers that are up."""
        if versions.get(self.API_KEY, (0, 0))[1] >= self.API_VERSION:
            return self
        return MetadataRequest_v1([])


def registered_brokers() -> Any:
    """A request for all brokers that ever joined; older clusters list only those that are up."""
    return _DescribeCluster(False, 1, True, {})


def with_the_default(topic: str, partitions: int) -> Any:
    """A request that asks whether the topic could have the brokers' default number of replicas."""
    new: tuple[Any, ...] = (topic, partitions, _BROKERS_DEFAULT, [], [])
    return _CreateTopics([new], int(CALL_SECONDS * 1000), True)


def replicas_of_new(up_count: int, seen_count: int, server_count: int) -> int:
    """How many replicas a new topic is to have.

    `up_count` counts the brokers that are up; `seen_count` those that are up, once joined, or hold
    replicas of any topic; `server_count` the servers that KAFKA_BOOTSTRAP_SERVERS names.
    """
    return min(PROMISED, max(up_count, seen_count, server_count))


def brokers_seen(topics: Iterable[Mapping[str, Any]]) -> set[int]:
    """The brokers that hold replicas of these topics, up or down."""
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

    `topic` is the name of a new topic, and `partitions` the number of its partitions.
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


def too_few_brokers(topic: str, up_count: int, wanted: int | str) -> NeedsOperator:
    """Why a topic is not created yet; `wanted` is a number of replicas, or a setting's name."""
    return NeedsOperator(
        Stage.RESTORE,
        Reason.KAFKA_TOPIC,
        f"topic {topic} is missing, and too few brokers are up to give it enough replicas"
        f" (up: {up_count}, wanted: {wanted}): start the others, or create the topic yourself",
    )

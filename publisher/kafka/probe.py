"""Asks a broker about our topics, rights and limits. It changes nothing and fences no producer.

Rules of this file:
- Any broker can answer every question here: a broker checks our rights before it checks whether
  the task is its own.
- Kafka checks the right to write under a transactional id before it checks whether the request
  makes sense. So a request that can never make sense (the end of a transaction of a producer that
  cannot exist) reveals the right and does nothing else. Opening a producer would reveal it, too,
  but would fence the running service.
- A request with "validate only" asks whether a topic could be created.
"""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, NamedTuple

from aiokafka.admin import NewTopic
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    KafkaError,
    SaslAuthenticationFailed,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.transaction import EndTxnRequest
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from publisher import network_probe
from publisher.errors import Reason, Stage, StepError, Transient
from publisher.kafka.broker_version import metadata_level, show_versions
from publisher.kafka.client_errors import closed_door, translated
from publisher.kafka.clients import Clients, host_and_port
from publisher.kafka.replicas import brokers_seen as replicas_on
from publisher.kafka.replicas import registered_brokers

CALL_SECONDS: Final = 3.0
"""Longest wait for an answer."""

CONNECT_SECONDS: Final = 4.0
"""Longest wait for TLS and login, once the port accepts connections."""

NOT_CONTROLLER: Final = 41
"""Kafka's error: the broker that was asked to create a topic is not the controller."""

_IMPOSSIBLE_PRODUCER: Final = (1 << 63) - 1
"""A producer id that Kafka never assigns, because it counts the ids up from 0."""
_TOPIC, _BROKER = 2, 4
"""Kafka's codes for the kinds of things that have settings."""
_RIGHTS_OMITTED: Final = -(1 << 31)
"""Stands in place of our rights if the broker does not report them."""
_OPERATIONS: Final = {"Read": 3, "Write": 4}
"""The rights that we need, named as `kafka-acls.sh` does, and their bits in a broker's answer."""


class ConnectStage(IntEnum):
    """What stands between us and a broker, from outside to inside."""

    CONNECTION = 0
    TLS = 1
    PROTOCOL = 2
    LOGIN = 3


class ClosedError(Exception):
    """A server did not let us in."""

    def __init__(self, server: str, door: ConnectStage, problem: StepError) -> None:
        super().__init__(str(problem))
        self.server = server
        self.door = door
        """The stage that failed."""
        self.problem = problem
        """Our error for it."""


async def enter(clients: Clients, server: str) -> AIOKafkaConnection:
    """Connect and log in, stage by stage. Raises ClosedError."""
    try:
        host, port = host_and_port(server)
        await network_probe.addresses(host)
        await network_probe.knock(host, port)
    except Exception as error:  # of any kind: it is the result of the probe
        problem = closed_door(server, error, network_probe.KNOCK_SECONDS)
        raise ClosedError(server, ConnectStage.CONNECTION, problem) from None
    try:
        return await clients.connect(server, CONNECT_SECONDS)
    except Exception as error:
        door = _door(error, secure=clients.secure)
        raise ClosedError(server, door, closed_door(server, error, CONNECT_SECONDS)) from None


async def enter_any(clients: Clients) -> AIOKafkaConnection:
    """Enter the first server that lets us in. Raises the ClosedError of the last server."""
    for server in clients.servers[:-1]:
        with suppress(ClosedError):
            return await enter(clients, server)
    return await enter(clients, clients.servers[-1])


def _door(error: Exception, *, secure: bool) -> ConnectStage:
    """The stage at which a connection failed; `secure`: it was to use TLS."""
    match error:
        case SaslAuthenticationFailed() | UnsupportedSaslMechanismError():
            return ConnectStage.LOGIN
        case ssl.SSLError():
            return ConnectStage.TLS
        case OSError() if secure:  # the server hangs up, or is silent, when we begin with TLS
            return ConnectStage.TLS
        case _:
            return ConnectStage.PROTOCOL


class Topic(NamedTuple):
    """A topic as a broker shows it to us."""

    code: int
    """Kafka's error; 0 = the topic exists."""
    partitions: int
    rights: frozenset[str] | None
    """Our rights on the topic; None = the broker does not report them."""
    replicas: int = 0
    """Replicas of the partition that has the fewest."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The brokers, with the addresses that they advertise, and the topics asked for."""

    brokers: dict[int, str]
    """HOST:PORT by broker id."""
    controller: int
    """The broker id of the controller."""
    topics: dict[str, Topic]


class _ClusterShown(Response):  # type: ignore[misc]  # aiokafka ships no types
    """Metadata version 8, the first that reports our rights; aiokafka implements up to 5."""

    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(
                ("node_id", Int32),
                ("host", String("utf-8")),
                ("port", Int32),
                ("rack", String("utf-8")),
            ),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("name", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("operations", Int32),
            ),
        ),
        ("cluster_operations", Int32),
    )


class _ShowCluster(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _ClusterShown
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_operations", Boolean),
        ("include_topic_operations", Boolean),
    )

    def prepare(self, versions: dict[int, tuple[int, int]]) -> "_ShowCluster":
        """The request itself; the connection calls this to send it.

        Raises Transient if the broker does not offer it.
        """
        lowest, highest = versions.get(self.API_KEY, (0, 0))
        if not lowest <= self.API_VERSION <= highest:
            text = "Kafka is older than 2.3 and does not tell our rights: check needs a newer one"
            raise Transient(Stage.RESTORE, Reason.KAFKA_REFUSED, text)
        return self


async def cluster(connection: AIOKafkaConnection, topics: Sequence[str]) -> Cluster:
    """The brokers, and these topics with our rights on them. Raises StepError."""
    answer = await _ask(connection, _ShowCluster(list(topics), False, False, True))
    shown = answer.to_object()
    return Cluster(
        {node["node_id"]: f"{node['host']}:{node['port']}" for node in shown["brokers"]},
        shown["controller_id"],
        {
            topic["name"]: Topic(
                topic["error_code"],
                len(topic["partitions"]),
                _rights(topic["operations"]),
                min((len(partition["replicas"]) for partition in topic["partitions"]), default=0),
            )
            for topic in shown["topics"]
        },
    )


async def brokers_seen(connection: AIOKafkaConnection) -> set[int]:
    """The brokers that ever joined, or hold replicas of topics that we may see, up or down."""
    registered = await _ask(connection, registered_brokers())
    topics = (await _ask(connection, _ShowCluster(None, False, False, False))).to_object()
    return {broker[0] for broker in registered.brokers} | replicas_on(topics["topics"])


async def level_of(connection: AIOKafkaConnection) -> int | None:
    """The highest level of metadata.version that this broker supports; see `broker_version`."""
    return metadata_level(await _ask(connection, show_versions()))


async def could_create(connection: AIOKafkaConnection, topic: NewTopic) -> int:
    """Kafka's error for the creation of this topic; 0 = it could be created. Creates nothing."""
    new: tuple[Any, ...] = (
        topic.name,
        topic.num_partitions,
        topic.replication_factor,
        [],
        list(topic.topic_configs.items()),
    )
    answer = await _ask(connection, CreateTopicsRequest([new], int(CALL_SECONDS * 1000), True))
    code: int = answer.topic_errors[0][1]
    return code


async def settings_of(connection: AIOKafkaConnection, topic: str) -> dict[str, str] | None:
    """The settings of a topic; None = we may not see them."""
    return await _settings(connection, (_TOPIC, topic, None))


async def longest_transaction_ms(connection: AIOKafkaConnection, broker: int) -> int | None:
    """The longest transaction timeout that this broker allows; None = we may not see it."""
    setting = "transaction.max.timeout.ms"
    config = await _settings(connection, (_BROKER, str(broker), [setting]))
    value = (config or {}).get(setting)
    return None if value is None else int(value)


async def use_transactional_id(connection: AIOKafkaConnection, transactional_id: str) -> None:
    """Check that we may write under this transactional id. Raises NeedsOperator if not."""
    request = EndTxnRequest(transactional_id, _IMPOSSIBLE_PRODUCER, 0, False)
    answer = await _ask(connection, request)
    if answer.error_code == TransactionalIdAuthorizationFailed.errno:
        raise translated(TransactionalIdAuthorizationFailed(), Stage.RESTORE)


async def _settings(
    connection: AIOKafkaConnection, resource: tuple[int, str, list[str] | None]
) -> dict[str, str] | None:
    """Settings of a resource; None = we may not see them.

    `resource` is its kind, its name, and the settings asked for (None = all).
    """
    answer = await _ask(connection, DescribeConfigsRequest([resource]))
    [(code, _text, _kind, _name, entries)] = answer.resources
    return None if code else {entry[0]: entry[1] for entry in entries}


async def _ask(connection: AIOKafkaConnection, request: Any) -> Any:
    """The answer to a request, within bounds. Raises StepError."""
    try:
        return await asyncio.wait_for(connection.send(request), CALL_SECONDS)
    except (KafkaError, OSError, TimeoutError, NotImplementedError) as error:
        raise translated(error, Stage.RESTORE) from None


def _rights(bits: int) -> frozenset[str] | None:
    if bits == _RIGHTS_OMITTED:
        return None
    return frozenset(name for name, bit in _OPERATIONS.items() if bits & 1 << bit)

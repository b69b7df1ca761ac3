"""The three topics: created with the right settings when missing, checked when there."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from publisher.edges.kafka_client import CALL_SECONDS, Clients
from publisher.errors import Held, Reason, Stage
from publisher.settings import Settings
from publisher.signals import Emit, HintGiven, TopicCreated

STATE_PARTITIONS: Final = 12
MESSAGES_PARTITIONS: Final = 6
DEAD_LETTERS_PARTITIONS: Final = 1
ENVELOPE_BYTES: Final = 65_536
"""Room for headers, key and batch header around an event's value."""

HEADERS_BYTES: Final = 20_480
"""Largest headers and key of a record (`rules/dead_letters.py`)."""

_STATE_BYTES: Final = 600_000
_BROKER_BYTES: Final = 1_048_588
"""The broker's default of max.message.bytes; enough for the default event size."""

_AUTHORIZATION: Final = 29
_UNKNOWN_TOPIC: Final = 3
_EXISTS: Final = 36

_STATE_CONFIG: Final = {
    "cleanup.policy": "compact",
    # Never below the broker's producer.id.expiration.ms (a day), or compaction
    # may empty a marker's batch, which clients stumble over (measured).
    "delete.retention.ms": "172800000",
    "segment.ms": "86400000",
    "segment.bytes": "16777216",
    "min.cleanable.dirty.ratio": "0.1",
    "message.timestamp.type": "CreateTime",
}


class _Wanted(NamedTuple):
    partitions: int
    config: dict[str, str]

    def __str__(self) -> str:
        words = ", ".join(f"{name}={value}" for name, value in self.config.items())
        return f"{self.partitions} partitions, {words or 'default settings'}"


async def ensure(
    clients: Clients, settings: Settings, operation: str, emit: Emit
) -> dict[str, int]:
    """Create what is missing, check what is there; returns the largest batch per topic in bytes.

    Raises Held for a missing right or a wrong setting, Transient while Kafka is away.
    """
    state = settings.publisher.state_topic
    largest = settings.publisher.max_event_bytes
    room = largest + ENVELOPE_BYTES
    config = {"max.message.bytes": str(room)} if room > _BROKER_BYTES else {}
    wanted = {
        settings.messages_topic(operation): _Wanted(MESSAGES_PARTITIONS, config),
        settings.dead_letters_topic(operation): _Wanted(DEAD_LETTERS_PARTITIONS, config),
        state: _Wanted(STATE_PARTITIONS, _STATE_CONFIG),
    }
    admin = clients.admin()
    async with clients.using(admin), asyncio.timeout(CALL_SECONDS):
        topics = await _created(admin, wanted, emit)
        configs = await _configs(admin, wanted, emit)
    if (partitions := len(topics[state]["partitions"])) < STATE_PARTITIONS:
        raise _wrong(
            f"topic {state} has {partitions} partitions and needs {STATE_PARTITIONS}: add some"
            " (kafka-topics.sh --alter --partitions 12)"
        )
    for topic, config in configs.items():
        _check(topic, config, None if topic == state else largest)
    return {topic: int(config["max.message.bytes"]) for topic, config in configs.items()}


async def partitions_of(clients: Clients, topics: Iterable[str]) -> list[TopicPartition]:
    """All partitions of those topics that exist. Raises Transient or Held."""
    admin = clients.admin()
    async with clients.using(admin), asyncio.timeout(CALL_SECONDS):
        return [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in await admin.describe_topics(list(topics))
            for partition in topic["partitions"]
        ]


async def _created(
    admin: AIOKafkaAdminClient, wanted: dict[str, _Wanted], emit: Emit
) -> dict[str, Any]:
    """All topics as Kafka describes them; what was missing is there now."""
    topics = await _described(admin, wanted)
    missing = [name for name in wanted if topics[name]["error_code"] == _UNKNOWN_TOPIC]
    if missing:
        await _create(admin, {name: wanted[name] for name in missing}, emit)
    # Kafka answers before the brokers know their new partitions.
    while not all(_ready(topics[name]) for name in missing):
        await asyncio.sleep(0.01)
        topics = await _described(admin, wanted)
    return topics


async def _described(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, Any]:
    topics = {topic["topic"]: topic for topic in await admin.describe_topics(list(names))}
    for name, topic in topics.items():
        if topic["error_code"] == _AUTHORIZATION:
            raise _forbidden(
                f"Kafka forbids the use of topic {name}: grant DESCRIBE and WRITE on all three"
                " topics and READ on PUBLISHER_STATE_TOPIC"
            )
    return topics


def _ready(topic: dict[str, Any]) -> bool:
    """Every partition has a leader."""
    return topic["error_code"] == 0 and all(each["leader"] >= 0 for each in topic["partitions"])


async def _create(admin: AIOKafkaAdminClient, missing: dict[str, _Wanted], emit: Emit) -> None:
    replicas = min(3, len((await admin.describe_cluster())["brokers"]))
    safe = {"min.insync.replicas": "2"} if replicas == 3 else {}
    response = await admin.create_topics(
        [
            NewTopic(name, new.partitions, replicas, topic_configs=new.config | safe)
            for name, new in missing.items()
        ]
    )
    for name, code, *_ in response.topic_errors:
        if code == 0:
            emit(TopicCreated(name, missing[name].partitions))
        elif code == _AUTHORIZATION:
            raise _forbidden(
                f"topic {name} is missing and Kafka forbids its creation: create it"
                f" with {missing[name]}, or grant CREATE"
            )
        elif code != _EXISTS:
            raise _wrong(
                f"topic {name} is missing and could not be created (Kafka's error {code}):"
                f" create it with {missing[name]}"
            )


async def _configs(
    admin: AIOKafkaAdminClient, topics: Iterable[str], emit: Emit
) -> dict[str, dict[str, str]]:
    """The settings of the topics as the broker tells them; fewer where it forbids to ask."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    found: dict[str, dict[str, str]] = {}
    [response] = await admin.describe_configs(asked)
    for code, _text, _kind, name, entries in response.resources:
        if code:
            emit(
                HintGiven(
                    f"the settings of topic {name} cannot be checked: grant DESCRIBE_CONFIGS"
                    " on it to have them checked at every start"
                )
            )
        else:
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found


def _check(topic: str, config: dict[str, str], largest: int | None) -> None:
    """Raises Held; `largest` is the largest event in bytes, None for the state topic."""
    policy, room = config["cleanup.policy"], int(config["max.message.bytes"])
    takes = f"topic {topic} takes at most {room} bytes (max.message.bytes)"
    if largest is None:
        if policy != "compact":
            raise _wrong(
                f"topic {topic} has cleanup.policy={policy}: with anything but compact Kafka"
                " would forget what was published; set it to compact"
            )
        if room < _STATE_BYTES:
            raise _wrong(f"{takes}: set {_BROKER_BYTES}")
        return
    if room < largest + HEADERS_BYTES:
        raise _wrong(
            f"{takes}, events may have {largest}: raise it to {largest + ENVELOPE_BYTES}, or"
            " lower PUBLISHER_MAX_EVENT_BYTES"
        )
    if "compact" in policy:
        raise _wrong(
            f"topic {topic} is compacted: that would keep only the last message of each"
            " conversation; set cleanup.policy=delete"
        )


def _wrong(text: str) -> Held:
    return Held(Stage.RESTORE, Reason.KAFKA_TOPIC, text)


def _forbidden(text: str) -> Held:
    return Held(Stage.RESTORE, Reason.KAFKA_AUTHORIZATION, text)

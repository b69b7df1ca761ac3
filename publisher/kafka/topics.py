"""Creates missing topics with the right settings, and checks those that exist.

Wrong settings would break the service much later: a state topic that is not compacted forgets what
was published, and a messages topic with a small limit refuses events.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from publisher.errors import NeedsOperator, Reason, Stage
from publisher.kafka.clients import CALL_SECONDS, Clients
from publisher.kafka.replicas import SAFE, TOO_FEW_BROKERS, replicas_wanted, too_few_brokers
from publisher.settings import Settings
from publisher.signals import Emit, HintGiven, TopicCreated

STATE_PARTITIONS: Final = 12
MESSAGES_PARTITIONS: Final = 6
DEAD_LETTERS_PARTITIONS: Final = 1
ENVELOPE_BYTES: Final = 65_536
"""Room for headers, key and batch header around an event's value."""

HEADERS_BYTES: Final = 20_480
"""Largest headers and key of a record (`events/dead_letter.py`)."""

_STATE_BYTES: Final = 600_000
"""The least max.message.bytes that the state topic needs."""
_BROKER_BYTES: Final = 1_048_588
"""The broker's default of max.message.bytes, which suffices for the default event size."""

AUTHORIZATION: Final = 29
UNKNOWN_TOPIC: Final = 3
_EXISTS: Final = 36

_STATE_CONFIG: Final = {
    "cleanup.policy": "compact",
    # Never below the broker's producer.id.expiration.ms (a day): else compaction may empty the
    # batch of a marker, and clients fail at that (measured).
    "delete.retention.ms": "172800000",
    "segment.ms": "86400000",
    "segment.bytes": "16777216",
    "min.cleanable.dirty.ratio": "0.1",
    "message.timestamp.type": "CreateTime",
}


class Wanted(NamedTuple):
    """The partitions and settings that a topic is to have."""

    partitions: int
    config: dict[str, str]

    def __str__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.config.items())
        return f"{self.partitions} partitions, {values or 'default settings'}"


COMMANDS: Final = Wanted(STATE_PARTITIONS, _STATE_CONFIG)
"""The partitions and settings that the commands topic is to have."""


async def ensure(
    clients: Clients, settings: Settings, operation: str, emit: Emit
) -> dict[str, int]:
    """Create the missing topics of the operation, and check the others.

    Returns the largest batch in bytes by topic, for the topics whose settings may be seen. `emit`
    receives TopicCreated and hints. Raises NeedsOperator for a missing right or a wrong setting,
    Transient while Kafka is away.
    """
    wanted = wanted_topics(settings, operation)
    state = settings.publisher.state_topic
    admin = clients.admin()
    async with clients.using(admin), asyncio.timeout(CALL_SECONDS):
        topics = await _created(admin, clients.servers, wanted, emit)
        configs = await _configs(admin, wanted, emit)
    for problem in too_few_partitions(state, len(topics[state]["partitions"])):
        raise _wrong(problem)
    for topic, config in configs.items():
        for problem in wrong_settings(settings, topic, config):
            raise _wrong(problem)
    return {topic: int(config["max.message.bytes"]) for topic, config in configs.items()}


async def ensure_commands(clients: Clients, settings: Settings, emit: Emit) -> None:
    """Create the commands topic if it is missing, and check it. Raises as `ensure` does."""
    topic = settings.publisher.commands_topic
    wanted = {topic: COMMANDS}
    admin = clients.admin()
    async with clients.using(admin), asyncio.timeout(CALL_SECONDS):
        topics = await _created(admin, clients.servers, wanted, emit)
        configs = await _configs(admin, wanted, emit)
    partitions = len(topics[topic]["partitions"])
    for problem in wrong_commands(topic, partitions, configs.get(topic, {})):
        raise _wrong(problem)


def wrong_commands(topic: str, partitions: int, config: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the commands topic, as far as its settings may be seen."""
    yield from too_few_partitions(topic, partitions)
    policy = config.get("cleanup.policy", "compact")
    if policy != "compact":
        yield (
            f"topic {topic} has cleanup.policy={policy}: Kafka would forget what was ordered;"
            " set it to compact"
        )


def wanted_topics(settings: Settings, operation: str) -> dict[str, Wanted]:
    """The topics of an operation: three, and a fourth if revisions are on."""
    room = settings.publisher.max_event_bytes + ENVELOPE_BYTES
    config = {"max.message.bytes": str(room)} if room > _BROKER_BYTES else {}
    return {
        **{
            topic: Wanted(MESSAGES_PARTITIONS, config)
            for topic in (settings.messages_topic(operation), settings.revisions_topic(operation))
            if topic
        },
        settings.dead_letters_topic(operation): Wanted(DEAD_LETTERS_PARTITIONS, config),
        settings.publisher.state_topic: Wanted(STATE_PARTITIONS, _STATE_CONFIG),
    }


async def partitions_of(clients: Clients, topics: Iterable[str]) -> list[TopicPartition]:
    """All partitions of these topics, without topics that do not exist.

    Raises Transient or NeedsOperator.
    """
    admin = clients.admin()
    async with clients.using(admin), asyncio.timeout(CALL_SECONDS):
        return [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in await admin.describe_topics(list(topics))
            for partition in topic["partitions"]
        ]


async def stands(clients: Clients, partition: TopicPartition) -> bool:
    """Whether this partition exists. Raises Transient, or NeedsOperator if we may not ask."""
    admin = clients.admin()
    async with clients.using(admin), asyncio.timeout(CALL_SECONDS):
        [topic] = await admin.describe_topics([partition.topic])
    if topic["error_code"] == AUTHORIZATION:
        raise _forbidden(unseen_orders(partition.topic))
    return any(described["partition"] == partition.partition for described in topic["partitions"])


async def _created(
    admin: AIOKafkaAdminClient, servers: Iterable[str], wanted: dict[str, Wanted], emit: Emit
) -> dict[str, Any]:
    """Create the missing topics, and return all topics as Kafka describes them."""
    topics = await _described(admin, wanted)
    missing = [name for name in wanted if topics[name]["error_code"] == UNKNOWN_TOPIC]
    if missing:
        new = {name: wanted[name] for name in missing}
        partitions = new[missing[0]].partitions
        replicas = await replicas_wanted(admin, servers, missing[0], partitions)
        await _create(admin, new, replicas, emit)
    # Kafka answers before the brokers know about their new partitions.
    while not all(_ready(topics[name]) for name in missing):
        await asyncio.sleep(0.01)
        topics = await _described(admin, wanted)
    return topics


async def _described(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, Any]:
    topics = {topic["topic"]: topic for topic in await admin.describe_topics(list(names))}
    for name, topic in topics.items():
        if topic["error_code"] == AUTHORIZATION:
            raise _forbidden(
                f"Kafka forbids the use of topic {name}: grant DESCRIBE and WRITE on all its"
                " topics and READ on PUBLISHER_STATE_TOPIC"
            )
    return topics


def _ready(topic: dict[str, Any]) -> bool:
    """Whether the topic exists and every partition has a leader."""
    return topic["error_code"] == 0 and all(
        partition["leader"] >= 0 for partition in topic["partitions"]
    )


async def _create(
    admin: AIOKafkaAdminClient, missing: dict[str, Wanted], replicas: int, emit: Emit
) -> None:
    response = await admin.create_topics(new_topics(missing, replicas))
    for name, code, *_ in response.topic_errors:
        if code == 0:
            emit(TopicCreated(name, missing[name].partitions))
        elif code == TOO_FEW_BROKERS:  # a broker has just gone
            raise too_few_brokers(name, replicas - 1, replicas)
        elif code != _EXISTS:
            raise not_created(name, code, missing[name])


def new_topics(missing: Mapping[str, Wanted], replicas: int) -> list[NewTopic]:
    """The topics with so many replicas, and with the settings that make replicas safe."""
    safe = SAFE if replicas > 1 else {}
    return [
        NewTopic(name, new.partitions, replicas, topic_configs=new.config | safe)
        for name, new in missing.items()
    ]


def not_created(name: str, code: int, wanted: Wanted) -> NeedsOperator:
    """Why a missing topic cannot be created, and how a person should create it.

    `code` is Kafka's error.
    """
    if code == AUTHORIZATION:
        return _forbidden(
            f"topic {name} is missing and Kafka forbids its creation: create it"
            f" with {wanted}, or grant CREATE"
        )
    return _wrong(
        f"topic {name} is missing and could not be created (Kafka's error {code}):"
        f" create it with {wanted}"
    )


async def _configs(
    admin: AIOKafkaAdminClient, topics: Iterable[str], emit: Emit
) -> dict[str, dict[str, str]]:
    """The settings by topic. A topic whose settings we may not see gets a hint instead."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    configs: dict[str, dict[str, str]] = {}
    [response] = await admin.describe_configs(resources)
    while any(code == UNKNOWN_TOPIC for code, *_ in response.resources):
        # This broker does not know about the new topics yet, unlike the one that answered before.
        await asyncio.sleep(0.01)
        [response] = await admin.describe_configs(resources)
    for code, _text, _kind, name, entries in response.resources:
        if code:
            emit(HintGiven(unseen_settings(name)))
        else:
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


def wrong_settings(settings: Settings, topic: str, config: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the settings of a topic: with them the service cannot work."""
    largest = settings.publisher.max_event_bytes
    policy, room = config["cleanup.policy"], int(config["max.message.bytes"])
    if topic == settings.publisher.state_topic:
        if policy != "compact":
            yield (
                f"topic {topic} has cleanup.policy={policy}: with anything but compact Kafka would"
                " forget what was published; set it to compact"
            )
        if room < _STATE_BYTES:
            yield f"topic {topic} takes at most {room} bytes (max.message.bytes): set 1048588"
        return
    if room < largest + HEADERS_BYTES:
        yield (
            f"topic {topic} takes at most {room} bytes (max.message.bytes), events may have"
            f" {largest}: raise it to {largest + ENVELOPE_BYTES}, or lower"
            " PUBLISHER_MAX_EVENT_BYTES"
        )
    if "compact" in policy:
        yield (
            f"topic {topic} is compacted: that would keep only the last message of each"
            " conversation; set cleanup.policy=delete"
        )


def too_few_partitions(state: str, partitions: int) -> Iterator[str]:
    """What is wrong with the number of partitions.

    Operations are spread over STATE_PARTITIONS for ever. `state` is the name of the topic.
    """
    if partitions < STATE_PARTITIONS:
        yield (
            f"topic {state} has {partitions} partitions and needs {STATE_PARTITIONS}: add some"
            " (kafka-topics.sh --alter --partitions 12)"
        )


def unseen_orders(commands: str) -> str:
    return f"Kafka forbids READ on topic {commands}: grant READ on it to have backfills"


def unseen_events(topic: str) -> str:
    return (
        f"a state that was set back cannot be noticed: grant READ on topic {topic} to have its end"
        " read at every start"
    )


def unseen_settings(topic: str) -> str:
    return (
        f"the settings of topic {topic} cannot be checked: grant DESCRIBE_CONFIGS on it to have"
        " them checked at every start"
    )


def _wrong(text: str) -> NeedsOperator:
    return NeedsOperator(Stage.RESTORE, Reason.KAFKA_TOPIC, text)


def _forbidden(text: str) -> NeedsOperator:
    return NeedsOperator(Stage.RESTORE, Reason.KAFKA_AUTHORIZATION, text)

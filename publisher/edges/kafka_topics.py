"""The three topics: created with the right settings when missing, checked when there."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from publisher.edges.kafka_client import Clients, discard
from publisher.edges.kafka_errors import translated
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

_AUTHORIZATION: Final = 29
_UNKNOWN_TOPIC: Final = 3
_EXISTS: Final = 36
_CALL_SECONDS: Final = 20.0

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


async def ensure(
    clients: Clients, settings: Settings, operation: str, emit: Emit
) -> dict[str, int]:
    """Create what is missing, check what is there; returns the largest batch per topic in bytes.

    Raises Held for a missing right or a wrong setting, Transient while Kafka is away.
    """
    told = settings.publisher
    messages = settings.messages_topic(operation)
    letters = settings.dead_letters_topic(operation)
    wanted = {
        messages: (MESSAGES_PARTITIONS, _room_for(told.max_event_bytes)),
        letters: (DEAD_LETTERS_PARTITIONS, _room_for(told.max_event_bytes)),
        told.state_topic: (STATE_PARTITIONS, dict(_STATE_CONFIG)),
    }
    admin = clients.admin()
    await clients.start(admin)
    try:
        await _create_missing(admin, wanted, emit)
        configs = await _configs(admin, wanted, emit)
        _check(configs, told.state_topic, [messages, letters], told.max_event_bytes)
        await _check_partitions(admin, told.state_topic)
    except (KafkaError, OSError, TimeoutError) as error:
        raise translated(error, Stage.RESTORE) from None
    finally:
        await discard(admin)
    return {
        topic: int(config["max.message.bytes"])
        for topic, config in configs.items()
        if "max.message.bytes" in config
    }


async def partitions_of(clients: Clients, topics: Iterable[str]) -> list[TopicPartition]:
    """All partitions of those topics that exist. Raises Transient or Held."""
    admin = clients.admin()
    await clients.start(admin)
    try:
        return [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in await _call(admin.describe_topics(list(topics)))
            for partition in topic["partitions"]
        ]
    except (KafkaError, OSError, TimeoutError) as error:
        raise translated(error, Stage.RESTORE) from None
    finally:
        await discard(admin)


def _room_for(max_event_bytes: int) -> dict[str, str]:
    """The broker's default of 1 MiB is enough for the default event size."""
    needed = max_event_bytes + ENVELOPE_BYTES
    return {"max.message.bytes": str(needed)} if needed > 1_048_588 else {}


async def _create_missing(
    admin: AIOKafkaAdminClient, wanted: dict[str, tuple[int, dict[str, str]]], emit: Emit
) -> None:
    missing = []
    for topic in await _call(admin.describe_topics(list(wanted))):
        if topic["error_code"] == _AUTHORIZATION:
            raise _forbidden(topic["topic"])
        if topic["error_code"] == _UNKNOWN_TOPIC:
            missing.append(topic["topic"])
    if not missing:
        return
    brokers = len((await _call(admin.describe_cluster()))["brokers"])
    replicas = min(3, brokers)
    safe = {"min.insync.replicas": "2"} if replicas == 3 else {}
    new = [
        NewTopic(name, wanted[name][0], replicas, topic_configs=wanted[name][1] | safe)
        for name in missing
    ]
    response = await _call(admin.create_topics(new))
    for name, code, *_ in response.topic_errors:
        if code == 0:
            emit(TopicCreated(name, wanted[name][0]))
        elif code == _AUTHORIZATION:
            raise Held(
                Stage.RESTORE,
                Reason.KAFKA_AUTHORIZATION,
                f"topic {name} is missing and Kafka forbids its creation: create it"
                f" (partitions {wanted[name][0]}, {_words(wanted[name][1])}) or grant CREATE",
            )
        elif code != _EXISTS:
            raise Held(
                Stage.RESTORE,
                Reason.KAFKA_TOPIC,
                f"topic {name} is missing and could not be created (Kafka's error {code}):"
                f" create it with {wanted[name][0]} partitions, {_words(wanted[name][1])}",
            )
    await _wait_until_known(admin, missing)


async def _wait_until_known(admin: AIOKafkaAdminClient, topics: list[str]) -> None:
    """A new topic is known to every broker a moment later."""
    for _ in range(50):
        found = await _call(admin.describe_topics(topics))
        if all(
            topic["error_code"] == 0
            and all(partition["leader"] >= 0 for partition in topic["partitions"])
            for topic in found
        ):
            return
        await asyncio.sleep(0.1)
    raise TimeoutError


async def _configs(
    admin: AIOKafkaAdminClient, topics: Iterable[str], emit: Emit
) -> dict[str, dict[str, str]]:
    """The settings of the topics as the broker tells them; fewer where it forbids to ask."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
    found: dict[str, dict[str, str]] = {}
    for response in await _call(admin.describe_configs(asked)):
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


def _check(
    configs: dict[str, dict[str, str]], state: str, others: list[str], max_event_bytes: int
) -> None:
    policy = configs.get(state, {}).get("cleanup.policy", "compact")
    if policy != "compact":
        raise _wrong(
            f"topic {state} has cleanup.policy={policy}: with anything but compact Kafka would"
            " forget what was published; set it to compact"
        )
    for topic in others:
        room = configs.get(topic, {}).get("max.message.bytes")
        if room is not None and int(room) < max_event_bytes + HEADERS_BYTES:
            raise _wrong(
                f"topic {topic} takes at most {room} bytes (max.message.bytes), events may have"
                f" {max_event_bytes}: raise it to {max_event_bytes + ENVELOPE_BYTES}, or lower"
                " PUBLISHER_MAX_EVENT_BYTES"
            )
        if "compact" in configs.get(topic, {}).get("cleanup.policy", "delete"):
            raise _wrong(
                f"topic {topic} is compacted: that would keep only the last message of each"
                " conversation; set cleanup.policy=delete"
            )
    room = configs.get(state, {}).get("max.message.bytes")
    if room is not None and int(room) < 600_000:
        raise _wrong(f"topic {state} takes at most {room} bytes (max.message.bytes): set 1048588")


async def _check_partitions(admin: AIOKafkaAdminClient, state: str) -> None:
    for topic in await _call(admin.describe_topics([state])):
        if len(topic["partitions"]) < STATE_PARTITIONS:
            raise _wrong(
                f"topic {state} has {len(topic['partitions'])} partitions and needs"
                f" {STATE_PARTITIONS}: add some (kafka-topics.sh --alter --partitions 12)"
            )


async def _call(call: Any) -> Any:
    return await asyncio.wait_for(call, _CALL_SECONDS)


def _words(config: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in config.items()) or "default settings"


def _wrong(text: str) -> Held:
    return Held(Stage.RESTORE, Reason.KAFKA_TOPIC, text)


def _forbidden(topic: str) -> Held:
    return Held(
        Stage.RESTORE,
        Reason.KAFKA_AUTHORIZATION,
        f"Kafka forbids the use of topic {topic}: grant DESCRIBE and WRITE on all three topics"
        " and READ on PUBLISHER_STATE_TOPIC",
    )

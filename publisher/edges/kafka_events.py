"""Reads messages and revisions as consumers do, and changes nothing: no group, no takeover."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterable
from datetime import UTC, datetime

import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from publisher.edges.kafka_client import CALL_SECONDS, Clients
from publisher.edges.kafka_topics import partitions_of
from publisher.errors import Held, Reason, Stage
from publisher.model import Instant
from publisher.rules.rebuild import Published
from publisher.settings import Settings


def events_of(
    settings: Settings, names: Collection[str], *, once: bool = False
) -> AsyncGenerator[list[Published], None]:
    """All events by now of the operation with these names, in pieces of bounded size.

    With `once` also those of an operation that once had one of them, in the same topics.
    A topic that does not exist holds nothing. Raises Transient or Held.
    """
    topics = {settings.messages_topic(name) for name in names}
    return _read(settings, names, topics, once=once)


def revisions_of(
    settings: Settings, names: Collection[str]
) -> AsyncGenerator[list[Published], None]:
    """The same of its revisions; those of one message in their order. None while they are off."""
    return _read(settings, names, {settings.revisions_topic(name) for name in names} - {""})


async def _read(
    settings: Settings, names: Iterable[str], topics: set[str], *, once: bool = False
) -> AsyncGenerator[list[Published], None]:
    if not topics:
        return
    clients, sources = Clients(settings), {name.encode() for name in names}
    partitions = await partitions_of(clients, topics)
    consumer = clients.consumer("read_committed")
    async with clients.using(consumer):
        for partition in partitions:
            consumer.assign([partition])
            async with asyncio.timeout(CALL_SECONDS):
                end = (await consumer.end_offsets([partition]))[partition]
                await consumer.seek_to_beginning(partition)
            while await _position(consumer, partition) < end:
                async with asyncio.timeout(CALL_SECONDS):
                    told = await consumer.getmany(timeout_ms=1000, max_records=2000)
                found = [
                    _published(headers, record.value)
                    for records in told.values()
                    for record in records
                    if (headers := dict(record.headers)).get("ce_source") in sources
                    or (once and not sources.isdisjoint(_former(headers)))
                ]
                if found:
                    yield found


async def first_kept(settings: Settings, name: str, formerly: Iterable[str]) -> Instant | None:
    """Since when the topics have kept events, where some are deleted; None = they hold them all.

    What an empty topic of a former name has held was written before the present one's began.
    """
    clients, former = Clients(settings), {*formerly} - {name}
    topics = {settings.messages_topic(each) for each in (name, *former)}
    partitions = await partitions_of(clients, topics)
    consumer = clients.consumer("read_committed")
    found: list[Instant] = []
    began: list[Instant | None] = []
    emptied = False
    async with clients.using(consumer):
        for partition in partitions:
            begin, first = await _first(consumer, partition)
            at = first and datetime.fromtimestamp(first.timestamp / 1000, UTC)
            present = partition.topic == settings.messages_topic(name)
            if present and first:
                # One from before it was renamed, and renamed back, tells nothing.
                told = {each.decode() for each in _former(dict(first.headers))}
                began.append(at if former <= told else None)
            if begin and (at or present):
                found.append(at or datetime.now(UTC))
            elif begin:
                emptied = True
    if emptied:
        known = [at for at in began if at]
        found.append(min(known) if known and len(known) == len(began) else datetime.now(UTC))
    return max(found, default=None)


async def _first(
    consumer: AIOKafkaConsumer, partition: TopicPartition
) -> tuple[int, ConsumerRecord | None]:
    """Where the partition begins, and what stands there."""
    consumer.assign([partition])
    async with asyncio.timeout(CALL_SECONDS):
        begin = (await consumer.beginning_offsets([partition]))[partition]
        end = (await consumer.end_offsets([partition]))[partition]
        if begin == end:
            return begin, None
        await consumer.seek_to_beginning(partition)
        told = await consumer.getmany(timeout_ms=1000, max_records=1)
    return begin, next((record for those in told.values() for record in those), None)


async def _position(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int:
    async with asyncio.timeout(CALL_SECONDS):
        position: int = await consumer.position(partition)
    return position


def _former(headers: dict[str, bytes]) -> list[bytes]:
    return [name for name in headers.get("wolkvox_formerly", b"").split(b",") if name]


def _published(headers: dict[str, bytes], value: bytes) -> Published:
    try:
        read_at = datetime.fromisoformat(headers["wolkvox_read_at"].decode()).astimezone(UTC)
        names = tuple(name.decode() for name in _former(headers))
        pass_label = headers["wolkvox_pass"].decode()
        return Published(orjson.loads(value), read_at, pass_label, names)
    except (LookupError, ValueError):
        raise Held(
            Stage.RESTORE,
            Reason.STATE_FORMAT,
            "the messages topic holds an event that this version did not write: its headers or its"
            " value cannot be read",
        ) from None

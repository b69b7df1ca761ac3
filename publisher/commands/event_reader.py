"""Reads messages and revisions as consumers do, and changes nothing: no group, no takeover."""

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime

import orjson
from aiokafka import ConsumerRecord, TopicPartition

from publisher.errors import NeedsOperator, Reason, Stage
from publisher.events.encode import SEQUENCE_HEADER
from publisher.events.published_event import PublishedEvent
from publisher.kafka.clients import Clients
from publisher.kafka.reader import COMMAND_SECONDS, Reader, ends_of, reading, topic_records
from publisher.kafka.topics import partitions_of
from publisher.model import Instant
from publisher.settings import Settings

Ends = Mapping[TopicPartition, int]


def events_of(
    settings: Settings, names: Collection[str], *, once: bool = False, until: Ends | None = None
) -> AsyncGenerator[list[PublishedEvent], None]:
    """All events by now of the operation with these names, in pieces of bounded size.

    With `once` also those of an operation that once had one of them, in the same topics; those
    behind `until` are `later`. A topic that does not exist holds nothing. Raises Transient or
    Held, also while an undecided transaction hides the end.
    """
    topics = {settings.messages_topic(name) for name in names}
    return _read(settings, names, topics, once=once, until=until)


def revisions_of(
    settings: Settings, names: Collection[str], *, until: Ends | None = None
) -> AsyncGenerator[list[PublishedEvent], None]:
    """The same of its revisions; those of one message in their order. None while they are off."""
    topics = {settings.revisions_topic(name) for name in names} - {""}
    return _read(settings, names, topics, until=until)


async def published_until(settings: Settings, names: Collection[str]) -> Ends:
    """Where the topics of messages and revisions end by now. Raises as `events_of` does."""
    topics = {
        of(name) for name in names for of in (settings.messages_topic, settings.revisions_topic)
    }
    return await ends_of(Clients(settings), topics - {""})


async def _read(
    settings: Settings,
    names: Iterable[str],
    topics: set[str],
    *,
    once: bool = False,
    until: Ends | None = None,
) -> AsyncGenerator[list[PublishedEvent], None]:
    if not topics:
        return
    sources = {name.encode() for name in names}
    async with aclosing(topic_records(Clients(settings), topics)) as pieces:
        async for records in pieces:
            found = [
                _published(headers, record, until)
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
    found: list[Instant] = []
    began: list[Instant | None] = []
    emptied = False
    async with reading(clients) as reader:
        begins = await reader.begins(partitions)
        ends = await reader.ends(partitions, COMMAND_SECONDS)
        for partition in partitions:
            begin, first = begins[partition], await _first(reader, partition, ends[partition])
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


async def _first(reader: Reader, partition: TopicPartition, end: int) -> ConsumerRecord | None:
    """The first record that was committed there."""
    async with aclosing(reader.records(partition, end)) as pieces:
        async for records in pieces:
            return records[0]
    return None


def _former(headers: dict[str, bytes]) -> list[bytes]:
    return [name for name in headers.get("wolkvox_formerly", b"").split(b",") if name]


def _published(
    headers: dict[str, bytes], record: ConsumerRecord, until: Ends | None
) -> PublishedEvent:
    home = TopicPartition(record.topic, record.partition)
    later = until is not None and record.offset >= until.get(home, 0)
    try:
        read_at = datetime.fromisoformat(headers["wolkvox_read_at"].decode()).astimezone(UTC)
        names = tuple(name.decode() for name in _former(headers))
        pass_label = headers["wolkvox_pass"].decode()
        sequence = int(headers[SEQUENCE_HEADER])
        value = orjson.loads(record.value)
        return PublishedEvent(value, read_at, pass_label, names, later, sequence)
    except (LookupError, ValueError):
        raise NeedsOperator(
            Stage.RESTORE,
            Reason.STATE_FORMAT,
            "the messages topic holds an event that this version did not write: its headers or its"
            " value cannot be read",
        ) from None

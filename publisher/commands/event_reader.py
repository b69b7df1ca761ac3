"""Reads published messages and revisions as consumers do.

The reader changes nothing: it joins no consumer group and takes over no transactional id.
"""

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
    """All current events of the operation with these names, in pieces of bounded size.

    `once` includes the events of operations that formerly had any of the names, as far as they are
    in the same topics. Events behind the offsets `until` are marked as `later`. A topic that does
    not exist holds nothing. Raises Transient or NeedsOperator, also while an undecided transaction
    hides the end.
    """
    topics = {settings.messages_topic(name) for name in names}
    return _read(settings, names, topics, once=once, until=until)


def revisions_of(
    settings: Settings, names: Collection[str], *, until: Ends | None = None
) -> AsyncGenerator[list[PublishedEvent], None]:
    """As `events_of`, for the revisions; the revisions of a message come in their order.

    Yields nothing while revisions are off.
    """
    topics = {settings.revisions_topic(name) for name in names} - {""}
    return _read(settings, names, topics, until=until)


async def published_until(settings: Settings, names: Collection[str]) -> Ends:
    """The current ends of the topics of messages and revisions. Raises as `events_of` does."""
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
            events = [
                _published(headers, record, until)
                for record in records
                if (headers := dict(record.headers)).get("ce_source") in sources
                or (once and not sources.isdisjoint(_former(headers)))
            ]
            if events:
                yield events


async def first_kept(settings: Settings, name: str, formerly: Iterable[str]) -> Instant | None:
    """The instant since which the topics have kept all events; None = no event was deleted.

    `formerly` holds the former names of the operation `name`. The deleted events of an empty topic
    of a former name were written before the first events of the present topic.
    """
    clients, former = Clients(settings), {*formerly} - {name}
    topics = {settings.messages_topic(operation) for operation in (name, *former)}
    partitions = await partitions_of(clients, topics)
    kept_since: list[Instant] = []
    present_since: list[Instant | None] = []  # None = the first event does not say it
    emptied = False
    async with reading(clients) as reader:
        begins = await reader.begins(partitions)
        ends = await reader.ends(partitions, COMMAND_SECONDS)
        for partition in partitions:
            begin, first = begins[partition], await _first(reader, partition, ends[partition])
            first_at = first and datetime.fromtimestamp(first.timestamp / 1000, UTC)
            present = partition.topic == settings.messages_topic(name)
            if present and first:
                # An event that lacks a former name says nothing: it was written before the
                # operation was renamed, and renamed back.
                event_former = {
                    former_name.decode() for former_name in _former(dict(first.headers))
                }
                present_since.append(first_at if former <= event_former else None)
            if begin and (first_at or present):
                kept_since.append(first_at or datetime.now(UTC))
            elif begin:
                emptied = True
    if emptied:
        began_at = [first_at for first_at in present_since if first_at]
        kept_since.append(
            min(began_at) if began_at and len(began_at) == len(present_since) else datetime.now(UTC)
        )
    return max(kept_since, default=None)


async def _first(reader: Reader, partition: TopicPartition, end: int) -> ConsumerRecord | None:
    """The first committed record of the partition before the offset `end`."""
    async with aclosing(reader.records(partition, end)) as pieces:
        async for records in pieces:
            return records[0]
    return None


def _former(headers: dict[str, bytes]) -> list[bytes]:
    """The former names of the operation that wrote an event with these headers."""
    return [name for name in headers.get("wolkvox_formerly", b"").split(b",") if name]


def _published(
    headers: dict[str, bytes], record: ConsumerRecord, until: Ends | None
) -> PublishedEvent:
    partition = TopicPartition(record.topic, record.partition)
    later = until is not None and record.offset >= until.get(partition, 0)
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

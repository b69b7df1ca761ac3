"""Reads published messages and revisions as consumers do.

The reader changes nothing: it joins no consumer group and takes over no transactional id.
"""

from collections.abc import AsyncGenerator, Mapping
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
    settings: Settings, operation: str, *, until: Ends | None = None
) -> AsyncGenerator[list[PublishedEvent], None]:
    """All current events of the operation, in pieces of bounded size.

    Events behind the offsets `until` are marked as `later`. A topic that does not exist holds
    nothing. Raises Transient or NeedsOperator, also while an undecided transaction hides the end.
    """
    return _read(settings, operation, settings.messages_topic(operation), until)


def revisions_of(
    settings: Settings, operation: str, *, until: Ends | None = None
) -> AsyncGenerator[list[PublishedEvent], None]:
    """As `events_of`, for the revisions; the revisions of a message come in their order.

    Yields nothing while revisions are off.
    """
    return _read(settings, operation, settings.revisions_topic(operation), until)


async def published_until(settings: Settings, operation: str) -> Ends:
    """The current ends of the topics of messages and revisions. Raises as `events_of` does."""
    topics = {settings.messages_topic(operation), settings.revisions_topic(operation)}
    return await ends_of(Clients(settings), topics - {""})


async def _read(
    settings: Settings, operation: str, topic: str, until: Ends | None
) -> AsyncGenerator[list[PublishedEvent], None]:
    if not topic:
        return
    source = operation.encode()
    async with aclosing(topic_records(Clients(settings), [topic])) as pieces:
        async for records in pieces:
            events = [
                _published(headers, record, until)
                for record in records
                if (headers := dict(record.headers)).get("ce_source") == source
            ]
            if events:
                yield events


async def first_kept(settings: Settings, operation: str) -> Instant | None:
    """The instant since which the topic has kept all events; None = no event was deleted."""
    clients = Clients(settings)
    partitions = await partitions_of(clients, [settings.messages_topic(operation)])
    kept_since: list[Instant] = []
    async with reading(clients) as reader:
        begins = await reader.begins(partitions)
        ends = await reader.ends(partitions, COMMAND_SECONDS)
        for partition in partitions:
            if begins[partition]:
                first = await _first(reader, partition, ends[partition])
                kept_since.append(
                    datetime.fromtimestamp(first.timestamp / 1000, UTC)
                    if first
                    else datetime.now(UTC)
                )
    return max(kept_since, default=None)


async def _first(reader: Reader, partition: TopicPartition, end: int) -> ConsumerRecord | None:
    """The first committed record of the partition before the offset `end`."""
    async with aclosing(reader.records(partition, end)) as pieces:
        async for records in pieces:
            return records[0]
    return None


def _published(
    headers: dict[str, bytes], record: ConsumerRecord, until: Ends | None
) -> PublishedEvent:
    partition = TopicPartition(record.topic, record.partition)
    later = until is not None and record.offset >= until.get(partition, 0)
    try:
        read_at = datetime.fromisoformat(headers["wolkvox_read_at"].decode()).astimezone(UTC)
        pass_label = headers["wolkvox_pass"].decode()
        sequence = int(headers[SEQUENCE_HEADER])
        value = orjson.loads(record.value)
        return PublishedEvent(value, read_at, pass_label, later, sequence)
    except (LookupError, ValueError):
        raise NeedsOperator(
            Stage.RESTORE,
            Reason.STATE_FORMAT,
            "the messages topic holds an event that this version did not write: its headers or its"
            " value cannot be read",
        ) from None

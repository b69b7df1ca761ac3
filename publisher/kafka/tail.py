"""Reads the end of a messages topic, to see what an operation published last.

The number of its last transaction reveals a state that was set back, for example by a restored
backup.

Rules of this file:
- The end is read as consumers see it, and after the takeover: by then everything that we committed
  is decided. If another transaction hides records, reading waits for them a short time only.
- Reading is bounded: a service that starts has half a second until its first request.
"""

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError

from publisher.events.encode import SEQUENCE_HEADER
from publisher.kafka.clients import CALL_SECONDS

LAST_OFFSETS: Final = 200
"""So many offsets of a partition are always read: a backup keeps no times, and clocks jump."""
MOST_OFFSETS: Final = 5_000
"""At most so many offsets are read, even if more are younger than the checkpoint."""
HIDDEN_SECONDS: Final = 2.0
"""Longest wait for an end that the transaction of another hides."""
NEVER: Final = 2**62
"""A time in ms that stands for a missing checkpoint: nothing is younger."""
_POLL_MS: Final = 20


class Tail(NamedTuple):
    """What the end of a messages topic shows of an operation."""

    newest_published: int
    """The greatest number of its transactions; -1 = none seen."""
    unused: bool
    """The topic holds no record, and none was deleted from it. It may have offsets all the same,
    if a transaction was aborted, by our takeover for example."""
    ends: Mapping[TopicPartition, int]
    """The high watermarks."""
    readable: bool = True
    """We may read the topic."""


async def read_tail(
    committed: AIOKafkaConsumer,
    uncommitted: AIOKafkaConsumer,
    partitions: Collection[TopicPartition],
    operation: str,
    since: int,
) -> Tail:
    """Read the last records, and all that are not older than `since` (Unix time in ms).

    `committed` and `uncommitted` are consumers with these isolation levels.
    """
    starts, ends = await _seek(committed, uncommitted, partitions, since)
    try:
        newest, empty = await _newest(committed, ends, operation)
    except TopicAuthorizationFailedError:
        return Tail(-1, bool(ends) and not any(ends.values()), ends, readable=False)
    return Tail(newest, empty and bool(ends) and not any(starts.values()), ends)


async def _seek(
    consumer: AIOKafkaConsumer,
    uncommitted: AIOKafkaConsumer,
    partitions: Collection[TopicPartition],
    since: int,
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Move the consumer to where reading begins.

    Returns the offsets there, and the high watermarks, where reading ends.
    """
    if not partitions:
        return {}, {}
    consumer.assign(partitions)
    async with asyncio.timeout(CALL_SECONDS):
        begins, ends, younger = await asyncio.gather(
            uncommitted.beginning_offsets(partitions),
            uncommitted.end_offsets(partitions),
            consumer.offsets_for_times(dict.fromkeys(partitions, since)),
        )
    starts: dict[TopicPartition, int] = {}
    for partition, end in ends.items():
        first = younger.get(partition)
        start = min(end - LAST_OFFSETS, first.offset if first else end)
        starts[partition] = max(begins[partition], end - MOST_OFFSETS, start)
        consumer.seek(partition, starts[partition])
    return starts, dict(ends)


async def _newest(
    consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int], operation: str
) -> tuple[int, bool]:
    """The greatest transaction number seen, and whether all was read without any record."""
    newest, empty, source = -1, True, operation.encode()
    moved_at = time.monotonic()
    unread = dict(ends)
    # Empty partitions are asked once, too: a missing READ right shows nowhere else.
    while unread and time.monotonic() - moved_at < HIDDEN_SECONDS:
        async with asyncio.timeout(CALL_SECONDS):
            batches = await consumer.getmany(*unread, timeout_ms=_POLL_MS)
            # Positions also move over markers and aborted batches, so they do reach the end.
            positions = {partition: await consumer.position(partition) for partition in unread}
        if batches:
            empty, moved_at = False, time.monotonic()
        for records in batches.values():
            for record in records:
                headers = dict(record.headers)
                if headers.get("ce_source") == source and SEQUENCE_HEADER in headers:
                    newest = max(newest, int(headers[SEQUENCE_HEADER]))
        unread = {partition: end for partition, end in unread.items() if positions[partition] < end}
    return newest, empty and not unread

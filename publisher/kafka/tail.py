"""Reads the end of a messages topic: what was published last of an operation.

Rules of this file:
- The end is read as consumers see it, after the takeover: what we have committed is decided then.
  What another transaction still hides is waited for a short time, never for long.
- It is bounded: a service that starts has half a second until its first request.
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
"""So many offsets of each partition are read always: a backup keeps no times, and clocks jump."""
MOST_OFFSETS: Final = 5_000
"""So many at most, however much is younger than the checkpoint."""
HIDDEN_SECONDS: Final = 2.0
"""Longest wait for an end that a transaction of somebody else hides."""
NEVER: Final = 2**62
"""A time in ms: where there is no checkpoint nothing is younger."""
_POLL_MS: Final = 20


class Tail(NamedTuple):
    """What the end of a messages topic tells of an operation."""

    newest_published: int
    """Greatest number of its transactions; -1 = none seen."""
    unused: bool
    """The topic holds no record, and none was deleted from it. Where a transaction was aborted, by
    our takeover for example, it has offsets all the same."""
    ends: Mapping[TopicPartition, int]
    """The high watermarks."""
    readable: bool = True
    """We may read it."""


async def read_tail(
    committed: AIOKafkaConsumer,
    uncommitted: AIOKafkaConsumer,
    partitions: Collection[TopicPartition],
    operation: str,
    since: int,
) -> Tail:
    """Look at the last records, and at all that are not older than `since` (Unix time in ms)."""
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
    """Go where reading begins; that, and the high watermarks, where it ends."""
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
    """The greatest number seen; and whether no record was seen at all."""
    newest, empty, source = -1, True, operation.encode()
    moved = time.monotonic()
    unread = dict(ends)
    # Asked once also where there is nothing: a missing READ right shows nowhere else.
    while unread and time.monotonic() - moved < HIDDEN_SECONDS:
        async with asyncio.timeout(CALL_SECONDS):
            batches = await consumer.getmany(*unread, timeout_ms=_POLL_MS)
            # They run over markers and aborted batches too, so they do reach the end.
            positions = {partition: await consumer.position(partition) for partition in unread}
        if batches:
            empty, moved = False, time.monotonic()
        for records in batches.values():
            for record in records:
                headers = dict(record.headers)
                if headers.get("ce_source") == source and SEQUENCE_HEADER in headers:
                    newest = max(newest, int(headers[SEQUENCE_HEADER]))
        unread = {p: end for p, end in unread.items() if positions[p] < end}
    return newest, empty and not unread

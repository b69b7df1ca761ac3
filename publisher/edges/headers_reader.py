"""Reads the headers of published messages. Nothing here writes or takes over anything."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any, Final

from publisher.edges.kafka_client import CALL_SECONDS, Clients
from publisher.edges.kafka_reader import BLOCKED_SECONDS, blocked
from publisher.edges.kafka_topics import partitions_of
from publisher.model import Instant

_POLL_MS: Final = 50


async def headers(
    clients: Clients, topics: set[str], since: Instant
) -> AsyncGenerator[dict[str, bytes], None]:
    """Those of each record that was written since, up to the first open transaction.

    A topic that does not exist holds nothing. Raises Transient or Held.
    """
    partitions = await partitions_of(clients, topics)
    if not partitions:
        return
    consumer = clients.consumer("read_committed")
    async with clients.using(consumer):
        async with asyncio.timeout(CALL_SECONDS):
            ends = await consumer.end_offsets(partitions)
            times = dict.fromkeys(partitions, int(since.timestamp() * 1000))
            begins: dict[Any, Any] = await consumer.offsets_for_times(times)
        for partition in sorted(ends):
            begin = begins.get(partition)
            if begin is None:  # nothing is that young
                continue
            consumer.assign([partition])
            consumer.seek(partition, begin.offset)
            position, last, moved = begin.offset, -1, time.monotonic()
            while position < ends[partition]:
                async with asyncio.timeout(CALL_SECONDS):
                    got = await consumer.getmany(timeout_ms=_POLL_MS)
                    # Over markers and aborted batches too, so it does reach the end.
                    position = await consumer.position(partition)
                for record in got.get(partition, ()):
                    yield dict(record.headers)
                if position != last:
                    last, moved = position, time.monotonic()
                elif time.monotonic() - moved > BLOCKED_SECONDS:
                    raise blocked(partition)

"""Reads the headers of published messages. Nothing here writes or takes over anything."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from publisher.edges.kafka_client import CALL_SECONDS, Clients
from publisher.edges.kafka_reader import records_before
from publisher.edges.kafka_topics import partitions_of
from publisher.model import Instant


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
            async for records in records_before(consumer, partition, ends[partition]):
                for record in records:
                    yield dict(record.headers)

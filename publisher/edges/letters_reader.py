"""Reads the dead letters back. Nothing here writes or takes over a transactional id."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import UTC, datetime

from publisher.edges.kafka_client import CALL_SECONDS, Clients
from publisher.edges.kafka_reader import records_before
from publisher.edges.kafka_topics import partitions_of
from publisher.rules.letters import Letter, Letters, Replayed
from publisher.settings import Settings


async def letters(
    settings: Settings,
    names: Mapping[str, str],
    *,
    wanted: Callable[[Letter], bool],
    to_end: bool,
) -> AsyncGenerator[Letter | Replayed, None]:
    """All of these operations (see `Letters`), oldest first; with their bytes the wanted ones.

    With `to_end` up to the high watermark, waiting for transactions that are open; else up to the
    first of those. A topic that does not exist holds nothing. Raises Transient or Held.
    """
    clients = Clients(settings)
    partitions = await partitions_of(clients, {settings.dead_letters_topic(name) for name in names})
    committed, uncommitted = (
        clients.consumer("read_committed"),
        clients.consumer("read_uncommitted"),
    )
    found = Letters(names, wanted)
    async with clients.using(committed, uncommitted):
        telling = uncommitted if to_end else committed
        async with asyncio.timeout(CALL_SECONDS):
            ends = await telling.end_offsets(partitions) if partitions else {}
        for partition in sorted(ends):
            committed.assign([partition])
            async for records in records_before(committed, partition, ends[partition]):
                for record in records:
                    at = datetime.fromtimestamp(record.timestamp / 1000, UTC)
                    letter = found.add(record.headers, record.value, at)
                    if letter is not None:
                        yield letter
    for incomplete in found.incomplete():
        yield incomplete

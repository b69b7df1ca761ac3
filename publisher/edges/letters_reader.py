"""Reads the dead letters back, and the state that a replay would start from.

Nothing here writes or takes over a transactional id.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Final

from aiokafka import TopicPartition

from publisher.edges.kafka import partition_of
from publisher.edges.kafka_client import CALL_SECONDS, Clients
from publisher.edges.kafka_reader import BLOCKED_SECONDS, blocked, reading
from publisher.edges.kafka_topics import partitions_of
from publisher.rules import state
from publisher.rules.letters import Letter, Letters, Replayed
from publisher.rules.records import operation_of
from publisher.rules.state import State
from publisher.settings import Settings

_POLL_MS: Final = 50


async def letters(
    clients: Clients, topic: str, *, wanted: Callable[[Letter], bool], to_end: bool
) -> AsyncGenerator[Letter | Replayed, None]:
    """All of a topic, oldest first; with their bytes those that are wanted.

    With `to_end` up to the high watermark, waiting for transactions that are open; else up to the
    first of those. A topic that does not exist holds nothing. Raises Transient or Held.
    """
    partitions = await partitions_of(clients, [topic])
    committed, uncommitted = (
        clients.consumer("read_committed"),
        clients.consumer("read_uncommitted"),
    )
    found = Letters(wanted)
    async with clients.using(committed, uncommitted):
        telling = uncommitted if to_end else committed
        async with asyncio.timeout(CALL_SECONDS):
            ends = await telling.end_offsets(partitions) if partitions else {}
        for partition in sorted(ends):
            committed.assign([partition])
            position, last, moved = -1, -1, time.monotonic()
            while position < ends[partition]:
                async with asyncio.timeout(CALL_SECONDS):
                    # Over markers and aborted batches too, so it does reach the end.
                    position = await committed.position(partition)
                    got = await committed.getmany(timeout_ms=_POLL_MS)
                for record in got.get(partition, ()):
                    at = datetime.fromtimestamp(record.timestamp / 1000, UTC)
                    letter = found.add(record.headers, record.value, at)
                    if letter is not None:
                        yield letter
                if position != last:
                    last, moved = position, time.monotonic()
                elif time.monotonic() - moved > BLOCKED_SECONDS:
                    raise blocked(partition)
    for incomplete in found.incomplete():
        yield incomplete


async def state_of(clients: Clients, settings: Settings, operation: str) -> State | None:
    """What the state topic tells of an operation to a bystander. Raises Transient or Held."""
    topic = settings.publisher.state_topic
    wanted = TopicPartition(topic, partition_of(operation))
    if wanted not in await partitions_of(clients, [topic]):
        return None
    async with reading(clients) as reader:
        live, _ = await reader.decided_records(wanted)
    return state.restore(
        operation, {key: value for key, value in live.items() if operation_of(key) == operation}
    )

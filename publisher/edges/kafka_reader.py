"""Reads the state topic to its true end, and compares ends.

Rules of this file:
- The end is the high watermark. `end_offsets()` of a read_committed consumer
  answers the last stable offset, which an open transaction of anybody holds
  back: reading only so far would take an older state for the newest (measured).
- What cannot be read to its end within bounds is refused, never cut short.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import KafkaError

from publisher.edges.kafka_client import CALL_SECONDS, Clients
from publisher.errors import Held, Reason, Stage, StepError

BLOCKED_SECONDS: Final = 75.0
"""Longer than the broker needs to abort a dead transaction: 60 s and its 10 s scan."""

_POLL_MS: Final = 20
_BYSTANDER_POLL_MS: Final = 50


@asynccontextmanager
async def reading(clients: Clients) -> AsyncIterator["Reader"]:
    """A reader for the block; what fails there is Transient or Held."""
    committed = clients.consumer("read_committed")
    uncommitted = clients.consumer("read_uncommitted")
    async with clients.using(committed, uncommitted):
        yield Reader(committed, uncommitted)


class Reader:
    """Two consumers, because `end_offsets()` means another end at each isolation level."""

    def __init__(self, committed: AIOKafkaConsumer, uncommitted: AIOKafkaConsumer) -> None:
        self._committed = committed
        self._uncommitted = uncommitted

    async def live_records(
        self, partition: TopicPartition, blocked_after: float = BLOCKED_SECONDS
    ) -> dict[bytes, bytes]:
        """The last value of every key of a compacted partition, as of its high watermark.

        Call it after the takeover of the transactional id: then no transaction of
        our own can hide the tail. Raises Held when somebody else's does.
        """
        self._committed.assign([partition])
        async with asyncio.timeout(CALL_SECONDS):
            end = (await self._uncommitted.end_offsets([partition]))[partition]
        return await self._up_to(partition, end, blocked_after)

    async def decided_records(self, partition: TopicPartition) -> tuple[dict[bytes, bytes], bool]:
        """The same for a bystander, who takes over nothing: as of the last stable offset.

        Also tells whether something behind it is still undecided.
        """
        self._committed.assign([partition])
        async with asyncio.timeout(CALL_SECONDS):
            high = (await self._uncommitted.end_offsets([partition]))[partition]
            stable = (await self._committed.end_offsets([partition]))[partition]
        return await self._up_to(partition, stable, BLOCKED_SECONDS), stable < high

    async def _up_to(
        self, partition: TopicPartition, end: int, blocked_after: float
    ) -> dict[bytes, bytes]:
        """The live records of the assigned partition that stand before `end`."""
        consumer = self._committed
        live: dict[bytes, bytes] = {}
        position, last, moved = 0, -1, time.monotonic()
        # Asked once also where there is nothing: a missing READ right shows nowhere else.
        while position < end or consumer.highwater(partition) is None:
            if position != last:
                last, moved = position, time.monotonic()
            elif time.monotonic() - moved > blocked_after:
                raise blocked(partition)
            async with asyncio.timeout(CALL_SECONDS):
                for messages in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                    for message in messages:
                        if message.value is None:
                            live.pop(message.key, None)
                        elif message.key is not None:
                            live[message.key] = message.value
                # It runs over markers and aborted batches too, so it does reach the end.
                position = await consumer.position(partition)
        return live

    async def with_offsets(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Those that are not empty; aborted records and markers count, too."""
        wanted = list(partitions)
        async with asyncio.timeout(CALL_SECONDS):
            end = await self._uncommitted.end_offsets(wanted)
            begin = await self._uncommitted.beginning_offsets(wanted)
        return [partition for partition in wanted if begin[partition] < end[partition]]

    async def unstable_offsets(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """High watermark minus last stable offset."""
        wanted = list(partitions)
        async with asyncio.timeout(CALL_SECONDS):
            high = await self._uncommitted.end_offsets(wanted)
            stable = await self._committed.end_offsets(wanted)
        return {each: max(0, high[each] - stable[each]) for each in wanted}


async def read_live_records(
    clients: Clients, partition: TopicPartition, blocked_after: float = BLOCKED_SECONDS
) -> dict[bytes, bytes]:
    """See `Reader.live_records`."""
    async with reading(clients) as reader:
        return await reader.live_records(partition, blocked_after)


async def records_before(
    consumer: AIOKafkaConsumer, partition: TopicPartition, end: int
) -> AsyncGenerator[Sequence[Any], None]:
    """The records of the assigned partition from its position on, up to `end`, as they come.

    Raises Held when an undecided transaction keeps the end out of reach.
    """
    position, last, moved = -1, -1, time.monotonic()
    while position < end:
        async with asyncio.timeout(CALL_SECONDS):
            got = await consumer.getmany(timeout_ms=_BYSTANDER_POLL_MS)
            # It runs over markers and aborted batches too, so it does reach the end.
            position = await consumer.position(partition)
        yield got.get(partition, ())
        if position != last:
            last, moved = position, time.monotonic()
        elif time.monotonic() - moved > BLOCKED_SECONDS:
            raise blocked(partition)


def blocked(partition: TopicPartition) -> StepError:
    """What an open transaction of somebody else makes impossible."""
    return Held(
        Stage.RESTORE,
        Reason.STATE_BLOCKED,
        f"an undecided transaction hides the end of {partition.topic}-{partition.partition}:"
        " what was published is not known until it ends; find it with Kafka's"
        " kafka-transactions.sh describe-producers, and if it hangs, end it with its abort",
    )


def _tolerate_empty_control_batches() -> None:
    """Compaction may leave a control batch without records; Java's client skips it.

    aiokafka 0.14 raises "Control batch did not contain any records" for ever
    instead, which would end every restore from that partition (measured).
    """
    original = PartitionRecords._contains_abort_marker  # noqa: SLF001 - there is no other way

    def contains_abort_marker(self: Any, next_batch: Any) -> bool:
        try:
            return bool(original(self, next_batch))
        except KafkaError:
            return False

    PartitionRecords._contains_abort_marker = contains_abort_marker  # noqa: SLF001


_tolerate_empty_control_batches()

"""Reads topics to their true end. All code that reads a range of a topic reads it here.

Rules of this file:
- The end is the high watermark. `end_offsets()` of a read_committed consumer returns the last
  stable offset, which any open transaction holds back. Reading only so far would take an older
  state for the newest (measured).
- A caller that decides something by the records waits until everything before the end is decided.
  If that does not happen within bounds, the caller gets an error. A caller that only shows the
  records may leave out what is undecided, and says so.
- The position also moves over markers, aborted batches and compacted stretches. If it stands
  still, Kafka does not answer in time. An empty answer never counts as the end.
"""

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import KafkaError

from publisher.errors import NeedsOperator, Reason, Stage, StepError
from publisher.kafka.clients import CALL_SECONDS, Clients
from publisher.kafka.tail import Tail, read_tail
from publisher.kafka.topics import partitions_of
from publisher.model import Instant

BLOCKED_SECONDS: Final = 75.0
"""Longer than the broker needs to abort a dead transaction: 60 s and its 10 s scan."""

COMMAND_SECONDS: Final = 10.0
"""The same for a command, which is shorter: a person waits for it, and can start it again."""

_POLL_MS: Final = 20
_LOOK_SECONDS: Final = 0.05
_MOST_RECORDS: Final = 2000
"""Most records in a piece of `Reader.records`."""


@asynccontextmanager
async def reading(clients: Clients) -> AsyncIterator["Reader"]:
    """A reader that is open within the block. Failures there become Transient or NeedsOperator."""
    committed = clients.consumer("read_committed")
    uncommitted = clients.consumer("read_uncommitted")
    async with clients.using(committed, uncommitted):
        yield Reader(committed, uncommitted)


class Reader:
    """Reads partitions with two consumers.

    They differ in the isolation level, which decides what `end_offsets()` returns.
    """

    def __init__(self, committed: AIOKafkaConsumer, uncommitted: AIOKafkaConsumer) -> None:
        self._committed = committed
        self._uncommitted = uncommitted
        self.written_at: dict[bytes, int] = {}
        """Timestamps (Unix time in ms) of the checkpoints read, by key."""

    async def ends(
        self, partitions: Iterable[TopicPartition], blocked_after: float = BLOCKED_SECONDS
    ) -> dict[TopicPartition, int]:
        """The current high watermarks, returned once everything before them is decided.

        Raises NeedsOperator if something is still undecided after `blocked_after` seconds.
        """
        high = await self._ends(self._uncommitted, partitions)
        began_at = time.monotonic()
        while True:
            stable = await self._ends(self._committed, high)
            hidden = [partition for partition, end in high.items() if stable[partition] < end]
            if not hidden:
                return high
            if time.monotonic() - began_at >= blocked_after:
                raise blocked(min(hidden))
            await asyncio.sleep(_LOOK_SECONDS)

    async def decided_ends(
        self, partitions: Iterable[TopicPartition]
    ) -> tuple[dict[TopicPartition, int], list[TopicPartition]]:
        """The offsets below which everything is decided now, and the partitions that hold more."""
        high = await self._ends(self._uncommitted, partitions)
        stable = await self._ends(self._committed, high)
        return stable, sorted(
            partition for partition, end in high.items() if stable[partition] < end
        )

    async def records(
        self, partition: TopicPartition, end: int, begin: int | None = None
    ) -> AsyncGenerator[Sequence[ConsumerRecord], None]:
        """All committed records from offset `begin` (None = the first) up to `end`, in pieces.

        `end` comes from `ends` or `decided_ends`. Some records from behind it may follow.
        """
        consumer = self._committed
        consumer.assign([partition])
        if begin is not None:
            consumer.seek(partition, begin)
        position, moved_at = -1, time.monotonic()
        # An empty partition is asked once, too: a missing READ right shows nowhere else.
        while position < end or consumer.highwater(partition) is None:
            async with asyncio.timeout(CALL_SECONDS):
                fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_MOST_RECORDS)
                last, position = position, await consumer.position(partition)
            if records := fetched.get(partition):
                yield records
            if position != last:
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > CALL_SECONDS:
                raise TimeoutError

    async def live_records(
        self, partition: TopicPartition, blocked_after: float = BLOCKED_SECONDS
    ) -> dict[bytes, bytes]:
        """The last value of every key of a compacted partition, as of its high watermark.

        The owner of the partition calls it after taking over the transactional id: then no
        transaction of its own can hide the tail. Raises NeedsOperator if the transaction of
        another hides the tail for longer than `blocked_after` seconds.
        """
        return await self._live(partition, await self.ends([partition], blocked_after))

    async def decided_records(self, partition: TopicPartition) -> tuple[dict[bytes, bytes], bool]:
        """As `live_records`, but as of the last stable offset, and without a wait.

        Also returns whether something behind that offset is still undecided.
        """
        stable, hidden = await self.decided_ends([partition])
        return await self._live(partition, stable), bool(hidden)

    async def _live(
        self, partition: TopicPartition, ends: Mapping[TopicPartition, int]
    ) -> dict[bytes, bytes]:
        live: dict[bytes, bytes] = {}
        async for records in self.records(partition, ends[partition]):
            for record in records:
                if record.value is None:
                    live.pop(record.key, None)
                elif record.key is not None:
                    live[record.key] = record.value
                    if record.key.startswith(b"checkpoint/"):
                        self.written_at[record.key] = record.timestamp
        return live

    async def begins(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offsets; above 0 if records were deleted."""
        wanted = list(partitions)
        async with asyncio.timeout(CALL_SECONDS):
            begins: dict[TopicPartition, int] = await self._uncommitted.beginning_offsets(wanted)
        return begins

    async def written_since(
        self, partitions: Iterable[TopicPartition], since: Instant
    ) -> dict[TopicPartition, int]:
        """The first offsets not older than `since`, by the records' timestamps, where any exist."""
        times = dict.fromkeys(partitions, int(since.timestamp() * 1000))
        async with asyncio.timeout(CALL_SECONDS):
            firsts: dict[TopicPartition, Any] = await self._committed.offsets_for_times(times)
        return {partition: first.offset for partition, first in firsts.items() if first is not None}

    async def with_offsets(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """The partitions that are not empty. Aborted records and markers count, too."""
        ends = await self._ends(self._uncommitted, partitions)
        begins = await self.begins(ends)
        return [partition for partition in ends if begins[partition] < ends[partition]]

    async def tail(
        self, partitions: Collection[TopicPartition], operation: str, since: int
    ) -> Tail:
        """See `read_tail`."""
        return await read_tail(self._committed, self._uncommitted, partitions, operation, since)

    async def unstable_offsets(
        self, partitions: Iterable[TopicPartition]
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """By partition: the high watermark minus the last stable offset; and the high watermark."""
        high = await self._ends(self._uncommitted, partitions)
        stable = await self._ends(self._committed, high)
        behind = {partition: max(0, end - stable[partition]) for partition, end in high.items()}
        return behind, high

    async def _ends(
        self, consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        async with asyncio.timeout(CALL_SECONDS):
            ends: dict[TopicPartition, int] = await consumer.end_offsets(list(partitions))
        return ends


async def read_live_records(
    clients: Clients, partition: TopicPartition, blocked_after: float = BLOCKED_SECONDS
) -> dict[bytes, bytes]:
    """See `Reader.live_records`."""
    async with reading(clients) as reader:
        return await reader.live_records(partition, blocked_after)


async def ends_of(clients: Clients, topics: Iterable[str]) -> dict[TopicPartition, int]:
    """As `Reader.ends`, for a command: the ends of all partitions of the topics that exist."""
    partitions = await partitions_of(clients, topics)
    async with reading(clients) as reader:
        return await reader.ends(partitions, COMMAND_SECONDS)


async def topic_records(
    clients: Clients,
    topics: Iterable[str],
    *,
    since: Instant | None = None,
    hidden: set[str] | None = None,
) -> AsyncGenerator[Sequence[ConsumerRecord], None]:
    """All records of these topics by now (written `since`), by partition, in pieces.

    Without `hidden`, for a caller that decides something: reads to the high watermarks, and raises
    NeedsOperator if an undecided transaction hides them. With a set as `hidden`, for a caller that
    only shows the records: leaves out what is undecided, and adds a hint about it to that set.
    A topic that does not exist holds nothing. Raises Transient or NeedsOperator.
    """
    partitions = sorted(await partitions_of(clients, topics))
    async with reading(clients) as reader:
        if hidden is None:
            ends = await reader.ends(partitions, COMMAND_SECONDS)
        else:
            ends, behind = await reader.decided_ends(partitions)
            hidden |= {*map(hidden_hint, behind)}
        begins: Mapping[TopicPartition, int | None] = dict.fromkeys(partitions)
        if since is not None:
            begins = await reader.written_since(partitions, since)
        for partition, begin in sorted(begins.items()):
            async for records in reader.records(partition, ends[partition], begin):
                yield records


def blocked(partition: TopicPartition) -> StepError:
    """The error for an open transaction of another that hides the end of a partition."""
    return NeedsOperator(
        Stage.RESTORE,
        Reason.STATE_BLOCKED,
        f"an undecided transaction hides the end of {partition.topic}-{partition.partition}:"
        " what was published is not known until it ends, up to 70 seconds after a kill; if it"
        " lasts longer, find it with Kafka's kafka-transactions.sh describe-producers, and end"
        " it with its abort",
    )


def hidden_hint(partition: TopicPartition) -> str:
    """The hint for an answer that leaves out what is undecided in this partition."""
    return (
        f"an undecided transaction hides the end of {partition.topic}-{partition.partition}: this"
        " answer is as old as its begin; ask again in a minute, when Kafka has ended it"
    )


def _tolerate_empty_control_batches() -> None:
    """Make aiokafka skip a control batch without records, which compaction may leave behind.

    Java's client skips it. aiokafka 0.14 raises "Control batch did not contain any records" for
    ever instead, which would end every restore from that partition (measured).
    """
    original = PartitionRecords._contains_abort_marker  # noqa: SLF001 - there is no other way

    def contains_abort_marker(self: Any, next_batch: Any) -> bool:
        try:
            return bool(original(self, next_batch))
        except KafkaError:
            return False

    PartitionRecords._contains_abort_marker = contains_abort_marker  # noqa: SLF001


_tolerate_empty_control_batches()

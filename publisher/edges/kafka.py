"""Kafka as a log of transactions: the takeover, the restore, the commit.

Rules of this file (each one a way in which exactly-once was seen to break):
- Take over first, then read: only the takeover settles our open transaction.
- Every batch's future is awaited before the commit: a failed batch does not
  stop aiokafka from committing the others.
- A producer that saw any error is thrown away: its abort may send nothing, and
  its next commit would publish what was aborted.
- An unknown outcome is never retried; the log tells what happened.
- No transaction is empty: an empty one "commits" even for an owner that was fenced.
- Every wait is bounded.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Iterable
from typing import Any, Final, TypeVar
from uuid import uuid4

import orjson
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    ProducerFenced,
)

from publisher.edges.kafka_batch import Packer, RecordBatch
from publisher.edges.kafka_client import BATCH_BYTES, Clients, discard, translated
from publisher.edges.kafka_reader import bounds, read_live_records
from publisher.edges.kafka_topics import STATE_PARTITIONS, ensure
from publisher.errors import Fenced, OutcomeUnknown, PublisherError, Reason, Stage, StepError
from publisher.flow import Restored
from publisher.model import Batch, Record, StateRecord
from publisher.rules import wire
from publisher.rules.murmur2 import murmur2
from publisher.rules.records import FORMAT, checkpoint_key, decode_checkpoint, operation_of
from publisher.settings import Settings
from publisher.signals import Emit

SEND_SECONDS: Final = 40.0
COMMIT_SECONDS: Final = 15.0
"""Together below the 60 s after which the broker aborts the transaction by itself."""

RECORDS_PER_PRODUCER: Final = 2**30
"""aiokafka counts sequence numbers over 2**31 wrongly: a fresh producer long before."""

NO_HEADERS: Final = wire.headers(())

_T = TypeVar("_T")
Packers = defaultdict[TopicPartition, Packer]
Batches = dict[TopicPartition, list[RecordBatch]]


class Cluster:
    """Kafka for all operations of this process: one shard per state partition in use."""

    def __init__(self, settings: Settings, emit: Emit) -> None:
        self._clients = Clients(settings)
        by_partition: defaultdict[int, list[str]] = defaultdict(list)
        for operation in settings.operations:
            by_partition[partition_of(operation.name)].append(operation.name)
        self._shards = {
            partition: Shard(partition, self._clients, settings, emit) for partition in by_partition
        }

    def log(self, operation: str) -> "OperationLog":
        """The log as this operation sees it; fits `flow.Log`."""
        return OperationLog(operation, self._shards[partition_of(operation)])

    async def close(self) -> bool:
        """End all producers with no transaction left open; True = all of them cleanly."""
        closed = await asyncio.gather(*(shard.close() for shard in self._shards.values()))
        return all(closed)

    async def unstable_offsets(self, topics: Iterable[str]) -> dict[str, int]:
        """High watermark minus last stable offset by topic, summed over its partitions."""
        consumer = self._clients.consumer("read_uncommitted")
        await self._clients.start(consumer)
        try:
            partitions = [
                TopicPartition(topic, partition)
                for topic in topics
                for partition in consumer.partitions_for_topic(topic) or ()
            ]
        finally:
            await discard(consumer)
        high = await bounds(self._clients, partitions)
        stable = await bounds(self._clients, partitions, "read_committed")
        unstable: defaultdict[str, int] = defaultdict(int)
        for partition in partitions:
            unstable[partition.topic] += max(0, high[partition][1] - stable[partition][1])
        return dict(unstable)


class OperationLog:
    """One operation's view of its shard."""

    def __init__(self, operation: str, shard: "Shard") -> None:
        self._operation = operation
        self._shard = shard

    async def restore(self) -> Restored:
        return await self._shard.restore(self._operation)

    async def commit(self, batch: Batch) -> None:
        await self._shard.commit(batch)


def partition_of(operation: str) -> int:
    """The state partition of an operation, for ever: more partitions move nothing."""
    return murmur2(operation.encode()) % STATE_PARTITIONS


class Shard:
    """One partition of the state topic, one transactional producer, its operations."""

    def __init__(self, partition: int, clients: Clients, settings: Settings, emit: Emit) -> None:
        self._clients = clients
        self._settings = settings
        self._emit = emit
        self._state = TopicPartition(settings.publisher.state_topic, partition)
        self._transactional_id = f"{settings.publisher.transactional_id}-{partition}"
        self._instance = uuid4().hex
        self._producer: AIOKafkaProducer | None = None
        self._lock = asyncio.Lock()
        self._ending: set[asyncio.Task[bool]] = set()
        self._sequences: dict[str, int] = {}
        """The last committed sequence number by operation, as the log tells it."""
        self._room: dict[str, int] = {}
        """Largest batch in bytes by topic."""
        self._batch_bytes = BATCH_BYTES
        self._owner_written = False
        self._unsettled = False
        """A transaction of ours may still be open."""
        self._records = 0

    async def restore(self, operation: str) -> Restored:
        """Take over if need be, and read what the log holds of the operation."""
        async with self._lock:
            self._room |= await ensure(self._clients, self._settings, operation, self._emit)
            if self._producer is None:
                await self._take_over()
            live = await self._read()
            records = {key: value for key, value in live.items() if operation_of(key) == operation}
            lost = checkpoint_key(operation) not in records and await self._history_lost(operation)
            return Restored(records, lost)

    async def commit(self, batch: Batch) -> None:
        """One transaction. Raises Stop when only the log can tell what happened."""
        async with self._lock:
            if self._producer is None:
                # Another operation of this shard threw it away; our state may still be true.
                await self._take_over()
                await self._read()
            if self._sequences.get(batch.operation) != batch.follows:
                raise OutcomeUnknown(
                    Reason.OUTCOME_UNKNOWN,
                    "the log has moved on since this window was begun: restoring",
                )
            try:
                await self._transact(self._producer, batch)
            except Exception as error:
                fenced = isinstance(error, ProducerFenced)
                self._throw_away()
                if fenced and await self._somebody_else_writes():
                    self._unsettled = False
                    raise Fenced(
                        f"another process has taken over {self._transactional_id}: only one may"
                        " run; stop it, or give one of the two its own topics and"
                        " PUBLISHER_TRANSACTIONAL_ID"
                    ) from None
                raise _unknown(error) from None
            except BaseException:
                self._throw_away()
                raise
            self._sequences[batch.operation] = batch.sequence
            self._owner_written = True
            if self._records > RECORDS_PER_PRODUCER:
                self._throw_away()

    async def close(self) -> bool:
        """End the producer; where a transaction may be open, settle it first."""
        clean = True
        if self._producer is not None:
            clean = await discard(self._producer, grace=1.0)
            self._producer = None
        if self._ending:
            await asyncio.wait(self._ending, timeout=2.0)
        if self._unsettled:
            # Whoever takes over has the open transaction aborted: we do it ourselves.
            try:
                await asyncio.wait_for(self._take_over(), 2.5)
            except (PublisherError, TimeoutError):
                return False
            assert self._producer is not None
            clean = await discard(self._producer, grace=1.0)
            self._producer = None
        return clean

    async def _take_over(self) -> None:
        """Open a producer with our id: fences any other, aborts its open transaction."""
        if self._ending:
            await asyncio.wait(self._ending)
        self._batch_bytes = min([BATCH_BYTES, *self._room.values()])
        producer = self._clients.producer(self._transactional_id)
        await self._clients.start(producer)
        self._producer = producer
        self._owner_written = self._unsettled = False
        self._records = 0

    async def _read(self) -> dict[bytes, bytes]:
        live = await read_live_records(self._clients, self._state)
        self._sequences = {
            told.operation: told.sequence
            for told in (
                decode_checkpoint(value)
                for key, value in live.items()
                if key.startswith(b"checkpoint/")
            )
        }
        return live

    async def _transact(self, producer: AIOKafkaProducer, batch: Batch) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            batches = await self._build(producer, batch)
        # Nothing was sent so far. From here on the log may hold something of it.
        self._unsettled = True
        async with asyncio.timeout(SEND_SECONDS):
            await producer.begin_transaction()
            sent = await _all(_send(producer, where, those) for where, those in batches.items())
            await _all(future for futures in sent for future in futures)
        async with asyncio.timeout(COMMIT_SECONDS):
            await producer.commit_transaction()
        self._unsettled = False
        self._records += sum(b.record_count() for those in batches.values() for b in those)

    async def _build(self, producer: AIOKafkaProducer, batch: Batch) -> Batches:
        """All record batches of the transaction, complete before it begins."""
        now = time.time_ns() // 1_000_000
        packers: Packers = defaultdict(
            lambda: Packer(now, self._clients.compression, self._batch_bytes)
        )
        messages = self._settings.messages_topic(batch.operation)
        letters = self._settings.dead_letters_topic(batch.operation)
        await self._distribute(producer, packers, messages, batch.events)
        await self._distribute(producer, packers, letters, batch.dead_letters)
        for key, value in [*batch.state, *([] if self._owner_written else [self._owner()])]:
            packers[self._state].append(key, value, NO_HEADERS)
        for packer in packers.values():
            packer.finish()
        return {where: packer.batches for where, packer in packers.items() if packer.batches}

    async def _distribute(
        self, producer: AIOKafkaProducer, packers: Packers, topic: str, records: Iterable[Record]
    ) -> None:
        """Choose partitions as Java's default partitioner would."""
        count = len(await producer.partitions_for(topic))
        appends = [packers[TopicPartition(topic, partition)].append for partition in range(count)]
        for key, value, headers, partition_hash in records:
            appends[partition_hash % count](key, value, headers)

    def _owner(self) -> StateRecord:
        """Who writes here: how a fenced process tells a successor from its own slowness."""
        partition = self._state.partition
        value = {"format": FORMAT, "instance": self._instance, "partition": partition}
        return StateRecord(f"owner/{partition}".encode(), orjson.dumps(value))

    async def _somebody_else_writes(self) -> bool:
        try:
            live = await read_live_records(self._clients, self._state)
            owner = orjson.loads(live[f"owner/{self._state.partition}".encode()])
        except (StepError, LookupError, orjson.JSONDecodeError):
            return False
        return bool(owner.get("instance") != self._instance)

    async def _history_lost(self, operation: str) -> bool:
        """No state anywhere, or a topic of the operation's own, beside events that exist."""
        told = self._settings.publisher
        topic = self._settings.messages_topic(operation)
        if topic == told.messages_topic:
            states = [TopicPartition(told.state_topic, p) for p in range(STATE_PARTITIONS)]
            found = await bounds(self._clients, states)
            if any(begin < end for begin, end in found.values()):
                return False
        assert self._producer is not None
        partitions = await asyncio.wait_for(self._producer.partitions_for(topic), SEND_SECONDS)
        found = await bounds(self._clients, [TopicPartition(topic, p) for p in partitions])
        return any(begin < end for begin, end in found.values())

    def _throw_away(self) -> None:
        """Never use this producer again; it ends beside us, within bounds."""
        if self._producer is not None:
            task = asyncio.create_task(discard(self._producer))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            self._producer = None


async def _send(
    producer: AIOKafkaProducer, where: TopicPartition, batches: list[RecordBatch]
) -> list["asyncio.Future[Any]"]:
    """Hand the batches of one partition over in order; the futures tell when they are safe."""
    return [
        await producer.send_batch(batch, where.topic, partition=where.partition)
        for batch in batches
    ]


async def _all(calls: Iterable[Awaitable[_T]]) -> list[_T]:
    """The results of all; where some failed, the first failure, once all have ended."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    good = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        good.append(result)
    return good


def _unknown(error: Exception) -> OutcomeUnknown:
    """What a failure in a transaction means; whether it happened, only the log can tell."""
    if isinstance(error, MessageSizeTooLargeError):
        return OutcomeUnknown(
            Reason.KAFKA_TOPIC,
            "a topic takes smaller records than we write: raise its max.message.bytes, or lower"
            " PUBLISHER_MAX_EVENT_BYTES",
            needs_person=True,
        )
    if isinstance(error, TimeoutError | KafkaTimeoutError):
        return OutcomeUnknown(
            Reason.KAFKA_TIMEOUT,
            "Kafka did not take a transaction in time: it is overloaded, restarting or cut off,"
            " or its disk is full",
            overloaded=True,
        )
    if isinstance(error, ProducerFenced):
        return OutcomeUnknown(
            Reason.KAFKA_TIMEOUT,
            "Kafka aborted our transaction because it took too long",
            overloaded=True,
        )
    if isinstance(error, KafkaError | OSError):
        told = translated(error, Stage.COMMIT)
        return OutcomeUnknown(told.reason, str(told), needs_person=told.needs_person)
    raise error

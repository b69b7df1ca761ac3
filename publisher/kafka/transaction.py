"""Builds, sends and commits a transaction.

The transaction carries events and the state that explains them, so that both are published or
neither is.

Rules of this file (each prevents a way in which exactly-once was seen to break):
- A transaction begins only when all its batches are built.
- The state goes last, when everything else is acknowledged. If a transaction was cut in spite of
  all rules, it would repeat messages instead of losing them.
- The future of every batch is awaited before the commit: a failed batch does not
  stop aiokafka from committing the others.
- No transaction is empty: an empty one "commits" even for an owner that was fenced.
- Every wait is bounded.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import IllegalOperation, InvalidTxnState

from publisher.events import kafka_record
from publisher.kafka.record_batch import RecordBatch, pack
from publisher.model import Record, StateRecord

SEND_SECONDS: Final = 16.0
"""Longest wait until all events are acknowledged, and then again until the state is."""
COMMIT_SECONDS: Final = 15.0
"""Longest wait for the commit.

Each wait is long enough for another broker to take over, because a request is given up after 10 s.
All waits together stay below the 60 s after which the broker aborts the transaction by itself.
aiokafka alone would try for ever."""

Batches: TypeAlias = dict[TopicPartition, list[RecordBatch]]

_NO_HEADERS: Final = kafka_record.headers(())
_CONSEQUENCES: Final = (IllegalOperation, InvalidTxnState)
"""The errors of the other partitions if Kafka refuses a partition."""


async def build(
    producer: AIOKafkaProducer,
    records_by_topic: Iterable[tuple[str, Iterable[Record]]],
    state_partition: TopicPartition,
    state: Sequence[StateRecord],
    compression: str | None,
    limit_bytes: int,
) -> Batches:
    """All record batches of a transaction, of at most `limit_bytes` before compression.

    `records_by_topic` holds topics with their records, which are consumed in this order. Partitions
    are chosen as Java's default partitioner would.
    """
    timestamp_ms = time.time_ns() // 1_000_000
    unpacked: dict[TopicPartition, list[Record]] = {}
    for topic, records in records_by_topic:
        async with asyncio.timeout(SEND_SECONDS):
            partition_count = len(await producer.partitions_for(topic))
        partitions = [
            unpacked.setdefault(TopicPartition(topic, number), [])
            for number in range(partition_count)
        ]
        for record in records:
            partitions[record[0] % partition_count].append(record)
    unpacked[state_partition] = [
        kafka_record.record(0, key, value, _NO_HEADERS) for key, value in state
    ]
    # Partitions are taken out singly: once packed, their records need not be kept in full size.
    return {
        partition: batches
        for partition in [*unpacked]
        if (batches := pack(unpacked.pop(partition), timestamp_ms, compression, limit_bytes))
    }


async def send_and_commit(
    producer: AIOKafkaProducer, batches: Batches, state_partition: TopicPartition
) -> dict[TopicPartition, int]:
    """Publish all batches or none. After any error only the log can show which.

    Returns the first offset written to in every partition, except that of the state.
    """
    state = {state_partition: batches.pop(state_partition)}
    async with asyncio.timeout(SEND_SECONDS):
        await producer.begin_transaction()
        if batches:
            # The state's partition is announced together with the partitions of the events, which
            # saves the coordinator a request. Without events it is not announced here: its own
            # batch then reports why Kafka refuses it.
            producer._txn_manager.maybe_add_partition_to_txn(state_partition)  # noqa: SLF001
        offsets = await _send_all(producer, batches)
    async with asyncio.timeout(SEND_SECONDS):
        await _send_all(producer, state)
    async with asyncio.timeout(COMMIT_SECONDS):
        await producer.commit_transaction()
    return offsets


async def _send_all(producer: AIOKafkaProducer, batches: Batches) -> dict[TopicPartition, int]:
    """Send the batches, await their acknowledgements, return the first offset by partition."""
    sent: list[asyncio.Future[Any]] = []
    failures = await _failures(
        _send(producer, partition, ordered, sent) for partition, ordered in batches.items()
    )
    if failures and sent:
        # Once a batch is refused, aiokafka takes no other. The refused batch has the cause.
        sent = list((await asyncio.wait(sent, timeout=1.0))[0])
    failures += await _failures(sent)
    if failures:
        try:
            raise min(failures, key=lambda failure: isinstance(failure, _CONSEQUENCES))
        finally:
            # The error refers to this frame, and this frame to the error. That cycle would keep the
            # batches of every failed window until a garbage collection.
            failures, sent = [], []
    stored = [future.result() for future in reversed(sent)]
    # The offset is below 0 if Kafka recognised a repeated batch: that answer names no offset.
    return {written.topic_partition: written.offset for written in stored if written.offset >= 0}


async def _send(
    producer: AIOKafkaProducer,
    partition: TopicPartition,
    batches: list[RecordBatch],
    sent: list["asyncio.Future[Any]"],
) -> None:
    """Hand over the batches of a partition in order. Appends their futures to `sent`."""
    for batch in batches:
        future = await producer.send_batch(batch, partition.topic, partition=partition.partition)
        sent.append(future)


async def _failures(calls: Iterable[Awaitable[Any]]) -> list[BaseException]:
    """The exceptions of the calls that failed, once all calls have ended."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    return [result for result in results if isinstance(result, BaseException)]

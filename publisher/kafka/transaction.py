"""One transaction of one producer: built whole, then sent, awaited and committed.

Rules of this file (each one a way in which exactly-once was seen to break):
- It begins only when every batch is built.
- The state goes last, when everything else is acknowledged: a transaction that was cut in
  spite of all rules would repeat messages instead of losing them.
- Every batch's future is awaited before the commit: a failed batch does not
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
"""Longest wait until all events are acknowledged, and then until the state is."""
COMMIT_SECONDS: Final = 15.0
"""Each is long enough for another broker to take over: a request is given up after 10 s. All of
them are together below the 60 s after which the broker aborts the transaction by itself. aiokafka
alone would go on trying for ever."""

Batches: TypeAlias = dict[TopicPartition, list[RecordBatch]]

_NO_HEADERS: Final = kafka_record.headers(())
_CONSEQUENCES: Final = (IllegalOperation, InvalidTxnState)
"""How the others fail when one partition is refused."""


async def build(
    producer: AIOKafkaProducer,
    to: Iterable[tuple[str, Iterable[Record]]],
    state_partition: TopicPartition,
    state: Sequence[StateRecord],
    compression: str | None,
    limit: int,
) -> Batches:
    """All record batches of a transaction, of at most `limit` bytes uncompressed.

    `to` holds topics with what goes there; their iterables are consumed in this
    order. Partitions are chosen as Java's default partitioner would.
    """
    now = time.time_ns() // 1_000_000
    records: dict[TopicPartition, list[Record]] = {}
    for topic, those in to:
        async with asyncio.timeout(SEND_SECONDS):
            count = len(await producer.partitions_for(topic))
        partitions = [
            records.setdefault(TopicPartition(topic, number), []) for number in range(count)
        ]
        for record in those:
            partitions[record[0] % count].append(record)
    records[state_partition] = [
        kafka_record.record(0, key, value, _NO_HEADERS) for key, value in state
    ]
    # Taken out one by one: what is packed need not be kept in its full size.
    return {
        where: batches
        for where in [*records]
        if (batches := pack(records.pop(where), now, compression, limit))
    }


async def send_and_commit(
    producer: AIOKafkaProducer, batches: Batches, state_partition: TopicPartition
) -> dict[TopicPartition, int]:
    """All or nothing. After any error only the log can tell which.

    Returns where each partition was written to, but for the state's.
    """
    state = {state_partition: batches.pop(state_partition)}
    async with asyncio.timeout(SEND_SECONDS):
        await producer.begin_transaction()
        if batches:
            # Announced with the partitions of the events, which saves the coordinator a request.
            # Alone it is not: what refuses it is told by the batch that is sent there.
            producer._txn_manager.maybe_add_partition_to_txn(state_partition)  # noqa: SLF001
        offsets = await _send_all(producer, batches)
    async with asyncio.timeout(SEND_SECONDS):
        await _send_all(producer, state)
    async with asyncio.timeout(COMMIT_SECONDS):
        await producer.commit_transaction()
    return offsets


async def _send_all(producer: AIOKafkaProducer, batches: Batches) -> dict[TopicPartition, int]:
    """Send these, and return when all are acknowledged: the first offset of each partition."""
    sent: list[asyncio.Future[Any]] = []
    failures = await _failures(
        _send(producer, where, those, sent) for where, those in batches.items()
    )
    if failures and sent:
        # Once a batch is refused no other is taken; the refused one tells why.
        sent = list((await asyncio.wait(sent, timeout=1.0))[0])
    failures += await _failures(sent)
    if failures:
        try:
            raise min(failures, key=lambda failure: isinstance(failure, _CONSEQUENCES))
        finally:
            # The error holds this frame, and this frame the error: with them the batches of
            # each failed window would wait for a garbage collection.
            failures, sent = [], []
    stored = [future.result() for future in reversed(sent)]
    # Below 0 where a repeated batch was recognised: that answer does not say where it lies.
    return {batch.topic_partition: batch.offset for batch in stored if batch.offset >= 0}


async def _send(
    producer: AIOKafkaProducer,
    where: TopicPartition,
    batches: list[RecordBatch],
    sent: list["asyncio.Future[Any]"],
) -> None:
    """Hand the batches of one partition over in order; the futures tell when they are safe."""
    for batch in batches:
        future = await producer.send_batch(batch, where.topic, partition=where.partition)
        sent.append(future)


async def _failures(calls: Iterable[Awaitable[Any]]) -> list[BaseException]:
    """How those failed that did, once all have ended."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    return [result for result in results if isinstance(result, BaseException)]

"""Batches that we write ourselves are what a client reads, and no larger than they may be."""

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import Any, TypeAlias

from aiokafka import TopicPartition
from aiokafka.errors import KafkaTimeoutError
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.events import kafka_record
from publisher.events.murmur2 import murmur2
from publisher.kafka.record_batch import RecordBatch, pack
from publisher.kafka.transaction import send_and_commit
from publisher.model import Record

Told: TypeAlias = list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]]

TIME = 1_780_000_000_123
BYTES = st.one_of(st.binary(max_size=40), st.binary(min_size=4_080, max_size=4_200))
HEADERS = st.lists(st.tuples(st.text(max_size=10), st.binary(max_size=200)), max_size=12)
RECORDS = st.lists(st.tuples(st.none() | BYTES, st.none() | BYTES, HEADERS), max_size=30)


def written(
    records: Told,
) -> list[Record]:
    return [
        kafka_record.record(murmur2(key or b""), key, value, kafka_record.headers(headers))
        for key, value, headers in records
    ]


@settings(max_examples=150, deadline=None)
@given(
    RECORDS,
    st.sampled_from([None, "gzip", "snappy", "lz4", "zstd"]),
    st.sampled_from([100, 4_400, 9_000, 1_048_588]),
)
def test_a_client_reads_what_was_packed(
    records: Told,
    compression: str | None,
    limit: int,
) -> None:
    """Key, value, headers, order and time; each batch within the limit, or of one record."""
    found: Told = []
    for batch in pack(written(records), TIME, compression, limit):
        batch._set_producer_state(7, 3, len(found))
        assert batch.size() == len(batch._build())
        assert batch.size() <= limit or batch.record_count() == 1
        read = DefaultRecordBatch(bytearray(batch._build()))
        assert read.validate_crc()
        assert read.is_transactional
        those = list(read)
        assert [one.offset for one in those] == list(range(batch.record_count()))
        assert {one.timestamp for one in those} <= {TIME}
        found += [(one.key, one.value, list(one.headers)) for one in those]
    assert found == records


def test_thousands_of_small_records_fill_one_batch() -> None:
    """More than the tables of lengths and offsets hold."""
    records = written([(b"k", b"%d" % number, []) for number in range(10_000)])
    [batch] = pack(records, TIME, "zstd", 1_048_588)
    batch._set_producer_state(1, 0, 0)
    read = [one.value for one in DefaultRecordBatch(bytearray(batch._build()))]
    assert read == [b"%d" % number for number in range(10_000)]


class Refusing:
    """A producer whose broker takes no batch."""

    _txn_manager = SimpleNamespace(maybe_add_partition_to_txn=lambda _: None)

    async def begin_transaction(self) -> None:
        pass

    async def send_batch(self, *_: Any, **__: Any) -> asyncio.Future[None]:
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        refused.set_exception(KafkaTimeoutError())
        return refused


async def test_what_could_not_be_sent_is_let_go_at_once() -> None:
    """Not only when garbage is collected, which the service seldom does: a window may be 10 MB."""
    gc.collect()
    gc.disable()
    try:
        batch = RecordBatch(1, b"x", TIME, None)
        gone = weakref.ref(batch)
        batches = {TopicPartition("t", 0): [batch]}
        del batch
        failed = False
        try:
            await send_and_commit(Refusing(), batches, TopicPartition("t", 0))
        except KafkaTimeoutError:
            failed = True
        del batches
        await asyncio.sleep(0)  # the loop forgets the last calls
        assert failed
        assert gone() is None
    finally:
        gc.enable()

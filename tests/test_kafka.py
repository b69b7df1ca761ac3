"""The log on a real broker, and every way in which exactly-once was seen to break there."""

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.partitioner import DefaultPartitioner

from publisher.errors import (
    NeedsOperator,
    OutcomeUnknown,
    PublisherError,
    Reason,
    StateUncertain,
    Transient,
)
from publisher.events import kafka_record
from publisher.events.murmur2 import murmur2
from publisher.kafka import (
    clients as kafka_client,
)
from publisher.kafka import (
    epoch as kafka_epoch,
)
from publisher.kafka import (
    reader as kafka_reader,
)
from publisher.kafka import (
    topics as kafka_topics,
)
from publisher.kafka import (
    transaction as kafka_transaction,
)
from publisher.kafka.clients import Clients, report_unless_told
from publisher.kafka.cluster import Cluster, partition_of
from publisher.kafka.reader import read_live_records
from publisher.model import Batch, Record
from publisher.signals import HintGiven, Signal, TopicCreated
from publisher.state import checkpoint as state_records
from publisher.state import state
from sandbox.kafka import Broker
from tests import kafka_tools
from tests.fakes import Author, event, same, settings_of

Env = dict[str, str]
OPERATION = "wv0010"
SECONDS = 1000


class Publisher:
    """One process, as far as Kafka sees it."""

    def __init__(self, environment: Env, stack: AsyncExitStack) -> None:
        self.settings = settings_of(environment, OPERATION)
        self.signals: list[Signal] = []
        self.cluster = Cluster(self.settings, self.signals.append)
        self.log = self.cluster.log(OPERATION)
        self.author = Author(OPERATION)
        told = self.settings.publisher
        self.messages, self.letters = told.messages_topic, told.dead_letters_topic
        self.state = TopicPartition(told.state_topic, partition_of(OPERATION))
        self.bootstrap = self.settings.kafka.bootstrap_servers
        self.topics = (self.messages, self.letters, told.state_topic)
        stack.push_async_callback(self.cluster.close)

    async def begin(self) -> None:
        """The first start."""
        await self.log.restore()
        await self.log.commit(self.author.first())

    async def write(self, *events: Record, letters: Iterable[Record] = ()) -> None:
        await self.log.commit(self.author.window(events, letters))
        self.author.committed()

    async def agrees(self) -> bool:
        """Whether a restore tells exactly what the author knows."""
        told = await self.log.restore()
        return same(state.restore(OPERATION, told.records), self.author.state)

    async def texts(self) -> list[str]:
        found = await kafka_tools.read(self.bootstrap, self.messages)
        return [record.value.decode() for record in found]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def publisher(topics: Env, stack: AsyncExitStack) -> Publisher:
    """A process that has made its first start."""
    publisher = Publisher(topics, stack)
    await publisher.begin()
    return publisher


def hola(text: str, key: str | None = "186067512") -> Record:
    return event(key, text.encode())


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that no codec makes smaller."""
    return random.Random(seed).randbytes(size)


def impatient(monkeypatch: pytest.MonkeyPatch, seconds: float = 1.5) -> None:
    monkeypatch.setattr(kafka_epoch, "EPOCH_SECONDS", seconds)
    monkeypatch.setattr(kafka_transaction, "SEND_SECONDS", seconds)
    monkeypatch.setattr(kafka_transaction, "COMMIT_SECONDS", seconds)


# --- what is written ------------------------------------------------------------------


async def test_records_are_stamped_with_the_moment_of_publishing(publisher: Publisher) -> None:
    """Also a message of years ago: retention by time and Kafka's own checks go by it."""
    before = time.time() * SECONDS
    await publisher.write(hola('{"occurred_at":"2019-01-01T00:00:00Z"}'), letters=[hola("bad")])
    for topic in publisher.topics:
        for record in await kafka_tools.read(publisher.bootstrap, topic):
            assert record.timestamp_type == 0
            assert before - 5000 <= record.timestamp <= time.time() * SECONDS


async def test_keys_go_where_java_sends_them(publisher: Publisher) -> None:
    """Java's own test vectors of murmur2, and the partitions of its default partitioner."""
    java = {  # org.apache.kafka.common.utils.UtilsTest.testMurmur2
        "21": -973932308,
        "foobar": -790332482,
        "a-little-bit-long-string": -985981536,
        "a-little-bit-longer-string": -1486304829,
        "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        "abc": 479470107,
    }
    for text, hash_ in java.items():
        assert murmur2(text.encode()) == hash_ & 0x7FFFFFFF
    keys = [*java, *(str(186_000_000 + 7919 * number) for number in range(50)), "ñandú"]
    await publisher.write(*(event(key, key.encode()) for key in keys))
    found = await kafka_tools.read(publisher.bootstrap, publisher.messages)
    assert sorted(record.key.decode() for record in found) == sorted(keys)
    all_ = list(range(6))
    for record in found:
        assert record.partition == murmur2(record.key) % 6
        assert record.partition == DefaultPartitioner()(record.key, all_, all_)


async def test_headers_keys_and_values_arrive_as_they_are(publisher: Publisher) -> None:
    """Empty, long and without a key; every size around the ends of a varint's bytes."""
    headers = [("empty", b""), ("ñ", "ñandú".encode()), ("long", noise(20_000)), ("empty", b"x")]
    sizes = [0, 1, 62, 63, 64, 65, 8190, 8191, 8192, 8193, 70_000]
    sent = [(b"k" * size or None, noise(size), headers[: size % 5]) for size in sizes]
    records = [
        kafka_record.record(0, key, value, kafka_record.headers(told)) for key, value, told in sent
    ]
    await publisher.write(*records)
    found = await kafka_tools.read(publisher.bootstrap, publisher.messages)
    assert [r.value for r in found] == [kafka_record.value_of(record) for record in records]
    assert [(r.key, r.value, list(r.headers)) for r in found] == sent


async def test_every_codec_is_understood(topics: Env, stack: AsyncExitStack) -> None:
    """By the broker, which checks each batch, and by a reader."""
    author, sent = Author(OPERATION), []
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        publisher = Publisher({**topics, "KAFKA_COMPRESSION_TYPE": codec}, stack)
        publisher.author = author
        if not (await publisher.log.restore()).records:
            await publisher.log.commit(author.first())
        texts = [f"{codec} {number} " + "hola " * 100 for number in range(50)]
        sent += texts
        await publisher.write(*(hola(text) for text in texts))
        assert await publisher.agrees()
    assert await publisher.texts() == sent


async def test_the_largest_event_fits_the_topic_we_create(publisher: Publisher) -> None:
    """A million bytes that cannot be compressed, with the largest headers, beside small ones."""
    headers = kafka_record.headers([("conversation", noise(16_384))])
    largest = kafka_record.record(0, b"1", noise(1_000_000), headers)
    await publisher.write(hola("small"), largest, largest, hola("small too"), letters=[largest])
    found = await kafka_tools.read(publisher.bootstrap, publisher.messages)
    assert sorted(len(record.value) for record in found) == [5, 9, 1_000_000, 1_000_000]


async def test_a_large_window_keeps_the_order_of_each_conversation(publisher: Publisher) -> None:
    """20,000 events in many batches, all there, each conversation in its own order."""
    rng = random.Random(5)
    sent: defaultdict[bytes, list[bytes]] = defaultdict(list)
    events = []
    for number in range(20_000):
        key, value = str(rng.randrange(300)), b"%d %b" % (number, rng.randbytes(150))
        sent[key.encode()].append(value)
        events.append(event(key, value))
    await publisher.write(*events)
    got: defaultdict[bytes, list[bytes]] = defaultdict(list)
    found = await kafka_tools.read(publisher.bootstrap, publisher.messages)
    for record in found:
        got[record.key].append(record.value)
    assert got == sent
    assert len(found) == 20_000


async def test_one_transaction_after_the_other(publisher: Publisher) -> None:
    """Many small windows in a row: sequence numbers go on, and the state is always right."""
    for number in range(30):
        await publisher.write(hola(str(number)), hola(f"{number}b", None))
    assert await publisher.agrees()
    assert len(await publisher.texts()) == 60


# --- the topics -----------------------------------------------------------------------


async def configs(bootstrap: str, topic: str) -> dict[str, str]:
    async with kafka_tools.administering(bootstrap) as admin:
        kind = ConfigResourceType.TOPIC
        (response,) = await admin.describe_configs([ConfigResource(kind, topic)])
        return {entry[0]: entry[1] for entry in response.resources[0][4]}


async def test_missing_topics_are_created_as_they_must_be(publisher: Publisher) -> None:
    """The state is compacted, the others are not; who listens is told."""
    created = {s.topic: s.partitions for s in publisher.signals if isinstance(s, TopicCreated)}
    assert created == dict(zip(publisher.topics, (6, 1, 12), strict=True))
    told = await configs(publisher.bootstrap, publisher.state.topic)
    assert told["cleanup.policy"] == "compact"
    assert int(told["delete.retention.ms"]) >= 86_400_000
    assert told["message.timestamp.type"] == "CreateTime"
    for topic in (publisher.messages, publisher.letters):
        assert (await configs(publisher.bootstrap, topic))["cleanup.policy"] == "delete"


async def test_brokers_that_create_topics_by_themselves(
    tmp_path: Path, stack: AsyncExitStack
) -> None:
    """No way of looking for topics creates them there: they get our settings all the same."""
    overrides = {"auto.create.topics.enable": "true"}  # Kafka's own default
    with Broker(tmp_path, overrides=overrides) as broker:
        publisher = Publisher({"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}, stack)
        clients = Clients(publisher.settings)
        assert await publisher.cluster.unstable_offsets(publisher.topics) == {}
        producer, consumer = clients.producer("looks"), clients.consumer("read_committed")
        async with clients.using(producer, consumer):
            consumer.assign([publisher.state])
            for look in (producer.partitions_for(publisher.messages), consumer.getone()):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(look, 0.5)
        await publisher.begin()
        created = {told.topic for told in publisher.signals if isinstance(told, TopicCreated)}
        assert created == set(publisher.topics)
        await publisher.cluster.close()


async def test_large_events_get_large_topics(topics: Env, stack: AsyncExitStack) -> None:
    """max.message.bytes follows PUBLISHER_MAX_EVENT_BYTES, and such an event goes through."""
    publisher = Publisher({**topics, "PUBLISHER_MAX_EVENT_BYTES": "3000000"}, stack)
    await publisher.begin()
    told = await configs(publisher.bootstrap, publisher.messages)
    assert int(told["max.message.bytes"]) >= 3_020_480
    await publisher.write(kafka_record.record(0, b"1", noise(3_000_000), kafka_record.headers(())))
    assert len(await kafka_tools.read(publisher.bootstrap, publisher.messages)) == 1


WRONG = {
    "state not compacted": (
        "STATE", 12, {"cleanup_policy": "delete"}, "=delete: with anything but compact",
    ),
    "state compacted and deleted": (
        "STATE", 12, {"cleanup_policy": "compact,delete"},
        "=compact,delete: with anything but compact",
    ),
    "state with too few partitions": (
        "STATE", 3, {"cleanup_policy": "compact"}, "3 partitions and needs 12",
    ),
    "state with small records": (
        "STATE", 12, {"cleanup_policy": "compact", "max_message_bytes": "1000"},
        "1000 bytes (max.message.bytes): set",
    ),
    "messages compacted": (
        "MESSAGES", 6, {"cleanup_policy": "compact"}, "is compacted: that would",
    ),
    "messages with small records": (
        "MESSAGES", 6, {"max_message_bytes": "500000"}, "PUBLISHER_MAX_EVENT_BYTES",
    ),
    "dead letters with small records": (
        "DEAD_LETTERS", 1, {"max_message_bytes": "500000"}, "raise it to",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
async def test_a_topic_that_would_not_work_is_refused(
    topics: Env, stack: AsyncExitStack, case: str
) -> None:
    """In one line that names the topic, what is wrong and what to do; nothing is written."""
    which, partitions, config, words = WRONG[case]
    topic = topics[f"PUBLISHER_{which}_TOPIC"]
    await kafka_tools.create(topics["KAFKA_BOOTSTRAP_SERVERS"], topic, partitions, **config)
    with pytest.raises(NeedsOperator) as raised:
        await Publisher(topics, stack).log.restore()
    assert raised.value.reason is Reason.KAFKA_TOPIC
    text = str(raised.value)
    assert topic in text
    assert words in text
    assert "\n" not in text


async def test_more_partitions_than_we_create_are_welcome(
    topics: Env, stack: AsyncExitStack
) -> None:
    """The state of an operation stays where it is: its hash modulo 12, for ever."""
    bootstrap, topic = topics["KAFKA_BOOTSTRAP_SERVERS"], topics["PUBLISHER_STATE_TOPIC"]
    await kafka_tools.create(bootstrap, topic, 15, cleanup_policy="compact")
    publisher = Publisher(topics, stack)
    await publisher.begin()
    await publisher.write(hola("one"))
    assert await publisher.agrees()
    assert {record.partition for record in await kafka_tools.read(bootstrap, topic)} == {
        partition_of(OPERATION)
    }


# --- what goes wrong in a transaction -----------------------------------------------------


async def test_a_record_that_the_topic_refuses_takes_the_whole_window_with_it(
    publisher: Publisher,
) -> None:
    """Nothing of that transaction becomes visible, and the next one is right (hazards 1 and 2)."""
    await publisher.write(hola("one"))
    await kafka_tools.configure(
        publisher.bootstrap, publisher.messages, {"max.message.bytes": "20000"}
    )
    # More batches behind the first.
    large = [kafka_record.record(3, b"1", noise(300_000), kafka_record.headers(()))] * 10
    with pytest.raises(OutcomeUnknown) as raised:
        await publisher.write(hola("lost"), *large, hola("lost", None), letters=[hola("lost")])
    assert raised.value.reason is Reason.KAFKA_TOPIC
    assert raised.value.needs_person
    assert "max.message.bytes" in str(raised.value)
    with pytest.raises(NeedsOperator, match=r"max\.message\.bytes"):
        await publisher.log.restore()
    await kafka_tools.configure(publisher.bootstrap, publisher.messages, {})
    assert await publisher.agrees()
    await publisher.write(hola("two"))
    assert await publisher.texts() == ["one", "two"]
    assert await kafka_tools.read(publisher.bootstrap, publisher.letters) == []
    assert await publisher.agrees()


async def test_a_deleted_topic_is_made_again(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted while we run: the window fails in time, the restore creates the topic."""
    await publisher.write(hola("gone"))
    await kafka_tools.delete(publisher.bootstrap, publisher.messages)
    impatient(monkeypatch)
    began = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        await publisher.write(hola("two"))
    assert time.monotonic() - began < 5
    assert await publisher.agrees()
    await publisher.write(hola("two"))
    assert await publisher.texts() == ["two"]


async def test_a_deleted_state_topic_is_held(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was published is no longer known: refused, while the events are still there."""
    await publisher.write(hola("one"))
    await kafka_tools.delete(publisher.bootstrap, publisher.state.topic)
    impatient(monkeypatch)
    with pytest.raises(PublisherError):
        await publisher.write(hola("two"))
    assert (await publisher.log.restore()).history_lost
    assert await publisher.texts() == ["one"]


@pytest.mark.parametrize("cut", range(0, 8, 2))
async def test_a_window_is_all_or_nothing(
    publisher: Publisher, stack: AsyncExitStack, topics: Env, cut: int
) -> None:
    """Whoever dies anywhere in a commit: events, dead letters, journal, checkpoint agree."""
    await publisher.write(hola("before"))
    batch = publisher.author.window(
        [hola(f"in {n}", str(n)) for n in range(30)], dead_letters=[hola("bad")]
    )
    task = asyncio.create_task(publisher.log.commit(batch))
    for _ in range(cut * 4):  # so many turns of the loop further on each time
        await asyncio.sleep(0)
    await asyncio.sleep(cut * 0.002)
    task.cancel()
    committed = False
    with suppress(asyncio.CancelledError):
        await task
        committed = True
    successor = Publisher(topics, stack)
    told = state.restore(OPERATION, (await successor.log.restore()).records)
    assert told is not None
    happened = told.checkpoint.sequence == 2
    assert happened or not committed
    assert len(told.journal) == told.checkpoint.sequence
    texts = await publisher.texts()
    letters = await kafka_tools.read(publisher.bootstrap, publisher.letters)
    assert len(texts) == (31 if happened else 1)
    assert len(letters) == happened
    assert await kafka_tools.open_transactions(publisher.bootstrap, *publisher.topics) == 0


class Halting(AIOKafkaProducer):  # type: ignore[misc]
    """The real producer, which stops for ever at the commit, everything being sent."""

    async def commit_transaction(self) -> None:
        await asyncio.Event().wait()


async def test_a_stop_in_the_middle_leaves_no_transaction_open(
    topics: Env, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled between the records and the commit: close() settles it, and readers go on."""
    publisher = Publisher(topics, stack)
    await publisher.begin()
    await publisher.write(hola("one"))
    await publisher.cluster.close()
    monkeypatch.setattr(kafka_client, "AIOKafkaProducer", Halting)
    assert await publisher.agrees()
    task = asyncio.create_task(publisher.write(hola("two"), letters=[hola("bad")]))
    # Journal, checkpoint and owner lie in the state topic.
    sent = {publisher.messages: 1, publisher.letters: 1, publisher.state.topic: 3}
    unstable = publisher.cluster.unstable_offsets
    async with asyncio.timeout(10):
        while await unstable(publisher.topics) != sent:  # noqa: ASYNC110 - Kafka does not call us
            await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])
    began = time.monotonic()
    assert await publisher.cluster.close()
    assert time.monotonic() - began < 5
    assert await kafka_tools.open_transactions(publisher.bootstrap, *publisher.topics) == 0
    assert set((await publisher.cluster.unstable_offsets(publisher.topics)).values()) <= {0}
    assert await publisher.texts() == ["one"]


async def test_closing_when_nothing_is_open_is_quick(publisher: Publisher) -> None:
    """A stop between two windows takes no time, and may come twice."""
    await publisher.write(hola("one"))
    began = time.monotonic()
    assert await publisher.cluster.close()
    assert await publisher.cluster.close()
    assert time.monotonic() - began < 1


# --- the broker dies, halts, comes back -------------------------------------------------


async def persist(publisher: Publisher, *texts: str) -> None:
    """Write a window as the flow does: after a failure restore, and again if it is not there."""
    async with asyncio.timeout(60):
        while True:
            sequence = publisher.author.state.checkpoint.sequence + 1
            try:
                await publisher.write(*(hola(text, text) for text in texts))
            except StateUncertain:
                told = await _restored(publisher)
                if told.checkpoint.sequence < sequence:
                    continue
                publisher.author.committed()
            except Transient:
                await asyncio.sleep(0.2)
                continue
            return


async def _restored(publisher: Publisher) -> state.State:
    while True:
        try:
            told = state.restore(OPERATION, (await publisher.log.restore()).records)
        except Transient:
            await asyncio.sleep(0.2)
        else:
            assert told is not None
            return told


async def test_a_broker_that_is_killed_during_a_commit(publisher: Publisher, kafka: Broker) -> None:
    """A kill -9 at some moment of a commit, and a restart: each event is there once."""
    texts = [str(number) for number in range(20)]
    task = asyncio.create_task(persist(publisher, *texts))
    await asyncio.sleep(random.uniform(0, 0.01))
    await asyncio.to_thread(kafka.kill)
    await asyncio.to_thread(kafka.start)
    await task
    await persist(publisher, "after")
    assert sorted(await publisher.texts()) == sorted([*texts, "after"])
    assert await publisher.agrees()
    assert await kafka_tools.open_transactions(publisher.bootstrap, *publisher.topics) == 0


async def test_while_the_broker_is_away_every_wait_is_bounded(
    publisher: Publisher, kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """commit, restore and close end, each with its own text; afterwards all is right."""
    await publisher.write(hola("one"))
    impatient(monkeypatch)
    await asyncio.to_thread(kafka.kill)
    try:
        began = time.monotonic()
        with pytest.raises(OutcomeUnknown) as unknown:
            await publisher.write(hola("two"))
        assert time.monotonic() - began < 4
        assert unknown.value.reason in (Reason.KAFKA_TIMEOUT, Reason.KAFKA_UNREACHABLE)
        began = time.monotonic()
        with pytest.raises(Transient) as away:
            await publisher.log.restore()
        assert time.monotonic() - began < 8
        assert away.value.reason is Reason.KAFKA_UNREACHABLE
        assert "nobody listens there" in str(away.value)
        began = time.monotonic()
        assert not await publisher.cluster.close()
        assert time.monotonic() - began < 10
    finally:
        await asyncio.to_thread(kafka.start)
    assert await publisher.agrees()
    await publisher.write(hola("two"))
    assert await publisher.texts() == ["one", "two"]


async def test_a_broker_that_halts_for_a_while(
    publisher: Publisher, kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen longer than we wait: too slow, said so; the log tells what became of the window."""
    await publisher.write(hola("one"))
    impatient(monkeypatch)
    await asyncio.to_thread(kafka.freeze)
    try:
        with pytest.raises(OutcomeUnknown) as raised:
            await publisher.write(hola("two"))
        assert raised.value.overloaded
    finally:
        await asyncio.to_thread(kafka.thaw)
        await kafka_tools.awake(kafka.bootstrap)
    assert await publisher.agrees()
    await publisher.write(hola("two"))
    assert await publisher.texts() == ["one", "two"]
    assert await publisher.agrees()


async def test_a_broker_that_halts_for_a_moment_goes_unnoticed(
    publisher: Publisher, kafka: Broker
) -> None:
    """Frozen for less than we wait: the commit just takes longer."""
    await asyncio.to_thread(kafka.freeze)
    task = asyncio.create_task(publisher.write(hola("one")))
    await asyncio.sleep(2)
    assert not task.done()
    await asyncio.to_thread(kafka.thaw)
    await task
    await kafka_tools.awake(kafka.bootstrap)
    assert await publisher.texts() == ["one"]


# --- reading the state to its true end -----------------------------------------------------


async def test_a_foreign_transaction_that_hides_the_tail_is_refused(publisher: Publisher) -> None:
    """An older state would be taken for the newest (hazard 4); once it ends all is there."""
    clients = Clients(publisher.settings)
    await publisher.write(hola("one"))
    async with kafka_tools.producing(publisher.bootstrap, transactional_id="foreign") as foreign:
        await foreign.begin_transaction()
        await foreign.send_and_wait(
            publisher.state.topic, b"x", b"foreign", partition=publisher.state.partition
        )
        await publisher.write(hola("two"))
        began = time.monotonic()
        with pytest.raises(NeedsOperator) as raised:
            await read_live_records(clients, publisher.state, blocked_after=0.5)
        assert time.monotonic() - began < 3
        assert raised.value.reason is Reason.STATE_BLOCKED
        where = f"{publisher.state.topic}-{publisher.state.partition}"
        assert f"{where}: what was published is not known until it ends" in str(raised.value)
        reading = asyncio.create_task(read_live_records(clients, publisher.state))
        await asyncio.sleep(0.3)
        assert not reading.done()
        await foreign.abort_transaction()
        live = await reading
    checkpoint = state_records.decode_checkpoint(live[state_records.checkpoint_key(OPERATION)])
    assert checkpoint.sequence == 2
    assert await publisher.agrees()


async def test_what_a_takeover_could_not_read_is_not_known(
    topics: Env, stack: AsyncExitStack
) -> None:
    """A restore ends between takeover and reading: a neighbour's old state is refused even so."""
    shard = [name for name in map(str, range(100)) if partition_of(name) == 3][:2]
    settings = settings_of(topics, *shard)
    ours, theirs = (Cluster(settings, lambda _: None) for _ in range(2))
    stack.push_async_callback(ours.close)
    stack.push_async_callback(theirs.close)
    one, other = map(ours.log, shard)
    authors = [Author(name) for name in shard]
    for log, author in zip((one, other), authors, strict=True):
        await log.restore()
        await log.commit(author.first())
    successor = theirs.log(shard[1])  # writes for the neighbour, and is taken over itself
    await successor.restore()
    await successor.commit(authors[1].window([hola("theirs")]))
    with pytest.raises(StateUncertain):
        await one.commit(authors[0].window([hola("lost")]))
    bootstrap, state_topic = settings.kafka.bootstrap_servers, settings.publisher.state_topic
    async with kafka_tools.producing(bootstrap, transactional_id="hides") as foreign:
        await foreign.begin_transaction()
        await foreign.send_and_wait(state_topic, b"x", b"foreign", partition=3)
        restoring = asyncio.create_task(one.restore())
        _, late = await asyncio.wait([restoring], timeout=1)
        assert late
        restoring.cancel()
        await asyncio.wait([restoring])
        await foreign.abort_transaction()
    with pytest.raises(OutcomeUnknown):
        await other.commit(authors[1].window([hola("twice")]))
    found = await kafka_tools.read(bootstrap, settings.publisher.messages_topic)
    assert [record.value for record in found] == [b"theirs"]


async def test_a_tail_of_aborted_records_and_tombstones_is_read_to_its_end(
    kafka: Broker, topics: Env
) -> None:
    """The last offsets hold nothing that a reader sees; the restore ends, and is right."""
    topic = topics["PUBLISHER_STATE_TOPIC"]
    await kafka_tools.create(kafka.bootstrap, topic, cleanup_policy="compact")
    clients, partition = Clients(settings_of(topics)), TopicPartition(topic, 0)
    assert await read_live_records(clients, partition) == {}
    id_ = topics["PUBLISHER_TRANSACTIONAL_ID"]
    async with kafka_tools.producing(kafka.bootstrap, transactional_id=id_) as producer:
        for number in range(3):  # only aborted ones at first
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"aborted %d" % number, b"key")
            await producer.abort_transaction()
        assert await read_live_records(clients, partition) == {}
        async with producer.transaction():
            await producer.send_and_wait(topic, b"kept", b"a")
            await producer.send_and_wait(topic, b"dropped", b"b")
        assert await read_live_records(clients, partition) == {b"a": b"kept", b"b": b"dropped"}
        async with producer.transaction():
            await producer.send_and_wait(topic, None, b"b")
        assert await read_live_records(clients, partition) == {b"a": b"kept"}
        await producer.begin_transaction()
        await producer.send_and_wait(topic, None, b"a")
        await producer.abort_transaction()
        assert await read_live_records(clients, partition) == {b"a": b"kept"}


async def test_a_compacted_state_is_restored(
    publisher: Publisher, kafka: Broker, stack: AsyncExitStack, topics: Env
) -> None:
    """With holes where the cleaner was at work, also at the begin, the restore is the same."""
    await kafka_tools.configure(
        kafka.bootstrap,
        publisher.state.topic,
        {
            "cleanup.policy": "compact",
            "segment.ms": "100",
            "min.cleanable.dirty.ratio": "0.01",
            "delete.retention.ms": "0",
        },
    )
    checkpoints, compacted = 0, False
    async with asyncio.timeout(20):
        while not compacted:
            for _ in range(10):
                await publisher.write(hola(str(checkpoints)))
                checkpoints += 1
            kept = await kafka_tools.read(kafka.bootstrap, publisher.state.topic)
            compacted = sum(r.key.startswith(b"checkpoint") for r in kept) < checkpoints / 2
    assert await publisher.agrees()
    successor = Publisher(topics, stack)
    told = state.restore(OPERATION, (await successor.log.restore()).records)
    assert same(told, publisher.author.state)


def test_a_control_batch_that_compaction_has_emptied_is_passed_over() -> None:
    """The client would raise on it for ever; as in Java's it is no abort marker."""

    class Emptied:
        """A control batch without records."""

        is_control_batch = True

        def __iter__(self) -> "Emptied":
            return self

        def __next__(self) -> Any:
            raise StopIteration

    reader = PartitionRecords.__new__(PartitionRecords)
    assert reader._contains_abort_marker(Emptied()) is False
    original = PartitionRecords._contains_abort_marker.__closure__
    assert original is not None
    (unpatched,) = [c.cell_contents for c in original if callable(c.cell_contents)]
    with pytest.raises(KafkaError):  # aiokafka still needs it
        unpatched(reader, Emptied())


async def test_offsets_behind_an_open_transaction_are_counted(publisher: Publisher) -> None:
    """By topic, over its partitions; 0 where nothing is open."""
    await publisher.write(hola("one"))
    await kafka_tools.open_transactions(publisher.bootstrap, *publisher.topics)
    topics = [publisher.messages, publisher.state.topic]
    assert await publisher.cluster.unstable_offsets(topics) == dict.fromkeys(topics, 0)
    async with kafka_tools.producing(publisher.bootstrap, transactional_id="open") as foreign:
        await foreign.begin_transaction()
        for partition in (0, 0, 4):
            await foreign.send_and_wait(publisher.messages, b"x", partition=partition)
        assert await publisher.cluster.unstable_offsets(topics) == {
            publisher.messages: 3,
            publisher.state.topic: 0,
        }
        await foreign.abort_transaction()


# --- what it says ---------------------------------------------------------------------------


async def test_the_client_never_prints_content(
    topics: Env, stack: AsyncExitStack, capfd: pytest.CaptureFixture[str]
) -> None:
    """The client's DEBUG lines hold keys and values: at our debug level, too, they stay out."""
    logs = pytest.importorskip("publisher.telemetry.logs")
    root = logging.root
    before = root.handlers[:], root.level
    hooks = kafka_tools.hooks()
    try:
        logs.configure("json", "debug")
        publisher = Publisher(topics, stack)
        await publisher.begin()
        await publisher.write(hola("SECRET-MESSAGE", "SECRET-KEY"), letters=[hola("SECRET-BAD")])
        assert await publisher.agrees()
        await publisher.cluster.close()
        logging.getLogger("aiokafka.producer.producer").debug("Sending (key=%r)", b"SECRET-LOGGED")
    finally:
        root.handlers[:], root.level = before
        kafka_tools.restore(hooks)
    told = "".join(capfd.readouterr())
    assert "SECRET" not in told


async def test_hints_come_once_and_name_what_to_grant(publisher: Publisher) -> None:
    """Where everything may be asked there is nothing to hint at."""
    assert [s for s in publisher.signals if isinstance(s, HintGiven)] == []
    assert (
        orjson.loads(
            (await read_live_records(Clients(publisher.settings), publisher.state))[
                f"owner/{publisher.state.partition}".encode()
            ]
        )["partition"]
        == publisher.state.partition
    )
    assert kafka_reader.BLOCKED_SECONDS > kafka_client.TRANSACTION_MS / SECONDS + 10
    assert (
        2 * kafka_transaction.SEND_SECONDS + kafka_transaction.COMMIT_SECONDS
        < kafka_client.TRANSACTION_MS / SECONDS
    )
    assert kafka_topics.STATE_PARTITIONS == 12
    assert isinstance(publisher.author.first(), Batch)


@pytest.mark.parametrize(
    ("message", "error", "told"),
    [
        ("Future exception was never retrieved", ProducerFenced(), False),
        ("Future exception was never retrieved", ValueError(), True),
        ("Task exception was never retrieved", ProducerFenced(), True),
    ],
)
async def test_what_a_fenced_producer_leaves_behind_is_not_told_twice(
    message: str, error: Exception, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything else that asyncio finds is still reported."""
    report_unless_told(asyncio.get_running_loop(), {"message": message, "exception": error})
    assert bool(caplog.records) is told

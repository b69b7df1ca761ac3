"""What the flow relies on in a log, for the log in memory and for Kafka alike."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Protocol

import pytest

from publisher.context import Log
from publisher.errors import Fenced, NeedsOperator, OutcomeUnknown, Reason
from publisher.events import kafka_record
from publisher.events.encode import SEQUENCE_HEADER
from publisher.kafka import clients as kafka_client
from publisher.kafka.cluster import Cluster, partition_of
from publisher.model import Record
from publisher.state import state
from publisher.state.restored import restored_state
from tests import kafka_tools
from tests.fakes import (
    Author,
    Fate,
    MemoryCluster,
    MemoryKafka,
    event,
    same,
    seen,
    settings_of,
)


class Process(Protocol):
    """One process of the publisher, as far as its log goes."""

    def log(self, operation: str) -> Log: ...

    async def close(self) -> bool: ...


class Backend(Protocol):
    """A broker, and how a test makes it go wrong."""

    def process(self, *operations: str) -> Process:
        """A new process; it is closed at the end of the test."""
        ...

    async def events(self, operation: str) -> list[tuple[bytes | None, bytes]]: ...

    async def lose_state(self) -> None:
        """Somebody empties the state topic."""
        ...

    async def back_up(self) -> Callable[[], Awaitable[None]]:
        """Copy the state topic; what is returned puts the copy in its place."""
        ...

    async def lose_events(self, operation: str) -> None:
        """Somebody deletes the messages topic, and makes a new one."""
        ...

    def next_commit(self, *, kept: bool) -> None:
        """The next commit's outcome stays unknown."""
        ...

    async def expire(self, operation: str, /) -> None:
        """The broker gives up on the transactional id's owner; nobody else writes."""
        ...


class InMemory:
    def __init__(self, own_topics: bool) -> None:
        self._kafka = MemoryKafka(own_topics=own_topics)
        self._next = Fate.DONE
        self._kafka.fate = self._fate

    def _fate(self) -> Fate:
        fate, self._next = self._next, Fate.DONE
        return fate

    def process(self, *_: str) -> Process:
        return MemoryCluster(self._kafka)

    async def events(self, operation: str) -> list[tuple[bytes | None, bytes]]:
        return [seen(record)[:2] for record in self._kafka.events[operation]]

    async def lose_state(self) -> None:
        self._kafka.state.clear()

    async def back_up(self) -> Callable[[], Awaitable[None]]:
        copy = dict(self._kafka.state)

        async def put_back() -> None:
            self._kafka.state.clear()
            self._kafka.state.update(copy)

        return put_back

    async def lose_events(self, operation: str) -> None:
        self._kafka.events[operation].clear()

    def next_commit(self, *, kept: bool) -> None:
        self._next = Fate.KEPT if kept else Fate.LOST

    async def expire(self, _: str, /) -> None:
        self._kafka.take_over()


class OnKafka:
    def __init__(self, topics: dict[str, str], own_topics: bool, stack: AsyncExitStack) -> None:
        self._environment = dict(topics)
        if own_topics:
            self._environment["PUBLISHER_MESSAGES_TOPIC"] += ".{operation}"
        self._settings = settings_of(self._environment)
        self._stack = stack

    def process(self, *operations: str) -> Process:
        cluster = Cluster(settings_of(self._environment, *operations), lambda _: None)
        self._stack.push_async_callback(cluster.close)
        return cluster

    async def events(self, operation: str) -> list[tuple[bytes | None, bytes]]:
        topic = self._settings.messages_topic(operation)
        records = await kafka_tools.read(self._settings.kafka.bootstrap_servers, topic)
        return [(record.key, record.value) for record in records]

    async def lose_state(self) -> None:
        await kafka_tools.delete(
            self._settings.kafka.bootstrap_servers, self._settings.publisher.state_topic
        )

    async def back_up(self) -> Callable[[], Awaitable[None]]:
        servers = self._settings.kafka.bootstrap_servers
        return await kafka_tools.back_up(servers, self._settings.publisher.state_topic)

    async def lose_events(self, operation: str) -> None:
        topic = self._settings.messages_topic(operation)
        await kafka_tools.delete(self._settings.kafka.bootstrap_servers, topic)
        await kafka_tools.create(self._settings.kafka.bootstrap_servers, topic, 6)

    def next_commit(self, *, kept: bool) -> None:
        kafka_tools.Shaky.kept = kept

    async def expire(self, operation: str, /) -> None:
        id_ = f"{self._settings.publisher.transactional_id}-{partition_of(operation)}"
        await kafka_tools.fence(self._settings.kafka.bootstrap_servers, id_)


Make = Callable[[bool], Backend]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture(params=["memory", "kafka", "cluster"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a backend; with True each operation has a messages topic of its own."""
    if request.param == "memory":
        return InMemory
    given = {"kafka": "topics", "cluster": "cluster_topics"}[request.param]
    topics: dict[str, str] = request.getfixturevalue(given)
    stack: AsyncExitStack = request.getfixturevalue("stack")
    monkeypatch.setattr(kafka_client, "AIOKafkaProducer", kafka_tools.Shaky)
    monkeypatch.setattr(kafka_tools.Shaky, "kept", None)
    return lambda own_topics: OnKafka(topics, own_topics, stack)


@pytest.fixture
def backend(make: Make) -> Backend:
    return make(False)


def records(*texts: str) -> list[Record]:
    return [event("186067512", text.encode()) for text in texts]


async def begun(log: Log, author: Author) -> None:
    """The first start."""
    restored = await log.restore()
    assert not restored.records
    await log.commit(author.first())


async def write(log: Log, author: Author, *texts: str) -> None:
    await log.commit(author.window(records(*texts)))
    author.committed()


async def restored(log: Log, author: Author) -> bool:
    """Whether the log tells exactly what the author knows."""
    told = await log.restore()
    return same(state.restore(author.operation, told.records), author.state)


def texts(found: list[tuple[bytes | None, bytes]]) -> list[str]:
    return [value.decode() for _, value in found]


async def test_an_empty_log_holds_nothing(backend: Backend) -> None:
    """Never written: no records, and no history that could be lost."""
    told = await backend.process("wv0010").log("wv0010").restore()
    assert dict(told.records) == {}
    assert not told.history_lost


async def test_what_is_committed_is_there(backend: Backend) -> None:
    """After commit() events are visible to read_committed, and a restore knows the state."""
    author = Author()
    log = backend.process("wv0010").log("wv0010")
    await begun(log, author)
    await write(log, author, "one", "two")
    await write(log, author)
    assert await backend.events("wv0010") == [(b"186067512", b"one"), (b"186067512", b"two")]
    assert await restored(log, author)


async def test_a_restore_gives_exactly_what_was_committed(backend: Backend) -> None:
    """Journal of several parts, tombstones and checkpoint: another process knows the same."""
    author = Author()
    log = backend.process("wv0010").log("wv0010")
    await begun(log, author)
    await log.commit(author.window(records("a"), ids=70_000))
    author.committed()
    for number in range(3):
        await write(log, author, f"b{number}")
    assert await restored(backend.process("wv0010").log("wv0010"), author)


async def test_a_batch_that_follows_something_older_is_refused(backend: Backend) -> None:
    """A window computed from an older state is not written; a restore shows the newer one."""
    author, late = Author(), Author()
    log = backend.process("wv0010").log("wv0010")
    await begun(log, author)
    await write(log, author, "one")
    with pytest.raises(OutcomeUnknown):
        await log.commit(late.window(records("stale")))
    with pytest.raises(OutcomeUnknown):
        await log.commit(late.first())
    assert texts(await backend.events("wv0010")) == ["one"]
    assert await restored(log, author)
    await write(log, author, "two")
    assert texts(await backend.events("wv0010")) == ["one", "two"]


async def test_two_operations_share_a_shard(backend: Backend) -> None:
    """Each sees its own state only; the failure of one does not disturb the other."""
    assert len({partition_of(name) for name in neighbours()}) == 1
    first, second = neighbours()
    process = backend.process(first, second)
    a, b = Author(first), Author(second)
    await begun(process.log(first), a)
    await begun(process.log(second), b)
    await write(process.log(first), a, "a1")
    await write(process.log(second), b, "b1")
    backend.next_commit(kept=False)
    with pytest.raises(OutcomeUnknown):
        await process.log(first).commit(a.window(records("lost")))
    await write(process.log(second), b, "b2")
    assert await restored(process.log(first), a)
    await write(process.log(first), a, "a2")
    assert await restored(process.log(second), b)
    found = set(texts(await backend.events(first))) | set(texts(await backend.events(second)))
    assert found == {"a1", "a2", "b1", "b2"}


def neighbours() -> tuple[str, str]:
    """Two operations of one shard."""
    first = "wv0010"
    others = (f"wv{number:04}" for number in range(11, 9999))
    return first, next(name for name in others if partition_of(name) == partition_of(first))


@pytest.mark.parametrize("kept", [True, False])
async def test_after_an_unknown_outcome_the_log_decides(backend: Backend, kept: bool) -> None:
    """Committed or not, the restored state and the events agree, and the next commit is right."""
    author = Author()
    log = backend.process("wv0010").log("wv0010")
    await begun(log, author)
    await write(log, author, "one")
    backend.next_commit(kept=kept)
    with pytest.raises(OutcomeUnknown):
        await log.commit(author.window(records("two")))
    if kept:
        author.committed()
    assert await restored(log, author)
    assert texts(await backend.events("wv0010")) == ["one", "two"][: 1 + kept]
    await write(log, author, "three")
    assert texts(await backend.events("wv0010"))[-1] == "three"
    assert await restored(log, author)


async def test_an_unknown_outcome_is_not_overwritten(backend: Backend) -> None:
    """Who tries the same batch again without a restore is refused when it was committed."""
    author = Author()
    log = backend.process("wv0010").log("wv0010")
    await begun(log, author)
    backend.next_commit(kept=True)
    batch = author.window(records("one"))
    with pytest.raises(OutcomeUnknown):
        await log.commit(batch)
    with pytest.raises(OutcomeUnknown):
        await log.commit(author.window(records("one")))
    assert texts(await backend.events("wv0010")) == ["one"]


async def test_a_second_process_fences_the_first(backend: Backend) -> None:
    """The first one's commit fails as Fenced, and nothing of it becomes visible."""
    author = Author()
    old = backend.process("wv0010").log("wv0010")
    await begun(old, author)
    await write(old, author, "one")
    new = backend.process("wv0010").log("wv0010")
    assert await restored(new, author)
    zombie = author.window(records("zombie"))
    await write(new, author, "two")
    with pytest.raises(Fenced):
        await old.commit(zombie)
    assert texts(await backend.events("wv0010")) == ["one", "two"]
    assert await restored(new, author)


async def test_a_time_out_of_our_own_is_not_a_second_process(backend: Backend) -> None:
    """The broker gave up on us and nobody else has written: not Fenced, but too slow."""
    author = Author()
    log = backend.process("wv0010").log("wv0010")
    await begun(log, author)
    await write(log, author, "one")
    await backend.expire("wv0010")
    with pytest.raises(OutcomeUnknown) as raised:
        await log.commit(author.window(records("two")))
    assert raised.value.overloaded
    assert raised.value.reason is Reason.KAFKA_TIMEOUT
    assert await restored(log, author)
    await write(log, author, "two")
    assert texts(await backend.events("wv0010")) == ["one", "two"]


async def test_a_lost_state_is_noticed(backend: Backend) -> None:
    """An empty state beside events: history is lost, and stays so until somebody helps."""
    author = Author()
    process = backend.process("wv0010")
    await begun(process.log("wv0010"), author)
    await write(process.log("wv0010"), author, "one")
    await process.close()
    await backend.lose_state()
    for _ in range(2):
        told = await backend.process("wv0010").log("wv0010").restore()
        assert dict(told.records) == {}
        assert told.history_lost


async def test_a_lost_state_without_events_is_a_first_start(backend: Backend) -> None:
    """Nothing was published, so nothing can come twice."""
    author = Author()
    process = backend.process("wv0010")
    await begun(process.log("wv0010"), author)
    await write(process.log("wv0010"), author)
    await process.close()
    await backend.lose_state()
    assert not (await backend.process("wv0010").log("wv0010").restore()).history_lost


async def test_a_new_operation_beside_others_is_a_first_start(backend: Backend) -> None:
    """A shared messages topic holds the others' events; the state topic knows of them."""
    author = Author()
    process = backend.process("wv0010", "wv0077")
    await begun(process.log("wv0010"), author)
    await write(process.log("wv0010"), author, "one")
    told = await process.log("wv0077").restore()
    assert dict(told.records) == {}
    assert not told.history_lost


async def test_with_topics_of_their_own_each_operation_answers_for_itself(make: Make) -> None:
    """A lost state shows in the operation's own messages topic, whatever the others have."""
    backend = make(True)
    a, b = Author("wv0010"), Author("wv0012")
    process = backend.process("wv0010", "wv0012")
    await begun(process.log("wv0010"), a)
    await write(process.log("wv0010"), a, "one")
    assert not (await process.log("wv0012").restore()).history_lost
    await process.close()
    await backend.lose_state()
    again = backend.process("wv0010", "wv0012")
    assert not (await again.log("wv0012").restore()).history_lost
    await again.log("wv0012").commit(b.first())
    assert (await again.log("wv0010").restore()).history_lost


def numbered(author: Author, text: str) -> list[Record]:
    """An event that says which transaction of its operation publishes it."""
    sequence = author.state.checkpoint.sequence + 1
    headers = [("ce_source", author.operation.encode()), (SEQUENCE_HEADER, str(sequence).encode())]
    return [kafka_record.record(sequence, None, text.encode(), kafka_record.headers(headers))]


async def test_a_state_that_was_set_back_is_noticed(backend: Backend) -> None:
    """A backup of the state is not believed once events were published after it."""
    author = Author()
    process = backend.process("wv0010")
    log = process.log("wv0010")
    await begun(log, author)
    await log.commit(author.window(numbered(author, "one")))
    author.committed()
    told = await log.restore()
    assert told.newest_published == 1
    assert restored_state("wv0010", told) is not None
    put_back = await backend.back_up()
    await log.commit(author.window(numbered(author, "two")))
    author.committed()
    await process.close()
    await put_back()
    for _ in range(2):
        told = await backend.process("wv0010").log("wv0010").restore()
        assert told.newest_published == 2
        with pytest.raises(NeedsOperator, match="was set back to transaction 1") as held:
            restored_state("wv0010", told)
        assert held.value.reason is Reason.STATE_LOST


async def test_events_of_others_say_nothing_of_a_state(backend: Backend) -> None:
    """Two operations share the topic: each is compared with its own events."""
    a = Author("wv0010")
    process = backend.process("wv0010", "wv0012")
    await begun(process.log("wv0010"), a)
    for text in ("one", "two"):
        await process.log("wv0010").commit(a.window(numbered(a, text)))
        a.committed()
    assert (await process.log("wv0012").restore()).newest_published == -1
    assert (await process.log("wv0010").restore()).newest_published == 2


async def test_an_aborted_event_says_nothing_of_a_state(backend: Backend) -> None:
    """Its transaction has not happened."""
    author = Author()
    log = backend.process("wv0010").log("wv0010")
    await begun(log, author)
    backend.next_commit(kept=False)
    with pytest.raises(OutcomeUnknown):
        await log.commit(author.window(numbered(author, "lost")))
    assert (await log.restore()).newest_published == -1


async def test_a_topic_that_was_made_anew_is_unused(backend: Backend) -> None:
    """It holds no record, whatever the state says, and although a transaction was aborted there."""
    author = Author()
    process = backend.process("wv0010")
    log = process.log("wv0010")
    await begun(log, author)
    assert (await log.restore()).topic_unused
    await log.commit(author.window(numbered(author, "one")))
    author.committed()
    assert not (await log.restore()).topic_unused
    await process.close()
    await backend.lose_events("wv0010")
    log = backend.process("wv0010").log("wv0010")
    await log.restore()
    backend.next_commit(kept=False)
    with pytest.raises(OutcomeUnknown):
        await log.commit(author.window(numbered(author, "lost")))
    told = await log.restore()
    assert told.topic_unused
    assert told.newest_published == -1

"""Requests of a transaction that arrive late, twice or never tear nothing (decision 0028).

Nor does a broker that hangs, or is slow, keep clients waiting, or failing.

A real broker behind a proxy that understands Kafka's frames. The long run is in
`tests/test_late_requests.py`.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from itertools import count

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest

from publisher.errors import Fenced, OutcomeUnknown, StateUncertain, Transient
from publisher.kafka import (
    clients as kafka_client,
)
from publisher.kafka import (
    connect as kafka_connect,
)
from publisher.kafka import (
    epoch as kafka_epoch,
)
from publisher.kafka import (
    shard as kafka_shard,
)
from publisher.kafka import (
    transaction as kafka_transaction,
)
from publisher.kafka.clients import Clients
from publisher.model import Record
from publisher.state import state
from sandbox.kafka import Broker
from tests import kafka_tools
from tests.fakes import event, settings_of
from tests.frame_proxy import (
    ADD_PARTITIONS,
    END_TXN,
    INIT_PRODUCER_ID,
    PRODUCE,
    TRANSACTIONAL,
    Fate,
    Faults,
    free_port,
    passed,
    producer_of,
    proxied,
)
from tests.test_kafka import OPERATION, Publisher

Env = dict[str, str]
BATCHES = 4
"""Batches of a large window: each one a Produce request, for they go to the same partition."""

_numbers = count(1)


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, int]]:
    """A broker, and the port of the proxy by which alone it wants to be reached."""
    port = free_port()
    overrides = {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}"}
    with Broker(tmp_path_factory.mktemp("kafka"), overrides=overrides) as broker:
        yield broker, port


@pytest.fixture
async def faults(brokers: tuple[Broker, int]) -> AsyncIterator[Faults]:
    broker, port = brokers
    faults = Faults()
    async with proxied(faults, {port: int(broker.bootstrap.rpartition(":")[2])}):
        yield faults


@pytest.fixture
async def stack(faults: Faults) -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack
        faults.decide = passed


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches, and so several requests, already for some events."""
    monkeypatch.setattr(kafka_shard, "BATCH_BYTES", 10_000)


@pytest.fixture
async def topics(brokers: tuple[Broker, int], faults: Faults) -> Env:
    prefix = f"epochs{next(_numbers)}"
    bootstrap = f"127.0.0.1:{brokers[1]}"
    await kafka_tools.create(bootstrap, f"{prefix}.messages")
    return {
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "KAFKA_COMPRESSION_TYPE": "none",
        "PUBLISHER_MAX_EVENT_BYTES": "10000",
        "PUBLISHER_MESSAGES_TOPIC": f"{prefix}.messages",
        "PUBLISHER_DEAD_LETTERS_TOPIC": f"{prefix}.dead-letters",
        "PUBLISHER_STATE_TOPIC": f"{prefix}.state",
        "PUBLISHER_COMMANDS_TOPIC": f"{prefix}.commands",
        "PUBLISHER_TRANSACTIONAL_ID": f"{prefix}.publisher",
    }


@pytest.fixture
async def publisher(topics: Env, stack: AsyncExitStack) -> Publisher:
    publisher = Publisher(topics, stack)
    await publisher.begin()
    return publisher


def window(number: int, batches: int = BATCHES) -> list[Record]:
    """Events of one window: so many that a partition of them takes several requests."""
    return [
        event("1", f"{number}.{batch} ".encode().ljust(9_000, b".")) for batch in range(batches)
    ]


def names(*windows: int) -> list[str]:
    return [f"{number}.{batch}" for number in windows for batch in range(BATCHES)]


async def published(publisher: Publisher) -> list[str]:
    return [text.split()[0] for text in await publisher.texts()]


async def persist(publisher: Publisher, number: int) -> None:
    """Publish a window as the service does: after a failure it looks whether it is there."""
    sequence = publisher.author.state.checkpoint.sequence + 1
    async with asyncio.timeout(90):
        while True:
            try:
                await publisher.log.commit(publisher.author.window(window(number)))
            except StateUncertain:
                restored = state.restore(OPERATION, (await publisher.log.restore()).records)
                assert restored is not None
                if restored.checkpoint.sequence < sequence:
                    continue
            publisher.author.committed()
            return


def once(key: int, fate: Fate) -> Callable[[int, bytes], Fate]:
    """This fate for the next request of this kind, none for all others."""
    fates = iter([fate])
    return lambda asked, _: next(fates, Fate.PASSED) if asked == key else Fate.PASSED


async def test_a_late_commit_does_not_commit_the_next_window(
    topics: Env, publisher: Publisher, faults: Faults, stack: AsyncExitStack
) -> None:
    """It arrives behind the first events of that window, and the process dies.

    Before, the part that had arrived was committed: doubled, or lost where the state was in it.
    """
    await persist(publisher, 1)
    faults.decide = once(END_TXN, Fate.LATE)
    await persist(publisher, 2)
    assert len(faults.held) == 1
    arrived = asyncio.Event()
    faults.on_late = lambda _: arrived.set()
    task = asyncio.create_task(publisher.log.commit(publisher.author.window(window(3))))
    await asyncio.wait_for(arrived.wait(), 10)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert await published(publisher) == names(1, 2)
    successor = Publisher(topics, stack)
    successor.author = publisher.author
    restored = state.restore(OPERATION, (await successor.log.restore()).records)
    assert restored is not None
    assert restored.checkpoint.sequence == 2
    await persist(successor, 3)
    assert await published(successor) == names(1, 2, 3)
    assert await successor.agrees()


@pytest.mark.parametrize("fate", [Fate.LATE, Fate.TWICE, Fate.DROPPED, Fate.UNANSWERED])
async def test_each_window_is_published_once(
    publisher: Publisher, faults: Faults, fate: Fate
) -> None:
    """Whichever request it happens to, and wherever in the next two windows its copy arrives."""
    numbers = count(1)
    for key, name in TRANSACTIONAL.items():
        for behind in (1, 2, BATCHES + 2):
            faults.behind, faults.decide = behind, once(key, fate)
            for _ in range(2):
                await persist(publisher, next(numbers))
        assert faults.counts[f"{name} {fate.name.lower()}"] == 3
    assert await published(publisher) == names(*range(1, next(numbers)))
    assert await publisher.agrees()
    assert await kafka_tools.open_transactions(publisher.bootstrap, *publisher.topics) == 0


async def test_partitions_that_are_added_late_open_nothing_that_is_published(
    publisher: Publisher, faults: Faults
) -> None:
    """Between a commit and the next epoch they open a transaction: it is aborted, we restore."""
    await persist(publisher, 1)
    faults.clock = END_TXN
    faults.decide = once(ADD_PARTITIONS, Fate.TWICE)
    await persist(publisher, 2)
    assert faults.counts["AddPartitionsToTxn delivered late"] == 1
    await persist(publisher, 3)
    assert await published(publisher) == names(1, 2, 3)
    assert await kafka_tools.open_transactions(publisher.bootstrap, *publisher.topics) == 0


async def test_every_transaction_has_an_epoch_of_its_own(
    publisher: Publisher, faults: Faults
) -> None:
    """No two commits name the same producer and epoch, also after a failure."""
    commits: list[tuple[int, int]] = []
    added: list[tuple[int, int]] = []

    def note(key: int, frame: bytes) -> Fate:
        if key == END_TXN:
            commits.append(producer_of(frame))
        if key == ADD_PARTITIONS:
            added.append(producer_of(frame))
        return Fate.PASSED

    faults.decide = note
    for number in range(10):
        await publisher.write(event("1", b"%d" % number))
    assert len(commits) == len(set(commits)) == 10
    assert set(added) == set(commits)
    faults.decide = lambda key, frame: Fate.DROPPED if key == END_TXN else note(key, frame)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kafka_transaction, "COMMIT_SECONDS", 0.5)
        with pytest.raises(OutcomeUnknown):
            await publisher.log.commit(publisher.author.window(window(0)))
    assert await publisher.agrees()
    faults.decide = note
    await publisher.write(event("1", b"10"))
    assert len(commits) == len(set(commits)) == 11
    assert await publisher.texts() == [str(number) for number in range(11)]


async def test_the_state_is_sent_when_everything_else_is_acknowledged(
    publisher: Publisher, faults: Faults
) -> None:
    """If a transaction were cut all the same, it would repeat messages and not lose them."""
    sent: list[str] = []

    def note(key: int, frame: bytes) -> Fate:
        if key == PRODUCE:
            sent.append("state" if publisher.state.topic.encode() in frame[:300] else "events")
        return Fate.PASSED

    faults.decide = note
    await publisher.write(*window(1), letters=[event("1", b"bad")])
    assert sent == ["events"] * BATCHES + ["state"]


# --- two processes --------------------------------------------------------------------------------


async def test_a_process_that_was_taken_over_from_is_refused(
    topics: Env, publisher: Publisher, stack: AsyncExitStack
) -> None:
    """By its request for the next epoch; its successor, which is idle, notices nothing of it."""
    await publisher.write(event("1", b"1"))
    lost = publisher.author.window([event("1", b"lost")])
    successor = Publisher(topics, stack)
    successor.author = publisher.author
    await successor.log.restore()
    await successor.write(event("1", b"2"))
    with pytest.raises(Fenced):
        await publisher.log.commit(lost)
    await successor.write(event("1", b"3"))
    assert await successor.texts() == ["1", "2", "3"]


async def test_a_late_request_of_our_own_takeover_is_no_other_process(
    topics: Env, publisher: Publisher, faults: Faults, stack: AsyncExitStack
) -> None:
    """It aborts our first transaction, while the log still names the process before us."""
    await persist(publisher, 1)
    successor = Publisher(topics, stack)
    successor.author = publisher.author
    faults.decide = once(INIT_PRODUCER_ID, Fate.TWICE)
    await successor.log.restore()
    with pytest.raises(OutcomeUnknown):
        await successor.log.commit(successor.author.window(window(2)))
    assert faults.counts["InitProducerId delivered late"] == 1
    assert await successor.agrees()
    await persist(successor, 2)
    assert await published(successor) == names(1, 2)


@pytest.fixture
def kafka_2_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """No broker offers a next epoch."""
    monkeypatch.setattr(kafka_epoch._AskNextEpoch, "API_VERSION", 99)


@pytest.mark.usefixtures("kafka_2_4")
async def test_before_kafka_2_5_every_transaction_begins_with_a_takeover(
    topics: Env, publisher: Publisher, faults: Faults, stack: AsyncExitStack
) -> None:
    """Each has its own epoch there, too, and two processes do not take turns."""
    commits: list[tuple[int, int]] = []

    def note(key: int, frame: bytes) -> Fate:
        if key == END_TXN:
            commits.append(producer_of(frame))
        return Fate.PASSED

    faults.decide = note
    for number in range(1, 4):
        await persist(publisher, number)
    assert len(commits) == len(set(commits)) == 3
    faults.decide = once(END_TXN, Fate.LATE)
    for number in range(4, 6):
        await persist(publisher, number)
    assert faults.counts["EndTxn delivered late"] == 1
    successor = Publisher(topics, stack)
    successor.author = publisher.author
    await successor.log.restore()
    await persist(successor, 6)
    with pytest.raises(Fenced):
        await publisher.log.commit(publisher.author.window(window(0)))
    await persist(successor, 7)
    assert await published(successor) == names(*range(1, 8))


# --- brokers that hang, and slow ones -------------------------------------------------------------


@pytest.fixture
async def hanging(stack: AsyncExitStack) -> list[str]:
    """Servers that take connections and never answer, as frozen brokers do."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    for listener in listeners:
        stack.enter_context(listener)
    return [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]


async def test_servers_that_hang_delay_no_client(topics: Env, hanging: list[str]) -> None:
    """Asked in turn, each of them would be waited for."""
    servers = ",".join([*hanging, topics["KAFKA_BOOTSTRAP_SERVERS"]])
    clients = Clients(settings_of({**topics, "KAFKA_BOOTSTRAP_SERVERS": servers}))
    async with asyncio.timeout(kafka_connect.ANSWER_SECONDS):
        for client in (clients.admin(), clients.consumer("read_committed")):
            async with clients.using(client):
                pass


async def test_where_all_servers_hang_it_is_said_soon(
    topics: Env, hanging: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_connect, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(kafka_client, "NEXT_SERVER_SECONDS", 0.1)
    servers = {"KAFKA_BOOTSTRAP_SERVERS": ",".join(hanging)}
    clients = Clients(settings_of({**topics, **servers}))
    with pytest.raises(Transient, match="it hangs, or a firewall drops what we send"):
        async with asyncio.timeout(3), clients.using(clients.admin()):
            pass


async def test_servers_that_name_no_broker_are_no_mistake_of_ours(
    topics: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that its controller has not let in answers like that."""
    monkeypatch.setattr(AIOKafkaClient, "get_random_node", lambda _: None)
    clients = Clients(settings_of(topics))
    with pytest.raises(Transient, match="names no broker"):
        async with clients.using(clients.producer("nobody")):
            pass


async def test_what_every_broker_knows_is_awaited_for_a_short_time_only(
    topics: Env, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only this broker can do is awaited for longer."""
    clients = Clients(settings_of(topics))
    connection = await clients.connect(topics["KAFKA_BOOTSTRAP_SERVERS"], seconds=60)
    monkeypatch.setattr(kafka_connect, "ANSWER_SECONDS", 0.3)
    answering = asyncio.Event()
    monkeypatch.setattr(faults, "answered", lambda _: answering.wait())
    patient = asyncio.ensure_future(connection.send(ApiVersionRequest()))
    for request in (MetadataRequest([]), FindCoordinatorRequest("any", 1)):
        with pytest.raises(TimeoutError):
            await connection.send(request)
    assert not patient.done()
    answering.set()
    await patient
    connection.close()


async def test_a_slow_broker_is_waited_for(
    topics: Env, faults: Faults, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer takes 3 s, where all times are a tenth of what they are."""
    for module, name in (
        (kafka_connect, "ANSWER_SECONDS"),
        (kafka_client, "REQUEST_MS"),
        (kafka_epoch, "EPOCH_SECONDS"),
        (kafka_transaction, "SEND_SECONDS"),
        (kafka_transaction, "COMMIT_SECONDS"),
    ):
        monkeypatch.setattr(module, name, type(getattr(module, name))(getattr(module, name) / 10))
    publisher = Publisher(topics, stack)
    await publisher.begin()
    with monkeypatch.context() as patch:
        patch.setattr(faults, "answered", lambda _: asyncio.sleep(0.3))
        async with Clients(publisher.settings).using(Clients(publisher.settings).admin()):
            await publisher.write(event("1", b"1"))
    assert await publisher.texts() == ["1"]

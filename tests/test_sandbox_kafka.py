"""The local broker does what the other tests take for granted: it runs, dies, halts and refuses."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAuthorizationFailedError

from sandbox.kafka import USERS, Broker, BrokerError, NoKafka, config, ensure, install, wire

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("kafka")) as one:
        yield one


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("secure"), secure=True) as one:
        yield one


@asynccontextmanager
async def producing(bootstrap: str, **settings: Any) -> AsyncIterator[Any]:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, **settings)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def create(bootstrap: str, topic: str, **settings: Any) -> int:
    """Create a topic; the error code, 0 for done."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **settings)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(topic, 1, 1)])
    finally:
        await admin.close()
    return int(answer.topic_errors[0][1])


async def read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        async with asyncio.timeout(20):
            return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


def answers(bootstrap: str) -> bool:
    try:
        return wire.brokers(bootstrap, 0.5) == 1
    except OSError:
        return False


def is_open(bootstrap: str) -> bool:
    host, port = bootstrap.split(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except ConnectionError:
        return False
    return True


def is_gone(bootstrap: str) -> bool:
    """Whether the port closes within five seconds."""
    deadline = time.monotonic() + 5
    while is_open(bootstrap) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_open(bootstrap)


def sasl(broker: Broker, user: str, mechanism: str = "SCRAM-SHA-512") -> dict[str, Any]:
    return {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": mechanism,
        "sasl_plain_username": user,
        "sasl_plain_password": USERS[user],
        "ssl_context": ssl.create_default_context(cafile=str(broker.cafile)),
    }


async def test_committed_records_survive_a_kill(broker: Broker) -> None:
    """After kill -9 and a start the same address serves what was committed before."""
    address = broker.bootstrap
    assert await create(address, "kept") == 0
    async with producing(address, transactional_id="kept") as producer:
        async with producer.transaction():
            await producer.send_and_wait("kept", b"before")
        await asyncio.to_thread(broker.kill)
        assert not broker.running
        await asyncio.to_thread(broker.start)
        assert address == broker.bootstrap
        async with producer.transaction():
            await producer.send_and_wait("kept", b"after")
    assert await read(address, "kept", 2) == [b"before", b"after"]


def test_a_restart_keeps_the_address(broker: Broker) -> None:
    """Stop and start in good order: another process, the same port."""
    address, pid = broker.bootstrap, broker.pid
    broker.restart()
    assert address == broker.bootstrap
    assert pid != broker.pid
    assert answers(address)


def test_a_frozen_broker_is_silent_until_thawed(broker: Broker) -> None:
    """A frozen broker exists, its port is open, and no answer comes."""
    broker.freeze()
    assert broker.running
    assert is_open(broker.bootstrap)
    assert not answers(broker.bootstrap)
    broker.thaw()
    assert answers(broker.bootstrap)


def test_a_frozen_broker_can_be_stopped(tmp_path: Path) -> None:
    """A halted process takes no SIGTERM by itself; and what ended may be ended again."""
    with Broker(tmp_path) as first:
        first.freeze()
        first.stop()
        assert not first.running
        assert is_gone(first.bootstrap)
        first.stop()
        first.thaw()


async def test_a_topic_must_be_created(broker: Broker) -> None:
    """Nothing creates topics by mentioning them (3 = unknown topic)."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        [described] = await admin.describe_topics(["never-made"])
    finally:
        await admin.close()
    assert described["error_code"] == 3


async def test_rights_decide_over_scram(secure: Broker) -> None:
    """A user with a right may write; one without may not."""
    assert await create(secure.bootstrap, "guarded.one") == 0
    secure.allow("alice", "WRITE", "TOPIC", "guarded.", prefixed=True)
    address = secure.secure_bootstrap
    async with producing(address, **sasl(secure, "alice")) as alice:
        await alice.send_and_wait("guarded.one", b"from alice")
    async with producing(address, **sasl(secure, "bob")) as bob:
        with pytest.raises(TopicAuthorizationFailedError):
            await bob.send_and_wait("guarded.one", b"from bob")
    assert await read(secure.bootstrap, "guarded.one", 1) == [b"from alice"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_every_mechanism_knows_the_users(secure: Broker, mechanism: str) -> None:
    """Admin may create topics, with TLS and without; bob may not (29 = not authorized)."""
    settings = sasl(secure, "admin", mechanism)
    assert await create(secure.secure_bootstrap, f"tls.{mechanism}", **settings) == 0
    settings |= {"security_protocol": "SASL_PLAINTEXT", "ssl_context": None}
    assert await create(secure.sasl_plaintext_bootstrap, f"open.{mechanism}", **settings) == 0
    settings = sasl(secure, "bob", mechanism)
    assert await create(secure.secure_bootstrap, f"bob.{mechanism}", **settings) == 29


async def test_a_client_certificate_names_its_holder(secure: Broker) -> None:
    """Over SSL nobody in particular is a super user; our certificate makes one alice."""
    context = ssl.create_default_context(cafile=str(secure.cafile))
    settings = {"security_protocol": "SSL", "ssl_context": context}
    assert await create(secure.ssl_bootstrap, "by-anybody", **settings) == 0
    context.load_cert_chain(secure.certfile, secure.keyfile)
    assert await create(secure.ssl_bootstrap, "by-alice", **settings) == 29


def test_a_broker_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    """It is the process that counts."""
    one = Broker(tmp_path)
    thread = threading.Thread(target=one.start)
    thread.start()
    thread.join()
    try:
        assert answers(one.bootstrap)
    finally:
        one.stop()


@pytest.mark.parametrize("halted", [False, True], ids=["running", "frozen"])
def test_a_broker_dies_with_its_parent(tmp_path: Path, *, halted: bool) -> None:
    """Even when the parent is killed with -9."""
    program = (
        "import sys, time; from pathlib import Path; from sandbox.kafka import Broker;"
        "b = Broker(Path(sys.argv[1])); b.start();"
        f"{'b.freeze();' if halted else ''} print(b.bootstrap, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as parent:
        assert parent.stdout
        bootstrap = parent.stdout.readline().strip()
        assert is_open(bootstrap)
        parent.kill()
        assert is_gone(bootstrap)


def test_a_failed_start_says_why(tmp_path: Path) -> None:
    """One line with the broker's own reason and where its log is."""
    failing = Broker(tmp_path, overrides={"num.io.threads": "many"})
    with pytest.raises(BrokerError, match=r"num\.io\.threads.*broker\.log") as caught:
        failing.start()
    assert len(str(caught.value).splitlines()) == 1
    assert not failing.running


def test_a_taken_port_is_refused(broker: Broker, tmp_path: Path) -> None:
    """Another Kafka's answers are not mistaken for those of the one being started."""
    port = int(broker.bootstrap.split(":")[1])
    with pytest.raises(BrokerError, match=f"port {port} is used"):
        Broker(tmp_path, port=port).start()


def test_no_port_is_given_out_twice() -> None:
    """Not by another process either, though nobody listens there yet."""
    ours = config.free_ports().plaintext
    others = [config.free_ports().plaintext for _ in range(5)]
    program = (
        "import random; from sandbox.kafka import config;"
        f"drawn = iter([{ours}, *range(25_000, 26_000)]); random.randint = lambda *_: next(drawn);"
        "print(*vars(config.free_ports()).values())"
    )
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    given = {int(port) for port in told.stdout.split()}
    assert len(given) == 5
    assert given.isdisjoint({ours, *others})


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    """Addresses before a start, and the secure parts of a plain broker, are errors."""
    plain = Broker(tmp_path)
    with pytest.raises(BrokerError, match="first start"):
        _ = plain.bootstrap
    with pytest.raises(BrokerError, match="secure=True"):
        _ = plain.secure_bootstrap
    with pytest.raises(BrokerError, match="secure"):
        plain.allow("alice", "READ", "TOPIC", "any")


def test_the_command_runs_one_broker(tmp_path: Path) -> None:
    """It prints where the broker is and ends cleanly when asked to."""
    command = [sys.executable, "-m", "sandbox.kafka", "--data-dir", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("Kafka ready at 127.0.0.1:")
        bootstrap = line.split()[3]
        assert answers(bootstrap)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert is_gone(bootstrap)


def test_a_given_kafka_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """`KAFKA_BOOTSTRAP_SERVERS` is used as it is."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "elsewhere:9092")
    with ensure() as bootstrap:
        assert bootstrap == "elsewhere:9092"


def test_ensure_starts_and_ends_a_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one given, Java runs one for as long as the block lasts."""
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    with ensure() as bootstrap:
        assert answers(bootstrap)
    assert is_gone(bootstrap)


def test_without_any_kafka_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Java, no Maven, no Docker: one line for a person."""
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoKafka, match="install a Java 17") as caught, ensure():
        pass
    assert len(str(caught.value).splitlines()) == 1


def test_a_maven_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first error line is the reason, and nothing half done stays in the cache."""
    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text("#!/bin/sh\necho '[ERROR] no route to anywhere'\nexit 1\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{maven.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SANDBOX_CACHE", str(tmp_path / "cache"))
    with pytest.raises(NoKafka, match="no route to anywhere"):
        install.prepare(lambda _installation, _path: None)
    assert [path.name for path in (tmp_path / "cache").glob("*/*")] == ["lock"]

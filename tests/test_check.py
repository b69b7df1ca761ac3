"""`check` and what it says of everything that can be wrong: a real API, a real Kafka, the command.

Each fault is told by one failed line that names its cure; it ends in time, changes nothing and
disturbs no service that runs.
"""

import asyncio
import json
import os
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from publisher.commands.check.checklist import State
from publisher.kafka.cluster import Cluster, partition_of
from publisher.kafka.durability import one_broker_hint
from publisher.settings import load
from sandbox.kafka import USERS, Broker
from sandbox.kafka.config import free_ports
from sandbox.kafka.tls import issue
from sandbox.wolkvox import Simulator, World
from tests import kafka_tools
from tests.fakes import Author, event
from tests.kafka_tools import awake, configure, create, end_offsets, open_transactions
from tests.prepared import forked
from tests.test_kafka_security import MINIMUM, WRONG_PASSWORD, Env, grant, through

TOKEN: Final = "the-token-4711"
LIMIT: Final = 13.0
"""Seconds beside the start of a process, which has 2 s and takes longer on busy machines."""
KAFKA_GROUPS: Final = "Kafka"
REPORT, TLS = "report", "TLS"
STATE, MESSAGES = "PUBLISHER_STATE_TOPIC", "PUBLISHER_MESSAGES_TOPIC"


class Outcome:
    """What one run of the command has said."""

    def __init__(self, code: int, out: str, err: str, took: float) -> None:
        self.code, self.out, self.err, self.took = code, out, err, took

    @property
    def checks(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(self.out)["checks"]
        return found

    def of(self, name: str, group: str = "") -> dict[str, str]:
        """The one check of that name, in that group."""
        wanted = re.compile(rf"{re.escape(group)}(,| of |$)" if group else "")
        [found] = [c for c in self.checks if c["check"] == name and wanted.match(c["group"])]
        return found

    def failed(self) -> dict[str, str]:
        """The only one that failed."""
        [found] = [check for check in self.checks if check["state"] == State.FAILED]
        return found

    def states(self, group: str = "") -> set[str]:
        """Of all checks of these groups but the hint that one broker is no cluster."""
        return {
            check["state"]
            for check in self.checks
            if check["group"].startswith(group) and one_broker_hint() not in check["text"]
        }


async def command(
    environment: Env,
    *arguments: str,
    name: str = "check",
    bare: bool = False,
    program: str = "",
) -> Outcome:
    """Run it, or this Python program, as a process.

    Its answer holds no secret and no traceback, whatever happens.
    """
    needed = {"PATH": os.environ["PATH"], "WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": TOKEN}
    needed = {} if bare else needed
    began = time.monotonic()
    env = {**needed, **environment}
    async with asyncio.timeout(40):
        if program:
            code, out, err = await _interpreted(program, env, name, *arguments)
        else:
            code, out, err = await forked((name, *arguments), env)
    told = Outcome(code, out.decode(), err.decode(), time.monotonic() - began)
    for secret in (TOKEN, WRONG_PASSWORD, *USERS.values()):
        assert secret not in told.out + told.err
    assert "Traceback" not in told.err
    assert "please report it" not in told.out
    return told


async def _interpreted(program: str, env: Env, *arguments: str) -> tuple[int, bytes, bytes]:
    """The same for a program that prepares something first."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, *arguments),
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out, err


async def check(environment: Env) -> Outcome:
    told = await command(environment, "--json")
    assert not told.err
    assert json.loads(told.out)["exit_code"] == told.code
    return told


@pytest.fixture
async def api() -> AsyncIterator[Simulator]:
    async with Simulator(World(history=3600.0, rate=200.0), token=TOKEN) as api:
        yield api


@pytest.fixture
def env(api: Simulator, topics: Env) -> Env:
    """All is well with these."""
    return {**topics, "WOLKVOX_URL": api.url}


@asynccontextmanager
async def silence() -> AsyncIterator[int]:
    """A server that accepts connections and never says a word; its port."""
    over = asyncio.Event()

    async def listen(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        over.set()
        server.close()


# --- all is well --------------------------------------------------------------------------


async def test_all_is_well(env: Env, api: Simulator) -> None:
    """Before the first start: exit code 0, every line ok, one request."""
    told = await check(env)
    assert told.code == 0
    assert told.states() == {State.OK}
    brokers = told.of("brokers")
    assert brokers["state"] == State.HINT
    assert "Kafka has one broker only: acknowledged messages are lost if" in brokers["text"]
    assert told.of("version")["text"].startswith("Kafka 4.")
    assert re.match(r"\d+ minutes old, by America/Bogota", told.of("newest row")["text"])
    assert (
        "will create it" in told.of("rights", f"Kafka topic {env['PUBLISHER_STATE_TOPIC']}")["text"]
    )
    assert len(api.stats.requests) == 1


async def test_a_running_service_is_not_disturbed(kafka: Broker, env: Env, api: Simulator) -> None:
    """Nothing in Kafka has changed, no producer is fenced, no topic made, no event published."""
    settings = load({"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": TOKEN, **env})
    cluster, author = Cluster(settings, lambda _: None), Author("wv0010")
    log = cluster.log("wv0010")
    try:
        await log.restore()
        await log.commit(author.first())
        assert not await open_transactions(kafka.bootstrap, env[STATE])  # its marker is written
        before = await everything_in(kafka)
        told = await check({**env, **through(kafka, "SASL_SSL")})
        assert told.code == 0
        assert await everything_in(kafka) == before
        await log.commit(author.window([event("1", b"one")]))  # by the same producer
    finally:
        await cluster.close()


async def test_what_holds_the_service_fails(kafka: Broker, env: Env) -> None:
    """A state that cannot be restored is told in the service's own words, without a takeover."""
    settings = load({"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": TOKEN, **env})
    cluster, author = Cluster(settings, lambda _: None), Author("wv0010")
    try:
        log = cluster.log("wv0010")
        await log.restore()
        await log.commit(author.first())
        await log.commit(author.window([event("1", b"one")]))
    finally:
        await cluster.close()
    state = (await check(env)).of("wv0010", "Kafka state")
    assert state["state"] == State.OK
    assert "can be restored" in state["text"]
    await kafka_tools.delete(kafka.bootstrap, env[STATE])
    told = await check(env)
    assert told.code == 1
    lost = told.of("wv0010", "Kafka state")
    assert lost["state"] == State.FAILED
    assert "is empty, but the messages topic holds events" in lost["text"]


async def everything_in(kafka: Broker) -> dict[Any, int]:
    """Where every partition ends, also those of Kafka's own topics."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        names = await admin.list_topics()
    finally:
        await admin.close()
    assert "__transaction_state" in names
    return {
        partition: end
        for name in names
        for partition, end in (await end_offsets(kafka.bootstrap, name)).items()
    }


async def test_nothing_is_made_where_brokers_make_topics_by_themselves(tmp_path: Path) -> None:
    """Asking for a topic is enough for such a broker, unless it is asked not to.

    The same broker allows short transactions only, and names itself wrongly.
    """
    nowhere = f"127.0.0.1:{free_ports().plaintext}"
    overrides = {
        "auto.create.topics.enable": "true",
        "transaction.max.timeout.ms": "30000",
        "advertised.listeners": f"PLAINTEXT://{nowhere}",
    }
    with Broker(tmp_path, overrides=overrides) as broker:
        told = await check({"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap, "WOLKVOX_URL": NOBODY})
        brokers = told.of("brokers")
        assert brokers["state"] == State.FAILED
        assert f"Kafka says that its brokers are at {nowhere}" in brokers["text"]
        assert "advertised.listeners" in brokers["text"]
        limit = told.of("transaction time")
        assert limit["state"] == State.FAILED
        assert "the brokers allow transactions of 30 s, 60 s are needed" in limit["text"]
        # What does not depend on them was tried.
        assert told.of("transactional id")["state"] == State.OK
        again = await check({"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap, "WOLKVOX_URL": NOBODY})
        for topic in ("wolkvox.messages", "wolkvox.publisher.state"):
            assert "missing" in again.of("rights", f"Kafka topic {topic}")["text"]


async def test_for_people(env: Env) -> None:
    """Plain when piped; the cure stands under the failure, what depends on it in one line."""
    told = await command({**env, "WOLKVOX_URL": NOBODY})
    assert told.code == 1
    assert "\x1b" not in told.out
    lines = told.out.splitlines()
    [at] = [n for n, line in enumerate(lines) if line.split() == ["FAILED", "connection"]]
    assert "cannot reach" in lines[at + 1]
    assert any("not tried" in line and "report, clock, newest row" in line for line in lines)
    assert lines[-1] == "1 failed, 3 not tried because of that."
    assert all(len(line) <= 120 for line in lines)


# --- settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "cure"),
    [
        ({"WOLKVOX_SERVER": "8"}, "0010"),
        ({"WOLKVOX_TIMEZONE": "Bogota"}, "America/Bogota"),
        ({"WOLKVOX_TOKEN": ""}, "WOLKVOX_TOKEN is missing"),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "KAFKA_SASL_USERNAME is missing"),
    ],
)
async def test_settings_that_cannot_work(wrong: Env, cure: str) -> None:
    """Exit code 2, and nothing else is tried."""
    told = await check(wrong)
    assert told.code == 2
    assert cure in told.failed()["text"]
    assert len(told.checks) == 1


async def test_a_file_that_is_no_certificate(env: Env, tmp_path: Path) -> None:
    """Exit code 2; the API is looked at all the same."""
    junk = tmp_path / "junk.pem"
    junk.write_text("junk", encoding="utf-8")
    told = await check({**env, "KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CAFILE": str(junk)})
    assert told.code == 2
    assert "KAFKA_SSL_CAFILE" in told.failed()["text"]
    assert told.states("API") == {State.OK}
    assert told.states(KAFKA_GROUPS) == {State.NOT_TRIED}


# --- the API ------------------------------------------------------------------------------

NOBODY: Final = f"http://127.0.0.1:{free_ports().plaintext}"


async def api_failure(env: Env, name: str) -> dict[str, str]:
    """The one check that failed, of that name; Kafka is fine."""
    told = await check(env)
    assert told.code == 1
    failed = told.failed()
    assert failed["group"].startswith("API")
    assert failed["check"] == name
    assert told.states(KAFKA_GROUPS) == {State.OK}
    return failed


@pytest.mark.parametrize(
    ("fault", "cure"),
    [
        ("wrong_token", "put a valid one into WOLKVOX_TOKEN"),
        ("no_token", "no proxy removes headers"),
        ("simultaneous", "if the service is running, that is it"),
        ("quota_spent", "who else uses it"),
        ("maintenance", "try again in some minutes"),
        ("unknown_api", "check WOLKVOX_SERVER and WOLKVOX_URL"),
        ("unavailable", "ask the vendor when it lasts"),
        ("redirect", "put the right address into WOLKVOX_URL"),
        ("html", "not the JSON that the report sends"),
        ("closed", "closed the connection"),
    ],
)
async def test_what_the_api_refuses(env: Env, api: Simulator, fault: str, cure: str) -> None:
    """The report's line names the cure; where it answers at all the clock is known, too."""
    api.fault(fault)
    told = await api_failure(env, REPORT)
    assert cure in told["text"]
    asked = 3 if fault == "simultaneous" else 1
    assert len(api.stats.requests) == asked
    assert api.stats.max_in_flight == 1


async def test_another_token(env: Env) -> None:
    """As the server itself finds it, not by a fault that was switched on."""
    told = await api_failure({**env, "WOLKVOX_TOKEN": "another"}, REPORT)
    assert "the token is wrong" in told["text"]


async def test_a_token_in_use_for_a_moment(env: Env, api: Simulator) -> None:
    """It is asked again, and all is well."""
    api.fault("simultaneous", count=2)
    told = await check(env)
    assert told.code == 0
    assert len(api.stats.requests) == 3


async def test_an_empty_hour(env: Env, api: Simulator) -> None:
    """No rows is no failure; that a 404 says so is told."""
    api.change(rate=0.0)
    told = await check(env)
    assert told.code == 0
    assert "404" in told.of(REPORT)["text"]
    assert told.of("newest row")["state"] == State.HINT
    assert "nothing to compare America/Bogota with" in told.of("newest row")["text"]
    assert len(api.stats.requests) == 2


async def test_a_server_that_nobody_knows(env: Env) -> None:
    told = await api_failure({**env, "WOLKVOX_URL": "https://no-such-server.invalid"}, "name")
    assert "check WOLKVOX_SERVER" in told["text"]


async def test_an_api_that_cannot_be_reached(env: Env) -> None:
    told = await api_failure({**env, "WOLKVOX_URL": NOBODY}, "connection")
    assert "allow-list" in told["text"]


async def test_no_tls_there(env: Env, api: Simulator) -> None:
    told = await api_failure({**env, "WOLKVOX_URL": api.url.replace("http:", "https:")}, TLS)
    assert "TLS" in told["text"]


@pytest.mark.parametrize(("scheme", "name"), [("http", REPORT), ("https", TLS)])
async def test_an_api_that_never_answers(env: Env, scheme: str, name: str) -> None:
    async with silence() as port:
        told = await api_failure({**env, "WOLKVOX_URL": f"{scheme}://127.0.0.1:{port}"}, name)
        assert "in time" in told["text"]


async def test_packets_that_are_dropped(env: Env) -> None:
    """What a firewall does, or an address that is on no allow-list; for API and Kafka alike."""
    with full_port() as port:
        start = await start_seconds()
        told = await check(
            {
                **env,
                "WOLKVOX_URL": f"https://127.0.0.1:{port}",
                "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{port}",
            }
        )
    assert told.took - start < LIMIT
    api, kafka = told.of("connection", "API"), told.of("connection", KAFKA_GROUPS)
    assert api["state"] == kafka["state"] == State.FAILED
    assert "no connection in time" in api["text"]
    assert "allow-list" in api["text"]
    assert "no answer within" in kafka["text"]


@contextmanager
def full_port() -> Iterator[int]:
    """A port whose queue is full: the kernel answers no further attempt."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(2):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


async def test_a_proxy_that_is_not_there(env: Env) -> None:
    told = await api_failure({**env, "http_proxy": NOBODY}, REPORT)
    assert "HTTPS_PROXY" in told["text"]


@pytest.mark.parametrize(
    ("offset", "state"), [(300.0, State.HINT), (-7200.0, State.FAILED), (7200.0, State.FAILED)]
)
async def test_clocks_that_differ(env: Env, api: Simulator, offset: float, state: State) -> None:
    api.fault("clock_off", offset=offset)
    told = (await check(env)).of("clock")
    assert told["state"] == state
    seconds = [int(word) for word in told["text"].split() if word.lstrip("-").isdecimal()]
    assert min(abs(abs(found) - abs(offset)) for found in seconds) <= 3
    assert ("does NTP run here?" in told["text"]) == (state is State.HINT)


async def test_a_wrong_time_zone_shows(env: Env, api: Simulator) -> None:
    """A row said just now lies hours ahead by the zone that was set."""
    local = api.time.text(api.time.local(api.now() + 1800))
    rows = [{"channel": "web", "from": "AGENT", "date": local, "message": "Hola"}]
    api.change(hypothesis="H1", rate=0.0)
    api.add([{"conn_id": "1", "agent_name": "L", "customer_name": "A", "conversation": rows,
              "closed": api.time.text(api.time.local(api.now() - 60))}])  # fmt: skip
    told = (await check(env)).of("newest row")
    assert told["state"] == State.HINT, told
    assert "minutes in the future by America/Bogota: is WOLKVOX_TIMEZONE" in told["text"]


@pytest.mark.parametrize(
    ("real", "told_zone"),
    [
        ("America/Bogota", "UTC"),
        ("America/Bogota", "America/Los_Angeles"),
        ("America/Bogota", "Asia/Tokyo"),
        ("Asia/Kolkata", "America/Bogota"),
        ("Europe/Madrid", "Asia/Kolkata"),
        ("Pacific/Kiritimati", "America/Bogota"),
        ("America/Bogota", "America/Lima"),
        ("Asia/Kolkata", "Asia/Kolkata"),
    ],
)
async def test_the_zone_that_fits_is_named(topics: Env, real: str, told_zone: str) -> None:
    """Rows of just now, whichever side of them the zone of the settings is on."""
    async with Simulator(World(history=3600.0, rate=600.0, zone=real), token=TOKEN) as api:
        env = {**topics, "WOLKVOX_URL": api.url, "WOLKVOX_TIMEZONE": told_zone}
        newest = (await check(env)).of("newest row")
    now = datetime.now(UTC)
    away, by_settings = (now.astimezone(ZoneInfo(zone)).utcoffset() for zone in (real, told_zone))
    if away == by_settings:
        assert newest["state"] == State.OK
        return
    assert newest["state"] == State.HINT
    offset = f"UTC{now.astimezone(ZoneInfo(real)).isoformat()[-6:]}"
    assert f"rows look like {offset}; WOLKVOX_TIMEZONE=" in newest["text"]


# --- Kafka's doors ------------------------------------------------------------------------


async def start_seconds() -> float:
    """What a start takes on this machine now: it stops at the settings."""
    return (await command({"WOLKVOX_SERVER": "8"})).took


async def kafka_failure(env: Env, name: str) -> dict[str, str]:
    """The one check that failed, of that name; the API is fine, what depends is not tried."""
    told = await check(env)
    assert told.code == 1
    failed = told.failed()
    assert failed["group"].startswith(KAFKA_GROUPS)
    assert failed["check"] == name
    assert told.states("API") == {State.OK}
    assert told.states("Kafka topic") == {State.NOT_TRIED}
    return failed


@pytest.mark.parametrize("wrong", [{"KAFKA_SASL_PASSWORD": WRONG_PASSWORD},
                                   {"KAFKA_SASL_USERNAME": "nobody"}])  # fmt: skip
async def test_a_wrong_password(kafka: Broker, env: Env, wrong: Env) -> None:
    told = await kafka_failure({**env, **through(kafka, "SASL_SSL"), **wrong}, "login")
    assert "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD" in told["text"]


async def test_a_wrong_authority(kafka: Broker, env: Env, tmp_path: Path) -> None:
    other = {"KAFKA_SSL_CAFILE": str(issue(tmp_path, client_name="x").ca)}
    told = await kafka_failure({**env, **through(kafka, "SASL_SSL"), **other}, TLS)
    assert "KAFKA_SSL_CAFILE" in told["text"]


@pytest.mark.parametrize(
    ("speaks", "listens", "name"),
    [
        ("PLAINTEXT", "SSL", "protocol"),
        ("PLAINTEXT", "SASL_SSL", "protocol"),
        ("PLAINTEXT", "SASL_PLAINTEXT", "brokers"),
        ("SASL_PLAINTEXT", "PLAINTEXT", "protocol"),
        ("SSL", "PLAINTEXT", TLS),
        ("SASL_SSL", "SASL_PLAINTEXT", TLS),
    ],
)
async def test_the_wrong_protocol(
    kafka: Broker, env: Env, speaks: str, listens: str, name: str
) -> None:
    address = through(kafka, listens)["KAFKA_BOOTSTRAP_SERVERS"]
    environment = {**env, **through(kafka, speaks), "KAFKA_BOOTSTRAP_SERVERS": address}
    assert "KAFKA_SECURITY_PROTOCOL" in (await kafka_failure(environment, name))["text"]


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(NOBODY.removeprefix("http://"), id="nobody"),
        "no-such-host.invalid:9092",
        "localhost",
    ],
)
async def test_a_broker_that_cannot_be_reached(env: Env, server: str) -> None:
    told = await kafka_failure({**env, "KAFKA_BOOTSTRAP_SERVERS": server}, "connection")
    assert server in told["text"]
    assert "KAFKA_BOOTSTRAP_SERVERS" in told["text"]


async def test_one_server_of_two(kafka: Broker, env: Env) -> None:
    """The other one is a hint; beside topics that are missing it would be waited for."""
    dead = NOBODY.removeprefix("http://")
    both = {**env, "KAFKA_BOOTSTRAP_SERVERS": f"{dead}, {kafka.bootstrap}"}
    first = (await check(both)).of("rights", f"Kafka topic {env[MESSAGES]}")
    assert first["state"] == State.FAILED
    assert "too few brokers are up" in first["text"]
    await made(kafka, env)
    told = await check(both)
    assert told.code == 0, told.out
    connection = told.of("connection", KAFKA_GROUPS)
    assert connection["state"] == State.HINT
    assert "1 of 2 servers let us in" in connection["text"]
    assert dead in connection["text"]


@pytest.mark.parametrize(("protocol", "name"), [("PLAINTEXT", "protocol"), ("SASL_SSL", TLS)])
async def test_everything_hangs(kafka: Broker, env: Env, protocol: str, name: str) -> None:
    """A frozen broker and a silent API: both are told, in time."""
    async with silence() as port:
        kafka.freeze()
        try:
            environment = {**env, **through(kafka, protocol)}
            start = await start_seconds()
            told = await check({**environment, "WOLKVOX_URL": f"http://127.0.0.1:{port}"})
        finally:
            kafka.thaw()
            await awake(kafka.bootstrap)
    assert told.took - start < LIMIT
    assert told.code == 1
    assert told.of(REPORT)["state"] == State.FAILED
    assert told.of(name, KAFKA_GROUPS)["state"] == State.FAILED
    assert "no answer within" in told.of(name, KAFKA_GROUPS)["text"]


SLOW_NAMES: Final = """
import socket, time
real = socket.getaddrinfo
def slow(host, *others, **named):
    if host == "slow.invalid":
        time.sleep(60)
    return real(host, *others, **named)
socket.getaddrinfo = slow
from publisher.cli import main
main()
"""
"""There is no name server to freeze here, so the system's look-up plays one."""


async def test_name_servers_that_hang(env: Env) -> None:
    """They are not waited for, not even at the end."""
    slow = {"WOLKVOX_URL": "https://slow.invalid", "KAFKA_BOOTSTRAP_SERVERS": "slow.invalid:9092"}
    start = await start_seconds()
    told = await command({**env, **slow}, "--json", program=SLOW_NAMES)
    assert told.took - start < LIMIT
    assert told.code == 1
    assert "DNS" in told.of("name")["text"]
    assert told.of("connection", KAFKA_GROUPS)["state"] == State.FAILED


# --- rights and topics --------------------------------------------------------------------

NAMES: Final = {
    "WRITE messages": "PUBLISHER_MESSAGES_TOPIC",
    "WRITE dead letters": "PUBLISHER_DEAD_LETTERS_TOPIC",
    "WRITE state": "PUBLISHER_STATE_TOPIC",
    "READ state": "PUBLISHER_STATE_TOPIC",
}


async def made(kafka: Broker, env: Env) -> None:
    """The three topics, as the service makes them."""
    cluster = Cluster(load({"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": TOKEN, **env}), _nothing)
    try:
        await cluster.log("wv0010").restore()
    finally:
        await cluster.close()


def _nothing(_: object) -> None: ...


async def test_the_minimal_rights(kafka: Broker, env: Env) -> None:
    """Nothing fails; what cannot be seen is a hint."""
    await made(kafka, env)
    for right in MINIMUM:
        grant(kafka, env, "bob", right)
    told = await check({**env, **through(kafka, "SASL_SSL", user="bob")})
    assert told.code == 0
    unseen = "cannot be seen without DESCRIBE_CONFIGS"
    assert unseen in told.of("transaction time")["text"]
    log = told.of("transaction log")
    assert (
        "replicas of topic __transaction_state cannot be checked: grant DESCRIBE and" in log["text"]
    )
    assert log["command"].endswith("--operation DescribeConfigs --topic __transaction_state")
    group = f"Kafka topic {env['PUBLISHER_STATE_TOPIC']}"
    assert "DESCRIBE_CONFIGS" in told.of("settings", group)["text"]


@pytest.mark.parametrize("missing", MINIMUM)
async def test_a_right_that_is_missing(kafka: Broker, env: Env, missing: str) -> None:
    """It is named, with the command that grants it; only that one fails."""
    await made(kafka, env)
    for right in MINIMUM:
        if right != missing:
            grant(kafka, env, "bob", right)
    told = await check({**env, **through(kafka, "SASL_SSL", user="bob")})
    assert told.code == 1
    failed = told.failed()
    operation = missing.partition(" ")[0]
    assert operation in failed["text"]
    assert "--allow-principal User:bob" in failed["command"]
    assert f"--operation {operation.title()}" in failed["command"]
    if missing in NAMES:
        assert env[NAMES[missing]] in failed["text"]
        assert f"--topic {env[NAMES[missing]]}" in failed["command"]
    else:
        assert failed["check"] == "transactional id"
        assert env["PUBLISHER_TRANSACTIONAL_ID"] in failed["command"]


async def test_the_topic_of_revisions_is_looked_at_where_it_is_set(kafka: Broker, env: Env) -> None:
    """Its right to write like that of any other; without a setting nobody speaks of it."""
    topic = f"{env['PUBLISHER_MESSAGES_TOPIC']}.revisions"
    revised = {**env, "PUBLISHER_REVISIONS_TOPIC": topic}
    await made(kafka, revised)
    for right in MINIMUM:
        grant(kafka, env, "bob", right)
    bob = through(kafka, "SASL_SSL", user="bob")
    assert (await check({**env, **bob})).code == 0
    failed = (await check({**revised, **bob})).failed()
    assert topic in failed["text"]
    assert f"--operation Write --topic {topic}" in failed["command"]
    kafka.allow("bob", "WRITE", "TOPIC", topic)
    assert (await check({**revised, **bob})).code == 0


async def test_describe_without_write(kafka: Broker, env: Env) -> None:
    """The topic can be seen, so it is the one right that is named."""
    await made(kafka, env)
    for right in MINIMUM:
        if right != "WRITE messages":
            grant(kafka, env, "bob", right)
    kafka.allow("bob", "DESCRIBE", "TOPIC", env["PUBLISHER_MESSAGES_TOPIC"])
    failed = (await check({**env, **through(kafka, "SASL_SSL", user="bob")})).failed()
    topic = env["PUBLISHER_MESSAGES_TOPIC"]
    assert failed["text"] == f"Kafka forbids WRITE on topic {topic}: grant WRITE on it"


async def test_a_transactional_id_that_is_granted_by_its_whole_name(
    kafka: Broker, env: Env
) -> None:
    """What counts is the id that the service uses."""
    await made(kafka, env)
    for right in MINIMUM:
        if right != "WRITE transactional id":
            grant(kafka, env, "alice", right)
    whole = f"{env['PUBLISHER_TRANSACTIONAL_ID']}-{partition_of('wv0010')}"
    kafka.allow("alice", "WRITE", "TRANSACTIONAL_ID", whole)
    assert (await check({**env, **through(kafka, "SASL_SSL", user="alice")})).code == 0


async def test_topics_that_are_missing_and_may_not_be_created(kafka: Broker, env: Env) -> None:
    """How they must be created is said; with the right to create them all is well."""
    for right in MINIMUM:
        grant(kafka, env, "bob", right)
    environment = {**env, **through(kafka, "SASL_SSL", user="bob")}
    told = await check(environment)
    assert told.code == 1
    state = told.of("rights", f"Kafka topic {env['PUBLISHER_STATE_TOPIC']}")
    assert "cleanup.policy=compact" in state["text"]
    assert "CREATE" in state["text"]
    for name in ("MESSAGES", "DEAD_LETTERS", "STATE"):
        kafka.allow("bob", "CREATE", "TOPIC", env[f"PUBLISHER_{name}_TOPIC"])
    assert (await check(environment)).code == 0


FEW: Final = "kafka-topics.sh --alter --partitions 12"
WRONG_TOPICS: Final = [
    pytest.param(STATE, 12, {"cleanup_policy": "delete"}, "set it to compact", id="deletes"),
    pytest.param(STATE, 3, {"cleanup_policy": "compact"}, FEW, id="few partitions"),
    pytest.param(MESSAGES, 1, {"max_message_bytes": "500000"}, "raise it to", id="small"),
    pytest.param(MESSAGES, 1, {"cleanup_policy": "compact"}, "policy=delete", id="compacted"),
]


@pytest.mark.parametrize(("which", "partitions", "config", "cure"), WRONG_TOPICS)
async def test_topics_with_wrong_settings(
    kafka: Broker, env: Env, which: str, partitions: int, config: Env, cure: str
) -> None:
    await create(kafka.bootstrap, env[which], partitions, **config)
    failed = (await check(env)).failed()
    assert failed["check"] == "settings"
    assert failed["group"] == f"Kafka topic {env[which]}"
    assert cure in failed["text"]
    if which == STATE and partitions == 12:
        await configure(kafka.bootstrap, env[which], {"cleanup.policy": "compact"})
        assert (await check(env)).code == 0


# --- the commands topic: the service can do without -----------------------------------------------

COMMANDS: Final = "PUBLISHER_COMMANDS_TOPIC"


@pytest.fixture
def ordering(env: Env) -> Env:
    return {**env, COMMANDS: env[STATE].replace(".state", ".commands")}


def of_orders(told: Outcome, environment: Env, name: str) -> dict[str, str]:
    return told.of(name, f"Kafka topic {environment[COMMANDS]}")


async def test_orders_that_could_not_be_read(kafka: Broker, ordering: Env) -> None:
    """A hint, with the command that grants the right; hidden, seen, read, written."""
    await made(kafka, ordering)
    topic = ordering[COMMANDS]
    for right in MINIMUM:
        grant(kafka, ordering, "bob", right)
    bob = {**ordering, **through(kafka, "SASL_SSL", user="bob")}
    for seen in (False, True):
        told = await check(bob)
        assert told.code == 0
        rights = of_orders(told, ordering, "rights")
        assert rights["state"] == State.HINT
        assert rights["text"] == (
            f"Kafka forbids READ on topic {topic}: grant READ on it to have backfills"
        )
        assert rights["command"].endswith(f"User:bob --operation Read --topic {topic}")
        if not seen:
            await create(kafka.bootstrap, topic, 12, cleanup_policy="compact")
            kafka.allow("bob", "DESCRIBE", "TOPIC", topic)
    kafka.allow("bob", "READ", "TOPIC", topic)
    told = await check(bob)
    assert of_orders(told, ordering, "rights")["text"].endswith("others order backfills")
    assert of_orders(told, ordering, "settings")["state"] == State.HINT
    kafka.allow("bob", "WRITE", "TOPIC", topic)
    kafka.allow("bob", "DESCRIBE_CONFIGS", "TOPIC", topic)
    told = await check(bob)
    assert of_orders(told, ordering, "rights")["text"].endswith("we may read and write")
    assert "cleanup.policy=compact, replicas=1" in of_orders(told, ordering, "settings")["text"]


async def test_a_commands_topic_that_is_missing(kafka: Broker, ordering: Env) -> None:
    """Well where it could be created; else how it must be."""
    told = await check(ordering)
    assert "the first backfill will create it" in of_orders(told, ordering, "rights")["text"]
    assert of_orders(told, ordering, "settings")["state"] == State.OK
    await made(kafka, ordering)
    for right in MINIMUM:
        grant(kafka, ordering, "bob", right)
    kafka.allow("bob", "READ", "TOPIC", ordering[COMMANDS])
    told = await check({**ordering, **through(kafka, "SASL_SSL", user="bob")})
    assert told.code == 0
    rights = of_orders(told, ordering, "rights")
    assert rights["state"] == State.HINT
    assert "12 partitions, cleanup.policy=compact" in rights["text"]
    assert "or grant CREATE, before a backfill is ordered" in rights["text"]


@pytest.mark.parametrize(
    ("partitions", "policy", "cure"), [(12, "delete", "set it to compact"), (3, "compact", FEW)]
)
async def test_a_commands_topic_with_wrong_settings(
    kafka: Broker, ordering: Env, partitions: int, policy: str, cure: str
) -> None:
    await create(kafka.bootstrap, ordering[COMMANDS], partitions, cleanup_policy=policy)
    told = await check(ordering)
    assert told.code == 0
    settings = of_orders(told, ordering, "settings")
    assert settings["state"] == State.HINT
    assert cure in settings["text"]

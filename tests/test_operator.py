"""What a tired operator reads: one line that says what is wrong, where, and what to do."""

import asyncio
import resource
import time
from pathlib import Path
from typing import Final

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from sandbox.kafka import USERS, Broker
from sandbox.kafka.config import free_ports
from sandbox.processes import until
from tests.harness import Publisher, rig

FAST: Final = {
    "PUBLISHER_POLL_EVERY": "300ms",
    "PUBLISHER_OVERLAP": "2s",
    "PUBLISHER_START": "now",
}
CALM: Final = {"history": "1m", "late": 0.0, "hypothesis": "H2"}


async def problem(publisher: Publisher, reason: str, level: str, seconds: float = 15) -> str:
    """The text of the first line with that reason; its level tells whether somebody must act."""
    line = await publisher.logged(seconds, reason=reason)
    assert line["level"] == level
    text: str = line["problem"]
    assert "\n" not in text
    assert publisher.alive, "a fault ended the process"
    _no_traceback(publisher)
    return text


def _no_traceback(publisher: Publisher) -> None:
    assert "Traceback" not in publisher.child.output, publisher.child.output
    odd = [line for line in publisher.lines if "text" in line]
    assert not odd, odd


# --- settings: exit code 2 ------------------------------------------------------------------------


def settings_publisher(tmp_path: Path, **settings: str) -> Publisher:
    needed = {
        "WOLKVOX_SERVER": "0010",
        "WOLKVOX_TOKEN": "secret-token",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "PUBLISHER_HTTP_PORT": "0",
    }
    told = {name: value for name, value in (needed | settings).items() if value}
    return Publisher(told, tmp_path / "publisher.log")


async def refused(publisher: Publisher) -> list[str]:
    """Its lines, once it has ended with exit code 2."""
    assert await publisher.child.ended(10) == 2
    lines = publisher.child.output.splitlines()
    publisher.kill()
    assert all(line.startswith("wolkvox-publisher: ") for line in lines), lines
    assert "secret" not in publisher.child.output
    return lines


async def test_missing_settings(tmp_path: Path) -> None:
    """Everything that is missing is named at once, one line each."""
    nothing = {"WOLKVOX_SERVER": "", "WOLKVOX_TOKEN": "", "KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}
    lines = await refused(settings_publisher(tmp_path, **nothing))
    missing = ("WOLKVOX_SERVER", "WOLKVOX_TOKEN", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD")
    assert len(lines) == len(missing)
    for name in missing:
        assert any(f"{name} is missing" in line for line in lines), lines


async def test_settings_that_cannot_work(tmp_path: Path) -> None:
    """Each wrong value is named with what is expected instead."""
    wrong = {
        "WOLKVOX_SERVER": "8",
        "WOLKVOX_TIMEZONE": "Bogota",
        "PUBLISHER_POLL_EVERY": "5",
        "PUBLISHER_START": "yesterday",
        "KAFKA_SECURITY_PROTOCOL": "TLS",
    }
    lines = await refused(settings_publisher(tmp_path, **wrong))
    assert len(lines) == len(wrong), lines
    expected = ('"0010"', "America/Bogota", "5m", "-24h", "SASL_SSL")
    for name, hint in zip(wrong, expected, strict=True):
        assert any(name in line and hint in line for line in lines), (name, lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[publisher]\npoll_every = 5m\n", "is not TOML: at line 2"),
        ("[publisher]\npol_every = '5m'\n", "unknown name pol_every in [publisher]"),
        ("[publishers]\n", "unknown table [publishers]"),
        ("[[operations]]\nserver = 10\ntoken = 'secret-token'\n", "operations[1].server must be"),
    ],
)
async def test_bad_toml(tmp_path: Path, text: str, expected: str) -> None:
    """A mistake in the file is told with its place, and with nothing else of the file."""
    config = tmp_path / "publisher.toml"
    config.write_text(text)
    [line] = await refused(
        settings_publisher(
            tmp_path,
            PUBLISHER_CONFIG=str(config),
            **({"WOLKVOX_SERVER": "", "WOLKVOX_TOKEN": ""} if "operations" in text else {}),
        )
    )
    assert expected in line


async def test_no_such_file(tmp_path: Path) -> None:
    """A file that is named and not there: which one, and by which setting."""
    files = {"WOLKVOX_TOKEN": "", "WOLKVOX_TOKEN_FILE": str(tmp_path / "none.token")}
    [line] = await refused(settings_publisher(tmp_path, **files))
    assert f"WOLKVOX_TOKEN_FILE: cannot read the file {tmp_path}/none.token: No such file" in line
    [line] = await refused(settings_publisher(tmp_path, PUBLISHER_CONFIG=str(tmp_path / "no.toml")))
    assert f"{tmp_path}/no.toml: No such file" in line
    assert "PUBLISHER_CONFIG: cannot read" in line


async def test_a_port_that_is_taken(kafka: Broker, tmp_path: Path) -> None:
    """Another program has our HTTP port: told before anything is published."""
    async with rig(kafka.bootstrap, tmp_path, CALM, FAST) as one:
        taken = one.api.url.rpartition(":")[2]
        publisher = one.start(PUBLISHER_HTTP_PORT=taken)
        assert await publisher.child.ended(10) == 2
        told = publisher.child.output.splitlines()
        assert f"wolkvox-publisher: PUBLISHER_HTTP_PORT: port {taken} is taken" in told[-1], told
        assert "Traceback" not in publisher.child.output


# --- the way to the API ---------------------------------------------------------------------------


async def test_a_wrong_token(kafka: Broker, tmp_path: Path) -> None:
    """The setting to correct is named; the token is not."""
    async with rig(kafka.bootstrap, tmp_path, CALM, FAST) as one:
        publisher = one.start(WOLKVOX_TOKEN="wrong-token")
        text = await problem(publisher, "token_refused", "error")
        assert "the token is wrong or has expired" in text
        assert "WOLKVOX_TOKEN" in text
        assert "wrong-token" not in publisher.child.output


async def test_an_unreachable_api(kafka: Broker, tmp_path: Path) -> None:
    """Where it is not, and the two usual causes."""
    async with rig(kafka.bootstrap, tmp_path, CALM, FAST) as one:
        port = free_ports().plaintext
        publisher = one.start(WOLKVOX_URL=f"http://127.0.0.1:{port}")
        text = await problem(publisher, "unreachable", "warning")
        assert f"cannot reach 127.0.0.1:{port}: the connection was refused" in text
        assert "WOLKVOX_URL" in text
        assert "allow-list" in text


# --- the way to Kafka -----------------------------------------------------------------------------


async def test_an_unreachable_broker(tmp_path: Path, kafka: Broker) -> None:
    """Where nobody listens, and the setting that says so."""
    async with rig(kafka.bootstrap, tmp_path, CALM, FAST) as one:
        nowhere = f"127.0.0.1:{free_ports().plaintext}"
        publisher = one.start(KAFKA_BOOTSTRAP_SERVERS=nowhere)
        text = await problem(publisher, "kafka_unreachable", "warning")
        assert f"Kafka at {nowhere} cannot be reached (nobody listens there)" in text
        assert "KAFKA_BOOTSTRAP_SERVERS" in text


def secure(kafka: Broker, user: str, password: str) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.secure_bootstrap,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-256",
        "KAFKA_SASL_USERNAME": user,
        "KAFKA_SASL_PASSWORD": password,
        "KAFKA_SSL_CAFILE": str(kafka.cafile),
    }


async def test_a_wrong_kafka_password(kafka: Broker, tmp_path: Path) -> None:
    """Both settings that may be wrong are named; neither value is."""
    settings = FAST | secure(kafka, "alice", "wrong-password")
    async with rig(kafka.bootstrap, tmp_path, CALM, settings) as one:
        publisher = one.start()
        text = await problem(publisher, "kafka_authentication", "error")
        assert f"Kafka at {kafka.secure_bootstrap} refuses user name or password" in text
        assert "KAFKA_SASL_PASSWORD" in text
        assert "wrong-password" not in publisher.child.output


async def test_missing_rights(kafka: Broker, tmp_path: Path) -> None:
    """Each missing right is told when it is met; once it is granted, work goes on by itself."""
    settings = FAST | secure(kafka, "alice", USERS["alice"])
    async with rig(kafka.bootstrap, tmp_path, CALM, settings) as one:
        publisher = one.start()
        text = await problem(publisher, "kafka_authorization", "error")
        assert "Kafka forbids the use of topic" in text
        assert "grant DESCRIBE and WRITE on all its topics" in text
        prefix = one.topic.partition(".")[0]
        kafka.allow("alice", "ALL", "TOPIC", prefix, prefixed=True)
        line = await publisher.logged(reason="kafka_authorization", problem="transactional id")
        assert "grant WRITE (and DESCRIBE)" in line["problem"]
        assert "PUBLISHER_TRANSACTIONAL_ID" in line["problem"]
        kafka.allow("alice", "ALL", "TRANSACTIONAL_ID", prefix, prefixed=True)
        await publisher.logged(20, event="Window published")
        _no_traceback(publisher)


async def test_an_emptied_state_topic(kafka: Broker, tmp_path: Path) -> None:
    """What was published is no longer known: refused, with the two ways out."""
    async with rig(kafka.bootstrap, tmp_path, CALM, FAST | {"PUBLISHER_START": "-2m"}) as one:
        publisher = one.start()
        await until(lambda: _published(publisher), 15)
        assert await publisher.stop() == 0
        await _delete(kafka.bootstrap, one.settings["PUBLISHER_STATE_TOPIC"])
        published = len(await one.read())
        publisher = one.start()
        text = await problem(publisher, "state_lost", "error")
        state = one.settings["PUBLISHER_STATE_TOPIC"]
        assert f"the state topic {state} is empty, but the messages topic holds events" in text
        assert "restore the state topic from a backup" in text
        assert "PUBLISHER_MESSAGES_TOPIC" in text
        assert len(await one.read()) == published
        publisher.kill()
        assert not [line for line in publisher.lines if line.get("event") == "Window published"]


async def _published(publisher: Publisher) -> bool:
    return await publisher.metric("messages_published_total") > 0


async def _delete(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([topic])

        async def gone() -> bool:
            return topic not in await admin.list_topics()

        await until(gone, 10)
    finally:
        await admin.close()


async def test_a_full_broker_disk(tmp_path: Path) -> None:
    """The line names a full disk among the causes; with room again, nothing is lost or doubled.

    To a broker a limit on the size of its files is the same: a write fails, it gives up its only
    log directory, and ends.
    """
    with Broker(tmp_path / "broker") as broker:
        async with rig(broker.bootstrap, tmp_path / "rig", CALM, FAST) as one:
            publisher = one.start()
            await publisher.logged(event="Window published")
            since = time.time() + 1
            # Begun anew, because a transaction in hand is given 20 s to get through.
            assert await publisher.stop() == 0
            resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (1_000, 1_000))
            publisher = one.start()
            line = await publisher.logged(75, problem="full")
            assert line["reason"] in ("kafka_timeout", "kafka_unreachable")
            assert line["level"] == "warning"
            assert "Kafka" in line["problem"]
            _no_traceback(publisher)
            assert await publisher.get("/healthz") == (200, "ok\n")
            assert (await publisher.get("/readyz"))[0] == 503
            broker.kill()
            await asyncio.to_thread(broker.start)
            found = await one.settled(60, since=since)
            assert found.promised
            assert found.none, found
            assert publisher.alive

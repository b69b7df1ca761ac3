"""`wolkvox-publisher status`: one answer, from a running service or from what it has left."""

import asyncio
import os
import pty
import re
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from publisher.commands.status import rendered
from publisher.kafka.cluster import partition_of
from publisher.telemetry import status_document
from sandbox.kafka import Broker
from sandbox.kafka.config import free_ports
from sandbox.processes import until
from tests import kafka_tools
from tests.commands import command
from tests.harness import Rig, api, rig

ROOT: Final = Path(__file__).parents[1]
CALM: Final = {"history": "3m", "late": 0.0, "hypothesis": "H2"}
ONCE: Final = {
    "PUBLISHER_POLL_EVERY": "1h",
    "PUBLISHER_OVERLAP": "1s",
    "PUBLISHER_REREADS": "2h",
    "PUBLISHER_START": "-2m",
}
"""One window at the start, and nothing for an hour."""
FAST: Final = {"PUBLISHER_POLL_EVERY": "300ms", "PUBLISHER_OVERLAP": "2s", "PUBLISHER_REREADS": ""}


@dataclass
class Ended:
    """How a run of the command ended."""

    code: int
    out: str
    problems: list[str]
    seconds: float

    @property
    def told(self) -> Any:
        return orjson.loads(self.out)


async def status(settings: Mapping[str, str], *options: str) -> Ended:
    """Run the command; its problems without the name that stands before each."""
    began = time.monotonic()
    code, out, err = await command(settings, "status", *options)
    seconds = time.monotonic() - began
    lines = err.splitlines()
    assert all(line.startswith("wolkvox-publisher: ") for line in lines), lines
    problems = [line.removeprefix("wolkvox-publisher: ") for line in lines]
    return Ended(code, out, problems, seconds)


@asynccontextmanager
async def settled_rig(kafka: Broker, folder: Path) -> AsyncIterator[Rig]:
    """A rig whose service has published its one window; its port is the one of the settings."""
    port = str(free_ports().plaintext)
    async with rig(kafka.bootstrap, folder, CALM, {**ONCE, "PUBLISHER_HTTP_PORT": port}) as one:
        await one.start().logged(15, event="Window published")
        yield one


SERVICE_ONLY: Final = ("standing", "published", "missing", "pass_lags")


async def test_the_service_tells_and_once_it_is_killed_its_state_topic(
    kafka: Broker, tmp_path: Path
) -> None:
    """The same shape and the same facts; what only the service knows is null."""
    async with settled_rig(kafka, tmp_path) as one:
        running = await status(one.settings, "--json")
        assert (running.code, running.problems) == (0, [])
        await one.kill()
        left = await status(one.settings, "--json")
        assert left.code == 0
        url = f"http://localhost:{one.settings['PUBLISHER_HTTP_PORT']}"
        assert left.problems == [
            f"the service does not answer at {url} (nobody listens there): start it, or name its"
            " address with --url"
        ]
        service, topic = running.told, left.told
        assert service["answered_by"] == "service"
        assert service["where"] == url
        assert topic["answered_by"] == "state_topic"
        assert topic["where"] == f"{one.settings['PUBLISHER_STATE_TOPIC']} at {kafka.bootstrap}"
        assert (topic["version"], topic["started_at"]) == (None, None)
        [live], [dead] = service["operations"], topic["operations"]
        assert live["standing"] == "publishing"
        assert live["published"] == live["last_window"]["new"] > 0
        # Of a message under a placeholder the ledger knows more than one form.
        assert live["ids"] >= live["published"]
        assert dead["lag_seconds"] >= live["lag_seconds"] >= 0
        assert live["passes"].keys() == {"live", "reread-2h"}
        assert live["last_window"].pop("committed_at") is not None
        assert dead["last_window"].pop("committed_at") is None
        # Both ends are right: what was asked for, and how far the server's clock had come.
        asked, covered = (
            datetime.fromisoformat(told["last_window"].pop("to")) for told in (live, dead)
        )
        assert timedelta() <= asked - covered < timedelta(seconds=2)
        assert [dead[name] for name in SERVICE_ONLY] == [None] * len(SERVICE_ONLY)
        for told in (live, dead):
            for name in (*SERVICE_ONLY, "lag_seconds"):
                del told[name]
        assert live == dead


async def test_for_a_person(kafka: Broker, tmp_path: Path) -> None:
    """Where the answer is from stands first; colours are for terminals only."""
    async with settled_rig(kafka, tmp_path) as one:
        piped = await status(one.settings)
        assert piped.code == 0
        first, *lines = piped.out.splitlines()
        assert first.startswith("The running service at http://localhost:")
        row = next(line for line in lines if line.startswith("wv0010  "))
        assert re.fullmatch(r"wv0010 +publishing +.+ s +(\S+ \S+) +(\S+ \S+) +[\d,]+", row)
        for told in ("  last window  live, ", " new, ", "  published ", "  reread-2h  "):
            assert told in piped.out
        assert "\x1b" not in piped.out
        terminal, stdout = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "publisher", "status",
            env={"PATH": os.environ["PATH"], **one.settings}, stdout=stdout,
        )  # fmt: skip
        os.close(stdout)
        assert await process.wait() == 0
        assert b"\x1b[1mOPERATION" in os.read(terminal, 10_000)
        os.close(terminal)
        await one.kill()
        left = await status(one.settings)
        assert left.out.startswith(f"No running service; the state topic {one.topic[:13]}")
        assert "known before" in left.out
        assert "published    " not in left.out


async def test_a_service_elsewhere_needs_no_settings(kafka: Broker, tmp_path: Path) -> None:
    """As long as it answers."""
    async with settled_rig(kafka, tmp_path) as one:
        url = await one.starts[0].url()
        told = await status({}, "--json", "--url", f"{url}/")
        assert (told.code, told.problems, told.told["where"]) == (0, [], url)
        await one.kill()
        told = await status({}, "--url", url)
        assert told.code == 2
        assert "the service does not answer" in told.problems[0]
        assert any("WOLKVOX_SERVER is missing" in line for line in told.problems)


async def test_a_service_that_runs_elsewhere_notices_nothing(kafka: Broker, tmp_path: Path) -> None:
    """Reading the state topic fences nobody, and tells what is true at the moment."""
    async with rig(kafka.bootstrap, tmp_path, CALM, FAST) as one:
        publisher = one.start()

        async def caught_up() -> bool:
            return await publisher.metric("lag_seconds") < 5

        await publisher.logged(15, event="Window published")
        await until(caught_up, 15)
        for _ in range(3):
            told = await status(one.settings, "--json")
            assert told.code == 0
            assert told.problems == [
                "PUBLISHER_HTTP_PORT is 0, so the service's port is not known: name it with --url"
            ]
            assert told.told["operations"][0]["lag_seconds"] < 10, told.told
        before = len(publisher.lines)
        await asyncio.sleep(1)  # three polls of a service that goes on
        new = publisher.lines[before:]
        assert [line for line in new if line.get("event") == "Window published"]
        assert not [line for line in publisher.lines if line.get("event", "").startswith("Step")]
        assert await publisher.stop() == 0


async def test_an_undecided_transaction_does_not_keep_the_answer_back(
    kafka: Broker, tmp_path: Path
) -> None:
    """A service that died in the middle leaves one for a minute: told, with what was before."""
    async with settled_rig(kafka, tmp_path) as one:
        await one.kill()
        topic = one.settings["PUBLISHER_STATE_TOPIC"]
        async with kafka_tools.producing(kafka.bootstrap, transactional_id=one.topic) as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(
                topic, b"{}", key=b"checkpoint/wv0010", partition=partition_of("wv0010")
            )
            told = (await status(one.settings, "--json")).told
            await producer.abort_transaction()
        assert told["operations"][0]["ids"] > 0
        [hint] = told["hints"]
        assert f"an undecided transaction hides the end of {topic}-" in hint
        assert "this answer is as old as its begin" in hint
        assert (await status(one.settings, "--json")).told["hints"] == []


async def test_a_state_that_cannot_be_used_is_part_of_the_answer(
    kafka: Broker, tmp_path: Path
) -> None:
    """The operation's last error says what a start would say; the others are not touched by it."""
    config = tmp_path / "publisher.toml"
    config.write_text('[[operations]]\nserver = "0010"\ntoken = "a"\n\n'
                      '[[operations]]\nname = "later"\nserver = "0011"\ntoken = "b"\n')  # fmt: skip
    async with settled_rig(kafka, tmp_path) as one:
        await one.kill()
        async with kafka_tools.producing(kafka.bootstrap) as producer:
            await producer.send_and_wait(
                one.settings["PUBLISHER_STATE_TOPIC"], b'{"format": 99}',
                key=b"checkpoint/wv0010", partition=partition_of("wv0010"),
            )  # fmt: skip
        settings = {name: v for name, v in one.settings.items() if not name.startswith("WOLKVOX")}
        settings["PUBLISHER_CONFIG"] = str(config)
        ended = await status(settings, "--json")
        assert ended.code == 0
        damaged, later = ended.told["operations"]
        assert damaged["last_error"]["reason"] == "state_format"
        assert damaged["last_error"]["needs_person"]
        assert damaged["last_error"]["attempt"] is None
        assert "format 99" in damaged["last_error"]["problem"]
        assert (later["operation"], later["cursor"], later["last_error"]) == ("later", None, None)
        text = (await status(settings)).out
        assert "has not begun yet" in text
        assert "restore / state_format" in text


async def test_nothing_runs_at_all() -> None:
    """One line for each source, with its cure."""
    ports = free_ports()
    settings = {
        "WOLKVOX_SERVER": "0010",
        "WOLKVOX_TOKEN": "secret-token",
        "PUBLISHER_HTTP_PORT": str(ports.plaintext),
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{ports.controller}",
    }
    ended = await status(settings)
    assert (ended.code, ended.out) == (1, "")
    service, topic = ended.problems
    assert "nobody listens there" in service
    assert "--url" in service
    assert topic.startswith("the state topic cannot be read: Kafka at 127.0.0.1:")
    assert "check KAFKA_BOOTSTRAP_SERVERS" in topic
    assert ended.seconds < 30


async def test_a_cluster_without_our_topic_and_one_that_hangs(tmp_path: Path) -> None:
    """Looking for the topic does not make it, also where Kafka would; a frozen broker is left."""
    overrides = {"auto.create.topics.enable": "true"}
    with Broker(tmp_path / "kafka", overrides=overrides) as broker:
        settings = {
            "WOLKVOX_SERVER": "0010",
            "WOLKVOX_TOKEN": "secret-token",
            "PUBLISHER_HTTP_PORT": "0",
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
        }
        for _ in range(2):
            ended = await status(settings)
            assert ended.code == 1
            assert (
                f"Kafka at {broker.bootstrap} shows no topic wolkvox.publisher.state"
                in (ended.problems[-1])
            )
        async with kafka_tools.administering(broker.bootstrap) as admin:
            assert await admin.list_topics() == []
        broker.freeze()
        try:
            ended = await status(settings)
        finally:
            broker.thaw()
        assert (ended.code, ended.out) == (1, "")
        # Either limit may be the first to end: that of the command or that of the connection.
        hangs = r"did not answer within 15 s|cannot be reached \(no answer within 10 s: it hangs"
        assert re.search(f"Kafka at {broker.bootstrap} ({hangs})", ended.problems[-1])
        assert ended.seconds < 30


async def test_another_program_on_the_port(tmp_path: Path) -> None:
    """It is not taken for the service."""
    async with api(tmp_path / "api.log", rate=10) as other:
        ended = await status({}, "--url", other.url)
        assert "what answers there is not this service" in ended.problems[0]


@pytest.mark.parametrize(
    "url", ["localhost:9108", "ftp://localhost", "http://", "http://me:secret@host", "http://[x"]
)
async def test_an_address_that_is_none(url: str) -> None:
    ended = await status({}, "--url", url)
    assert ended.code == 2
    assert ended.problems == ["--url is not an address such as http://localhost:9108"]


async def test_settings_that_cannot_work() -> None:
    ended = await status({"WOLKVOX_SERVER": "8", "WOLKVOX_TOKEN": "secret-token"})
    assert ended.code == 2
    assert len(ended.problems) == 1
    assert "WOLKVOX_SERVER" in ended.problems[0]


# --- the shape, and what a person sees of it ------------------------------------------------------

FAILING: Final[status_document.OperationReport] = {
    "operation": "wv0010",
    "standing": "needs_person",
    "lag_seconds": 7_260.0,
    "missing": ["live is more than two polls behind"],
    "pass_lags": {"live": 7_260.0, "repair": 0.0},
    "covered_until": "2026-11-20T10:00:00Z",
    "cursor": "2026-11-20T09:45:00Z",
    "ids": 1_234_567,
    "passes": {},
    "gaps": [],
    "backfills": [
        {
            "id": "20261120T090000-ab12",
            "from": "2026-11-18T00:00:00Z",
            "to": "2026-11-19T00:00:00Z",
            "again": False,
            "standing": "running",
            "cursor": "2026-11-18T12:00:00Z",
            "rows": 1_500,
            "new": 1_400,
        }
    ],
    "last_window": None,
    "last_error": {
        "stage": "read",
        "reason": "token_refused",
        "problem": "the token is wrong",
        "needs_person": True,
        "solved": False,
        "at": "2026-11-20T12:00:00.5Z",
        "attempt": 3,
        "retry_in_seconds": 90.0,
    },
    "published": 0,
}


def test_a_person_sees_the_last_error_and_when_it_is_tried_again() -> None:
    text = "\n".join(
        rendered(
            {
                "answered_by": "service",
                "where": "http://localhost:9108",
                "at": "2026-11-20T12:01:00.25Z",
                "version": "1.2.3",
                "started_at": "2026-11-20T08:00:00Z",
                "hints": ["something looks odd"],
                "operations": [FAILING],
            }
        )
    )
    assert "wv0010     needs person  2 h 1 min   2026-11-20 10:00:00" in text
    assert "last error   the token is wrong" in text
    assert "read / token_refused, 2026-11-20 12:00:00, attempt 3, next attempt in 1 min 30 s" in (
        text
    )
    assert (
        "backfill     20261120T090000-ab12 running, 2026-11-18 00:00:00 to 2026-11-19 00:00:00:"
        " read until 2026-11-18 12:00:00, 1,500 rows, 1,400 new"
    ) in text
    assert "Note: something looks odd" in text
    assert "\x1b[31mwv0010" in text


def test_the_shape_is_documented() -> None:
    """Every field of the JSON has a row in its table, and the other way round."""
    text = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    [section] = [part for part in text.split("\n## ") if part.startswith("status\n")]
    tables = [
        set(re.findall(r"^\| `(\w+)` ", part, re.MULTILINE))
        for part in section.split("| Field |")[1:]
    ]
    shapes = (
        status_document.Report, status_document.OperationReport, status_document.GapReport,
        status_document.BackfillReport,
        status_document.WindowReport, status_document.ErrorReport,
    )  # fmt: skip
    assert tables == [set(shape.__annotations__) for shape in shapes]


async def test_a_command_is_loaded_when_it_is_used() -> None:
    """`run` does not wait for the code of the others."""
    rooms = "{name.split('.')[1] for name in sys.modules if 'publisher.' in name}"
    program = f"import sys, publisher.cli; print({rooms})"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == "{'cli'}"

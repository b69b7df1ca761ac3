"""The examples for consumers do what docs/how-to/consume.md asks of a consumer, on a real Kafka.

Each is killed in the middle of its work, started again, and stopped in good order. The events
come from the real publisher; between them lie transactions that were aborted.
"""

import array
import asyncio
import fcntl
import importlib.util
import json
import os
import re
import sys
import termios
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from types import ModuleType, SimpleNamespace
from typing import Any, Final
from zoneinfo import ZoneInfo

import duckdb
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from jsonschema import Draft202012Validator

from sandbox.consume import Event
from sandbox.kafka import Broker
from sandbox.processes import Child, until
from tests import kafka_tools
from tests.fetched import Missing, prepared
from tests.harness import REPOSITORY, Rig, rig

EXAMPLES: Final = REPOSITORY / "examples"
SCHEMA: Final[dict[str, Any]] = json.loads(
    (REPOSITORY / "schemas/event.v1.schema.json").read_bytes()
)
CHECKPOINT: Final[dict[str, Any]] = json.loads(
    (REPOSITORY / "schemas/checkpoint.v1.schema.json").read_bytes()
)
LANGUAGES: Final = ("python", "java", "typescript")
STOPPED: Final = {"python": 0, "java": 143, "typescript": 0}
"""Exit codes after SIGTERM; Java knows no other."""

ABORTED: Final = 2
PIPE_BYTES: Final = 4096
LONGEST_LINE: Final = 100


def command(language: str) -> list[str]:
    """The command line of an example. Raises Missing."""
    if language == "python":
        return [sys.executable, str(EXAMPLES / "python/consume.py")]
    if language == "java":
        goal = "dependency:copy-dependencies"
        options = ("-DincludeScope=runtime", "-DoutputDirectory=lib")
        folder = prepared(EXAMPLES / "java", ["java", "-version"], ["mvn", "-B", goal, *options])
        flags = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return ["java", *flags, quiet, "-cp", f"{folder}/lib/*", f"{folder}/Consume.java"]
    folder = prepared(EXAMPLES / "typescript", ["npm", "ci"], ["npm", "run", "build"])
    return ["node", f"{folder}/consume.js"]


@dataclass(frozen=True)
class Published:
    """A topic that nobody writes to any more."""

    bootstrap: str
    topic: str
    state_topic: str
    events: list[Event]

    @property
    def ids(self) -> set[str]:
        return {event.value["event_id"] for event in self.events}

    def env(self, **more: str) -> dict[str, str]:
        told = {"KAFKA_BOOTSTRAP_SERVERS": self.bootstrap, "TOPIC": self.topic}
        return {"PATH": os.environ["PATH"], **told, **more}

    def ends(self) -> dict[int, int]:
        """The offset behind the last event of each partition."""
        last: defaultdict[int, int] = defaultdict(int)
        for event in self.events:
            last[event.partition] = max(last[event.partition], event.offset + 1)
        return dict(last)


@pytest.fixture(scope="module")
async def published(
    kafka: Broker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Published]:
    """An hour of chats by the real publisher, with aborted transactions among them."""
    world = {"rate": 240, "history": "1h", "late": 0.0, "duration": "5m", "seed": 3}
    async with rig(kafka.bootstrap, tmp_path_factory.mktemp("published"), world) as one:
        publisher = one.start()
        assert not (await one.settled(60)).lost
        await abort_something(one)
        await one.api.say([_chat("9000001"), _chat("9000002")])
        assert not (await one.settled(60)).lost
        assert await publisher.stop() == 0
        events = list(await one.read())
        assert {"9000001", "9000002"} <= {event.value["conn_id"] for event in events}
        everything = await kafka_tools.read(
            kafka.bootstrap, one.topic, isolation="read_uncommitted"
        )
        assert len(everything) == len(events) + ABORTED * len(await _partitions(one))
        state_topic = one.settings["PUBLISHER_STATE_TOPIC"]
        yield Published(kafka.bootstrap, one.topic, state_topic, events)


async def _partitions(one: Rig) -> list[TopicPartition]:
    return list(await kafka_tools.end_offsets(one.bootstrap, one.topic))


async def abort_something(one: Rig) -> None:
    """Events in each partition that were never committed, and must never be seen.

    Twice by the same producer: there are clients that keep out only the last one.
    """
    looks_real = (await one.read())[0].value
    async with kafka_tools.producing(one.bootstrap, transactional_id=f"{one.topic}.x") as producer:
        for number in range(ABORTED):
            await producer.begin_transaction()
            for place in await _partitions(one):
                value = {**looks_real, "event_id": f"aborted-{number}-{place.partition}"}
                await producer.send_and_wait(
                    one.topic, json.dumps(value).encode(), key=b"x", partition=place.partition
                )
            await producer.abort_transaction()


def _chat(conn_id: str) -> dict[str, Any]:
    now = datetime.now(ZoneInfo("America/Bogota"))
    row = {"from": "CUSTOMER", "message": "after it", "date": f"{now:%Y-%m-%d %H:%M:%S}"}
    return {"conn_id": conn_id, "conversation": [row]}


# --- three languages ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Killed:
    """How a consumer was started, and what it printed before it was killed."""

    command: list[str]
    printed: list[str]


@pytest.fixture(scope="module")
async def killed(
    published: Published, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Killed | BaseException]:
    """Every example, killed in the middle of its work.

    All at once, for their sessions must end before others are given their partitions.
    """
    folder = tmp_path_factory.mktemp("killed")
    runs = (_killed(name, published, folder) for name in LANGUAGES)
    found = await asyncio.gather(*runs, return_exceptions=True)
    return dict(zip(LANGUAGES, found, strict=True))


async def _killed(language: str, published: Published, folder: Path) -> Killed:
    line = await asyncio.to_thread(command, language)
    # Who prints into a pipe that nobody empties stops in the middle of its work.
    pipe = folder / language
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        shell = ["sh", "-c", 'exec "$@" >"$0"', str(pipe), *line]
        with Child(shell, folder / f"{language}.log", published.env(GROUP=f"{language}.g")) as one:
            full = PIPE_BYTES - LONGEST_LINE
            try:
                await until(lambda: _waiting(end) > full or one.exit_code is not None, 60)
            finally:
                assert _waiting(end) > full, f"{language}: {_waiting(end)} {one.output}"
        return Killed(line, ids(os.read(end, PIPE_BYTES).decode()))
    finally:
        os.close(end)


def _waiting(end: int) -> int:
    """How many bytes lie in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(end, termios.FIONREAD, count)
    return count[0]


def ids(printed: str) -> list[str]:
    """The event ids of all whole lines."""
    return [line.split()[0] for line in printed.split("\n")[:-1]]


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_consumer_misses_nothing(
    language: str,
    published: Published,
    killed: Mapping[str, Killed | BaseException],
    tmp_path: Path,
) -> None:
    """Killed and started again it sees every event; twice only what it had not committed."""
    before = killed[language]
    if isinstance(before, Missing):
        pytest.skip(str(before))
    if isinstance(before, BaseException):
        raise before
    assert 0 < len(before.printed) < len(published.events)
    assert set(Counter(before.printed).values()) == {1}
    group = f"{language}.g"
    uncommitted = published.ids - await seen_by(published, group)
    assert published.ids - set(before.printed) <= uncommitted, "committed before the work"
    with Child(before.command, tmp_path / "log", published.env(GROUP=group)) as one:
        await until(lambda: uncommitted <= set(ids(one.output)), 60, one.output)
        code = await one.stop(15)
    after = ids(one.output)
    assert code == STOPPED[language], one.output
    assert sorted(after) == sorted(uncommitted), "again, but once each"
    assert set(before.printed) | set(after) == published.ids
    # Stopped in good order: everything is committed, and the group does not wait for it.
    assert not published.ids - await seen_by(published, group)
    async with kafka_tools.administering(published.bootstrap) as admin:
        [answer] = await admin.describe_consumer_groups([group])
        [(_, _, state, *_)] = answer.groups
    assert state == "Empty"


async def seen_by(published: Published, group: str) -> set[str]:
    """The events before the committed offsets of a group."""
    async with kafka_tools.administering(published.bootstrap) as admin:
        told = await admin.list_consumer_group_offsets(group)
    offsets = {place.partition: committed.offset for place, committed in told.items()}
    return {
        event.value["event_id"]
        for event in published.events
        if event.offset < offsets.get(event.partition, 0)
    }


@pytest.mark.parametrize(
    "path", ["python/consume.py", "java/Consume.java", "typescript/consume.ts"]
)
def test_a_consumer_fits_on_a_screen(path: str) -> None:
    assert len((EXAMPLES / path).read_text(encoding="utf-8").splitlines()) <= 60


async def test_the_checkpoint_is_read_as_the_document_says(published: Published) -> None:
    """The ten lines of docs/how-to/consume.md, on the topic of the real publisher."""
    text = (REPOSITORY / "docs/how-to/consume.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) == 10
    names: dict[str, Any] = {"AIOKafkaConsumer": AIOKafkaConsumer, "datetime": datetime}
    names["json"] = json
    exec(code, names)
    found = await names["closed_up_to"](published.bootstrap, "wv0010", published.state_topic)
    records = await kafka_tools.read(published.bootstrap, published.state_topic)
    last = [json.loads(r.value) for r in records if r.key == b"checkpoint/wv0010"][-1]
    Draft202012Validator(CHECKPOINT).validate(last)
    assert last["sequence"] > 1
    assert found == min(datetime.fromisoformat(p["cursor"]) for p in last["passes"].values())


# --- the type of the event ------------------------------------------------------------------------


def imported(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, EXAMPLES / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_type_in_python_is_the_schema() -> None:
    told = imported("python/consume.py").Event
    assert told.__required_keys__ == set(SCHEMA["required"])
    assert told.__required_keys__ | told.__optional_keys__ == SCHEMA["properties"].keys()


def test_the_type_in_typescript_is_the_schema() -> None:
    text = (EXAMPLES / "typescript/consume.ts").read_text(encoding="utf-8")
    body = text.partition("export interface Event {\n")[2].partition("\n}")[0]
    fields = re.findall(r"^  (\w+)(\??):", body, re.MULTILINE)
    assert {name for name, _ in fields} == SCHEMA["properties"].keys()
    assert {name for name, optional in fields if not optional} == set(SCHEMA["required"])


def test_the_type_in_java_is_the_schema() -> None:
    """Its names in the way of Java; Jackson turns them into those of the event."""
    text = (EXAMPLES / "java/Consume.java").read_text(encoding="utf-8")
    body = text.partition("record Event(")[2].partition(") {}")[0]
    names = [part.split()[1] for part in body.split(",")]
    snakes = {re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name) for name in names}
    assert snakes == SCHEMA["properties"].keys()


# --- the sink -------------------------------------------------------------------------------------

SINK: Final = "first_response.py"


async def test_the_sink_is_exactly_once(published: Published, tmp_path: Path) -> None:
    """Killed at work and started again: every event once, and the report is right."""
    file = tmp_path / "sink.duckdb"
    line = [sys.executable, str(EXAMPLES / SINK), str(file)]
    env = published.env(FORCE_COLOR="1", COLUMNS="140", TERM="xterm", LINES="500")
    with Child(line, tmp_path / "log", env) as one:
        await one.said(r"[1-9]\d* messages", 30)
    keyed = [event for event in published.events if event.key is not None]
    with Child(line, tmp_path / "log", env) as one:
        await one.said(rf"\b{len(keyed)} messages", 30)
        assert await one.stop() == 0
    with duckdb.connect(str(file)) as db:
        stored = [str(id_) for (id_,) in db.execute("SELECT event_id FROM messages").fetchall()]
        assert sorted(stored) == sorted(event.value["event_id"] for event in keyed)
        places = db.execute('SELECT "partition", next FROM offsets').fetchall()
        assert dict(places) == published.ends()
        sink = imported(SINK)
        found = db.execute(sink.REPORT, [sink.BOTS]).fetchall()
    assert found
    assert {
        (f"{hour:%Y-%m-%d %H}", agent): (chats, wait) for agent, hour, chats, wait in found
    } == (first_responses(keyed))


def first_responses(events: list[Event]) -> dict[tuple[str, str], tuple[int, float]]:
    """The same by hand: (hour, agent) -> chats, median of the seconds."""
    chats: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        chats[event.value["source"], event.value["conn_id"]].append(event.value)
    waits: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for told in chats.values():
        told.sort(key=lambda one: one["occurred_at"])
        asked = next((one for one in told if one["from"] == "CUSTOMER"), None)
        if asked is None:
            continue
        for one in told:
            bot = one.get("from_name") == "chat_bot"
            late = one["occurred_at"] >= asked["occurred_at"]
            if one["from"] == "AGENT" and not bot and late:
                wait = _seconds(one) - _seconds(asked)
                waits[asked["date"][:13], one["from_name"]].append(wait)
                break
    return {key: (len(those), median(those)) for key, those in waits.items()}


def _seconds(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["occurred_at"]).timestamp()


def test_the_sink_counts_an_event_once_in_whatever_order() -> None:
    """Late rows and repeated events change nothing but what they should."""
    sink = imported(SINK)
    told = [
        ("1", "CUSTOMER", "Ana", "10:00:00"),
        ("2", "AGENT", "chat_bot", "10:00:01"),
        ("3", "AGENT", "LUIS", "10:00:31"),
        ("4", "AGENT", "EVA", "10:00:40"),
    ]
    with duckdb.connect() as db:
        db.execute(sink.SCHEMA)
        for number, name in ((4, "EVA"), (3, "LUIS"), (1, "LUIS"), (2, "LUIS"), (3, "LUIS")):
            sink.store(db, _records(told[number - 1]))
            sink.store(db, _records(told[0]))
            [(agent, _, chats, _)] = db.execute(sink.REPORT, [sink.BOTS]).fetchall()
            assert (agent, chats) == (name, 1)
        assert db.execute("SELECT count(*) FROM messages").fetchone() == (4,)
        [(_, _, _, seconds)] = db.execute(sink.REPORT, [sink.BOTS]).fetchall()
        assert seconds == 31


def test_the_sink_keeps_rows_only_with_their_offsets() -> None:
    """What fails between the two leaves neither."""
    sink = imported(SINK)
    with duckdb.connect() as db:
        db.execute(sink.SCHEMA)
        [records] = _records(("1", "CUSTOMER", "Ana", "10:00:00")).values()
        with pytest.raises(duckdb.Error):
            sink.store(db, {TopicPartition("t", "no number"): records})
        db.rollback()
        assert db.execute("SELECT count(*) FROM messages").fetchone() == (0,)


def _records(told: tuple[str, str, str, str]) -> dict[TopicPartition, list[Any]]:
    number, sender, name, time = told
    value = {
        "event_id": f"00000000-0000-5000-8000-00000000000{number}",
        "source": "wv0010", "conn_id": "186067512", "from": sender, "from_name": name,
        "date": f"2026-11-20 {time}", "occurred_at": f"2026-11-20T{time}Z",
    }  # fmt: skip

    record = SimpleNamespace(key=b"186067512", value=json.dumps(value), offset=int(number))
    return {TopicPartition("t", 0): [record]}

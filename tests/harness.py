"""Real processes for the tests, and the judge over what they did.

`Api`        the simulated Wolkvox API in a process of its own, told by HTTP what to do
`Publisher`  `python -m publisher run` with its settings in the environment, and nothing else there
`Rig`        one of each with topics of their own, and a reader of the messages
`compare`    what the API has shown against what a consumer sees

`compare` knows what the promise says, not how the publisher keeps it: it shares no code with it.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from sandbox.consume import Event, Reader, partitions_of
from sandbox.processes import Child, until
from sandbox.wolkvox.report import PLACEHOLDER_IDS, identity
from tests import kafka_tools
from tests.prepared import PreparedChild

REPOSITORY: Final = Path(__file__).parents[1]
TOKEN: Final = "f00dcafe5ec2e7701234567890abcdef"

Fields = dict[str, Any]

LIVELY: Final[Mapping[str, Any]] = {
    "rate": 3600,
    "history": "1h",
    "min_messages": 2,
    "max_messages": 6,
    "duration": "4s",
    "close_after": "3s",
    "abandoned": 0.05,
    "abandoned_after": "8s",
    "twins": 0.03,
    "placeholders": 0.04,
    "listed_twice": 0.04,
    "late": 0.05,
    "latest": "6s",
    "corrected": 0.3,
    "corrected_after": "10s",
    "inline_media": 0.0,
}
"""A world in which everything special happens, and all of it within 20 s."""

SHORT: Final[Mapping[str, str]] = {
    "PUBLISHER_POLL_EVERY": "1s",
    "PUBLISHER_OVERLAP": "3s",
    "PUBLISHER_REREADS": "5s,20s",
    "PUBLISHER_START": "-65m",
}


# --- the simulated API ----------------------------------------------------------------------------


class Api:
    """The simulated API, once it is ready."""

    def __init__(self, child: Child, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self.child = child
        self.url = url
        self.token = token
        self._session = session

    async def truth(self, start: float | None = None, end: float | None = None) -> list[Fields]:
        """Every row that some window has shown by now, said in [start, end)."""
        # The history begins somewhere inside a minute; what that minute held before is shown too.
        asked = {"from": start or 0, "to": end}
        params = {name: str(moment) for name, moment in asked.items() if moment is not None}
        rows: list[Fields] = await self._call("GET", "truth", params=params)
        return rows

    async def stats(self, last: int = 1000) -> Fields:
        told: Fields = await self._call("GET", "stats", params={"last": str(last)})
        return told

    async def requests(self) -> list[Fields]:
        """Every request to the report, the oldest first."""
        found: list[Fields] = (await self.stats(100_000))["requests"]
        return found

    async def fault(self, kind: str, **options: Any) -> None:
        await self._call("POST", "faults", {"kind": kind, **options})

    async def faults(self) -> Fields:
        told: Fields = await self._call("GET", "faults")
        return told

    async def clear(self) -> None:
        await self._call("DELETE", "faults")

    async def change(self, **parameters: Any) -> None:
        await self._call("POST", "world", parameters)

    async def say(self, conversations: Sequence[Fields]) -> None:
        """Add explicit conversations."""
        await self._call("POST", "messages", conversations)

    async def _call(
        self, method: str, path: str, body: Any = None, params: Mapping[str, str] | None = None
    ) -> Any:
        async with self._session.request(
            method,
            f"{self.url}/_sim/{path}",
            params=params,
            data=None if body is None else orjson.dumps(body),
        ) as response:
            told = orjson.loads(await response.read())
            assert response.status == 200, told
            return told


@asynccontextmanager
async def api(log: Path, token: str = TOKEN, **world: Any) -> AsyncIterator[Api]:
    """A simulated API with these parameters of `World`."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in world.items()]
    command = [sys.executable, "-m", "sandbox.wolkvox", "--port=0", f"--token={token}", *options]
    with Child(command, log) as child:
        ready = await child.said(r"ready at (http://\S+)", 15)
        limits = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=limits) as session:
            yield Api(child, session, ready[1], token)


# --- the publisher --------------------------------------------------------------------------------


class Publisher:
    """One start of the publisher."""

    def __init__(self, settings: Mapping[str, str], log: Path, *, fresh: bool = False) -> None:
        env = {"PATH": os.environ["PATH"], **settings}
        interpreter = [sys.executable, "-m", "publisher", "run"]
        self.child = Child(interpreter, log, env) if fresh else PreparedChild(["run"], log, env)
        self._url = ""

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def alive(self) -> bool:
        return self.child.exit_code is None

    @property
    def lines(self) -> list[Fields]:
        """What it has logged, whole lines only; what is no JSON becomes {"text": ...}."""
        return [_line(text) for text in self.child.output.split("\n")[:-1]]

    async def logged(self, seconds: float = 10, **fields: Any) -> Fields:
        """Wait for a line with these fields; a text matches where it is part of the field."""

        def found() -> Fields | None:
            ended = not self.alive
            line = next((told for told in self.lines if _matches(told, fields)), None)
            if line is None and ended:
                raise TimeoutError
            return line

        try:
            line: Fields = await until(found, seconds, str(fields))
        except TimeoutError:
            raise AssertionError(f"{fields} not logged: {self.child.output[-3000:]}") from None
        return line

    async def published(self, seconds: float = 30) -> None:
        """Wait for a window that has published something."""
        await until(lambda: any(line.get("new") for line in self.lines), seconds, "a message")

    async def url(self) -> str:
        """Where it serves /metrics and the like."""
        if not self._url:
            started = await self.logged(event="Service started")
            self._url = f"http://127.0.0.1:{started['http_port']}"
        return self._url

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of its pages."""
        limits = aiohttp.ClientTimeout(total=30)
        async with (
            aiohttp.ClientSession(timeout=limits) as session,
            session.get(f"{await self.url()}{path}") as response,
        ):
            return response.status, await response.text()

    async def metric(self, name: str, **labels: str) -> float:
        """A metric, without its prefix; summed over the series with these labels."""
        _, text = await self.get("/metrics")
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if re.match(rf"wolkvox_publisher_{name}[{{ ]", line) and all(w in line for w in wanted)
        )

    @property
    def rss_mb(self) -> float:
        """Resident memory now, in MB."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        kilobytes = next(line.split()[1] for line in status.splitlines() if "VmRSS" in line)
        return int(kilobytes) * 1024 / 1e6

    @property
    def starved_seconds(self) -> float:
        """See `starved_seconds`."""
        return starved_seconds(self.pid)

    async def stop(self, within: float = 8.0) -> int:
        """SIGTERM; the exit code. Raises TimeoutError when it takes longer."""
        self.child.send(signal.SIGTERM)
        code = await self.child.ended(within)
        self.child.kill()
        return code

    def kill(self) -> None:
        self.child.kill()


def _line(text: str) -> Fields:
    try:
        told = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {"text": text}
    return told if isinstance(told, dict) else {"text": text}


def _matches(told: Fields, fields: Mapping[str, Any]) -> bool:
    return all(
        value in told.get(name, "") if isinstance(value, str) else told.get(name) == value
        for name, value in fields.items()
    )


# --- all together ---------------------------------------------------------------------------------


class Rig:
    """An API, topics of its own, the publisher between them (started by `start`), a reader."""

    def __init__(self, api: Api, bootstrap: str, folder: Path, settings: Mapping[str, str]) -> None:
        name = f"test-{uuid.uuid4().hex[:8]}"
        self.api = api
        self.bootstrap = bootstrap
        self.topic = f"{name}.messages"
        self.settings: dict[str, str] = {
            "WOLKVOX_SERVER": "0010",
            "WOLKVOX_URL": api.url,
            "WOLKVOX_TOKEN": api.token,
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "PUBLISHER_MESSAGES_TOPIC": self.topic,
            "PUBLISHER_DEAD_LETTERS_TOPIC": f"{name}.dead-letters",
            "PUBLISHER_STATE_TOPIC": f"{name}.state",
            "PUBLISHER_COMMANDS_TOPIC": f"{name}.commands",
            "PUBLISHER_TRANSACTIONAL_ID": name,
            "PUBLISHER_HTTP_PORT": "0",
            **SHORT,
            **settings,
        }
        self.folder = folder
        self.log = folder / f"{name}.log"
        self.reader = Reader(bootstrap, self.topic)
        self.events: list[Event] = []
        self.starts: list[Publisher] = []

    def start(self, **settings: str) -> Publisher:
        """Start the publisher, once more if need be; `settings` differ for this start."""
        self.starts.append(Publisher({**self.settings, **settings}, self.log))
        return self.starts[-1]

    def start_fresh(self) -> Publisher:
        """The same in an interpreter of its own, to measure the start or the memory."""
        self.starts.append(Publisher(self.settings, self.log, fresh=True))
        return self.starts[-1]

    async def kill(self) -> None:
        """SIGKILL to the last start, and the end of the transaction that it may have left open."""
        self.starts[-1].kill()
        await self.end_transactions()

    async def end_transactions(self) -> None:
        """End what killed processes have left open.

        Kafka alone would end that after a minute, and commands refuse to judge until then.
        """
        name = self.settings["PUBLISHER_TRANSACTIONAL_ID"]
        shards = await partitions_of(self.bootstrap, self.settings["PUBLISHER_STATE_TOPIC"])
        for shard in shards:
            await kafka_tools.fence(self.bootstrap, f"{name}-{shard.partition}")

    async def read(self) -> list[Event]:
        """All events by now."""
        self.events += await self.reader.to_end()
        return self.events

    async def read_patiently(self, seconds: float = 60) -> list[Event]:
        """The same while the broker may be coming back."""

        async def tried() -> bool:
            with contextlib.suppress(KafkaError, OSError):
                await self.read()
                return True
            return False

        await until(tried, seconds, "reading the topic")
        return self.events

    async def settled(
        self,
        seconds: float,
        since: float | None = None,
        source: str = "wv0010",
        labels: Collection[str] = (),
        missing_rows: int = 0,
    ) -> "Differences":
        """Wait until everything shown by now is published; what differs then.

        `missing_rows`: so many are known not to come. `labels` are the labels that the operation
        has had besides `source`, its name.
        """
        now = time.time()
        # A server whose clock was ahead for a while has shown what is not yet said.
        promised = [
            row
            for row in await self.api.truth(since)
            if row["_visible_at"] <= now and _can_be_an_event(row)
        ]
        missing = Counter(identity(row, row) for row in promised)
        names = {source, *labels}
        texts = _texts(promised)
        seen = 0

        async def complete() -> bool:
            nonlocal seen
            events = await self.read_patiently()
            mine = [event.value for event in events[seen:] if event.value["source"] in names]
            missing.subtract(identity(told, told) for told in (flat(one, texts) for one in mine))
            seen = len(events)
            return (+missing).total() <= missing_rows

        with contextlib.suppress(TimeoutError):
            await until(complete, seconds, every=0.1)
        events = list(await self.read_patiently())
        # The events may hold what became visible meanwhile, so the truth is asked again.
        found = compare(await self.api.truth(), events, source, labels)
        found.lost = compare(promised, events, source, labels).lost
        found.promised = len(promised)
        return found

    async def dead_letters(self) -> list[tuple[dict[str, bytes], bytes]]:
        """Headers and bytes of all dead letters."""
        found = await read_raw(self.bootstrap, self.settings["PUBLISHER_DEAD_LETTERS_TOPIC"])
        return [(dict(record.headers), record.value) for record in found]


@asynccontextmanager
async def rig(
    bootstrap: str,
    folder: Path,
    world: Mapping[str, Any] | None = None,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Rig]:
    """A rig whose processes end with the block."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - a moment on a local disk
    parameters = {**LIVELY, "seed": 7, **(world or {})}
    async with api(folder / "api.log", **parameters) as one:
        made = Rig(one, bootstrap, folder, settings or {})
        try:
            yield made
        finally:
            for publisher in made.starts:
                publisher.kill()
            await made.reader.__aexit__()
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await _delete_topics(bootstrap, made.topic.partition(".")[0])


# --- Kafka, seen from outside ---------------------------------------------------------------------


async def read_raw(bootstrap: str, topic: str) -> list[Any]:
    """All committed records of a topic."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", fetch_max_wait_ms=100
    )
    await consumer.start()
    try:
        partitions = await partitions_of(bootstrap, topic)
        if not partitions:
            return []
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        found = []
        for partition, end in ends.items():
            while await consumer.position(partition) < end:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    found += records
        return found
    finally:
        await consumer.stop()


async def open_transactions(bootstrap: str, *topics: str) -> int:
    """How many records are hidden behind open transactions: high watermark - stable offset."""
    partitions = await partitions_of(bootstrap, *topics)
    assert partitions
    ends: list[int] = []
    for isolation in ("read_uncommitted", "read_committed"):
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level=isolation)
        await consumer.start()
        try:
            ends.append(sum((await consumer.end_offsets(partitions)).values()))
        finally:
            await consumer.stop()
    return max(0, ends[0] - ends[1])  # a service that runs may have published in between


async def first_offsets(bootstrap: str, topic: str) -> int:
    """The sum of the first offsets of its partitions: 0 while nothing was deleted."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        firsts = await consumer.beginning_offsets(await partitions_of(bootstrap, topic))
        assert firsts
        return sum(firsts.values())
    finally:
        await consumer.stop()


async def create_topic(bootstrap: str, name: str, partitions: int = 1, **config: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        told = {key.replace("_", "."): value for key, value in config.items()}
        answer = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=told)])
        assert answer.topic_errors[0][1] == 0, answer
    finally:
        await admin.close()


async def _delete_topics(bootstrap: str, prefix: str) -> None:
    """Hundreds of partitions would slow down every start of the broker."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        async with asyncio.timeout(5):
            await admin.start()
            mine = [topic for topic in await admin.list_topics() if topic.startswith(f"{prefix}.")]
            if mine:
                await admin.delete_topics(mine)
    finally:
        await admin.close()


# --- the judge ------------------------------------------------------------------------------------

_OURS: Final = frozenset(
    {
        "event_id",
        "source",
        "occurred_at",
        "occurred_at_ambiguous",
        "message_bytes",
        "message_sha256",
        "extra",
    }
)
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "urn:wolkvox:chat_2")


@dataclass
class Differences:
    """Where truth and topic differ: each list holds a line for a person per finding."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    """Published, and never shown by the API."""
    events: int = 0
    promised: int = 0

    def __str__(self) -> str:
        told = [f"{self.promised} rows promised, {self.events} events"]
        for name in ("lost", "duplicated", "altered", "disordered", "foreign"):
            lines: list[str] = getattr(self, name)
            told.append(f"{len(lines)} {name}" + "".join(f"\n    {line}" for line in lines[:5]))
        return "; ".join(told)

    @property
    def none(self) -> bool:
        """Every row once, as it was shown, in order, and nothing else."""
        found = (self.lost, self.duplicated, self.altered, self.disordered, self.foreign)
        return not any(found)


def compare(
    truth: Sequence[Fields], events: Sequence[Event], source: str, labels: Collection[str] = ()
) -> Differences:
    """Judge the events of one operation against the rows that its API has shown.

    Ids are made of `source`, its name; `labels` are the labels that it has had besides.

    Rows are matched by identity; equal rows by their number. Of a field that the API has
    corrected meanwhile, both values are right.
    """
    found = Differences(promised=len(truth))
    rows: defaultdict[bytes, list[Fields]] = defaultdict(list)
    for row in truth:
        rows[identity(row, row)].append(row)
    texts = _texts(truth)
    seen: Counter[bytes] = Counter()
    ids: Counter[str] = Counter()
    mine = [event for event in events if event.value["source"] in {source, *labels}]
    found.events = len(mine)
    for event in mine:
        told = flat(event.value, texts)
        key = identity(told, told)
        seen[key] += 1
        ids[event.value["event_id"]] += 1
        candidates = rows.get(key)
        if not candidates:
            found.foreign.append(_where(event))
            continue
        wrong = _wrong(event, told, candidates, source)
        if wrong:
            found.altered.append(f"{_where(event)}: {wrong}")
    found.duplicated += [f"event_id {id_} {count} times" for id_, count in ids.items() if count > 1]
    for key, equal in rows.items():
        if seen[key] < len(equal):
            found.lost += [_row(row) for row in equal[seen[key] :]]
        elif seen[key] > len(equal):
            found.duplicated.append(f"{seen[key]} times instead of {len(equal)}: {_row(equal[0])}")
    found.disordered += _disordered(mine)
    return found


def _can_be_an_event(row: Fields) -> bool:
    """Otherwise its place is among the dead letters."""
    date, conn_id = row.get("date"), row.get("conn_id")
    dated = isinstance(date, str) and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", date)
    return bool(dated) and (conn_id is None or isinstance(conn_id, str | int))


def _texts(truth: Sequence[Fields]) -> dict[str, str]:
    """The long texts by their digest, which takes their place in an event that is too large."""
    texts = (row["message"] for row in truth)
    return {
        sha256(text.encode()).hexdigest(): text
        for text in texts
        if isinstance(text, str) and len(text) > 500
    }


def flat(value: Fields, texts: Mapping[str, str]) -> Fields:
    """The API's own fields of an event, the conversation's and the row's together."""
    told = {name: field for name, field in value.items() if name not in _OURS}
    for fields in value.get("extra", {}).values():
        told |= fields
    if "message_sha256" in value:
        told["message"] = texts.get(value["message_sha256"])
    return told


def _wrong(event: Event, told: Fields, candidates: list[Fields], source: str) -> str:
    """What an event says that no row of its identity ever said; "" when all is right."""
    row = candidates[0]
    complaints = [_differs(told, candidate) for candidate in candidates]
    if all(complaints):
        return complaints[0]
    moment = datetime.fromtimestamp(row["_at"], UTC)
    if event.value["occurred_at"] != f"{moment:%Y-%m-%dT%H:%M:%SZ}":
        return f"occurred_at {event.value['occurred_at']} instead of {moment}"
    ids = [_event_id(source, row, number) for number in range(1, len(candidates) + 1)]
    if event.value["event_id"] not in ids:
        return f"event_id {event.value['event_id']} instead of one of {ids}"
    placeholder = row["conn_id"] in PLACEHOLDER_IDS
    if event.key != (None if placeholder else str(row["conn_id"]).encode()):
        return f"key {event.key!r}"
    if event.headers["ce_id"].decode() != event.value["event_id"]:
        return "ce_id is not event_id"
    return ""


def _differs(told: Fields, row: Fields) -> str:
    shown = {name: value for name, value in row.items() if not name.startswith("_")}
    if told.keys() != shown.keys():
        return f"fields {sorted(told.keys() ^ shown.keys())}"
    earlier = row["_earlier"]
    wrong = [
        name
        for name, value in shown.items()
        if told[name] != value and not (name in earlier and told[name] == earlier[name])
    ]
    return f"other values in {wrong}" if wrong else ""


def _event_id(source: str, row: Fields, number: int) -> str:
    """The id as the documentation defines it."""
    names = ["date", "from", "message"]
    if row["conn_id"] in PLACEHOLDER_IDS:
        names += ["channel", "customer_id", "customer_phone"]
    parts = [source, *(_told(row.get(name)) for name in ("conn_id", *names)), str(number)]
    return str(uuid.uuid5(_NAMESPACE, "\0".join(parts)))


def _told(value: Any) -> str:
    """Null, missing and "" are equal; what is no text is its JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _disordered(events: Sequence[Event]) -> list[str]:
    """Rows first seen in one answer stand by date; a conversation stays in one partition."""
    found = []
    latest: dict[tuple[int, bytes], tuple[int, str]] = {}
    homes: dict[bytes, int] = {}
    for event in sorted(events, key=lambda event: (event.partition, event.offset)):
        answer = event.partition, event.headers["wolkvox_read_at"]
        date = event.value["date"]
        offset, before = latest.get(answer, (-1, ""))
        if date < before:
            found.append(f"{_where(event)}: {date} behind {before} at {offset}")
        latest[answer] = event.offset, date
        if event.key is not None and homes.setdefault(event.key, event.partition) != (
            event.partition
        ):
            found.append(f"{_where(event)}: its conversation lives in {homes[event.key]}")
    return found


def _where(event: Event) -> str:
    told = event.value
    passed = event.headers["wolkvox_pass"].decode()
    return f"{event.partition}/{event.offset} {passed} {told.get('conn_id')} {told['date']}"


def _row(row: Fields) -> str:
    shown = f"shown {row['_visible_at'] - row['_at']:+.0f} s"
    closed = f"closed {row['_closed'] - row['_at']:+.0f} s"
    ago = time.time() - row["_at"]
    return f"{row['conn_id']} {row['date']} ({ago:.0f} s ago, {shown}, {closed})"


def starved_seconds(pid: int) -> float:
    """How long a process was ready to run so far, and others had the processors (Linux tells)."""
    schedule = Path(f"/proc/{pid}/schedstat")
    if not schedule.exists():
        return 0.0
    return int(schedule.read_text(encoding="ascii").split()[1]) / 1e9


def tell(text: str) -> None:
    """A figure for whoever runs the tests with `-s`."""
    sys.stdout.write(f"\n  {text}\n")


async def gather(*calls: Any) -> list[Any]:
    """The results of all, run at the same time; the first failure ends them all."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call) for call in calls]
    return [task.result() for task in tasks]

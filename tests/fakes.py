"""The doors of the flow as programs that a test drives: a clock, a report, a log.

Nothing here waits for real time. `MemoryCluster` passes the same contract suite as Kafka
(`test_log_contract.py`), so what `test_flow.py` proves with it holds for the real one.
"""

import asyncio
import random
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from enum import Enum, auto
from itertools import chain, count
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import orjson
from aiokafka.record.util import decode_varint

from publisher.errors import Fenced, NeedsOperator, OutcomeUnknown, Reason, Stage, Transient
from publisher.events import kafka_record
from publisher.events.encode import SEQUENCE_HEADER
from publisher.events.murmur2 import murmur2
from publisher.model import Answer, Batch, Instant, Progress, Record, Request, Restored, StateRecord
from publisher.settings import Operation, Settings, load
from publisher.state import checkpoint, state
from publisher.state.checkpoint import LIVE, Entry
from publisher.state.state import State, Successor

NOON: Final = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class Crash(BaseException):
    """The process dies here: nothing of what it knew is left."""


class FakeClock:
    """Fits `context.Clock`: time passes only when somebody sleeps, or says so."""

    def __init__(
        self, start: Instant = NOON, *, until: Instant | None = None, skew: timedelta = timedelta()
    ) -> None:
        self.true = start
        """What the server's clock says, too."""
        self.until = until
        """A stop is requested then."""
        self.skew = skew
        """Our wall clock minus the true time."""
        self.pauses: list[float] = []

    def now(self) -> Instant:
        return self.true + self.skew

    def elapsed(self) -> float:
        return (self.true - NOON).total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.advance(max(seconds, 0.0))
        await asyncio.sleep(0)

    @property
    def stopping(self) -> bool:
        return self.until is not None and self.true >= self.until

    def advance(self, seconds: float) -> None:
        self.true += timedelta(seconds=seconds)

    def stop(self) -> None:
        self.until = self.true


# --- the report ---------------------------------------------------------------------


def answer(
    clock: FakeClock,
    body: bytes = b"",
    *,
    status: int = 200,
    took: float = 0.5,
    oversized: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """What the server says now, `took` seconds after it was asked."""
    sent_at = clock.now()
    clock.advance(took)
    date = {"date": format_datetime(clock.true.replace(microsecond=0), usegmt=True)}
    return Answer(
        status, {**date, **(headers or {})}, body, sent_at, clock.now(), took, oversized=oversized
    )


def error(clock: FakeClock, status: int, msg: str, **more: Any) -> Answer:
    """An error in the API's envelope."""
    body = orjson.dumps({"code": str(status), "error": "ERROR", "msg": msg, "data": None})
    return answer(clock, body, status=status, **more)


def nothing(clock: FakeClock) -> Answer:
    """No rows in the window: the API's 404."""
    return error(clock, 404, "Validate dates entered")


def found(clock: FakeClock, data: list[Any], *, says: int | None = None, **more: Any) -> Answer:
    """Conversations, and how many records the answer says there are."""
    number = says if says is not None else len(data)
    envelope = {"code": "200", "error": None, "msg": f"{number} records were found", "data": data}
    return answer(clock, orjson.dumps(envelope), **more)


def conversation(conn_id: str, *rows: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "conn_id": conn_id,
        "agent_name": "Luis",
        "customer_name": "Ana",
        "conversation": list(rows),
    }


def row(date: str, message: str = "Hola", **fields: Any) -> dict[str, Any]:
    return {
        "channel": "whatsapp",
        "from": "CUSTOMER",
        "from_name": "Ana",
        "to_name": "chat_bot",
        "date": date,
        "message": message,
        "customer_id": "123",
        **fields,
    }


Reply = Callable[[FakeClock], Answer]
"""One line of a script; may raise instead of answering."""


def raising(make: Callable[[], Exception]) -> Reply:
    """Raises a new one each time: an exception raised again remembers every place it passed."""

    def reply(clock: FakeClock) -> Answer:
        raise make()

    return reply


class ScriptedSource:
    """Fits `context.Source`: answers line by line, then the same for ever."""

    def __init__(self, clock: FakeClock, *script: Reply, then: Reply = nothing) -> None:
        self.requests: list[Request] = []
        self.asked_at: list[Instant] = []
        self._clock = clock
        self._script = list(script)
        self._then = then

    async def read(self, request: Request) -> Answer:
        self.requests.append(request)
        self.asked_at.append(self._clock.true)
        reply = self._script.pop(0) if self._script else self._then
        return reply(self._clock)

    async def token_info(self) -> Answer:
        return nothing(self._clock)


@dataclass(frozen=True)
class Said:
    """One row of the world."""

    date: Instant
    fields: Mapping[str, Any]
    """Without `date`."""
    filed: Instant
    """By which the report filters: the close (H1), the message (H2) or the open date (H3)."""
    visible_from: Instant
    bad: bool = False
    """Its date cannot be understood."""


FEELINGS: Final = ("neutral", "positive", "negative")


def feeling_of(said: Said) -> str:
    """What a row feels in the end; twins need not feel the same."""
    return FEELINGS[int(said.visible_from.timestamp()) % 3]


@dataclass
class Chat:
    conn_id: str
    said: list[Said] = field(default_factory=list)


Trouble = Callable[[Request], Answer | None]
"""What goes wrong with a request: another answer, a raised exception, or None = nothing."""


class FakeReport:
    """Fits `context.Source`: the report over a little world, told as unkindly as the API might."""

    def __init__(
        self,
        clock: FakeClock,
        chats: Sequence[Chat],
        rng: random.Random,
        *,
        zone: str = "America/Bogota",
        opens: bool = False,
        closes: bool = True,
        cap: int = 60_000,
        kindly: bool = False,
        refuses: bool = False,
        settled: Instant | None = None,
        quota: int | None = None,
        trouble: Trouble = lambda _: None,
        hides: Callable[[Said], bool] | None = None,
    ) -> None:
        self.answered: list[list[Any]] = []
        """The `data` of every answer given."""
        self._clock = clock
        self._rng = rng
        self._zone = ZoneInfo(zone)
        self._opens = opens
        """Whether rows filed at exactly `date_ini` are in; `_closes`: at `date_end`."""
        self._closes = closes
        self._cap = cap
        """More rows than this are cut off."""
        self._kindly = kindly
        """Nothing is shuffled, listed twice or changing."""
        self._refuses = refuses
        """An end in the future, or more than 31 days, is answered as if there were no rows."""
        self._quota = quota
        """Requests a day; None = it does not tell."""
        self._settled = settled
        """From then on feelings and agents stay as they are."""
        self._trouble = trouble
        self._hides = hides
        """Which rows do not stand in an answer although they should."""
        self._chats = [
            (chat, [(f"{self.local(said.filed):%Y%m%d%H%M%S}", said) for said in chat.said])
            for chat in chats
        ]

    def local(self, instant: Instant) -> datetime:
        return instant.astimezone(self._zone).replace(tzinfo=None)

    def date_of(self, said: Said) -> str:
        return "0000-00-00 00:00:00" if said.bad else f"{self.local(said.date):%Y-%m-%d %H:%M:%S}"

    async def token_info(self) -> Answer:
        if self._quota is None:
            return nothing(self._clock)  # this server has no such report
        told = {"token_limit": str(self._quota), "all_token_today": "0"}
        return answer(self._clock, orjson.dumps({"code": 200, "data": [told]}))

    async def read(self, request: Request) -> Answer:
        wrong = self._trouble(request)
        if wrong is not None:
            return wrong
        data = [] if self._refuses and self._may_refuse(request) else self.data(request)
        self.answered.append(data)
        if not data:
            return nothing(self._clock)
        rows = sum(len(element["conversation"]) for element in data)
        if rows > self._cap:
            left = self._cap
            for element in data:
                element["conversation"] = element["conversation"][:left]
                left -= len(element["conversation"])
        took = 0.5 if self._kindly else self._rng.uniform(0.1, 3)
        return found(self._clock, data, says=rows, took=took)

    def _may_refuse(self, request: Request) -> bool:
        ini, end = (
            datetime.fromisoformat(f"{text[:8]}T{text[8:]}")
            for text in (request.date_ini, request.date_end)
        )
        return end > self.local(self._clock.true) or end - ini > timedelta(days=31)

    def data(self, request: Request) -> list[Any]:
        """What the report shows now for the window."""
        data = []
        for chat, filed in self._chats:
            shown = [said for text, said in filed if self._inside(text, request, said)]
            if not shown:
                continue
            data.append(self._element(chat, shown))
            if not self._kindly and self._rng.random() < 0.1:  # listed twice, after a transfer
                data.append(self._element(chat, shown[: self._rng.randint(1, len(shown))]))
        if not self._kindly and self._rng.random() < 0.5:
            self._rng.shuffle(data)
        return data

    def _inside(self, filed: str, request: Request, said: Said) -> bool:
        after = filed > request.date_ini or (self._opens and filed == request.date_ini)
        before = filed < request.date_end or (self._closes and filed == request.date_end)
        shown = after and before and said.visible_from <= self._clock.true
        return shown and not (self._hides and self._hides(said))

    def _element(self, chat: Chat, shown: Iterable[Said]) -> dict[str, Any]:
        rows = [self._row(said) for said in shown]
        element = conversation(chat.conn_id, *rows)
        if not self._kindly:
            if self._rng.random() < 0.3:
                self._rng.shuffle(element["conversation"])
            if self._changing:
                element["agent_name"] = self._rng.choice(["", "Luis", "Eva"])
        return element

    def _row(self, said: Said) -> dict[str, Any]:
        told = {**said.fields, "date": self.date_of(said)}
        if not self._kindly and not said.bad:
            told["feeling"] = self._rng.choice(FEELINGS) if self._changing else feeling_of(said)
        return told

    @property
    def _changing(self) -> bool:
        return self._settled is None or self._clock.true < self._settled


# --- the log ------------------------------------------------------------------------


class Fate(Enum):
    """What becomes of a commit."""

    DONE = auto()
    LOST = auto()
    """The outcome is unknown; nothing of it was committed."""
    KEPT = auto()
    """The outcome is unknown; it was committed."""
    DIES_BEFORE = auto()
    DIES_INSIDE = auto()
    DIES_AFTER = auto()
    FENCED = auto()
    """Another process takes over first, and writes."""
    EXPIRED = auto()
    """The broker aborts the transaction because it took too long."""
    REFUSED = auto()
    """Nothing was begun: it may be tried again as it is."""
    FORBIDDEN = auto()
    """Likewise, and a person is needed."""
    MISTAKE_BEFORE = auto()
    """A mistake of ours, before anything was committed; `MISTAKE_AFTER`: behind it."""
    MISTAKE_AFTER = auto()


class MemoryKafka:
    """The broker: what is committed, who owns the transactional id, and what goes wrong."""

    def __init__(self, *, own_topics: bool = False) -> None:
        self.state: dict[bytes, bytes] = {}
        self.events: defaultdict[str, list[Record]] = defaultdict(list)
        self.dead_letters: defaultdict[str, list[Record]] = defaultdict(list)
        self.revisions: defaultdict[str, list[Record]] = defaultdict(list)
        self.committed: list[list[Record]] = []
        """The events of every transaction."""
        self.listener: Callable[[list[Record]], None] = lambda _: None
        """Told the events of every transaction, once they are committed."""
        self.fate: Callable[[], Fate] = lambda: Fate.DONE
        self.restoring: Callable[[], None] = lambda: None
        """Called before a restore; may raise."""
        self.epoch = 0
        self.owner = 0
        """The epoch that wrote last."""
        self._own_topics = own_topics
        """A messages topic for each operation."""

    def take_over(self) -> int:
        self.epoch += 1
        return self.epoch

    def history_lost(self, operation: str) -> bool:
        if checkpoint.checkpoint_key(operation) in self.state:
            return False
        if self._own_topics:
            return bool(self.events[operation])
        return not self.state and any(self.events.values())

    def newest_published(self, operation: str) -> int:
        """The greatest transaction number among the last events of the operation."""
        last = (
            dict(seen(record, with_value=False).headers) for record in self.events[operation][-9:]
        )
        return max((int(headers.get(SEQUENCE_HEADER, b"-1")) for headers in last), default=-1)

    def unused(self, operation: str) -> bool:
        """The messages topic of the operation has never held an event."""
        return not (self.events[operation] if self._own_topics else any(self.events.values()))

    def sequence(self, operation: str) -> int | None:
        value = self.state.get(checkpoint.checkpoint_key(operation))
        return None if value is None else checkpoint.decode_checkpoint(value).sequence

    def write(
        self,
        operation: str,
        events: list[Record],
        revisions: list[Record],
        letters: list[Record],
        records: Sequence[StateRecord],
        epoch: int,
    ) -> None:
        self.events[operation] += events
        self.revisions[operation] += revisions
        self.dead_letters[operation] += letters
        for key, value in records:
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        self.committed.append(events)
        self.owner = epoch
        self.listener(events)


class MemoryCluster:
    """One process with its connection to the broker, in the shape of `kafka.cluster.Cluster`."""

    def __init__(self, kafka: MemoryKafka) -> None:
        self._kafka = kafka
        self._epoch: int | None = None

    def log(self, operation: str) -> "MemoryLog":
        return MemoryLog(operation, self)

    async def close(self) -> bool:
        self._epoch = None
        return True

    async def restore(self, operation: str) -> Restored:
        self._kafka.restoring()
        if self._epoch is None:
            self._epoch = self._kafka.take_over()
        mine = {
            k: v for k, v in self._kafka.state.items() if checkpoint.operation_of(k) == operation
        }
        return Restored(
            mine,
            self._kafka.history_lost(operation),
            self._kafka.newest_published(operation),
            self._kafka.unused(operation),
        )

    async def commit(self, batch: Batch) -> None:
        kafka = self._kafka
        if self._epoch is None:
            self._epoch = kafka.take_over()
        if kafka.epoch == self._epoch and kafka.sequence(batch.operation) != batch.follows:
            raise OutcomeUnknown(Reason.OUTCOME_UNKNOWN, "the state changed since")
        fate = kafka.fate()
        if fate is Fate.DIES_BEFORE:
            raise Crash
        if fate is Fate.REFUSED:
            raise Transient(Stage.COMMIT, Reason.KAFKA_UNREACHABLE, "Kafka cannot be reached")
        if fate is Fate.FORBIDDEN:
            raise NeedsOperator(Stage.COMMIT, Reason.KAFKA_AUTHORIZATION, "Kafka forbids WRITE")
        if fate is Fate.MISTAKE_BEFORE:
            raise KeyError("a mistake of ours")
        events, revisions = list(batch.events), list(batch.revisions)
        letters = list(batch.dead_letters)
        if fate is Fate.DIES_INSIDE:
            raise Crash
        if fate is Fate.FENCED:
            kafka.owner = kafka.take_over()
        elif fate is Fate.EXPIRED:
            kafka.take_over()
        mine, self._epoch = self._epoch, None
        if kafka.epoch != mine:
            if kafka.owner > mine:
                raise Fenced("another process has taken over")
            raise OutcomeUnknown(Reason.KAFKA_TIMEOUT, "aborted, too slow", overloaded=True)
        if fate is not Fate.LOST:
            kafka.write(batch.operation, events, revisions, letters, batch.state, mine)
        if fate is Fate.DIES_AFTER:
            raise Crash
        if fate is Fate.MISTAKE_AFTER:
            raise KeyError("a mistake of ours")
        if fate is not Fate.DONE:
            raise OutcomeUnknown(Reason.KAFKA_UNREACHABLE, "Kafka cannot be reached")
        self._epoch = mine


class MemoryLog:
    """Fits `context.Log`."""

    def __init__(self, operation: str, cluster: MemoryCluster) -> None:
        self._operation = operation
        self._cluster = cluster

    async def restore(self) -> Restored:
        return await self._cluster.restore(self._operation)

    async def commit(self, batch: Batch) -> None:
        await self._cluster.commit(batch)


# --- settings, and batches without a report ---------------------------------------------


def settings_of(environment: Mapping[str, str], *operations: str) -> Settings:
    """The settings that these variables mean, for operations that nobody asks anything."""
    told = load({"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": "the-token", **environment})
    names = operations or ("wv0010",)
    return replace(
        told,
        operations=tuple(
            Operation(name, "http://127.0.0.1:9", f"token-of-{name}", "America/Bogota")
            for name in names
        ),
    )


def event(key: str | None, value: bytes) -> Record:
    """An event, keyed as the rules key it."""
    headers = kafka_record.headers([("ce_id", value[:8])])
    if key is None:
        return kafka_record.record(murmur2(value), None, value, headers)
    return kafka_record.record(murmur2(key.encode()), key.encode(), value, headers)


class Seen(NamedTuple):
    """A record as a Kafka client reads it."""

    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]
    partition_hash: int

    @property
    def header(self) -> dict[str, bytes]:
        assert len(dict(self.headers)) == len(self.headers)
        return dict(self.headers)


def seen(record: Record, *, with_value: bool = True) -> Seen:
    """Reads what `events/kafka_record.py` writes, by means of its own."""
    partition_hash, content = record
    at = 0

    def number() -> int:
        nonlocal at
        found, at = decode_varint(content, at)
        return int(found)

    def sized() -> bytes | None:
        nonlocal at
        size = number()
        if size < 0:
            return None
        at += size
        found = content[at - size : at]
        assert len(found) == size
        return found

    key, value = sized(), sized()
    headers = [((sized() or b"").decode(), sized()) for _ in range(number())]
    assert at == len(content)
    assert value is not None or not with_value
    return Seen(key, value or b"", [(name, told or b"") for name, told in headers], partition_hash)


def ids_of(told: Mapping[str, Iterable[int]]) -> dict[str, "array[int]"]:
    """Ids by bucket as the ledger and the journal take them: in any order."""
    return {bucket: array("Q", [*those]) for bucket, those in told.items()}


class Author:
    """Writes the batches of one operation as the flow does, of whatever events it is given."""

    def __init__(self, operation: str = "wv0010") -> None:
        self.operation = operation
        self.state, self._first = state.first(operation, "America/Bogota", NOON, "now", [LIVE])
        self._next: Successor | None = None
        self._ids = count(1)

    def first(self) -> Batch:
        """The checkpoint before the first request."""
        return Batch(self.operation, None, 0, [self._first])

    def window(
        self, events: Iterable[Record] = (), dead_letters: Iterable[Record] = (), ids: int = 3
    ) -> Batch:
        """The next window; tell `committed()` if it was."""
        sequence = self.state.checkpoint.sequence + 1
        end = NOON + sequence * timedelta(minutes=5)
        entry = Entry(
            sequence, LIVE, end - timedelta(minutes=5), end, end,
            rows=ids, new=ids, duplicate=0, rejected=0,
        )  # fmt: skip
        published = ids_of({f"{end:%Y-%m-%d %H}": [next(self._ids) for _ in range(ids)]})
        progress = {LIVE: Progress(end, end)}
        successor = self.state.successor(entry, progress, published, timedelta(days=31))
        self._next = successor
        return Batch(
            self.operation, sequence - 1, sequence,
            successor.records, iter(list(events)), iter(list(dead_letters)),
        )  # fmt: skip

    def committed(self) -> None:
        assert self._next is not None
        self.state.apply(self._next, timedelta(days=31))
        self._next = None


def same(left: State | None, right: State) -> bool:
    """Whether two states know the same."""
    return (
        left is not None
        and left.checkpoint == right.checkpoint
        and list(left.journal) == list(right.journal)
        and _ids(left) == _ids(right)
    )


def _ids(known: State) -> dict[str, list[int]]:
    buckets = known.ledger._buckets
    return {hour: sorted(chain(*bucket.runs)) for hour, bucket in buckets.items()}

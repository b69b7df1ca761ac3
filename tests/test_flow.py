"""The promise, in process: each message once, none missing, whatever goes wrong.

Time is driven, nothing sleeps. Replay a failed trial with `FLOW_SEED=n python -m pytest
tests/test_flow.py -k promise`; `FLOW_TRIALS=n` runs more of them.
"""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import Any

import orjson
import pytest

from publisher.context import BackfillRequests, Log, OperationContext, Source
from publisher.errors import Reason, Stage, Transient
from publisher.model import Answer, Instant, Record, Request, iso
from publisher.pipeline import STEP_LIMIT, run
from publisher.schedule.second_reading import LATE
from publisher.settings import PublisherSettings
from publisher.signals import (
    HintGiven,
    NothingFound,
    Signal,
    StateRestored,
    StepFailed,
    TransactionEnded,
    WindowNarrowed,
    WindowPublished,
)
from publisher.state import state
from publisher.state.checkpoint import LIVE, Checkpoint, checkpoint_of
from publisher.wolkvox.timezone import Zone
from tests.fakes import (
    NOON,
    Chat,
    Crash,
    FakeClock,
    FakeReport,
    Fate,
    MemoryCluster,
    MemoryKafka,
    Said,
    ScriptedSource,
    answer,
    conversation,
    error,
    feeling_of,
    found,
    nothing,
    raising,
    row,
    seen,
)

TRIALS = int(os.environ.get("FLOW_TRIALS", "40"))
SEED = os.environ.get("FLOW_SEED")

OPERATION = "wv0010"
POLL = timedelta(minutes=5)
HOUR = timedelta(hours=1)
LONGEST_REPAIR = 20 * timedelta(days=1)

MADRID_BACK = datetime(2026, 10, 25, 1, tzinfo=UTC)
"""Summer time ends; `MADRID_ON`: it begins."""
MADRID_ON = datetime(2026, 3, 29, 1, tzinfo=UTC)
SANTIAGO_BACK = datetime(2026, 4, 5, 3, tzinfo=UTC)


@dataclass
class Life:
    """All that one run of the flow needs, and what it tells."""

    clock: FakeClock
    source: Source
    log: Log
    settings: PublisherSettings = field(default_factory=PublisherSettings)
    zone: Zone = field(default_factory=lambda: Zone("America/Bogota"))
    signals: list[Signal] = field(default_factory=list)
    listener: Callable[[Signal], None] = lambda _: None
    promised: float = float("inf")
    """Until when the loop has promised to beat again, by `clock.elapsed()`."""
    late: float = 0.0
    """By how much a promise was broken at worst."""
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    """Spreads the pauses."""
    zone_replaces: str = ""
    backfill_requests: BackfillRequests | None = None

    def beat(self, seconds: float) -> None:
        self.late = max(self.late, self.clock.elapsed() - self.promised)
        self.promised = self.clock.elapsed() + seconds

    def emit(self, signal: Signal) -> None:
        self.signals.append(signal)
        self.listener(signal)

    async def run(self) -> None:
        self.promised = float("inf")
        context = OperationContext(
            operation=OPERATION,
            zone=self.zone,
            settings=self.settings,
            source=self.source,
            log=self.log,
            clock=self.clock,
            emit=self.emit,
            beat=self.beat,
            jitter=self.rng.random,
            backfill_requests=self.backfill_requests,
            zone_replaces=self.zone_replaces,
        )
        await run(context)
        assert self.late <= 0, "a beat promised too little time"

    async def run_for(self, duration: timedelta) -> None:
        """Run until the clock has gone on so far."""
        self.clock.until = self.clock.true + duration
        await self.run()

    def heard(self, kind: type[Any]) -> list[Any]:
        return [signal for signal in self.signals if isinstance(signal, kind)]

    @property
    def failures(self) -> list[StepFailed]:
        return self.heard(StepFailed)


def life(
    *script: Callable[[FakeClock], Answer],
    kafka: MemoryKafka | None = None,
    then: Callable[[FakeClock], Answer] = nothing,
    **settings: Any,
) -> tuple[Life, ScriptedSource, MemoryKafka]:
    """A life whose report answers by a script."""
    clock = FakeClock()
    source = ScriptedSource(clock, *script, then=then)
    kafka = kafka or MemoryKafka()
    told = PublisherSettings(**{"rereads": "", **settings})
    return Life(clock, source, MemoryCluster(kafka).log(OPERATION), told), source, kafka


def unreachable() -> Transient:
    return Transient(Stage.READ, Reason.UNREACHABLE, "no way")


def slow() -> Transient:
    return Transient(Stage.READ, Reason.TIMEOUT, "slow", retry_after=60.0)


def fails(clock: FakeClock, how: str) -> Answer:
    """What a window itself may cause."""
    match how:
        case "timeout":
            clock.advance(60)
            raise slow()
        case "connection_lost":
            raise Transient(Stage.READ, Reason.CONNECTION_LOST, "cut")
        case "server_error":
            return answer(clock, b"<html>Bad Gateway</html>", status=502)
        case "too_large":
            return answer(clock, oversized=True)
        case _:
            return answer(clock, b"")


OWN = ("timeout", "connection_lost", "server_error", "not_understood")


def values(records: list[Record]) -> list[dict[str, Any]]:
    return [orjson.loads(seen(record).value) for record in records]


def known(kafka: MemoryKafka) -> state.State:
    restored = state.restore(OPERATION, dict(kafka.state))
    assert restored is not None
    return restored


def checkpoint_in(kafka: MemoryKafka) -> Checkpoint:
    """What the state says of the operation, without its journal."""
    checkpoint = checkpoint_of(OPERATION, kafka.state)
    assert checkpoint is not None
    return checkpoint


def width(request: Request) -> timedelta:
    """Of the window that a request asks for, without its padding."""
    ini, end = (
        datetime.strptime(t, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        for t in (request.date_ini, request.date_end)
    )
    return end - ini


# --- the promise ---------------------------------------------------------------------


class Trial:
    """A random little world, a publisher that crashes and is started again, and the sums."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        rng = self.rng
        self.hypothesis = rng.choice(["H1", "H2", "H3"])
        # Summer time begins or ends inside some worlds.
        self.zone, begin, self.jump = rng.choice(
            [
                ("America/Bogota", NOON, NOON + 4 * HOUR),  # no clock is changed
                ("Europe/Madrid", MADRID_BACK - 4 * HOUR, MADRID_BACK),
                ("Europe/Madrid", MADRID_ON - 4 * HOUR, MADRID_ON),
                ("America/Santiago", SANTIAGO_BACK - 4 * HOUR, SANTIAGO_BACK),
            ]
        )
        self.rereads = rng.choice([(HOUR, 3 * HOUR), (HOUR,), (HOUR / 2, 2 * HOUR)])
        self.longest = max(self.rereads)
        self.begin = begin + timedelta(seconds=rng.randrange(86_400) / 100)
        self.span = HOUR * rng.uniform(3, 7)
        self.chats = list(self._chats())
        self.filed = max(said.filed for chat in self.chats for said in chat.said)
        self.quiet_from = max(self.filed, self.begin + self.span) + self.longest
        self.end = self.quiet_from + 1.6 * self.longest + 12 * POLL
        skew = timedelta(seconds=rng.choice([0, 0, rng.uniform(-1800, 1800)]))
        self.clock = FakeClock(self.begin, until=self.end, skew=skew)
        self.start = self.begin - rng.choice([timedelta(), HOUR * 2])
        self.forgets = rng.random() < 0.7
        """The horizon is as short as the settings allow, so that it passes within the world."""
        self.settings = self._settings(self.rereads, rng.choice(["", "wolkvox.messages.revisions"]))
        self.changes = rng.choice([0.0, 0.5])
        """How often somebody changes settings between two lives."""
        # Early enough that re-reads see much of it as it is in the end.
        self.settled = self.begin + self.span
        self.kafka = MemoryKafka(own_topics=rng.random() < 0.5)
        self.kafka.fate = self._fate
        self.kafka.restoring = self._restoring
        self.kafka.listener = self._check_order
        self.disorder: list[str] = []
        """Told at the end: raised in the middle it would be one more mistake to survive."""
        self.cut = 0
        opens = rng.random() < 0.5
        self.report = FakeReport(
            self.clock,
            self.chats,
            rng,
            zone=self.zone,
            opens=opens,
            closes=rng.random() < 0.5,
            refuses=rng.random() < 0.5,
            quota=rng.choice([100_000, 100_000, 1000]),
            cap=self._cap(),
            settled=self.settled,
            trouble=self._trouble,
            hides=self._hides,
        )
        self.stuck = [
            (f"{self.report.local(at):%Y%m%d%H%M%S}", at + HOUR * rng.expovariate(1 / 3), how)
            for _ in range(rng.choice([0, 0, 1, 2, 5]))
            for at in [self.begin + self.span * rng.random()]
            for how in [rng.choice((*OWN, "too_large"))]
        ]
        """Seconds that fail whatever window holds them, until when, and how."""
        self.fault_rate = rng.choice([0.0, 0.02, 0.1, 0.25])
        self.outages = [
            (at, at + rng.choice([HOUR * rng.expovariate(1.4)] * 4 + [self.longest * 1.3]))
            for at in (self.begin + self.span * rng.random() for _ in range(rng.randrange(3)))
        ]
        silent = [end for _, end in self.outages if rng.random() < 0.5]
        silent += [self.begin + self.span * rng.random() for _ in range(rng.randrange(3))]
        self.silent = [(at, at + timedelta(minutes=rng.uniform(1, 10))) for at in silent]
        """When the report shows half of its rows only."""
        self.hidden_by: dict[int, int] = {}
        """Which of these has hidden a row first, by the row's twins."""
        self.shown_by: dict[int, Instant] = {}
        """When all twins of a row are visible: what shows some of them is taken for the whole."""
        for said in (said for chat in self.chats for said in chat.said):
            twins = id(said.fields)
            self.shown_by[twins] = max(
                self.shown_by.get(twins, said.visible_from), said.visible_from
            )

    def _settings(self, rereads: tuple[timedelta, ...], revisions_topic: str) -> PublisherSettings:
        """What is promised does not depend on the rest of them."""
        rng = self.rng
        max_window = HOUR if self.forgets else rng.choice([HOUR, timedelta(days=1)])
        if self.forgets and rng.random() < 0.2:
            max_window = HOUR / 3
        return PublisherSettings.model_validate(
            {
                "poll_every": POLL,
                "overlap": rng.choice([timedelta(), POLL, 3 * POLL]),
                "rereads": rereads,
                "max_window": max_window,
                "horizon": max(rereads) * 1.5 + max_window if self.forgets else timedelta(days=31),
                "start": iso(self.start),
                "revisions_topic": revisions_topic,
            }
        )

    def _changed(self) -> PublisherSettings:
        """Others than before: the longest re-read of the promise stays among them."""
        rng, longest = self.rng, self.longest
        rereads = rng.choice([self.rereads, (longest,), (longest, longest * 1.5)])
        told = self._settings(rereads, self.settings.revisions_topic)
        if rng.random() < 0.3:
            told = told.model_copy(update={"horizon": told.horizon * rng.choice([1.5, 200])})
        return told

    def _hides(self, said: Said) -> bool:
        """Half of the rows, for minutes; but of each what is shown at a second reading, too.

        Old time is read twice in all, and a row may not be hidden at both by two gaps.
        A late row that is old enough for the longest re-read may be shown to that alone.
        """
        now, twins = self.clock.true, id(said.fields)
        for number, (begin, end) in enumerate(self.silent):
            if begin <= now < end and not said.date.second % 2 and not self._calm():
                young = end - said.filed < self.longest
                early = self.shown_by[twins] <= said.filed and not self.settings.revisions_topic
                if young or (early and self.hidden_by.get(twins, number) == number):
                    self.hidden_by.setdefault(twins, number)
                    return True
        return False

    def _chats(self) -> Iterator[Chat]:
        rng = self.rng
        bad = 0
        for number in range(rng.randrange(20, 60)):
            conn_id = rng.choice([f"{186_000_000 + number}"] * 9 + ["0", "-"])
            opened = self.begin - 2 * HOUR + (self.span + HOUR) * rng.random()
            dates = [opened]
            while rng.random() < 0.85 and len(dates) < 12:
                dates.append(
                    dates[-1] + timedelta(seconds=rng.choice([0, 0, 1, rng.uniform(0, 300)]))
                )
            dates = [date.replace(microsecond=0) for date in dates]
            closed = dates[-1] + timedelta(seconds=rng.randrange(1800))
            if rng.random() < 0.1:  # by chance alone next to nothing happens at a jump
                near = self.jump + rng.choice([-HOUR, timedelta(), HOUR])
                move = near + timedelta(seconds=rng.randint(-2, 2)) - rng.choice([closed, *dates])
                dates, closed = [date + move for date in dates], closed + move
            chat = Chat(conn_id)
            for index, date in enumerate(dates):
                filed = {"H1": closed, "H2": date, "H3": dates[0]}[self.hypothesis]
                fields = {
                    "channel": rng.choice(["whatsapp", "web"]),
                    "from": rng.choice(["AGENT", "CUSTOMER"]),
                    "from_name": "x",
                    "to_name": "y",
                    "message": f"message {number} {index} \u00f1\U0001f600",
                    "customer_id": str(number),
                }
                for _ in range(rng.choice([1] * 8 + [2, 3])):  # twins
                    chat.said.append(self._said(date, fields, filed, closed))
                if rng.random() < 0.03:
                    bad += 1
                    wrong = {**fields, "message": f"bad {bad}"}
                    chat.said.append(replace(self._said(date, wrong, filed, closed), bad=True))
            yield chat

    def _said(self, date: Instant, fields: dict[str, Any], filed: Instant, closed: Instant) -> Said:
        """Visible at once, after a rebuild of the report, or as late as the promise allows."""
        rng = self.rng
        earliest = closed if self.hypothesis == "H1" else date
        latest = filed + self.longest - timedelta(seconds=5)
        lateness = rng.choice([0.0] * 6 + [rng.uniform(0, 600), rng.uniform(0, 3 * 3600), 1e6])
        visible = min(earliest + timedelta(seconds=lateness), max(latest, earliest))
        return Said(date, fields, filed, visible)

    def _cap(self) -> int:
        """Sometimes tight; but what is filed within the narrowest request always fits."""
        filed = sorted(said.filed for chat in self.chats for said in chat.said)
        ten = timedelta(seconds=10)
        densest = max(sum(at <= other <= at + ten for other in filed) for at in filed)
        return self.rng.choice([60_000, 2 * densest * 2 + 5])  # an element may come twice

    def _calm(self) -> bool:
        return self.clock.true >= self.quiet_from

    def _fate(self) -> Fate:
        self.clock.advance(self.rng.uniform(0, 2))
        if self._calm() or self.rng.random() > self.fault_rate:
            return Fate.DONE
        return self.rng.choice(list(Fate))

    def _restoring(self) -> None:
        self.clock.advance(self.rng.uniform(0, 2))
        if not self._calm() and self.rng.random() < self.fault_rate:
            raise Transient(Stage.RESTORE, Reason.KAFKA_UNREACHABLE, "Kafka cannot be reached")

    def _trouble(self, request: Request) -> Answer | None:
        if self._calm():
            return None
        clock, rng = self.clock, self.rng
        if any(begin <= clock.true < end for begin, end in self.outages):
            clock.advance(10)
            raise unreachable()
        for second, until, how in self.stuck:
            if request.date_ini <= second <= request.date_end and clock.true < until:
                return fails(clock, how)
        if rng.random() > self.fault_rate:
            return None
        real = self.report.data(request)
        whole = orjson.dumps({"code": "200", "error": None, "msg": "", "data": real})
        match rng.randrange(20):
            case 0:
                raise Crash
            case 1:
                clock.advance(60)
                raise slow()
            case 2:
                raise ValueError("a mistake of ours")
            case 3:
                return error(clock, 403, "PLEASE VALIDATE TOKEN")
            case 4:
                return error(clock, 403, "EXCEEDS THE LIMIT OF SIMULTANEOUS REQUESTS PER TOKEN (2)")
            case 5:
                return error(clock, 403, "TOKEN LIMIT EXCEEDED")
            case 6:
                return error(clock, 401, "PLEASE ENTER THE WOLKVOX-TOKEN")
            case 7:
                return error(clock, 429, "", headers={"retry-after": "90"})
            case 8:
                return answer(clock, b"<html>Bad Gateway</html>", status=502)
            case 9:
                return answer(clock, whole[: len(whole) // 2])
            case 10:
                return answer(clock, b"")
            case 11:
                return answer(clock, oversized=True)
            case 12:
                return error(clock, 404, "Not Found")
            case 13:
                return answer(clock, b'{"code":"200","error":null,"msg":"","data":null}')
            case 14:
                return error(clock, 400, "THE API YOU WANT TO CONSULT DOES NOT EXIST")
            case 15:  # no strict decoder takes a byte order mark; the rows are right
                self.report.answered.append(real)
                return answer(clock, b"\xef\xbb\xbf" + whole) if real else nothing(clock)
            case 16:  # the right rows from a server whose clock is wrong
                wrong = clock.true + timedelta(seconds=rng.uniform(-1500, 1500))
                date = {"date": format(wrong, "%a, %d %b %Y %H:%M:%S GMT")}
                self.report.answered.append(real)
                return answer(clock, whole, headers=date)
            case 17:  # our clock is set before the request
                clock.skew = timedelta(seconds=rng.uniform(-1500, 1500))
                return None
            case 18:  # or while it is on its way
                sent = clock.now()
                clock.skew = timedelta(seconds=rng.uniform(-1500, 1500))
                self.report.answered.append(real)
                return replace(answer(clock, whole), sent_at=sent)
            case _:
                skewed = format(clock.true + 3 * HOUR, "%a, %d %b %Y %H:%M:%S GMT")
                return answer(clock, whole, headers={"date": skewed})

    async def run(self) -> None:
        while self.clock.true < self.end or self._left():
            changes = not self._calm() and self.rng.random() < self.changes
            told = Life(
                self.clock,
                self.report,
                MemoryCluster(self.kafka).log(OPERATION),
                self._changed() if changes else self.settings,
                Zone(self.zone),
                rng=self.rng,
            )
            if not self._calm():
                # Somebody stops it now and then.
                self.clock.until = min(
                    self.end, self.clock.true + HOUR * self.rng.expovariate(1 / 3)
                )
            else:
                assert self.clock.true < self.quiet_from + LONGEST_REPAIR, "a gap stays"
                self.clock.until = self.quiet_from + LONGEST_REPAIR
                told.listener = self._stop_when_whole
            self.lives_since = self.clock.true
            try:
                await told.run()
            except Crash:
                self.clock.advance(self.rng.choice([1.0, 30.0, 900.0]))
            # What is filed within the narrowest request fits: nothing may be cut.
            self.cut += sum(window.possibly_cut for window in told.heard(WindowPublished))
        self.check()

    def _stop_when_whole(self, signal: Signal) -> None:
        # Where our clock is slow, a process that has just started believes the third answer;
        # until then it reads as far as its own clock says.
        slow = self.clock.skew < timedelta() and self.clock.true < self.lives_since + 6 * POLL
        over = self.clock.true >= self.end and not slow
        if isinstance(signal, WindowPublished) and over and not self._left():
            self.clock.stop()

    def _left(self) -> bool:
        """Whether something is still to be read: by none of the passes, or by one that is late.

        An hour may cost a share of the quota only, so narrow windows take their time.
        """
        checkpoint = checkpoint_of(OPERATION, self.kafka.state)
        if checkpoint is None or checkpoint.gaps or checkpoint.unconfirmed:
            return True
        rereads = [told for name, told in checkpoint.passes.items() if name != LIVE]
        return any(told.cursor <= self.filed for told in rereads)

    def identity(self, conn_id: str, date: str, fields: Any) -> tuple[str, ...]:
        told: tuple[str, ...] = (conn_id, date, fields["from"], fields["message"])
        if conn_id in ("0", "-"):
            told += (fields["channel"], fields["customer_id"])
        return told

    def check(self) -> None:
        """Nothing lost, nothing twice, nothing altered, in order."""
        assert not self.disorder
        assert not self.cut, "a window was cut by the report"
        world: Counter[tuple[str, ...]] = Counter()
        must: Counter[tuple[str, ...]] = Counter()
        bad = set()
        times = {}
        for chat in self.chats:
            for said in chat.said:
                if said.bad:
                    if said.filed >= self.start:
                        bad.add(said.fields["message"])
                    continue
                name = self.identity(chat.conn_id, self.report.date_of(said), said.fields)
                times[name] = said
                world[name] += 1
                must[name] += said.filed >= self.start
        records = self.kafka.events[OPERATION]
        events = values(records)
        got: Counter[tuple[str, ...]] = Counter(
            self.identity(event["conn_id"], event["date"], event) for event in events
        )
        lost, twice = must - got, got - world
        assert not lost, f"lost {sum(lost.values())}: {next(iter(lost))}"
        assert not twice, f"twice or invented {sum(twice.values())}: {next(iter(twice))}"
        assert len({event["event_id"] for event in events}) == len(events)
        for event in events:
            said = times[self.identity(event["conn_id"], event["date"], event)]
            assert {name: event[name] for name in said.fields} == said.fields, "altered"
            if "occurred_at_ambiguous" not in event:
                assert event["occurred_at"] == iso(said.date)
        self._check_dead_letters(bad)
        self._check_revisions(events)
        checkpoint = checkpoint_in(self.kafka)
        assert checkpoint.gaps == ()
        assert checkpoint.unconfirmed == ()
        assert checkpoint.live.covered_until > self.clock.true - 4 * POLL

    def _check_revisions(self, events: list[dict[str, Any]]) -> None:
        """Each tells a change, once; who applies them knows what the report shows in the end."""
        revisions = values(self.kafka.revisions[OPERATION])
        if not self.settings.revisions_topic:
            assert not revisions
            return
        table = {event["event_id"]: event for event in events}
        numbers: Counter[str] = Counter()
        for told in revisions:
            id_ = told["event_id"]
            numbers[id_] += 1
            assert told.pop("revision") == numbers[id_], "a revision was lost or came twice"
            assert told != table[id_], "a revision without a change"
            table[id_] = told
        expected: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for chat in self.chats:
            for said in chat.said:
                # Read again once it has settled.
                if not said.bad and said.filed + self.longest > self.settled + HOUR:
                    name = self.identity(chat.conn_id, self.report.date_of(said), said.fields)
                    expected[name][f"{feeling_of(said)} Luis"] += 1
        found: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for told in table.values():
            name = self.identity(told["conn_id"], told["date"], told)
            found[name][f"{told['feeling']} {told['agent_name']}"] += 1
        for name, contents in expected.items():
            assert found[name] == contents, "not what the report shows in the end"

    def _check_dead_letters(self, bad: set[str]) -> None:
        letters = self.kafka.dead_letters[OPERATION]
        rows = [one for one in map(seen, letters) if one.header["reason"] == b"date_invalid"]
        told = Counter(orjson.loads(one.value)["message"] for one in rows)
        assert bad <= told.keys(), "a bad row was lost"
        assert set(told.values()) <= {1}, "a bad row came twice"

    def _check_order(self, committed: list[Record]) -> None:
        """Within a transaction by date; equal seconds as the answer lists them."""
        events = values(committed)
        if events != sorted(events, key=lambda event: str(event["date"])):
            self.disorder.append("out of order")
        lines = [
            self.identity(element["conn_id"], line["date"], line)
            for element in (self.report.answered[-1] if events else [])
            for line in element["conversation"]
        ]
        once = {name for name, number in Counter(lines).items() if number == 1}
        told = [
            (event["date"], lines.index(name))
            for event in events
            if (name := self.identity(event["conn_id"], event["date"], event)) in once
        ]
        if told != sorted(told):
            self.disorder.append("equal seconds are out of order")


async def test_the_promise() -> None:
    """0 lost, 0 twice, 0 altered, in order: whatever crashes, however late the report is.

    Some seconds fail for hours; in the end nothing is parked any more.
    """
    seeds = [int(SEED)] if SEED else random.SystemRandom().sample(range(10**9), TRIALS)
    for seed in seeds:
        try:
            await Trial(seed).run()
        except BaseException as failure:
            failure.add_note(
                f"replay it: FLOW_SEED={seed} python -m pytest tests/test_flow.py -k promise"
            )
            raise


async def test_trials_forget_and_read_a_second_time() -> None:
    """What the promise holds against happens in them: else the trials would prove nothing of it."""
    sums: Counter[str] = Counter()
    for seed in range(1, 9):
        trial = Trial(seed)
        await trial.run()
        after = known(trial.kafka)
        sums["forgets"] += bool(after.checkpoint.forgotten)
        sums["late"] += any(entry.pass_name == LATE.name for entry in after.journal)
    assert sums["forgets"] >= 4
    assert sums["late"] > 0


# --- single truths -------------------------------------------------------------------


async def test_the_first_checkpoint_is_committed_before_the_first_request() -> None:
    """When the first question is asked, the start is durable already."""
    kafka = MemoryKafka()

    def look(clock: FakeClock) -> Answer:
        assert checkpoint_in(kafka).start == NOON
        return nothing(clock)

    alive, source, _ = life(look, kafka=kafka)
    await alive.run_for(POLL / 2)
    assert len(source.requests) == 1


async def test_a_refused_token_moves_nothing() -> None:
    """A wrong token at the very first start, a restart, then the right one: nothing is lost."""
    kafka = MemoryKafka()
    clock = FakeClock()
    chat = Chat("186067512")
    for minute in range(0, 600, 7):
        said_at = NOON + timedelta(minutes=minute, seconds=1)
        fields = {"channel": "web", "from": "AGENT", "message": str(minute), "customer_id": "1"}
        chat.said.append(Said(said_at, fields, said_at, said_at))
    refused = True

    def trouble(_: Request) -> Answer | None:
        return error(clock, 403, "PLEASE VALIDATE TOKEN") if refused else None

    report = FakeReport(clock, [chat], random.Random(1), kindly=True, trouble=trouble)
    settings = PublisherSettings(rereads=())
    for hours in (2, 2):
        wrong = Life(clock, report, MemoryCluster(kafka).log(OPERATION), settings)
        await wrong.run_for(hours * HOUR)
        assert checkpoint_in(kafka).live.cursor == NOON
        assert {failure.reason for failure in wrong.failures} == {Reason.TOKEN_REFUSED}
        assert all(failure.needs_person for failure in wrong.failures)
    refused = False
    right = Life(clock, report, MemoryCluster(kafka).log(OPERATION), settings)
    await right.run_for(8 * HOUR)
    told = [event["message"] for event in values(kafka.events[OPERATION])]
    assert told == [said.fields["message"] for said in chat.said]


@pytest.mark.parametrize("poll", [0.1, 0.5, 1, 3])
async def test_live_asks_in_its_rhythm_however_quick_the_answers_are(poll: float) -> None:
    """A date of whole seconds covers less than was asked for; that is no reason to ask at once."""
    alive, source, _ = life(
        then=lambda clock: error(clock, 404, "Validate dates entered", took=0.01),
        poll_every=timedelta(seconds=poll), overlap="0s",
    )  # fmt: skip
    await alive.run_for(timedelta(seconds=30))
    assert len(source.requests) <= 30 / poll + 2
    gaps = [later - earlier for earlier, later in pairwise(source.asked_at)]
    assert max(gaps) <= timedelta(seconds=poll + 1.1)


async def test_too_large_a_window_is_halved_down_to_a_second() -> None:
    """Halved without a pause; at one second what came is published, as possibly cut.

    A number that is too large by the same amount all the way would be a counter that lies.
    """
    counts = count(99_999)
    data = [conversation("186067512", row("2026-11-20 07:00:00"))]
    alive, source, kafka = life(
        then=lambda clock: found(clock, data, says=next(counts)), start="-5m", overlap="0s"
    )
    await alive.run_for(timedelta(seconds=20))
    first = alive.heard(WindowPublished)[0]
    assert first.possibly_cut
    assert first.window.width == timedelta(seconds=1)
    narrowed = alive.heard(WindowNarrowed)
    assert [told.window.width for told in narrowed][:3] == [POLL, POLL / 2, POLL / 4]
    asked = [request.max_bytes for request in source.requests]
    halvings = [told.window.width for told in narrowed].index(timedelta(seconds=2))
    assert asked[: halvings + 1] == [16_777_216] * halvings + [268_435_456]
    assert alive.clock.pauses == []
    assert len(kafka.events[OPERATION]) == 1
    restored = known(kafka)
    assert restored.journal[0].possibly_cut


async def test_between_the_narrowest_windows_nothing_is_lost() -> None:
    """One second each, and both ends exclusive: the padding brings all of it, once."""
    clock, kafka = FakeClock(), MemoryKafka()
    chat = Chat("186067512")
    for number in range(40):
        said_at = NOON - timedelta(seconds=200 - number)
        fields = {"channel": "web", "from": "AGENT", "message": str(number), "customer_id": "1"}
        chat.said += [Said(said_at, fields, said_at, said_at)] * 2
    report = FakeReport(
        clock, [chat], random.Random(1), opens=False, closes=False, kindly=True, quota=100_000
    )
    second = timedelta(seconds=1)
    settings = PublisherSettings(rereads=(), start="-5m", overlap=timedelta(), max_window=second)
    told = Life(clock, report, MemoryCluster(kafka).log(OPERATION), settings)
    await told.run_for(POLL)
    published = [event["message"] for event in values(kafka.events[OPERATION])]
    assert published == [said.fields["message"] for said in chat.said]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("rereads", [(HOUR,), ()])
async def test_one_wrong_date_of_the_server_settles_nothing(
    rereads: tuple[timedelta, ...], seed: int
) -> None:
    """Minutes ahead, told once: neither the overlap nor a re-read is over before its time."""
    rng = random.Random(seed)
    clock, kafka = FakeClock(), MemoryKafka()
    latest = (rereads[0] if rereads else 3 * POLL) - timedelta(seconds=10)
    chats = []
    for number in range(60):
        said_at = NOON + timedelta(minutes=number)
        fields = {"channel": "web", "from": "AGENT", "message": str(number), "customer_id": "1"}
        late = latest * rng.choice([rng.random(), 1])
        said = Said(said_at, fields, said_at, said_at + late)
        chats.append(Chat(f"18600{number}", [said]))
    left = iter(range(rng.randrange(15, 35) if rereads else rng.randrange(12), -1, -1))
    ahead = timedelta(minutes=rng.choice([4, 4, 50]))

    def trouble(request: Request) -> Answer | None:
        if next(left, None) != 0:
            return None
        date = f"{clock.true + ahead:%a, %d %b %Y %H:%M:%S GMT}"
        return found(clock, report.data(request), headers={"date": date})

    report = FakeReport(clock, chats, rng, kindly=True, trouble=trouble)
    settings = PublisherSettings(rereads=rereads, overlap=3 * POLL)
    told = Life(clock, report, MemoryCluster(kafka).log(OPERATION), settings)
    await told.run_for(4 * HOUR)
    assert len(kafka.events[OPERATION]) == len(chats)


async def test_a_new_re_read_does_not_trust_a_clock_that_nobody_has_measured() -> None:
    """Added while our clock was days ahead: it still finds what is shown late."""
    clock, kafka = FakeClock(), MemoryKafka()
    fields = {"channel": "web", "from": "AGENT", "message": "late", "customer_id": "1"}
    said_at = NOON + HOUR
    chat = Chat("186067512", [Said(said_at, fields, said_at, said_at + HOUR * 0.8)])
    report = FakeReport(clock, [chat], random.Random(1), kindly=True)
    log = MemoryCluster(kafka).log
    await Life(clock, report, log(OPERATION), PublisherSettings(rereads=())).run_for(2 * HOUR)
    told = Life(clock, report, log(OPERATION), PublisherSettings(rereads=(HOUR,)))
    clock.skew = timedelta(days=10)

    def put_right(signal: Signal) -> None:
        if isinstance(signal, StepFailed):
            clock.skew = timedelta()

    told.listener = put_right
    await told.run_for(2 * HOUR)
    assert {failure.reason for failure in told.failures} == {Reason.CLOCK_SKEW}
    assert len(kafka.events[OPERATION]) == 1


@pytest.mark.parametrize("cap", [60_000, 20])
async def test_nothing_is_lost_where_the_clocks_go_back(cap: int) -> None:
    """Rows at the very jump, exclusive ends, and more rows in the repeated hour than fit."""
    clock, kafka = FakeClock(MADRID_BACK - 2 * HOUR), MemoryKafka()
    chat = Chat("186067512")
    near = [MADRID_BACK + timedelta(seconds=n) for n in range(-3, 4)]
    often = [MADRID_BACK + timedelta(seconds=n) for n in range(-3600, 3600, 60)]
    for said_at in sorted({*near, *often, MADRID_BACK - HOUR, MADRID_BACK + HOUR}):
        fields = {"channel": "web", "from": "AGENT", "message": iso(said_at), "customer_id": "1"}
        chat.said.append(Said(said_at, fields, said_at, said_at))
    report = FakeReport(
        clock, [chat], random.Random(1), zone="Europe/Madrid", closes=False, kindly=True, cap=cap
    )
    settings = PublisherSettings(rereads=(), overlap=timedelta())
    told = Life(clock, report, MemoryCluster(kafka).log(OPERATION), settings, Zone("Europe/Madrid"))
    clock.advance(0.4)  # windows do not begin with whole seconds
    await told.run_for(4 * HOUR)
    published = [event["message"] for event in values(kafka.events[OPERATION])]
    assert sorted(published) == [said.fields["message"] for said in chat.said]
    assert not any(window.possibly_cut for window in told.heard(WindowPublished))


async def test_an_answer_that_cannot_be_read_at_all_is_tried_again_slowly() -> None:
    """Too large even at one second, with nothing to publish: pauses, not a busy loop."""
    alive, source, kafka = life(then=lambda clock: answer(clock, oversized=True), start="-5m")
    await alive.run_for(HOUR)
    assert kafka.events[OPERATION] == []
    assert alive.failures[-1].reason is Reason.TOO_LARGE
    assert len(source.requests) < 40
    assert checkpoint_in(kafka).live.cursor == NOON - POLL


async def test_a_changed_format_is_held() -> None:
    """Where most rows cannot be understood nothing is published; once they can it goes on."""
    strange = [conversation(str(n), row("20/11/2026 7:00")) for n in range(30)]
    good = [conversation("1", row("2026-11-20 07:00:00"))]
    now = [strange]
    alive, _, kafka = life(then=lambda clock: found(clock, now[0]), start="-5m")
    await alive.run_for(HOUR)
    assert {failure.reason for failure in alive.failures} == {Reason.FORMAT_CHANGED}
    assert all(failure.needs_person for failure in alive.failures)
    changed = "30 of 30 rows cannot be understood: the report's format has changed"
    assert changed in alive.failures[0].text
    assert len(kafka.committed) == 1  # the first checkpoint
    now[0] = good
    await alive.run_for(HOUR)
    assert len(kafka.events[OPERATION]) == 1
    assert checkpoint_in(kafka).live.covered_until > NOON + HOUR


async def test_the_decoder_forgives_only_the_second_time() -> None:
    """What no strict decoder takes is asked for again; then its rows are published, marked."""
    body = b'\xef\xbb\xbf{"code":200,"error":null,"msg":"","data":[%b]}' % orjson.dumps(
        conversation("186067512", row("2026-11-20 07:00:00"))
    )
    alive, source, kafka = life(
        lambda clock: answer(clock, body), lambda clock: answer(clock, body), start="-5m"
    )
    await alive.run_for(POLL / 2)
    assert alive.failures == []
    assert source.requests[0] == source.requests[1]
    (event,) = map(seen, kafka.events[OPERATION])
    assert event.header["wolkvox_decoding"] == b"lenient"
    (letter,) = map(seen, kafka.dead_letters[OPERATION])
    assert letter.value == body
    assert letter.header["reason"] == b"answer_undecodable"
    assert alive.heard(WindowPublished)[0].lenient


async def test_a_body_that_was_broken_once_is_not_read_leniently() -> None:
    """When the second answer is sound, nothing is marked and nothing is dead-lettered."""
    data = [conversation("186067512", row("2026-11-20 07:00:00"))]
    alive, _, kafka = life(
        lambda clock: answer(clock, b'{"code":200,"data":['),
        lambda clock: found(clock, data),
        start="-5m",
    )
    await alive.run_for(POLL / 2)
    assert len(kafka.events[OPERATION]) == 1
    assert kafka.dead_letters[OPERATION] == []


async def test_nothing_but_404_for_a_day_is_reported() -> None:
    """A server without the report answers like a quiet one: after a day somebody is told, daily."""
    alive, _, _ = life()
    await alive.run_for(timedelta(hours=73))
    told = alive.heard(NothingFound)
    assert len(told) == 3
    assert told[0].since - NOON < timedelta(minutes=1)
    assert alive.failures == []


async def test_an_empty_list_is_no_404() -> None:
    """A 200 without rows comes from a server that has the report: nobody is told."""
    alive, _, _ = life(then=lambda clock: found(clock, []))
    await alive.run_for(timedelta(hours=73))
    assert alive.heard(NothingFound) == []


@pytest.mark.parametrize(
    ("trouble", "most"),
    [
        (raising(unreachable), 300),
        # Once a minute: more than a licence's quota of 1000 a day.
        (raising(RuntimeError), 400),
        (lambda clock: error(clock, 403, "PLEASE VALIDATE TOKEN"), 300),
        (lambda clock: error(clock, 403, "TOKEN LIMIT EXCEEDED"), 300),
        (lambda clock: answer(clock, b"", status=503), 300),
        (lambda clock: answer(clock, b"no JSON"), 300),
        (lambda clock: answer(clock, b"", status=302), 300),
    ],
    ids=["unreachable", "mistake", "token", "quota", "503", "garbage", "redirect"],
)
async def test_no_pause_is_longer_than_two_polls(
    trouble: Callable[[FakeClock], Answer], most: int
) -> None:
    """However long the fault lasts: work goes on within three polls of its end."""
    alive, source, kafka = life(then=trouble)
    await alive.run_for(timedelta(days=1))
    assert max(alive.clock.pauses) <= 2 * POLL.total_seconds()
    assert len(source.requests) < most  # and it does not hammer either
    assert [failure.attempt for failure in alive.failures][:3] == [1, 2, 3]
    assert kafka.events[OPERATION] == []
    mended = alive.clock.true
    alive.source = ScriptedSource(alive.clock)
    await alive.run_for(3 * POLL)
    assert checkpoint_in(kafka).live.covered_until > mended


async def test_kafka_is_tried_again_every_minute() -> None:
    """While Kafka is away the pauses grow to a minute, and no question is asked."""
    alive, source, kafka = life()

    def away() -> None:
        raise Transient(Stage.RESTORE, Reason.KAFKA_UNREACHABLE, "Kafka cannot be reached")

    kafka.restoring = away
    await alive.run_for(HOUR)
    assert max(alive.clock.pauses) <= 60
    assert len(alive.clock.pauses) < 100
    assert source.requests == []


async def test_after_a_time_out_of_ours_the_server_may_finish_first() -> None:
    """A question given up on may keep the server busy for a minute: no other is sent before."""
    alive, source, _ = life(raising(slow))
    await alive.run_for(POLL)
    assert (source.asked_at[1] - source.asked_at[0]).total_seconds() >= 60


async def test_a_server_that_asks_for_patience_gets_it() -> None:
    """Retry-After is waited for, also beyond two polls."""
    alive, source, _ = life(lambda clock: error(clock, 429, "", headers={"retry-after": "1800"}))
    await alive.run_for(HOUR)
    assert (source.asked_at[1] - source.asked_at[0]).total_seconds() >= 1800


async def test_who_is_fenced_steps_back() -> None:
    """After another process took over, the way back begins at about a minute and gets longer."""
    alive, _, kafka = life()
    kafka.fate = lambda: Fate.FENCED
    await alive.run_for(2 * HOUR)
    assert {failure.reason for failure in alive.failures} == {Reason.FENCED}
    assert all(failure.needs_person for failure in alive.failures)
    assert {ended.result for ended in alive.heard(TransactionEnded)} == {"fenced"}
    assert alive.clock.pauses[0] >= 60
    assert alive.clock.pauses[1] >= 120
    assert max(alive.clock.pauses) <= 900


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.KEPT])
async def test_an_unknown_outcome_is_never_retried_blindly(fate: Fate) -> None:
    """Committed or not: the log is asked, and each message is there once."""
    data = [conversation("1", row("2026-11-20 07:00:00"), row("2026-11-20 07:00:01"))]
    alive, _, kafka = life(then=lambda clock: found(clock, data), start="-5m")
    fates = iter([Fate.DONE, fate])
    kafka.fate = lambda: next(fates, Fate.DONE)
    await alive.run_for(2 * POLL)
    assert len(kafka.events[OPERATION]) == 2
    assert len(alive.heard(StateRestored)) == 2
    assert [failure.reason for failure in alive.failures] == [Reason.KAFKA_UNREACHABLE]


async def test_a_transaction_that_took_too_long_is_made_smaller() -> None:
    """When the broker gave up on us the next window is half as wide."""
    alive, source, kafka = life(start="-5m", overlap="0s")
    fates = iter([Fate.DONE, Fate.EXPIRED])
    kafka.fate = lambda: next(fates, Fate.DONE)
    await alive.run_for(POLL / 2)
    (narrowed,) = alive.heard(WindowNarrowed)
    assert narrowed.next_width == narrowed.window.width / 2
    assert width(source.requests[1]) < width(source.requests[0])


class BrokenZone(Zone):
    """Hits a mistake of ours when it reads a date, a few times."""

    mistakes = 3

    def occurred_at(self, date: str) -> tuple[str, bool]:
        if self.mistakes:
            self.mistakes -= 1
            raise ZeroDivisionError("SECRET")
        return super().occurred_at(date)


async def test_a_mistake_in_the_rules_does_not_end_the_loop() -> None:
    """It is told without its text, tried again, and nothing comes twice."""
    data = [conversation("1", row("2026-11-20 07:00:00"))]
    alive, _, kafka = life(then=lambda clock: found(clock, data), start="-5m")
    alive.zone = BrokenZone("America/Bogota")
    await alive.run_for(2 * POLL)
    assert [failure.reason for failure in alive.failures] == [Reason.UNEXPECTED] * 3
    text = alive.failures[0].text
    assert "unexpected ZeroDivisionError at test_flow.py:" in text
    assert "SECRET" not in text
    assert len(kafka.events[OPERATION]) == 1


async def test_a_mistake_behind_the_commit_publishes_nothing_twice() -> None:
    """What is remembered may be half done then: the log is asked."""
    data = [conversation("1", row("2026-11-20 07:00:00"))]
    alive, _, kafka = life(then=lambda clock: found(clock, data), start="-5m")
    mistakes = iter([ZeroDivisionError()])

    def listener(signal: Signal) -> None:
        if isinstance(signal, WindowPublished) and (mistake := next(mistakes, None)):
            raise mistake

    alive.listener = listener
    await alive.run_for(3 * POLL)
    assert len(alive.failures) == 1
    assert len(alive.heard(StateRestored)) == 2
    assert len(kafka.events[OPERATION]) == 1


async def test_a_stop_is_honoured_after_the_step_in_hand() -> None:
    """A stop during a request lets its window be committed, and asks nothing more."""
    data = [conversation("1", row("2026-11-20 07:00:00"))]

    def stopping(clock: FakeClock) -> Answer:
        clock.stop()
        return found(clock, data)

    alive, source, kafka = life(stopping, start="-5m")
    await alive.run()
    assert len(source.requests) == 1
    assert len(kafka.events[OPERATION]) == 1


async def test_a_stop_before_the_start_does_nothing() -> None:
    """Neither a restore nor a request."""
    alive, source, kafka = life()
    alive.clock.stop()
    await alive.run()
    assert source.requests == []
    assert kafka.epoch == 0


async def test_every_beat_promises_enough_time() -> None:
    """Also while it waits for long, the loop says beforehand when it will be heard again."""
    alive, _, kafka = life(
        lambda clock: error(clock, 429, "", headers={"retry-after": "3600"}),
        raising(slow),
        nothing,
        poll_every="20m",
    )
    fates = iter([Fate.DONE, Fate.FENCED, Fate.FENCED])
    kafka.fate = lambda: next(fates, Fate.DONE)
    await alive.run_for(timedelta(days=1))  # `Life.beat` looks at every one
    assert alive.promised >= alive.clock.elapsed() + STEP_LIMIT - 1


async def test_another_time_zone_is_held() -> None:
    """Rows would be read at other instants than before: a person must say which is right."""
    alive, _, kafka = life()
    await alive.run_for(POLL)
    moved, source, _ = life(kafka=kafka)
    moved.zone = Zone("Europe/Madrid")
    await moved.run_for(HOUR)
    assert {failure.reason for failure in moved.failures} == {Reason.ZONE_CHANGED}
    assert "was read in America/Bogota so far: set it back to" in moved.failures[0].text
    assert source.requests == []


async def test_a_changed_start_is_ignored_and_said_so() -> None:
    """PUBLISHER_START is for the first start alone."""
    alive, _, kafka = life()
    await alive.run_for(POLL)
    moved, _, _ = life(kafka=kafka, start="-24h")
    await moved.run_for(POLL)
    (hint,) = moved.heard(HintGiven)
    assert "PUBLISHER_START is ignored" in hint.text
    assert checkpoint_in(kafka).start == NOON
    assert checkpoint_in(kafka).start_setting == "now"


async def test_an_empty_state_beside_events_is_held() -> None:
    """What was published is no longer known: nothing is asked and nothing published."""
    data = [conversation("1", row("2026-11-20 07:00:00"))]
    alive, _, kafka = life(then=lambda clock: found(clock, data), start="-5m")
    await alive.run_for(POLL)
    kafka.state.clear()
    again, source, _ = life(kafka=kafka)
    await again.run_for(HOUR)
    assert {failure.reason for failure in again.failures} == {Reason.STATE_LOST}
    assert "restore the state topic" in again.failures[0].text
    assert source.requests == []
    assert len(kafka.events[OPERATION]) == 1


async def test_a_clock_that_is_hours_wrong_is_held() -> None:
    """More than an hour between the server's clock and ours: nothing moves but the start."""
    alive, _, kafka = life()
    alive.clock.skew = 2 * HOUR
    await alive.run_for(HOUR)
    assert {failure.reason for failure in alive.failures} == {Reason.CLOCK_SKEW}
    assert "the server's clock is 7200 s behind ours" in alive.failures[0].text
    assert kafka.committed == [[], []]  # the start by our clock, and by the server's
    assert checkpoint_in(kafka).live.cursor == checkpoint_in(kafka).start
    assert abs(checkpoint_in(kafka).start - NOON) < timedelta(seconds=3)


@pytest.mark.parametrize("skew", [timedelta(minutes=10), timedelta(days=2), timedelta(minutes=-10)])
@pytest.mark.parametrize("crash", [False, True])
async def test_a_first_start_by_a_wrong_clock_loses_nothing(skew: timedelta, crash: bool) -> None:
    """`now` is the server's now: what was said between it and a fast clock's is published, too."""
    clock, kafka = FakeClock(skew=skew), MemoryKafka()
    chat = Chat("186067512")
    for minute in range(1, 120):
        said_at = NOON + timedelta(minutes=minute)
        fields = {"channel": "web", "from": "AGENT", "message": iso(said_at), "customer_id": "1"}
        chat.said.append(Said(said_at, fields, said_at, said_at))
    report = FakeReport(clock, [chat], random.Random(1), closes=False, kindly=True)
    log = MemoryCluster(kafka).log
    told = Life(clock, report, log(OPERATION), PublisherSettings(rereads=()))

    def put_right(signal: Signal) -> None:
        if isinstance(signal, StepFailed):
            clock.skew = timedelta()

    told.listener = put_right
    if crash:
        await told.run_for(POLL)
        told = Life(clock, report, log(OPERATION), PublisherSettings(rereads=()))
        told.listener = put_right
    await told.run_for(3 * HOUR)
    published = [event["message"] for event in values(kafka.events[OPERATION])]
    assert sorted(published) == [said.fields["message"] for said in chat.said]


async def test_a_steady_day_costs_what_it_should() -> None:
    """At the defaults and in calm weather some 350 requests a day."""
    alive, source, _ = life(then=lambda clock: found(clock, []), rereads="1h,6h,24h,72h")
    await alive.run_for(timedelta(days=4))
    before = len(source.requests)
    await alive.run_for(timedelta(days=1))
    assert 330 <= len(source.requests) - before <= 360
    gaps = [b - a for a, b in pairwise(source.asked_at)]
    assert max(gaps) <= POLL + timedelta(seconds=2)


async def test_errors_of_the_log_narrow_only_when_it_was_overloaded() -> None:
    """A lost connection says nothing about the window; slowness does."""
    alive, _, kafka = life(start="-5m")
    fates = iter([Fate.DONE, Fate.LOST])
    kafka.fate = lambda: next(fates, Fate.DONE)
    await alive.run_for(POLL / 2)
    assert alive.heard(WindowNarrowed) == []

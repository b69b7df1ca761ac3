"""What `/metrics` says of the distance to now is never less than what is missing, in process.

Replay a script that failed with `LAG_SEED=n python -m pytest tests/test_lag.py -k script`.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from email.utils import format_datetime
from typing import Any, Final

import orjson
import pytest

from publisher.errors import Reason, Stage, Transient
from publisher.model import Answer, Request, Window
from publisher.settings import PublisherSettings, duration_text
from publisher.signals import DateMissing, DatesOff, HintGiven, Signal
from publisher.state import checkpoint
from publisher.telemetry.current_status import Status
from publisher.telemetry.metrics import Metrics
from publisher.telemetry.operation_status import OperationStatus, Standing
from publisher.wolkvox.timezone import Zone
from tests.fakes import (
    NOON,
    Chat,
    FakeClock,
    FakeReport,
    MemoryCluster,
    MemoryKafka,
    Said,
    answer,
    conversation,
    found,
    row,
)
from tests.test_flow import (
    HOUR,
    OPERATION,
    POLL,
    Life,
    checkpoint_in,
    fails,
    life,
    unreachable,
    values,
)

SEED: Final = os.environ.get("LAG_SEED")
DAY: Final = timedelta(days=1)
MINUTE: Final = timedelta(minutes=1)
SPAN: Final = 36 * HOUR
AGES: Final = (HOUR, 6 * HOUR, 24 * HOUR, 72 * HOUR)


@dataclass
class Watched:
    """The two listeners beside a life, as the service has them."""

    alive: Life

    def __post_init__(self) -> None:
        self.status = Status([OPERATION], "1", self.alive.clock.now)
        self.metrics = Metrics(self.status)
        self.alive.listener = self.listen

    def listen(self, signal: Signal) -> None:
        self.status(signal)
        self.metrics(signal)

    def value(self, name: str, **labels: str) -> float | None:
        told = {"operation": OPERATION, **labels}
        return self.metrics.registry.get_sample_value(f"wolkvox_publisher_{name}", told)

    @property
    def operation(self) -> OperationStatus:
        return self.status.operations[OPERATION]

    @property
    def standing(self) -> Standing:
        return self.operation.standing(self.alive.clock.now(), hangs=False, stopping=False)


def dated(clock: FakeClock, body: bytes, offset: timedelta, status: int = 200) -> Answer:
    """An answer whose date is wrong by so much."""
    date = format_datetime((clock.true + offset).replace(microsecond=0), usegmt=True)
    return answer(clock, body, status=status, headers={"date": date})


# --- one wrong date, then nothing -----------------------------------------------------------------


@pytest.mark.parametrize("offset", [timedelta(days=-20_000), -50 * MINUTE, -5 * HOUR, 50 * MINUTE])
@pytest.mark.parametrize("answers", [1, 5])
async def test_a_wrong_date_makes_no_lag_smaller(offset: timedelta, answers: int) -> None:
    """Some answers of a portal or of a box without a clock, and then nobody answers for hours."""
    alive, source, _ = life(start="-5m")
    watched = Watched(alive)
    await alive.run_for(HOUR)
    since = alive.clock.true
    left = [b"<html>login</html>"] * answers

    def then(clock: FakeClock) -> Answer:
        if left:
            return dated(clock, left.pop(), offset, status=503)
        raise unreachable()

    source._then = then
    await alive.run_for(12 * HOUR)
    lag = watched.value("lag_seconds")
    assert lag is not None
    assert lag >= (alive.clock.true - since).total_seconds()


async def test_nothing_is_told_of_gaps_before_they_are_known() -> None:
    """A restart while Kafka is away: unknown is not nothing."""
    alive, _, kafka = life(start="-5m")
    await alive.run_for(POLL)
    gap = Window(NOON - HOUR, NOON - HOUR / 2)
    key, value = checkpoint.encode_checkpoint(replace(checkpoint_in(kafka), gaps=(gap,)))
    assert value is not None
    kafka.state[key] = value

    def away() -> None:
        raise Transient(Stage.RESTORE, Reason.KAFKA_UNREACHABLE, "away")

    kafka.restoring = away
    again, _, _ = life(kafka=kafka)
    watched = Watched(again)
    await again.run_for(HOUR)
    for name in ("lag_seconds", "gap_seconds", "parked_windows"):
        assert watched.value(name) is None
    kafka.restoring = lambda: None
    again.clock.until = again.clock.true + MINUTE
    told: list[float | None] = []

    def listen(signal: Signal) -> None:
        watched.listen(signal)
        told.append(watched.value("gap_seconds"))

    again.listener = listen
    await again.run()
    assert gap.width.total_seconds() in told


# --- re-reads -------------------------------------------------------------------------------------


class Scarce(FakeReport):
    """Others use the quota, all but a rest."""

    left = 250

    async def token_info(self) -> Answer:
        told = {"token_limit": "1000", "all_token_today": str(1000 - self.left)}
        return answer(self._clock, orjson.dumps({"code": "200", "data": [told]}))


def talk(end: timedelta, late: Callable[[int], timedelta]) -> Chat:
    chat = Chat("186067512")
    for number in range(1, end // (20 * MINUTE)):
        at = NOON + number * 20 * MINUTE + timedelta(seconds=1)
        fields = {"channel": "web", "from": "AGENT", "message": str(number), "customer_id": "1"}
        chat.said.append(Said(at, fields, at, at + late(number)))
    return chat


async def test_a_reread_that_stands_still_is_told() -> None:
    """Live is healthy, nothing fails: only the pass's own lag can say it."""
    clock = FakeClock()
    chat = talk(3 * DAY, lambda _: timedelta())
    report = FakeReport(clock, [chat], random.Random(1), kindly=True)
    alive = Life(clock, report, MemoryCluster(MemoryKafka()).log(OPERATION), PublisherSettings())
    watched = Watched(alive)
    await alive.run_for(2 * DAY)
    assert not watched.operation.missing(clock.now())
    for age in AGES[:3]:
        lag = watched.value("pass_lag_seconds", **{"pass": f"reread-{duration_text(age)}"})
        assert lag is not None
        assert lag <= (age / 2 + 2 * POLL).total_seconds()
    clock.advance(6 * HOUR.total_seconds())  # it hangs: nobody tells anything
    lag = watched.value("pass_lag_seconds", **{"pass": "reread-1h"})
    assert lag is not None
    assert lag >= 6 * 3600
    assert [line for line in watched.operation.missing(clock.now()) if "reread-1h" in line]
    assert watched.standing is Standing.INCOMPLETE


async def test_after_an_outage_a_reread_is_not_behind_what_live_has_read_late() -> None:
    """It passes over that without a request, and no number may say that something is missing."""
    clock, down = FakeClock(), (NOON + DAY, NOON + 4 * DAY)
    chat = talk(6 * DAY, lambda _: timedelta())

    def trouble(_: Request) -> Answer | None:
        if down[0] <= clock.true < down[1]:
            raise unreachable()
        return None

    report = FakeReport(clock, [chat], random.Random(1), kindly=True, trouble=trouble)
    alive = Life(clock, report, MemoryCluster(MemoryKafka()).log(OPERATION), PublisherSettings())
    watched = Watched(alive)
    await alive.run_for(3 * DAY)
    assert (
        watched.value("pass_lag_seconds", **{"pass": "reread-1h"}) or 0
    ) > 1.5 * DAY.total_seconds()
    await alive.run_for(DAY + 6 * HOUR)
    for age in AGES[:2]:
        lag = watched.value("pass_lag_seconds", **{"pass": f"reread-{duration_text(age)}"})
        assert lag is not None
        assert lag <= (2 * (age / 2) + 2 * POLL).total_seconds()


async def test_late_rows_come_out_while_the_quota_is_scarce() -> None:
    """Others use three quarters of it for days: re-reads ask seldom, and do not stand still."""
    clock, kafka = FakeClock(), MemoryKafka()
    chat = talk(3 * DAY, lambda number: HOUR / 2 if number % 10 == 0 else timedelta())
    report = Scarce(clock, [chat], random.Random(1), kindly=True)
    alive = Life(clock, report, MemoryCluster(kafka).log(OPERATION), PublisherSettings())
    watched = Watched(alive)
    await alive.run_for(3 * DAY)
    got = {event["message"] for event in values(kafka.events[OPERATION])}
    due = [said for said in chat.said if said.visible_from < clock.true - DAY]
    assert len(due) > 100
    assert not [said for said in due if said.fields["message"] not in got]
    lag = watched.value("pass_lag_seconds", **{"pass": "reread-1h"})
    assert lag is not None
    assert lag <= 13 * 3600


# --- what is doubtful -----------------------------------------------------------------------------


async def test_answers_without_a_date_are_told_once_an_hour() -> None:
    alive, source, _ = life(start="-5m")
    watched = Watched(alive)
    await alive.run_for(2 * HOUR)
    assert not alive.heard(DateMissing)
    source._then = lambda clock: replace(found(clock, []), headers={})
    await alive.run_for(HOUR / 2)
    assert not alive.heard(DateMissing)
    await alive.run_for(3 * HOUR)
    assert 2 <= len(alive.heard(DateMissing)) <= 4
    assert watched.standing is Standing.INCOMPLETE
    errors = watched.value("errors_total", stage="read", reason="date_missing")
    assert errors == len(alive.heard(DateMissing))


class Dateless(FakeReport):
    async def read(self, request: Request) -> Answer:
        return replace(await super().read(request), headers={})


@pytest.mark.parametrize("ahead", [timedelta(), 4 * HOUR, -4 * HOUR])
@pytest.mark.parametrize("start", ["now", "-2h"])
async def test_without_any_date_nothing_is_lost(ahead: timedelta, start: str) -> None:
    """Whatever our clock says: only a newer message proves that the server has come so far."""
    clock, kafka = FakeClock(skew=ahead), MemoryKafka()
    chat = talk(3 * DAY, lambda _: timedelta())
    report = Dateless(clock, [chat], random.Random(1), kindly=True)
    settings = PublisherSettings(start=start)
    alive = Life(clock, report, MemoryCluster(kafka).log(OPERATION), settings)
    await alive.run_for(3 * DAY + 12 * HOUR)
    got = {event["message"] for event in values(kafka.events[OPERATION])}
    assert not [said for said in chat.said if said.fields["message"] not in got]
    polls = (3 * DAY + 12 * HOUR) / POLL
    assert len(report.answered) <= 1.2 * polls
    assert alive.heard(DateMissing)


async def test_one_answer_without_a_date_moves_no_start() -> None:
    """A proxy's own error says nothing of the server."""
    alive, _, kafka = life(lambda clock: replace(answer(clock, b"", status=503), headers={}))
    await alive.run_for(POLL)
    assert checkpoint_in(kafka).start == NOON


async def test_an_operation_without_a_row_is_told_of() -> None:
    """Once, after 24 polls; on the page as long as it lasts; and not where one was seen before."""
    alive, source, _ = life(start="-5m")
    watched = Watched(alive)
    await alive.run_for(1.9 * HOUR)
    assert not alive.heard(HintGiven)
    await alive.run_for(0.3 * HOUR)
    # A start ends what is in memory: two hours from there.
    await alive.run_for(10 * HOUR)
    [hint] = alive.heard(HintGiven)
    assert "has not shown one row since" in hint.text
    assert watched.value("row_seen") == 0
    assert watched.standing is Standing.INCOMPLETE
    data = [conversation("186067512", row("2026-11-20 19:00:00"))]
    source._then = lambda clock: found(clock, data)
    await alive.run_for(HOUR)
    assert watched.value("row_seen") == 1
    assert not [line for line in watched.operation.missing(alive.clock.now()) if "no row" in line]


async def test_a_zone_too_far_east_is_told_of_within_half_a_day() -> None:
    """UTC for an operation in Bogota: only re-reads find rows, and all of them are hours old."""
    clock, kafka = FakeClock(), MemoryKafka()
    chat = talk(2 * DAY, lambda _: timedelta())
    report = FakeReport(clock, [chat], random.Random(1), kindly=True, zone="America/Bogota")
    log = MemoryCluster(kafka).log(OPERATION)
    alive = Life(clock, report, log, PublisherSettings(), Zone("UTC"))
    watched = Watched(alive)
    await alive.run_for(20 * HOUR)
    assert alive.heard(DatesOff)
    assert watched.standing is Standing.INCOMPLETE


# --- whatever happens -----------------------------------------------------------------------------


class Script:
    """A random world with late rows, and a random list of what goes wrong when."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.clock = Sampled(self, skew=timedelta(seconds=rng.choice([0, 0, 600])))
        self.kafka = MemoryKafka()
        lateness = [timedelta()] * 5 + [10 * MINUTE, 30 * MINUTE, 5 * HOUR, 20 * HOUR]
        self.chat = talk(SPAN, lambda _: rng.choice(lateness))
        self.troubles = [
            (at, at + HOUR * rng.expovariate(1 / 5), rng.choice(self.KINDS))
            for at in (NOON + SPAN * rng.random() for _ in range(rng.randrange(1, 6)))
        ]
        report = Scarce(self.clock, [self.chat], rng, kindly=True, trouble=self.trouble)
        report.left = rng.choice([0, 250, 700])
        log = MemoryCluster(self.kafka).log(OPERATION)
        self.watched = Watched(Life(self.clock, report, log, PublisherSettings()))
        self.got: set[str] = set()
        self.kafka.listener = lambda events: self.got.update(e["message"] for e in values(events))
        self.too_small: list[str] = []
        self.sampled = NOON

    KINDS: Final = ("away", "1970", "50 min behind", "5 h ahead", "undated", "wide fails", "kafka")

    def trouble(self, request: Request) -> Answer | None:
        clock = self.clock
        for begin, end, kind in self.troubles:
            if not begin <= clock.true < end:
                continue
            match kind:
                case "away":
                    raise unreachable()
                case "1970":
                    return dated(clock, b"<html>", timedelta(days=-20_000), 503)
                case "50 min behind":
                    return dated(clock, b"<html>", -50 * MINUTE, 503)
                case "5 h ahead":
                    return dated(clock, b"<html>", 5 * HOUR, 503)
                case "undated":
                    return replace(answer(clock, b"<html>", status=503), headers={})
                case "wide fails" if int(request.date_end) - int(request.date_ini) > 200:
                    return fails(clock, "server_error")
                case _:
                    pass
        return None

    def sample(self) -> None:
        """Compare what is said with what is true."""
        if self.clock.true - self.sampled < HOUR:
            return
        self.sampled = self.clock.true
        lag = self.watched.value("lag_seconds")
        if lag is None:
            return
        repair = self.watched.value("pass_lag_seconds", **{"pass": "repair"}) or 0.0
        behind = {
            age: self.watched.value("pass_lag_seconds", **{"pass": f"reread-{duration_text(age)}"})
            or 0.0
            for age in AGES
        }
        for said in self.chat.said:
            if said.visible_from > self.clock.true or said.fields["message"] in self.got:
                continue
            late = said.visible_from - said.date
            # Who should have read it at the latest, once live is past it.
            due = min(
                (age.total_seconds() + behind[age] for age in AGES if age >= late > POLL),
                default=0.0,
            )
            missing = (self.clock.true - said.date).total_seconds()
            if missing > max(lag, repair, due) + 5:
                self.too_small.append(
                    f"{self.clock.true}: {said} is missing for {missing:.0f} s; lag {lag:.0f},"
                    f" repair {repair:.0f}, due {due:.0f}"
                )

    async def run(self) -> None:
        await self.watched.alive.run_for(SPAN + 12 * HOUR)


class Sampled(FakeClock):
    """Looks at the numbers whenever time has passed."""

    def __init__(self, script: Script, **options: Any) -> None:
        super().__init__(**options)
        self._script = script

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        self._script.sample()


@pytest.mark.parametrize("seed", [int(SEED)] if SEED else range(10))
async def test_no_row_is_missing_for_longer_than_the_numbers_say(seed: int) -> None:
    """Whatever the script: a row that is shown and not published is covered by one of the lags."""
    script = Script(seed)
    await script.run()
    assert not script.too_small, (len(script.too_small), script.troubles, script.too_small[:3])

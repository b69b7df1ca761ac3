"""The daily quota is watched, shared fairly, and its end is survived."""

from bisect import bisect_left
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from publisher.model import Answer, Request
from publisher.schedule.quota import EVERY_POLLS, FIRST_POLLS, SCARCE_POLLS, Bucket, Quota, told_by
from publisher.settings import PublisherSettings
from publisher.signals import HintGiven, QuotaTold, RequestAnswered, Signal, StepFailed
from publisher.telemetry.current_status import Status
from sandbox.kafka import Broker
from sandbox.processes import until
from tests.fakes import (
    NOON,
    FakeClock,
    FakeReport,
    MemoryCluster,
    MemoryKafka,
    ScriptedSource,
    answer,
    conversation,
    error,
    found,
    nothing,
    row,
)
from tests.harness import rig
from tests.test_flow import OPERATION, POLL, Life, slow

DAY = timedelta(days=1)
INFO = {"token_limit": "1000", "token_use_today": "120", "all_token_today": "300"}


def said(body: Any, status: int = 200) -> Answer:
    return answer(FakeClock(), orjson.dumps(body), status=status)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"code": "200", "msg": "1 records were found", "data": [INFO]}, (300, 1000)),
        ({"data": INFO}, (300, 1000)),
        (INFO, (300, 1000)),
        ([INFO], (300, 1000)),
        ({"token_limit": 1000, "token_use_today": 7}, (7, 1000)),
        ({"token_limit": " 2000 ", "all_token_today": "0"}, (0, 2000)),
        ({"data": [{"token_limit": "1000"}]}, None),
        ({"token_limit": "many", "all_token_today": "1"}, None),
        ({"token_limit": -1, "all_token_today": 1}, None),
        ({"token_limit": True, "all_token_today": 1}, None),
        ({"token_limit": "9" * 5000, "all_token_today": 1}, None),
        ([], None),
        (None, None),
    ],
)
def test_what_the_server_tells(body: Any, expected: tuple[int, int] | None) -> None:
    """The names are documented, what is around them is not; all tokens count."""
    assert told_by(said(body)) == expected


@given(st.binary(max_size=40), st.sampled_from([200, 404, 403, 500]))
def test_whatever_it_answers_is_survived(body: bytes, status: int) -> None:
    """A server without the report says anything at all."""
    assert told_by(answer(FakeClock(), body, status=status)) is None


def test_an_error_tells_nothing() -> None:
    assert told_by(said(INFO, status=403)) is None


def test_who_is_held_back_and_when_it_is_asked_again() -> None:
    """Others than live wait while less is left than a day of polls; older news is none."""
    quota = Quota(POLL)
    assert not quota.due(NOON)
    assert quota.due(NOON + POLL * FIRST_POLLS)
    assert not quota.holds_back(NOON)
    quota.asked(NOON, (711, 1000))
    assert not quota.holds_back(NOON)
    assert not quota.due(NOON + POLL * EVERY_POLLS - timedelta(seconds=1))
    quota.counted(spent=False)
    assert not quota.holds_back(NOON)
    quota.counted(spent=False)
    assert quota.holds_back(NOON), "our own requests count at once"
    assert not quota.holds_back(NOON + DAY + timedelta(seconds=1)), "told too long ago"
    quota.asked(NOON, (900, 1000))
    assert quota.due(NOON + POLL * SCARCE_POLLS), "the day may have ended"
    quota.asked(NOON, (0, 1000))
    quota.counted(spent=True)
    assert quota.holds_back(NOON), "the report itself says so"
    quota.counted(spent=False)
    assert not quota.holds_back(NOON)
    quota.asked(NOON, (51, 100))
    assert quota.holds_back(NOON), "a small quota leaves half to the others, no more"


class Metered:
    """A server with a daily quota and an endless empty report; others use its tokens, too."""

    def __init__(self, clock: FakeClock, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.read_at: list[Any] = []
        self.lookups = 0
        self.refused = 0
        self._clock = clock
        self._day = clock.true.date()

    def _may(self) -> bool:
        if self._day != self._clock.true.date():
            self._day, self.used = self._clock.true.date(), 0
        if self.used >= self.limit:
            self.refused += 1
            return False
        self.used += 1
        return True

    async def read(self, request: Request) -> Answer:
        if not self._may():
            return error(self._clock, 403, "TOKEN LIMIT EXCEEDED")
        self.read_at.append((self._clock.true, request))
        return found(self._clock, [])

    async def token_info(self) -> Answer:
        self.lookups += 1
        if not self._may():
            return error(self._clock, 403, "TOKEN LIMIT EXCEEDED")
        told = {"token_limit": str(self.limit), "all_token_today": str(self.used)}
        return answer(self._clock, orjson.dumps({"code": 200, "data": [told]}))


def metered(limit: int) -> tuple[Life, Metered]:
    clock = FakeClock()
    source = Metered(clock, limit)
    settings = PublisherSettings()
    return Life(clock, source, MemoryCluster(MemoryKafka()).log(OPERATION), settings), source


async def test_a_plentiful_quota_changes_nothing() -> None:
    """Four more requests a day, and nobody waits."""
    alive, source = metered(1000)
    await alive.run_for(timedelta(days=4))
    calm, calm_source = metered(10**9)
    await calm.run_for(timedelta(days=4))
    assert [at for at, _ in source.read_at] == [at for at, _ in calm_source.read_at]
    assert 3 <= source.lookups / 4 <= 5
    assert alive.heard(QuotaTold)[-1].limit == 1000


async def test_others_slow_down_before_it_is_spent() -> None:
    """With 330 a day for 347 wanted, live has all of its polls and nothing is ever refused."""
    alive, source = metered(330)
    await alive.run_for(timedelta(days=4))
    assert source.refused == 0
    live = [at for at, request in source.read_at if _near_now(at, request)]
    assert max(b - a for a, b in pairwise(live)) <= POLL + timedelta(seconds=5)
    rereads = len(source.read_at) - len(live)
    assert 40 < rereads < 4 * 59, "slowed down, not silenced"


async def test_the_end_of_the_quota_is_survived() -> None:
    """Somebody else spends it all: live goes on trying, and after midnight all is caught up."""
    alive, source = metered(1000)
    await alive.run_for(timedelta(hours=2))
    source.used = 1000
    await alive.run_for(timedelta(hours=9))
    failures = alive.heard(StepFailed)
    assert {failure.reason for failure in failures} == {"quota_spent"}
    assert max(failure.retry_in_seconds for failure in failures) <= 2 * POLL.total_seconds()
    assert all(failure.stage == "read" for failure in failures)
    await alive.run_for(timedelta(hours=6))
    assert alive.clock.true - source.read_at[-1][0] <= POLL
    covered = [s.covered_until for s in alive.signals if hasattr(s, "covered_until")][-1]
    assert alive.clock.true - covered <= POLL + timedelta(seconds=5)


def test_a_bucket_comes_back_one_by_one() -> None:
    bucket = Bucket.of(3, 10.0)
    for _ in range(3):
        assert bucket.wait(100.0) == 0
        bucket.spend(100.0)
    assert bucket.wait(100.0) == 10
    assert bucket.wait(104.0) == pytest.approx(6)
    assert bucket.wait(104.0, kept=1) == pytest.approx(16)
    assert bucket.wait(50.0) == pytest.approx(6), "a clock that goes back takes nothing away"
    assert bucket.wait(10_000.0, kept=2) == 0
    assert bucket.wait(10_000.0, kept=3) == 10


def most_in_an_hour(asked_at: list[Any]) -> int:
    hour = timedelta(hours=1)
    return max(bisect_left(asked_at, at + hour) - number for number, at in enumerate(asked_at))


STORMS = {
    "always too large": lambda clock: answer(clock, oversized=True),
    "the counter lies more and more": lambda clock: found(
        clock, [conversation("1", row("2026-11-20 07:00:00"))], says=int(clock.elapsed()) + 2
    ),
    "a cap of one row": lambda clock: found(
        clock, [conversation("1", row("2026-11-20 07:00:00"))], says=10**6
    ),
    "many windows": nothing,
    "not understood": lambda clock: answer(clock, b"{}"),
    "the future": lambda clock: error(
        clock, 404, "Validate dates entered", headers={"date": "Fri, 20 Nov 2026 11:59:00 GMT"}
    ),
}


@pytest.mark.parametrize("storm", STORMS)
async def test_nothing_spends_more_than_its_share_of_an_hour(storm: str) -> None:
    """A quarter of 1000, beside the polls; live goes on once a poll, and it is told once."""
    clock = FakeClock()
    source = ScriptedSource(clock, then=STORMS[storm])
    told = PublisherSettings(start="-20d", max_window="5m")  # type: ignore[arg-type]
    alive = Life(clock, source, MemoryCluster(MemoryKafka()).log(OPERATION), told)
    await alive.run_for(timedelta(hours=3))
    assert most_in_an_hour(source.asked_at) <= 250 + 13
    if len(source.asked_at) > 300:
        hints = [
            hint for hint in alive.heard(HintGiven) if "the hour's share of its quota" in hint.text
        ]
        assert len(hints) == 1
        assert max(b - a for a, b in pairwise(source.asked_at)) <= POLL + timedelta(seconds=5)


async def test_the_gauge_says_that_an_hour_is_used_up_and_when_it_is_not() -> None:
    """As `/metrics` shows it: whole at first, 0 in a catch-up, whole again behind it."""
    clock = FakeClock()
    source = ScriptedSource(clock, then=nothing)
    settings = PublisherSettings.model_validate(
        {"start": "-16h", "rereads": "", "max_window": "5m"}
    )
    alive = Life(clock, source, MemoryCluster(MemoryKafka()).log(OPERATION), settings)
    status = Status([OPERATION], "1", clock.now)
    told = list[int | None]()

    def listen(signal: Signal) -> None:
        status(signal)
        told.append(status.operations[OPERATION].requests_left(clock.now()))

    alive.listener = listen
    await alive.run_for(timedelta(minutes=10))
    assert told[0] is None
    assert told[-1] == 0
    await alive.run_for(timedelta(hours=3))
    assert told[-1] in range(120, 125)


async def test_a_large_quota_is_asked_for_before_a_catch_up_waits() -> None:
    """Also after a restart, which knows the last hour but not the limit."""
    clock, kafka, asked_at = FakeClock(), MemoryKafka(), []
    for _ in range(2):
        report = FakeReport(clock, [], Random(1), kindly=True, quota=20_000)
        told = PublisherSettings.model_validate(
            {"start": "-20d", "rereads": "", "max_window": "5m"}
        )
        alive = Life(clock, report, MemoryCluster(kafka).log(OPERATION), told)
        alive.listener = lambda signal: (
            asked_at.append(clock.true) if isinstance(signal, RequestAnswered) else None
        )
        await alive.run_for(timedelta(minutes=10))
    assert len(asked_at) > 1500


async def test_a_restart_does_not_give_the_hour_s_share_anew() -> None:
    """Killed again and again in a catch-up: what the journal tells of the last hour counts."""
    clock, kafka, asked = FakeClock(), MemoryKafka(), []
    for _ in range(20):
        source = ScriptedSource(clock, then=nothing)
        told = PublisherSettings(start="-20d", rereads=(), max_window="5m")  # type: ignore[arg-type]
        alive = Life(clock, source, MemoryCluster(kafka).log(OPERATION), told)
        await alive.run_for(timedelta(minutes=2))
        asked += source.asked_at
    assert most_in_an_hour(asked) <= 250 + 13 + 20


def test_the_share_follows_the_limit_and_the_polls() -> None:
    """A service that polls each second needs more than 1000 a day, and has it."""
    assert Quota(POLL).hour.size == 124
    assert Quota(timedelta(seconds=1)).hour.size > 10_000
    quota = Quota(POLL)
    quota.asked(NOON, (0, 10_000))
    assert quota.hour.size == 1249
    quota.asked(NOON, (0, 0))
    assert quota.hour.size == 1


async def test_a_server_that_does_not_tell_is_left_alone() -> None:
    """Neither an error nor a pause: but a server still busy with the question is waited for."""
    alive, source = metered(1000)
    asked = []

    async def dead() -> Answer:
        asked.append(alive.clock.true)
        raise slow()

    source.token_info = dead  # type: ignore[method-assign]
    await alive.run_for(timedelta(days=1))
    assert 3 <= len(asked) <= 5
    assert alive.failures == []
    for moment in asked:
        after = next(at for at, _ in source.read_at if at >= moment)
        assert after - moment >= timedelta(seconds=60)


def _near_now(at: Any, request: Request) -> bool:
    """A window of live ends now; the youngest re-read ends an hour ago (Bogota is UTC-5)."""
    local = f"{at - timedelta(hours=5, minutes=30):%Y%m%d%H%M%S}"
    return request.date_end > local


async def test_the_gauges_of_a_real_service(kafka: Broker, tmp_path: Path) -> None:
    """The real process asks the simulated API, never beside another request."""
    world = {"rate": 600, "history": "60s"}
    settings = {"PUBLISHER_POLL_EVERY": "300ms", "PUBLISHER_START": "-60s"}
    async with rig(kafka.bootstrap, tmp_path, world, settings) as one:
        publisher = one.start()

        async def told() -> bool:
            return await publisher.metric("quota_limit") > 0

        await until(told, 30, "the quota is known")
        assert await publisher.metric("quota_used") > 0
        stats = await one.api.stats()
        assert stats["max_in_flight"] == 1
        assert any(request["kind"] == "token_info" for request in stats["requests"])
        assert await publisher.stop() == 0

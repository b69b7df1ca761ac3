"""Nothing is read only once: what was read late is read again, and comes once.

Time is driven, nothing sleeps.
"""

import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publisher.model import Answer, Instant, Request, Unconfirmed, Window
from publisher.schedule.backfill_pass import Stride
from publisher.schedule.passes import Read, Wait
from publisher.schedule.second_reading import LATE, Confirming, Second, confirmed, meanwhile
from publisher.settings import PublisherSettings
from publisher.signals import WindowPublished
from publisher.state.checkpoint import LIVE, REPAIR, Entry
from publisher.wolkvox.timezone import Zone
from tests.fakes import NOON, FakeClock, FakeReport, MemoryCluster, MemoryKafka, Said, error
from tests.test_flow import HOUR, OPERATION, POLL, Life, checkpoint_in, values
from tests.test_forgotten import chat_of

MINUTE = timedelta(minutes=1)
SETTINGS: dict[str, Any] = {"rereads": "1h,2h", "max_window": "1h", "horizon": "4h"}
SOON = timedelta(minutes=10)
"""So long the report hides half of its rows."""


class Hiding(FakeReport):
    """Hides every second row for a while."""

    hidden = Window(NOON, NOON + SOON)

    def _inside(self, filed: str, request: Request, said: Said) -> bool:
        if self.hidden.start <= self._clock.true < self.hidden.end and said.date.minute % 20 < 10:
            return False
        return super()._inside(filed, request, said)


async def test_rows_that_were_hidden_at_a_first_start_with_history_come_later() -> None:
    """They have been read once, and too late for the re-reads."""
    clock, kafka = FakeClock(), MemoryKafka()
    chat = chat_of(NOON - 30 * HOUR, NOON, 10 * MINUTE)
    report = Hiding(clock, [chat], random.Random(1), kindly=True)
    settings = PublisherSettings(**SETTINGS, start="-30h")
    for hours in (0.2, 0.4, 4):  # a restart in between forgets none of it
        log = MemoryCluster(kafka).log(OPERATION)
        told = Life(clock, report, log, settings)
        await told.run_for(hours * HOUR)
    counts = Counter(event["message"] for event in values(kafka.events[OPERATION]))
    assert set(counts.values()) == {1}
    assert len(counts) == len(chat.said)
    assert checkpoint_in(kafka).unconfirmed == ()


@pytest.mark.parametrize("rereads", ["1h,2h", "1h", ""])
async def test_what_an_outage_left_is_read_twice_unless_nothing_is(rereads: str) -> None:
    """Longer than the longest re-read; the report hides rows when live catches up."""
    clock, kafka = FakeClock(), MemoryKafka()
    chat = chat_of(NOON + 7 * MINUTE, NOON + 12 * HOUR, 10 * MINUTE)
    down = Window(NOON + HOUR, NOON + 6 * HOUR)

    def trouble(_: Request) -> Answer | None:
        refused = down.start <= clock.true < down.end
        return error(clock, 403, "PLEASE VALIDATE TOKEN") if refused else None

    report = Hiding(clock, [chat], random.Random(1), kindly=True, trouble=trouble)
    report.hidden = Window(down.end, down.end + SOON)
    settings = PublisherSettings(**{**SETTINGS, "rereads": rereads})
    log = MemoryCluster(kafka).log(OPERATION)
    told = Life(clock, report, log, settings, Zone("America/Bogota"))
    await told.run_for(20 * HOUR)
    counts = Counter(event["message"] for event in values(kafka.events[OPERATION]))
    assert set(counts.values()) == {1}
    if rereads:
        assert len(counts) == len(chat.said)
        assert checkpoint_in(kafka).unconfirmed == ()
    else:
        assert {window.pass_label for window in told.heard(WindowPublished)} == {LIVE}
        assert len(counts) < len(chat.said), "nothing was hidden"


async def test_in_calm_weather_nothing_is_late() -> None:
    """A day at the defaults costs what it did."""
    told_settings: list[dict[str, Any]] = [{}, {"rereads": "20m"}, {"rereads": "1h"}]
    for settings in told_settings:
        clock, kafka = FakeClock(), MemoryKafka()
        report = FakeReport(clock, [], random.Random(1), kindly=True)
        log = MemoryCluster(kafka).log(OPERATION)
        seen: set[tuple[Unconfirmed, ...]] = set()
        told = Life(clock, report, log, PublisherSettings(**settings))
        told.listener = lambda _, kafka=kafka, seen=seen: seen.add(  # type: ignore[misc]
            checkpoint_in(kafka).unconfirmed
        )
        await told.run_for(6 * HOUR)
        assert seen == {()}


def of(start: int, end: int, read_at: int, name: str = LIVE) -> Entry:
    begin, until, read = (NOON + minute * MINUTE for minute in (start, end, read_at))
    return Entry(1, name, begin, until, read, rows=0, new=0, duplicate=0, rejected=0)


ENTRIES = st.lists(
    st.builds(
        lambda start, width, wait, name: (start, start + width, wait, name),
        st.integers(0, 40), st.integers(0, 30), st.integers(0, 60),
        st.sampled_from([LIVE, LIVE, REPAIR, "backfill", "reread-1h", "reread-2h", LATE.name]),
    ),
    max_size=12,
)  # fmt: skip


def test_the_wait_begins_when_it_was_read_at_the_latest() -> None:
    """A clock that was behind makes no second reading follow at once on the first."""
    confirming = Confirming("reread-2h", 20 * MINUTE, 15 * MINUTE)
    entry = of(0, 10, 40, LIVE)
    latest = entry.read_at + 25 * MINUTE
    [late] = confirmed((), entry, confirming, latest)
    assert late.due >= latest + confirming.wait


@given(ENTRIES)
def test_each_minute_that_was_read_late_is_read_again(
    told: list[tuple[int, int, int, str]],
) -> None:
    """It is unconfirmed until somebody reads it when it is due; by then a wait has passed."""
    confirming = Confirming("reread-2h", 20 * MINUTE, 15 * MINUTE)
    unconfirmed: tuple[Unconfirmed, ...] = ()
    dues: dict[int, Instant] = {}
    now = 0
    for start, end, wait, name in told:
        now = max(now + wait, end)
        entry = of(start, end, now, name)
        unconfirmed = confirmed(unconfirmed, entry, confirming)
        for minute in range(start, end):
            late = now - minute > 20 and name not in ("reread-2h", LATE.name)
            if minute in dues:
                if dues[minute] <= entry.read_at:
                    del dues[minute]
            elif late:
                dues[minute] = confirming.due(entry.read_at)
                lasts = dues[minute] - entry.read_at
                assert 15 * MINUTE <= lasts <= 20 * MINUTE
        for minute in range(80):
            at = NOON + minute * MINUTE
            over = [one.due for one in unconfirmed if one.window.start <= at < one.window.end]
            assert over == ([dues[minute]] if minute in dues else [])


def test_what_fails_the_second_time_keeps_nobody_waiting() -> None:
    """Something else comes first, then half of it; in the end it is its turn again."""
    settings = PublisherSettings()
    second = Second.starting(settings, Stride.starting(settings))
    at = [NOON + hour * HOUR for hour in range(5)]
    unconfirmed = [
        Unconfirmed(Window(at[0], at[1]), at[2]),
        Unconfirmed(Window(at[3], at[4]), NOON),
    ]
    now, asked = at[4], []
    for _ in range(3):
        step = meanwhile(Wait(now + POLL), unconfirmed, second, now, ())
        assert isinstance(step, Read)
        asked.append(step.window.start)
        second.failed(step.window, now, halve=True)
        assert isinstance(meanwhile(Wait(now + POLL), unconfirmed, second, now, ()), Wait)
        now += HOUR * 3
    assert asked == [at[0], at[0] + POLL, at[0] + POLL * 1.5]
    second.behind = at[1]
    step = meanwhile(Wait(now + POLL), unconfirmed, second, now, ())
    assert isinstance(step, Read)
    assert step.window.start == at[3]
    second.behind = at[4]
    step = meanwhile(Wait(now + POLL), unconfirmed, second, now, [Window(at[0], at[1])])
    assert isinstance(step, Read)
    assert step.window.start == at[3], "what lies in a gap is left to repair"
    assert meanwhile(Wait(now), unconfirmed[:1], second, at[1], ()) == Wait(now), "not due"

"""Rows that come back after silence: the run against an oracle, and the promise in process."""

import random
from datetime import timedelta
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publisher.model import Answer, Request, Window
from publisher.schedule.silence import doubted, silent_run
from publisher.settings import PublisherSettings
from publisher.signals import HintGiven
from publisher.state import state
from publisher.state.checkpoint import LIVE, REPLAY, Entry
from publisher.state.gaps import NEAR
from tests.fakes import (
    NOON,
    Chat,
    FakeClock,
    FakeReport,
    MemoryCluster,
    MemoryKafka,
    Said,
    found,
    nothing,
    seen,
)
from tests.test_error_catalogue import is_entry
from tests.test_flow import HOUR, OPERATION, Life

MINUTE: Final = timedelta(minutes=1)


@st.composite
def journals(draw: st.DrawFn) -> list[Entry]:
    """Oldest first; some show rows, some are parked, some replayed."""
    found_, read = [], 0
    for number in range(draw(st.integers(0, 12))):
        read += draw(st.integers(0, 20))
        start, width = draw(st.integers(0, 100)), draw(st.integers(0, 10))
        name, rows = draw(st.sampled_from([LIVE, REPLAY])), draw(st.integers(0, 1))
        begin = NOON + start * MINUTE
        found_.append(
            Entry(
                number, name, begin, begin + width * MINUTE * (name == LIVE),
                NOON + read * MINUTE, rows=rows if width else 0,
                new=0, duplicate=0, rejected=0,
            )
        )  # fmt: skip
    return found_


@given(journals(), st.integers(0, 60), st.integers(0, 115))
def test_a_run_is_what_was_read_since_the_last_row(
    journal: list[Entry], least: int, remembered: int
) -> None:
    """If it took long enough; each of its minutes is in doubt that is remembered, no other."""
    last = max(
        (at for at, each in enumerate(journal) if each.rows and each.pass_name == LIVE), default=-1
    )
    since = [entry for entry in journal[last + 1 :] if entry.start < entry.end]
    long = since and since[-1].read_at - since[0].read_at >= least * MINUTE
    run = silent_run(reversed(journal), least * MINUTE)
    assert run[::-1] == (since if long else [])
    forgotten = Window(NOON - HOUR * 99, NOON + remembered * MINUTE - NEAR)
    gaps, began = doubted((), run, [forgotten])
    assert began == (since[0].read_at if long else None)
    for minute in range(115):
        at = NOON + minute * MINUTE
        assert any(gap.start <= at < gap.end for gap in gaps) == any(
            entry.start <= at < entry.end and minute >= remembered for entry in run
        )


def said(at: timedelta, text: str) -> Said:
    fields = {"channel": "web", "from": "AGENT", "message": text, "customer_id": "1"}
    return Said(NOON + at, fields, NOON + at, NOON + at)


@pytest.mark.parametrize("empty_list", [False, True])
@pytest.mark.parametrize("rereads", [(), (HOUR,)])
async def test_a_server_without_the_report_for_two_days_loses_nothing(
    rereads: tuple[timedelta, ...], *, empty_list: bool
) -> None:
    """Once each, across restarts in the middle; told once; afterwards no gap is left."""
    clock, kafka = FakeClock(), MemoryKafka()
    texts = [str(hour) for hour in range(72)]
    chat = Chat("186067512", [said(int(each) * HOUR + 7 * MINUTE, each) for each in texts])

    def trouble(_: Request) -> Answer | None:
        lost = 4 * HOUR <= clock.true - NOON < 52 * HOUR
        if not lost:
            return None
        return found(clock, []) if empty_list else nothing(clock)

    report = FakeReport(clock, [chat], random.Random(1), kindly=True, trouble=trouble)
    hints: list[str] = []
    for hours in (20, 20, 35):
        settings = PublisherSettings(rereads=rereads)
        one = Life(clock, report, MemoryCluster(kafka).log(OPERATION), settings)
        await one.run_for(hours * HOUR)
        hints += [hint.text for hint in one.heard(HintGiven)]
    published = [seen(event) for event in kafka.events[OPERATION]]
    assert len({event.header["ce_id"] for event in published}) == len(published) == len(texts)
    [hint] = hints
    assert is_entry("shows rows again", hint)
    assert "after none since 2026-" in hint
    known = state.restore(OPERATION, await _records(kafka))
    assert known is not None
    assert known.checkpoint.gaps == ()


async def _records(kafka: MemoryKafka) -> dict[bytes, bytes]:
    restored = await MemoryCluster(kafka).log(OPERATION).restore()
    return dict(restored.records)


async def test_less_than_a_day_is_no_silence() -> None:
    """Polled every minute, too: 288 polls are then five hours."""
    clock, kafka = FakeClock(), MemoryKafka()
    chat = Chat("186067512", [said(MINUTE, "a"), said(20 * HOUR, "b")])
    report = FakeReport(clock, [chat], random.Random(1), kindly=True)
    settings = PublisherSettings(rereads=(), poll_every=MINUTE)
    one = Life(clock, report, MemoryCluster(kafka).log(OPERATION), settings)
    await one.run_for(21 * HOUR)
    assert one.heard(HintGiven) == []
    assert len(kafka.events[OPERATION]) == 2
    assert len(report.answered) <= 21 * HOUR / MINUTE + 1

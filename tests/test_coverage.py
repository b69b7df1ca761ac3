"""`gaps` and `coverage`: what was read, when, and what is missing."""

import json
import time
from collections import deque
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.commands.coverage import Look, strip
from publisher.commands.coverage.coverage_map import Kind, Stretch, asked, cells, coverage, missing
from publisher.commands.runner import RefusedError
from publisher.kafka.cluster import partition_of
from publisher.model import Instant, Progress, Window
from publisher.state.checkpoint import Checkpoint, Entry
from publisher.state.gaps import added
from publisher.state.state import State
from sandbox.kafka import Broker
from tests import kafka_tools
from tests.commands import command
from tests.fakes import NOON
from tests.harness import rig

MINUTE = timedelta(minutes=1)
AGES = (3 * MINUTE, 10 * MINUTE)


def at(minute: int) -> Instant:
    return NOON + minute * MINUTE


def entry(start: int, end: int, read_at: int, *, cut: bool = False) -> Entry:
    return Entry(1, "live", at(start), at(end), at(read_at), 1, 1, 0, 0, cut)


def state_of(
    entries: Sequence[Entry] = (), gaps: Sequence[tuple[int, int]] = (), start: int = 0,
    covered: int = 60, forgotten: int | None = None,
) -> State:  # fmt: skip
    told: tuple[Window, ...] = ()
    for first, last in gaps:
        told = added(told, Window(at(first), at(last)))
    live = Progress(at(covered), at(covered))
    gone = () if forgotten is None else (Window(at(-99), at(forgotten)),)
    checkpoint = Checkpoint(
        "wv0010", "UTC", at(start), "now", 1, 1, {"live": live}, told, forgotten=gone
    )
    return State(checkpoint, deque(entries))


def oracle(state: State, minute: int) -> tuple[Kind, timedelta]:
    """What is known of one minute, told by looking at everything."""
    moment = at(minute)
    checkpoint = state.checkpoint
    if moment < checkpoint.start:
        return Kind.BEFORE_START, timedelta()
    if moment >= checkpoint.live.covered_until:
        return Kind.NOT_YET, timedelta()
    if any(gap.start <= moment < gap.end for gap in checkpoint.gaps):
        return Kind.PARKED, timedelta()
    over = [one for one in state.journal if one.start <= moment < one.end]
    if any(one.possibly_cut for one in over):
        return Kind.POSSIBLY_CUT, timedelta()
    read = [one.read_at - moment for one in over if one.read_at > moment]
    if read:
        return Kind.READ, max(age for age in (timedelta(), *AGES) if age < max(read))
    if any(gone.start <= moment < gone.end for gone in checkpoint.forgotten):
        return Kind.FORGOTTEN, timedelta()
    return Kind.NEVER_ASKED, timedelta()


ENTRIES = st.lists(
    st.builds(
        lambda start, width, wait, cut: entry(start, start + width, start + wait, cut=cut),
        st.integers(-5, 70), st.integers(0, 20), st.integers(0, 40), st.sampled_from([0, 0, 0, 1]),
    ),
    max_size=8,
)  # fmt: skip
GAPS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 10)).map(lambda told: (told[0], sum(told))),
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(
    ENTRIES, GAPS, st.integers(-5, 30), st.integers(0, 70), st.integers(-10, 40),
    st.integers(1, 60), st.none() | st.integers(-50, 60),
)  # fmt: skip
def test_every_minute_is_what_a_look_at_everything_says(
    entries: list[Entry], gaps: list[tuple[int, int]], begun: int, covered: int, first: int,
    width: int, forgotten: int | None,
) -> None:  # fmt: skip
    """Stretches fill the range without overlap, neighbours differ, and each minute is right."""
    state = state_of(entries, gaps, begun, covered, forgotten)
    found = coverage(state, at(first), at(first + width), AGES)
    assert found[0].start == at(first)
    assert found[-1].end == at(first + width)
    for one, other in pairwise(found):
        assert one.end == other.start
        assert (one.kind, one.age) != (other.kind, other.age)
    for minute in range(first, first + width):
        (of,) = [one for one in found if one.start <= at(minute) < one.end]
        assert (of.kind, of.age) == oracle(state, minute), minute


def test_what_is_missing() -> None:
    """A parked window and one that nobody asked for; what is ahead or before is not."""
    state = state_of([entry(0, 20, 30), entry(30, 60, 61)], [(10, 12)])
    found = coverage(state, at(-5), at(65), AGES)
    assert [(one.kind, one.start, one.end) for one in missing(found)] == [
        (Kind.PARKED, at(10), at(12)),
        (Kind.NEVER_ASKED, at(20), at(30)),
    ]
    assert coverage(state, at(5), at(5), AGES) == []
    assert [one.end for one in asked(state, at(19), at(31))] == [at(20), at(60)]


def test_a_cell_shows_the_worst_that_is_in_it() -> None:
    """One lost second must not hide in a cell of an hour."""
    parked = Stretch(at(10), at(10) + timedelta(seconds=1), Kind.PARKED)
    young = Stretch(parked.end, at(30), Kind.READ)
    old = Stretch(at(30), at(60), Kind.READ, 10 * MINUTE)
    slots = [Window(at(start), at(start + 20)) for start in (-20, 0, 20, 40, 60)]
    assert cells([parked, young, old], slots) == [None, parked, young, old, None]


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("America/Bogota", date(2026, 11, 20), 24),
        ("Europe/Madrid", date(2026, 3, 29), 23),
        ("Europe/Madrid", date(2026, 10, 25), 25),
        ("Australia/Lord_Howe", date(2026, 10, 4), 23.5),
        ("America/Santiago", date(2026, 9, 6), 23),
    ],
)
def test_a_day_of_the_strip_is_the_operations_day(
    zone: str, day: date, hours: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is drawn once, also where the clocks jump: one lost second always shows."""
    monkeypatch.setenv("COLUMNS", "110")
    begin = Instant(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(NOON.tzinfo)
    end = begin + timedelta(hours=hours)
    whole = [Stretch(begin, end, Kind.READ)]
    for lost in range(0, int(hours * 60), 7):
        moment = begin + lost * MINUTE
        parked = Stretch(moment, moment + timedelta(seconds=1), Kind.PARKED)
        found = [Stretch(begin, moment, Kind.READ), parked, Stretch(parked.end, end, Kind.READ)]
        look = Look("wv0010", state_of(), Window(begin, end), found[not lost :], AGES)
        row = drawn(look, zone, day)
        assert row.count("X") >= 1, lost
        assert len(row) == 96
    assert drawn(Look("wv0010", state_of(), Window(begin, end), whole, AGES), zone, day) == "." * 96


def drawn(look: Look, zone: str, day: date) -> str:
    lines = [click.unstyle(line) for line in strip(look, ZoneInfo(zone))]
    (row,) = [line for line in lines if line.startswith(str(day))]
    return row.removeprefix(f"{day}  ")


async def test_a_parked_window_is_told_and_drawn(kafka: Broker, tmp_path: Path) -> None:
    """The real service has parked a stretch; both commands say which, and change nothing."""
    world = {"rate": 1200, "history": "600s", "late": 0.0}
    told = {
        "PUBLISHER_START": "-600s", "PUBLISHER_POLL_EVERY": "500ms", "PUBLISHER_OVERLAP": "2s",
        "PUBLISHER_REREADS": "5m",
    }  # fmt: skip
    async with rig(kafka.bootstrap, tmp_path, world, told) as one:
        bad = time.time() - 300
        await one.api.fault("server_error", touching=bad)
        service = one.start()
        await service.logged(30, event="Window parked; continuing with the others")
        assert await service.stop() == 0
        ended = await command(one.settings, "gaps", "--json")
        assert ended.code == 1, ended
        (gap,) = json.loads(ended.out)["wv0010"]
        assert gap["kind"] == "parked"
        begin, end = (Instant.fromisoformat(gap[name]).timestamp() for name in ("from", "to"))
        assert begin <= bad + 1
        assert bad <= end
        assert 0 < gap["seconds"] <= 600
        shown = await command(one.settings, "gaps")
        assert shown.code == 1
        assert "parked: it failed while others answered" in shown.out
        strips = await command(one.settings, "coverage", "--from", "-1h")
        assert strips.code == 1
        assert "X" in strips.out
        assert "days of America/Bogota" in strips.out
        everything: Any = json.loads((await command(one.settings, "coverage", "--json")).out)
        windows = everything["wv0010"]["windows"]
        assert sum(window["new"] for window in windows) > 0
        assert {window["pass"] for window in windows} >= {"live"}
        after = await command(one.settings, "gaps", "--from", gap["to"], "--to", "now")
        assert (after.code, "nothing is missing" in after.out) == (0, True)


async def test_what_the_commands_refuse(topics: dict[str, str]) -> None:
    """One line each, with what to do."""
    told = {"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": "the-token", **topics}
    await kafka_tools.create(topics["KAFKA_BOOTSTRAP_SERVERS"], topics["PUBLISHER_STATE_TOPIC"], 12)
    ended = await command(told, "gaps")
    assert ended.code == 1
    assert "has not begun: there is nothing to tell before the service has run" in ended.problems
    ended = await command(told, "coverage", "--from", "2026-11-20 10:00:00")
    assert ended.code == 2
    assert "is not a date with offset: write 2026-11-20T10:00:00-05:00, or -24h" in ended.problems
    ended = await command(told, "gaps", "--operation", "other")
    assert (ended.code, "there is no other" in ended.problems) == (2, True)
    newer = b'{"format":99}'
    async with kafka_tools.producing(topics["KAFKA_BOOTSTRAP_SERVERS"]) as producer:
        await producer.send_and_wait(
            topics["PUBLISHER_STATE_TOPIC"], newer, b"checkpoint/wv0010",
            partition=partition_of("wv0010"),
        )  # fmt: skip
    ended = await command(told, "gaps")
    assert ended.code == 1
    assert "the coverage cannot be read: the state topic is written in format 99" in ended.problems
    look = Look("wv0010", state_of(), Window(NOON, NOON + timedelta(days=500)), [], AGES)
    with pytest.raises(RefusedError, match="more than 400 days: choose a later --from"):
        list(strip(look, ZoneInfo("UTC")))

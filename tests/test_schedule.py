"""The passes, driven through days of simulated time: everything visible is asked for.

`SCHEDULE_TRIALS=500 pytest tests/test_schedule.py` looks longer.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from publisher.model import SECOND, Instant, Progress, Window
from publisher.schedule.passes import (
    NARROWEST,
    TARGET_ROWS,
    Pace,
    Pass,
    Read,
    Step,
    Wait,
    advanced,
    next_step,
    passes_of,
    with_passes,
)
from publisher.settings import PublisherSettings
from publisher.state.checkpoint import Entry
from publisher.state.state import State, first
from publisher.wolkvox.responses import ROW_CAP

TRIALS = int(os.environ.get("SCHEDULE_TRIALS", "4"))
START = datetime(2026, 11, 1, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SETTINGS = PublisherSettings()
LONGEST = max(SETTINGS.rereads)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was answered and published."""

    pass_name: str
    window: Window
    sent: Instant


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time with a property: an outage, or so many rows a second."""

    start: Instant
    end: Instant
    rate: float = 0.0

    def overlap(self, window: Window) -> float:
        shared = min(self.end, window.end) - max(self.start, window.start)
        return max(0.0, shared.total_seconds())


@dataclass
class Simulation:
    """One operation, its state and pace, and a clock that this test moves."""

    random: Random
    settings: PublisherSettings = SETTINGS
    outages: list[Stretch] = field(default_factory=list)
    bursts: list[Stretch] = field(default_factory=list)
    rate: float = 0.2
    restarts: list[Instant] = field(default_factory=list)
    failing: float = 0.0
    skew: timedelta = timedelta()
    """The server's clock minus ours, as measured: it may be a little wrong."""
    now: Instant = START
    asked: list[Asked] = field(default_factory=list)
    requests: list[Instant] = field(default_factory=list)
    """All of them, also those that failed or were too large."""
    steps: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        self.passes: tuple[Pass, ...] = passes_of(self.settings)
        names = [pass_.name for pass_ in self.passes]
        self.state: State = first("wv0010", "UTC", START, "now", names)[0]
        self.restart()

    def restart(self) -> None:
        """Width and positions are lost; what was committed is not."""
        checkpoint = self.state.checkpoint
        progress = with_passes(checkpoint.passes, self.passes, checkpoint.start)
        assert progress == checkpoint.passes
        self.pace = Pace.starting(self.settings)
        self.pace.begin(checkpoint.live.cursor)

    def run(self, until: Instant) -> None:
        last: Read | None = None
        while self.now < until:
            if self.restarts and self.now >= self.restarts[0]:
                self.restarts.pop(0)
                self.restart()
            step = self.next_step()
            self.steps += 1
            if isinstance(step, Wait):
                assert self.now < step.until <= self.now + self.settings.poll_every
                self.now = step.until + self.random.random() * SECOND
                continue
            assert step != last, "the same request twice in a row"
            last = step if self.read(step) else None

    def next_step(self) -> Step:
        return next_step(
            self.passes, self.state.checkpoint.passes, self.pace, self.now, self.state.read_until
        )

    def read(self, step: Read) -> bool:
        """Ask for the window; False when that has to be done again."""
        sent, took = self.now, self.random.choice([0.1, 1.0, 5.0, 20.0]) * self.random.random()
        self.requests.append(sent)
        self.now += timedelta(seconds=took)
        away = any(o.start <= sent < o.end for o in self.outages)
        if away or self.random.random() < self.failing:
            self.failed += 1
            self.now += self.random.random() * 2 * self.settings.poll_every
            return False
        rows = self.rows_in(step.window)
        if rows >= ROW_CAP and step.window.width > NARROWEST:
            self.pace.narrow(step.window)
            return False
        date = (self.now + self.skew).replace(microsecond=0)
        self.commit(step, sent, min(step.window.end, date))
        self.pace.answered(step, sent, rows, took)
        self.asked.append(Asked(step.pass_.name, step.window, sent))
        return True

    def rows_in(self, window: Window) -> int:
        return int(
            self.rate * window.width.total_seconds()
            + sum(burst.rate * burst.overlap(window) for burst in self.bursts)
        )

    def commit(self, step: Read, sent: Instant, covered: Instant) -> None:
        before = self.state.checkpoint.passes
        passes = advanced(before, step, covered, sent)
        for name, old in before.items():
            assert passes[name].cursor >= old.cursor
            assert passes[name].covered_until >= old.covered_until
            assert passes[name] == old or name == step.pass_.name
        end = max(step.window.start, covered)
        sequence = self.state.checkpoint.sequence + 1
        entry = Entry(sequence, step.pass_.name, step.window.start, end, sent, 0, 0, 0, 0)
        self.state.apply(
            self.state.successor(entry, passes, {}, SETTINGS.horizon), SETTINGS.horizon
        )


class Index:
    """Which requests asked for a second, found by the hour it lies in."""

    def __init__(self, asked: list[Asked]) -> None:
        self._hours: defaultdict[int, list[tuple[float, float, float]]] = defaultdict(list)
        for one in asked:
            padding = min(5 * SECOND, max(one.window.width, SECOND))
            # Ends that are rounded outwards to seconds, as requests have them.
            begin = (one.window.start - padding).replace(microsecond=0).timestamp()
            end = -(-(one.window.end + padding).timestamp() // 1)
            for hour in range(int(begin // 3600), int(end // 3600) + 1):
                self._hours[hour].append((begin, end, one.sent.timestamp()))

    def shown(self, filed: float, visible: float, *, closed: bool) -> bool:
        """Whether a row filed under that second was asked for when it was visible."""
        for begin, end, sent in self._hours[int(filed // 3600)]:
            inside = begin <= filed <= end if closed else begin < filed < end
            if inside and sent >= visible:
                return True
        return False


def rows_to_find(
    random: Random, asked: list[Asked], until: Instant
) -> Iterator[tuple[float, float]]:
    """(second it is filed under, moment it becomes visible) of rows that are hard to find."""
    limit = LONGEST.total_seconds()
    last = (until - 2 * LONGEST).timestamp()
    for _ in range(3000):
        late = random.random() * random.choice([0, 60, 1800, 3600, 6 * 3600, 24 * 3600])
        kind = random.choice(["H1", "H2", "H3"])
        date = random.uniform(START.timestamp(), last)
        length = random.random() * 23 * 3600
        if kind == "H1":  # filed under the close of its chat
            filed = date + length
            visible = filed + late
        elif kind == "H2":  # filed under its own date
            filed, visible = date, date + late
        else:  # filed under the opening of its chat
            filed = max(date - length, START.timestamp())
            visible = date + late
        yield filed // 1, visible
        yield filed // 1, min(filed // 1 + limit, visible + random.random() * limit)
    for _ in range(3000):
        # On the edge of a request, and visible just after a request has looked for it.
        edge = random.choice(asked).window
        filed = random.choice([edge.start, edge.end]).timestamp() // 1 + random.choice([-1, 0, 1])
        if not START.timestamp() <= filed <= last:
            continue
        after = random.choice(asked).sent.timestamp() + 0.001
        lateness = random.choice([after - filed, 0, 899, 901, 3600, limit])
        yield filed, filed + min(max(lateness, 0), limit)


def disturbed(seed: int, days: float) -> Simulation:
    """Outages, failures, bursts and restarts at random."""
    random = Random(seed)

    def some(count: int, longest: timedelta, rate: float = 0) -> list[Stretch]:
        starts = [START + random.random() * days * DAY for _ in range(random.randrange(count + 1))]
        return [Stretch(at, at + random.random() * longest, rate) for at in starts]

    settings = SETTINGS.model_copy(
        update={
            "poll_every": random.choice([MINUTE, 5 * MINUTE, 5 * MINUTE, 20 * MINUTE]),
            "overlap": random.choice([15 * MINUTE, 15 * MINUTE, 0 * MINUTE, 59 * MINUTE]),
            "max_window": random.choice([DAY, DAY, HOUR, 7 * DAY]),
        }
    )
    outages = some(2, 25 * HOUR) + some(5, HOUR)
    return Simulation(
        random,
        settings,
        outages=outages,
        bursts=some(1, 3 * MINUTE, rate=3000),
        rate=random.choice([0, 0.2, 2]),
        restarts=sorted(
            [START + random.random() * days * DAY for _ in range(random.randrange(8))]
            + [outage.end for outage in outages if random.random() < 0.5]
        ),
        failing=random.choice([0, 0, 0.02]),
    )


@pytest.mark.parametrize("seed", range(TRIALS))
def test_every_row_is_asked_for_when_it_is_visible(seed: int) -> None:
    """Whatever fails meanwhile: a row visible within the re-read ages is found.

    However the report files its rows (close, own date, opening), whether the
    ends of a request count or not, also with outages of 25 hours.
    """
    days = 9
    simulation = disturbed(seed, days)
    until = START + days * DAY
    simulation.run(until)
    index = Index(simulation.asked)
    found = 0
    closed = seed % 2 == 0
    for filed, visible in rows_to_find(simulation.random, simulation.asked, until):
        assert index.shown(filed, visible, closed=closed), (
            datetime.fromtimestamp(filed, UTC),
            datetime.fromtimestamp(visible, UTC),
        )
        found += 1
    assert found > 4000
    # It ends each day's work: a bound on all steps, burst windows and failures included.
    polls = DAY / simulation.settings.poll_every
    windows = sum(burst.overlap(burst_window(burst)) for burst in simulation.bursts)
    assert simulation.steps < days * (3 * polls + 200) + 20 * windows + 4 * simulation.failed


def burst_window(burst: Stretch) -> Window:
    return Window(burst.start, burst.end + SECOND)


def test_the_check_itself_finds_what_is_missing() -> None:
    """Without re-reads late rows are lost, and the check says so: it can fail."""
    settings = SETTINGS.model_copy(update={"rereads": ()})
    simulation = Simulation(Random(0), settings)
    until = START + 8 * DAY
    simulation.run(until)
    index = Index(simulation.asked)
    rows = list(rows_to_find(simulation.random, simulation.asked, until))
    lost = sum(not index.shown(filed, visible, closed=True) for filed, visible in rows)
    assert lost > len(rows) / 10
    on_time = [(filed, visible) for filed, visible in rows if visible - filed < 890]
    assert len(on_time) > 500
    assert all(index.shown(filed, visible, closed=False) for filed, visible in on_time)


def test_a_quiet_day_costs_what_the_quota_allows() -> None:
    """About 288 + 48 + 8 + 2 + 1 requests a day of a thousand."""
    simulation = Simulation(Random(1))
    simulation.run(START + 8 * DAY)
    of_a_day = [
        sum(START + day * DAY <= sent < START + (day + 1) * DAY for sent in simulation.requests)
        for day in range(8)
    ]
    assert all(330 <= count <= 360 for count in of_a_day[4:])
    assert max(of_a_day) <= 370
    by_pass = defaultdict(list)
    for one in simulation.asked:
        by_pass[one.pass_name].append(one)
    assert {name: round(len(those) / 8) for name, those in by_pass.items()} == {
        "live": pytest.approx(288, abs=8),
        "reread-1h": pytest.approx(48, abs=2),
        "reread-6h": pytest.approx(8, abs=1),
        "reread-1d": pytest.approx(2, abs=1),
        "reread-3d": pytest.approx(1, abs=1),
    }
    assert simulation.steps <= 8 * 800
    # No cursor stands still: what lies behind all of them may be forgotten.
    for pass_ in simulation.passes:
        lag = simulation.now - simulation.state.checkpoint.passes[pass_.name].cursor
        assert lag <= 1.5 * pass_.delay + 30 * MINUTE


def test_a_restart_reads_at_once() -> None:
    """However short ago the last poll was, a start polls: an operator sees that it works."""
    simulation = Simulation(Random(2))
    simulation.run(START + HOUR)
    while isinstance(step := simulation.next_step(), Read):
        simulation.read(step)
    simulation.now += SECOND
    simulation.restart()
    step = simulation.next_step()
    assert isinstance(step, Read)
    assert step.pass_.name == "live"
    assert step.window.start == simulation.state.checkpoint.live.cursor


def test_catching_up_reads_nothing_twice() -> None:
    """After a long outage live walks to now without overlap, and re-reads pass over most of it."""
    simulation = Simulation(Random(3), outages=[Stretch(START + DAY, START + 4 * DAY)])
    simulation.run(START + 4 * DAY)
    count = len(simulation.asked)
    simulation.run(START + 4 * DAY + 30 * MINUTE)
    caught_up = [one for one in simulation.asked[count:] if one.pass_name == "live"]
    for one, other in pairwise(caught_up):
        if other.sent - other.window.end > SETTINGS.overlap:
            assert other.window.start == one.window.end
    read_again = [one for one in simulation.asked[count:] if one.pass_name == "reread-1d"]
    # What live has read when it was a day old already is passed over.
    assert read_again
    assert not any(
        one.window.start < START + 3 * DAY - HOUR and one.window.end > START + 2 * DAY
        for one in read_again
    )
    assert len(simulation.asked) - count < 40


def test_live_goes_first() -> None:
    """Nothing else is read while live has something to do."""
    simulation = Simulation(Random(4), outages=[Stretch(START + HOUR, START + 2 * DAY)])
    simulation.run(START + 2 * DAY + 10 * MINUTE)
    after = [one for one in simulation.asked if one.sent >= START + 2 * DAY]
    names = [one.pass_name for one in after]
    live = names.index(next(name for name in names if name != "live"))
    assert after[live - 1].window.end >= after[live - 1].sent - MINUTE


@pytest.mark.parametrize("seed", range(TRIALS))
def test_clock_steps_do_not_stop_polling(seed: int) -> None:
    """The clock jumps by days, forwards or backwards: live asks once a poll all the same."""
    random = Random(seed)
    simulation = Simulation(random)
    real, last_live, steps = timedelta(), timedelta(), 0
    jumps = sorted(random.random() * 6 * DAY for _ in range(6))
    while real < 6 * DAY:
        if jumps and real >= jumps[0]:
            jumps.pop(0)
            simulation.now += random.choice([-1, 1]) * random.choice([MINUTE, HOUR, DAY, 10 * DAY])
        before = simulation.now
        step = simulation.next_step()
        steps += 1
        if isinstance(step, Wait):
            assert before < step.until
            # The flow sleeps no longer than a poll.
            simulation.now = min(step.until, before + SETTINGS.poll_every)
        else:
            assert simulation.read(step)
            if step.pass_.name == "live":
                assert real - last_live <= SETTINGS.poll_every + MINUTE
                last_live = real
        real += simulation.now - before
    assert real - last_live <= SETTINGS.poll_every + MINUTE
    assert steps < 6 * 1000


def test_the_servers_date_bounds_what_is_covered() -> None:
    """A server that is behind has not shown what it does not know yet."""
    progress = {"live": Progress(START, START)}
    (live, *_) = passes_of(SETTINGS)
    step = Read(live, Window(START, START + 20 * MINUTE), ends_round=True)
    after = advanced(progress, step, START + 18 * MINUTE, START + 19 * MINUTE)["live"]
    assert after == Progress(START + 4 * MINUTE, START + 18 * MINUTE)


def test_a_cursor_stops_an_overlap_behind_now() -> None:
    """Settled is only what was old enough when it was read; the rest is read again."""
    progress = {"live": Progress(START, START)}
    (live, *_) = passes_of(SETTINGS)
    now = START + HOUR
    cases: list[tuple[timedelta, timedelta]] = [
        (10 * MINUTE, 10 * MINUTE),
        (45 * MINUTE, 45 * MINUTE),
        (50 * MINUTE, 45 * MINUTE),
        (HOUR, 45 * MINUTE),
    ]
    for end, cursor in cases:
        step = Read(live, Window(START, START + end), ends_round=False)
        after = advanced(progress, step, START + end, now)["live"]
        assert after == Progress(START + cursor, START + end)
    # A window inside the unsettled stretch settles nothing before itself.
    inside = Read(live, Window(START + 30 * MINUTE, START + 40 * MINUTE), ends_round=False)
    assert advanced(progress, inside, inside.window.end, now)["live"].cursor == START


@pytest.mark.parametrize(
    ("rows", "took", "factor"),
    [(0, 1.0, 2), (TARGET_ROWS // 2, 15.0, 2), (TARGET_ROWS // 2, 15.1, 1),
     (TARGET_ROWS // 2 + 1, 1.0, 1), (TARGET_ROWS, 1.0, 1), (TARGET_ROWS + 1, 1.0, 0.5)],
)  # fmt: skip
def test_the_width_follows_what_came(rows: int, took: float, factor: float) -> None:
    """Doubled after a small and quick answer, halved after one over the target."""
    pace = Pace.starting(SETTINGS)
    assert pace.width == SETTINGS.poll_every
    (live, *_) = passes_of(SETTINGS)
    step = Read(live, Window(START, START + pace.width), ends_round=False)
    pace.answered(step, START, rows, took)
    assert pace.width == factor * SETTINGS.poll_every


def test_the_width_stays_between_a_second_and_the_setting() -> None:
    """It never leaves its bounds, and a short window tells nothing about a wider one."""
    pace = Pace.starting(SETTINGS)
    (live, *_) = passes_of(SETTINGS)
    for _ in range(30):
        pace.narrow(Window(START, START + pace.width))
    assert pace.width == NARROWEST == SECOND
    for _ in range(30):
        step = Read(live, Window(START, START + pace.width), ends_round=False)
        pace.answered(step, START, 0, 0.0)
    assert pace.width == SETTINGS.max_window
    pace.width = HOUR
    pace.answered(Read(live, Window(START, START + MINUTE), ends_round=True), START, 0, 0.0)
    assert pace.width == HOUR


@pytest.mark.parametrize(("update", "width"), [({}, 5 * MINUTE), ({"max_window": MINUTE}, MINUTE)])
def test_a_start_begins_narrow(update: dict[str, Any], width: timedelta) -> None:
    """Nobody knows yet how dense the messages are."""
    assert Pace.starting(SETTINGS.model_copy(update=update)).width == width


def test_a_new_re_read_begins_one_and_a_half_ages_ago() -> None:
    """An age that was added later does not walk through all of history, nor before the start."""
    passes = passes_of(SETTINGS)
    now = START + 4 * DAY
    known = {"live": Progress(now, now), "reread-gone": Progress(now, now)}
    found = with_passes(known, passes, START)
    assert found["live"] == known["live"]
    assert "reread-gone" not in found
    assert found["reread-1d"].cursor == now - 36 * HOUR
    assert found["reread-3d"].cursor == START
    assert list(found) == ["live", "reread-1h", "reread-6h", "reread-1d", "reread-3d"]


@pytest.mark.parametrize(
    ("read_until", "wanted"),
    [(3 * HOUR, 3 * HOUR), (3.5 * HOUR, 3.5 * HOUR), (3.6 * HOUR, None), (4 * HOUR, None)],
)
def test_a_re_read_begins_behind_what_was_read_at_its_age(
    read_until: timedelta, wanted: timedelta | None
) -> None:
    """Time that live read late enough costs no second request, and makes no round due."""
    settings = SETTINGS.model_copy(update={"rereads": (HOUR,)})
    simulation = Simulation(Random(5), settings)
    (live, _) = simulation.passes
    now = START + 5 * HOUR
    step = Read(live, Window(START, START + read_until), ends_round=False)
    simulation.commit(step, now, step.window.end)
    progress = dict(simulation.state.checkpoint.passes)
    progress["live"] = Progress(now, now)
    simulation.pace.positions.clear()
    simulation.pace.last_read = now
    found = next_step(
        simulation.passes, progress, simulation.pace, now, simulation.state.read_until
    )
    if wanted is None:
        due = START + read_until + 1.5 * HOUR
        assert found == Wait(min(due, now + settings.poll_every))
    else:
        assert isinstance(found, Read)
        assert (found.pass_.name, found.window.start) == ("reread-1h", START + wanted)

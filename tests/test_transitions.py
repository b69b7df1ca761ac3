"""Every transition of ten years back and five ahead: none is left to chance.

`test_zone.py` draws windows at random. Here each transition of each zone is gone through one by
one: every window the schedule may ask for around it, and the flow itself, live and catching up.
"""

import random
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import pytest

from publisher.model import SECOND, Request, Window, iso
from publisher.schedule.passes import NARROWEST, Pace
from publisher.settings import PublisherSettings
from publisher.signals import WindowNarrowed, WindowPublished
from publisher.wolkvox.timezone import NARROW, Zone
from tests.fakes import Chat, FakeClock, FakeReport, MemoryCluster, MemoryKafka, Said
from tests.test_flow import OPERATION, Life, values
from tests.test_zone import (
    HOUR,
    MINUTE,
    NAMES,
    YEAR,
    check_bounds,
    check_no_skipped_time,
    check_whole_repeated_hour,
    exists,
    local_time,
    transitions,
)

TWICE: Final = frozenset(range(2016, 2026))
CHANGED: Final = {
    "America/Bogota": Counter[int](),
    "America/Mexico_City": Counter(dict.fromkeys(range(2016, 2023), 2)),
    "America/Santiago": Counter(dict.fromkeys(TWICE, 2)),
    "America/Asuncion": Counter(dict.fromkeys(range(2016, 2025), 2)),
    "America/Sao_Paulo": Counter({2016: 2, 2017: 2, 2018: 2, 2019: 1}),
    "Europe/Madrid": Counter(dict.fromkeys(TWICE, 2)),
    "Asia/Kathmandu": Counter[int](),
    "Australia/Lord_Howe": Counter(dict.fromkeys(TWICE, 2)),
}
"""How often each zone has changed its clocks, by year: what is past stays so."""
WITHOUT: Final = {"America/Bogota", "Asia/Kathmandu"}
"""Their clocks were not changed and will not be, as far as anybody knows."""

DEFAULTS: Final = PublisherSettings()
SETTINGS: Final = PublisherSettings(rereads=(HOUR,))
START: Final = -2 * HOUR - 7.3 * SECOND
"""Odd, so that windows lie across the transition and do not happen to end there."""


class Case(NamedTuple):
    name: str
    at: datetime
    shift: timedelta
    """By how much the clocks go on; less than zero: an hour is repeated."""

    def __str__(self) -> str:
        return f"{self.name} {self.at:%Y-%m-%d}"

    @property
    def edges(self) -> tuple[datetime, ...]:
        """Where the repeated or skipped time begins and ends, by either offset."""
        return self.at - abs(self.shift), self.at, self.at + abs(self.shift)


CASES: Final = [
    Case(name, at, after - before) for name in NAMES for at, before, after in transitions(name)
]

each = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.mark.parametrize("name", NAMES)
def test_no_transition_is_overlooked(name: str) -> None:
    """The years that are over have exactly so many; two zones have none, and are told as such."""
    mine = [case for case in CASES if case.name == name]
    past = range(max(2016, YEAR - 10), 2026)
    found = Counter(case.at.year for case in mine if case.at.year in past)
    assert found == Counter({year: n for year, n in CHANGED[name].items() if year in past})
    assert bool(mine) == (name not in WITHOUT)
    back = [case for case in mine if case.shift < timedelta()]
    assert abs(len(mine) - 2 * len(back)) <= 1, "forward and back take turns"


# --- every window ---------------------------------------------------------------------------------


def widths() -> list[timedelta]:
    """Every width that live and the re-reads may come to: doubled to a day, halved to a second."""
    found = set()
    for widest in (DEFAULTS.poll_every, DEFAULTS.max_window):
        pace = Pace.starting(DEFAULTS)
        pace.width = widest
        while pace.width not in found:
            found.add(pace.width)
            pace.narrow(Window(CASES[0].at, CASES[0].at + pace.width))
    width = DEFAULTS.poll_every
    while width < DEFAULTS.max_window:
        found.add(width)
        width *= 2
    return sorted(found)


WIDTHS: Final = widths()


def test_the_widths_are_the_schedule_s_own() -> None:
    assert WIDTHS[0] == NARROWEST
    assert DEFAULTS.poll_every in WIDTHS
    assert WIDTHS[-1] == DEFAULTS.max_window
    assert sum(width < NARROW for width in WIDTHS) > 8


def around(case: Case, width: timedelta) -> Iterator[Window]:
    """Windows that begin, end or have their middle at an edge, or just before it."""
    for edge in case.edges:
        for share in (0.0, 0.5, 1.0):
            for off in (-SECOND * 0.4, timedelta()):
                start = edge - width * share + off
                yield Window(start, start + width)


@each
def test_every_window_asks_for_what_it_holds_and_for_no_skipped_time(case: Case) -> None:
    """Each of its instants lies between the bounds, they are never inverted, and both exist."""
    for width in WIDTHS:
        for window in around(case, width):
            check_bounds(case.name, window)
            check_no_skipped_time(case.name, window)
            check_whole_repeated_hour(case.name, window)


# --- the flow -------------------------------------------------------------------------------------


class World:
    """Messages around a transition, each local second with one text: its readings are equal rows.

    So the repeated hour holds twins an hour apart, which are two messages.
    """

    def __init__(self, case: Case, begin: timedelta, cap: int) -> None:
        self.case = case
        self.rng = random.Random(str(case))
        self.clock = FakeClock(case.at + begin)
        self.kafka = MemoryKafka()
        self.requests: list[Request] = []
        self.chats = [Chat(f"18606751{number}") for number in range(2)]
        self.report = FakeReport(
            self.clock,
            self._filled(),
            self.rng,
            zone=case.name,
            opens=self.rng.random() < 0.5,
            closes=self.rng.random() < 0.5,
            refuses=self.rng.random() < 0.5,
            quota=100_000,  # tight caps take more requests than an hour of a small quota has
            cap=cap,
            trouble=self.requests.append,  # looks on, and does nothing
        )

    def _filled(self) -> list[Chat]:
        case, late = self.case, HOUR - 5 * MINUTE
        moments = {case.at + number * case.shift / 6 for number in range(-9, 10)}
        moments |= {edge + number * SECOND for edge in case.edges for number in range(-3, 4)}
        for at in sorted(moments):
            for chat in self.chats:
                fields = {
                    "channel": "web",
                    "from": "AGENT",
                    "message": f"second {at.second}",
                    "customer_id": "1",
                }
                shown = at + late * self.rng.choice([0, 0, 0, self.rng.random()])
                chat.said.append(Said(at, fields, at, shown))
        return self.chats

    async def lives(self, duration: timedelta, start: timedelta) -> Life:
        settings = SETTINGS.model_copy(update={"start": iso(self.case.at + start)})
        log = MemoryCluster(self.kafka).log(OPERATION)
        told = Life(self.clock, self.report, log, settings, Zone(self.case.name))
        await told.run_for(duration)
        return told

    def check(self) -> None:
        """Each message once; no request for a skipped time, none with its bounds inverted."""
        said = Counter(
            (chat.conn_id, self.report.date_of(one), one.fields["message"])
            for chat in self.chats
            for one in chat.said
        )
        repeated = self.case.shift < timedelta()
        assert bool(max(said.values()) > 1) == repeated, "twins an hour apart"
        events = values(self.kafka.events[OPERATION])
        assert said == Counter((e["conn_id"], e["date"], e["message"]) for e in events)
        assert len({event["event_id"] for event in events}) == len(events)
        assert self.requests
        for request in self.requests:
            assert request.date_ini < request.date_end
            for bound in (request.date_ini, request.date_end):
                assert exists(self.case.name, local_time(bound)), bound


@each
async def test_live_loses_and_doubles_nothing(case: Case) -> None:
    """Polled every five minutes through the transition, with rows as late as the re-read."""
    world = World(case, begin=-2 * HOUR, cap=60_000)
    life = await world.lives(6 * HOUR, start=START)
    world.check()
    assert not life.failures
    passes = {told.pass_label for told in life.heard(WindowPublished)}
    assert passes == {"live", "reread"}


@each
async def test_catching_up_in_halves_loses_and_doubles_nothing(case: Case) -> None:
    """The repeated hour as a whole is too much for one answer: halves of it come through."""
    world = World(case, begin=3 * HOUR, cap=40)
    life = await world.lives(HOUR, start=START)
    world.check()
    assert not life.failures
    published = life.heard(WindowPublished)
    assert not any(told.possibly_cut for told in published)
    begin, _, end = case.edges
    inside = [
        told.window.width
        for told in published
        if told.window.start < end and begin < told.window.end
    ]
    assert inside
    if case.shift < timedelta():
        assert life.heard(WindowNarrowed)
        assert max(inside) < NARROW, "wider ones ask for all of the repeated hour"

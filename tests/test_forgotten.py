"""Settings change, the state forgets: nobody reads again what is not remembered, nothing is lost.

Time is driven, nothing sleeps.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publisher.context import OperationContext
from publisher.model import Instant, Progress, Standing, Window, iso
from publisher.pipeline import run
from publisher.schedule.backfill_pass import (
    BACKFILLING,
    BackfillRequest,
    Stride,
    meanwhile,
    skipped,
    with_requests,
)
from publisher.schedule.passes import Read, Wait
from publisher.settings import PublisherSettings
from publisher.signals import HintGiven, Signal
from publisher.state import state
from publisher.state.checkpoint import Entry
from publisher.state.gaps import FAR, NEAR, added, clear_of
from publisher.wolkvox.timezone import Zone
from tests.fakes import NOON, Chat, FakeClock, FakeReport, MemoryCluster, MemoryKafka, Said
from tests.test_backfill import MemoryOrders
from tests.test_error_catalogue import is_entry
from tests.test_flow import HOUR, MADRID_BACK, OPERATION, POLL, Life, checkpoint_in, values


def chat_of(begin: Instant, end: Instant, every: timedelta) -> Chat:
    chat = Chat("186067512")
    while begin < end:
        fields = {"channel": "web", "from": "AGENT", "message": iso(begin), "customer_id": "1"}
        chat.said.append(Said(begin, fields, begin, begin))
        begin += every
    return chat


class World:
    """An operation that outlives its settings."""

    def __init__(
        self, lasts: timedelta, begin: Instant = NOON, zone: str = "America/Bogota"
    ) -> None:
        self.clock, self.kafka = FakeClock(begin), MemoryKafka()
        self.chat = chat_of(begin + timedelta(seconds=7), begin + lasts, 10 * timedelta(minutes=1))
        self.report = FakeReport(self.clock, [self.chat], random.Random(1), zone=zone, kindly=True)
        self.zone = zone

    async def run_for(self, duration: timedelta, zone: str = "", **settings: Any) -> None:
        told = PublisherSettings(**{"max_window": "1h", "start": iso(self.clock.true), **settings})
        log = MemoryCluster(self.kafka).log(OPERATION)
        life = Life(self.clock, self.report, log, told, Zone(zone or self.zone))
        life.zone_replaces = "" if not zone or zone == self.zone else self.zone
        await life.run_for(duration)

    @property
    def forgotten(self) -> Sequence[Window]:
        return checkpoint_in(self.kafka).forgotten

    def check(self) -> None:
        """All of it, once."""
        events = values(self.kafka.events[OPERATION])
        assert Counter(event["message"] for event in events) == Counter(
            said.fields["message"] for said in self.chat.said
        )


SHORT: dict[str, Any] = {"rereads": "1h,2h", "horizon": "4h"}


async def test_a_longer_re_read_with_the_longer_horizon_it_needs_publishes_nothing_twice() -> None:
    """It begins behind what is forgotten, not where its age would have it begin."""
    world = World(50 * HOUR)
    await world.run_for(40 * HOUR, **SHORT)
    assert world.forgotten
    await world.run_for(12 * HOUR, rereads="1h,2h,20h", horizon="31h")
    world.check()


async def test_a_zone_corrected_after_the_horizon_was_raised_publishes_nothing_twice() -> None:
    """What was forgotten under the shorter horizon stays so under the longer one."""
    world = World(80 * HOUR)
    await world.run_for(70 * HOUR, rereads="1h,2h", horizon="30h")
    assert world.forgotten
    await world.run_for(12 * HOUR, zone="America/Lima", rereads="1h,2h", horizon="31d")
    world.check()


@pytest.mark.parametrize("settings", [SHORT, {"rereads": "", "horizon": "1h"}])
async def test_a_horizon_of_hours_remembers_the_repeated_hour(settings: dict[str, Any]) -> None:
    """Requests of any part of it show the rows of all of it."""
    world = World(9 * HOUR, MADRID_BACK - 6 * HOUR, "Europe/Madrid")
    await world.run_for(13 * HOUR, overlap="0s", **settings)
    assert world.forgotten
    world.check()


@pytest.mark.parametrize("again", [False, True])
async def test_a_backfill_skips_what_is_forgotten_and_says_so(*, again: bool) -> None:
    """Once in the log, and in its progress; one that publishes again publishes all of it."""
    world = World(30 * HOUR)
    world.chat.said[:0] = chat_of(NOON - 9 * HOUR, NOON, 10 * timedelta(minutes=1)).said
    world.report = FakeReport(world.clock, [world.chat], random.Random(1), kindly=True)
    await world.run_for(30 * HOUR, **SHORT)
    [gone] = world.forgotten
    signals: list[Signal] = []
    backfill_request = BackfillRequest(
        "1", NOON - 9 * HOUR, NOON + 29 * HOUR, again, Standing.RUNNING
    )
    world.clock.until = world.clock.true + 3 * HOUR
    context = OperationContext(
        operation=OPERATION, zone=Zone("America/Bogota"),
        settings=PublisherSettings(**{**SHORT, "max_window": "1h"}), source=world.report,
        log=MemoryCluster(world.kafka).log(OPERATION), clock=world.clock, emit=signals.append,
        beat=lambda _: None, backfill_requests=MemoryOrders(backfill_request),
    )  # fmt: skip
    await run(context)
    [backfill] = checkpoint_in(world.kafka).backfills
    assert backfill.standing is Standing.DONE
    told = [signal.text for signal in signals if isinstance(signal, HintGiven)]
    told = [text for text in told if "backfill" in text]
    counts = Counter(event["message"] for event in values(world.kafka.events[OPERATION]))
    # The padding of a request shows a row of the second at which the range ends, too.
    inside = [
        iso(said.date)
        for said in world.chat.said
        if backfill_request.start <= said.date < backfill_request.end
    ]
    if again:
        assert told == []
        assert backfill.skipped_seconds == 0
        assert all(counts[text] == 1 + (text >= iso(NOON)) for text in inside)
        return
    [hint] = told
    assert is_entry("of its range", hint)
    assert hint == skipped(backfill)
    assert "of its range: what was published of it is forgotten" in hint
    near = Window(gone.start - NEAR, gone.end + NEAR)
    assert backfill.skipped_seconds == (near.end - near.start) // timedelta(seconds=1)
    assert max(counts.values()) == 1
    left_out = {text for text in inside if not counts[text]}
    assert left_out == {text for text in inside if iso(near.start) <= text < iso(NOON)}


async def test_a_backfill_of_forgotten_time_alone_ends_at_once() -> None:
    """Without a request: not even a second of it is read."""
    gone = Window(NOON - 9 * HOUR, NOON)
    backfill_request = BackfillRequest(
        "1", NOON - 9 * HOUR, NOON + HOUR, again=False, wanted=Standing.RUNNING
    )
    [backfill] = with_requests((), [backfill_request], 1, [gone])
    assert (backfill.standing, backfill.skipped_seconds) == (Standing.DONE, 36_000)
    # Where the rest of the range is a gap, the second that ends it is one that is remembered.
    backfill_request = replace(backfill_request, start=NOON - 20 * HOUR)
    [backfill] = with_requests((), [backfill_request], 1, [gone])
    wait, stride = Wait(NOON + 9 * HOUR), Stride.starting(PublisherSettings())
    gaps = [Window(backfill_request.start, NOON + HOUR)]
    step = meanwhile(wait, [backfill], stride, NOON + 8 * HOUR, gaps, [gone])
    until = gone.start - NEAR
    assert step == Read(BACKFILLING, Window(until - timedelta(seconds=1), until), ends_round=True)


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 20)), max_size=5),
    st.integers(0, 200), st.integers(1, 60), st.sampled_from([NEAR, FAR]),
)  # fmt: skip
def test_what_may_be_read_keeps_its_distance(
    stretches: list[tuple[int, int]], start: int, width: int, distance: timedelta
) -> None:
    """Every hour of the stretch that lies so far from all that is forgotten, and no other."""
    forgotten: tuple[Window, ...] = ()
    for begin, length in stretches:
        forgotten = added(forgotten, Window(NOON + begin * HOUR, NOON + (begin + length) * HOUR))
    wanted = Window(NOON + start * HOUR, NOON + (start + width) * HOUR)
    found = clear_of(forgotten, [wanted], distance)
    for hour in range(start, start + width):
        at = NOON + hour * HOUR
        far = all(at < gone.start - distance or at >= gone.end + distance for gone in forgotten)
        assert any(window.start <= at < window.end for window in found) is far


def test_only_entries_that_cover_time_are_forgotten_time() -> None:
    """A parked window was not read, a replayed letter asked nobody."""
    for width in (timedelta(), POLL):
        told, _ = state.first(OPERATION, "UTC", NOON, "now", ["live"])
        for at in (NOON, NOON + 40 * HOUR):
            number = told.checkpoint.sequence + 1
            entry = Entry(number, "live", at, at + width, at + POLL, 1, 1, 0, 0)
            passes = {"live": Progress(at + POLL, at + POLL)}
            told.apply(told.successor(entry, passes, {}, HOUR), HOUR)
        assert len(told.journal) == 1
        assert told.checkpoint.forgotten == ((Window(NOON, NOON + POLL),) if width else ())

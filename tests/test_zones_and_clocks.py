"""Wrong zones and wrong clocks, in process: what they put off is published, once, and in time."""

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publisher.errors import Reason
from publisher.model import Answer, Instant, Request, Window, iso
from publisher.schedule.timezone_change import rezoned
from publisher.settings import PublisherSettings
from publisher.signals import DatesOff, StepFailed, WindowPublished, ZoneChanged
from publisher.state.gaps import FAR
from publisher.wolkvox.server_clock import RESOLUTION, ServerClock
from publisher.wolkvox.timezone import Zone
from tests.fakes import NOON, Chat, Crash, FakeClock, FakeReport, MemoryCluster, MemoryKafka, Said
from tests.test_flow import HOUR, OPERATION, POLL, Life, checkpoint_in, known, values

DAY = timedelta(days=1)
BOGOTA, MADRID = "America/Bogota", "Europe/Madrid"


def said_at(instant: Instant, filed: Instant | None = None) -> Said:
    """One message that tells when it was said, filed then unless told otherwise."""
    fields = {"channel": "web", "from": "AGENT", "message": iso(instant), "customer_id": "1"}
    filed = filed or instant
    return Said(instant, fields, filed, filed)


def every(minutes: int, begin: Instant, end: Instant) -> Chat:
    """A conversation with a message every so many minutes."""
    chat = Chat("186067512")
    while begin < end:
        chat.said.append(said_at(begin))
        begin += timedelta(minutes=minutes)
    return chat


class World:
    """A clock, a report and a log that outlive the lives of the publisher between them."""

    def __init__(self, chat: Chat, zone: str = BOGOTA, **settings: Any) -> None:
        self.clock, self.kafka = FakeClock(), MemoryKafka()
        self.chat, self.zone = chat, zone
        self.settings = PublisherSettings(**{"rereads": "1h,6h", **settings})

    def live(self, zone: str = "", replaces: str = "") -> Life:
        report = FakeReport(
            self.clock,
            [self.chat],
            random.Random(1),
            zone=self.zone,
            kindly=True,
        )
        log = MemoryCluster(self.kafka).log(OPERATION)
        told = Zone(zone or self.zone)
        return Life(self.clock, report, log, self.settings, told, zone_replaces=replaces)

    @property
    def published(self) -> list[str]:
        return sorted(str(event["message"]) for event in values(self.kafka.events[OPERATION]))

    @property
    def promised(self) -> list[str]:
        return sorted(str(said.fields["message"]) for said in self.chat.said)


# --- a wrong zone ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "wrong"), [(BOGOTA, MADRID), (MADRID, BOGOTA)])
async def test_a_corrected_zone_publishes_what_the_wrong_one_left_out_and_nothing_twice(
    right: str, wrong: str
) -> None:
    """Both ways, over days: messages and ids are those of a zone that was right all along."""
    world = World(every(7, NOON + POLL, NOON + 4 * DAY), right, start="-6h")
    await world.live(wrong).run_for(2 * DAY)
    before = checkpoint_in(world.kafka)
    changed = world.live(right, replaces=wrong)
    await changed.run_for(POLL)
    (told,) = changed.heard(ZoneChanged)
    assert (told.before, told.after) == (wrong, right)
    (gap,) = told.gaps
    assert (gap.start, gap.end) == (before.start, before.live.cursor)
    assert checkpoint_in(world.kafka).timezone == right
    await changed.run_for(2 * DAY + HOUR)
    assert checkpoint_in(world.kafka).gaps == ()
    assert world.published == world.promised
    straight = World(world.chat, right)
    await straight.live().run_for(4 * DAY + HOUR)
    ids = {event["event_id"] for event in values(world.kafka.events[OPERATION])}
    assert ids == {event["event_id"] for event in values(straight.kafka.events[OPERATION])}


async def test_the_change_survives_a_crash_and_is_made_once() -> None:
    """What is committed holds: the next start finds the new zone and the gap."""
    world = World(every(7, NOON + POLL, NOON + 2 * DAY), MADRID)
    await world.live(BOGOTA).run_for(DAY)
    dying = world.live(MADRID, replaces=BOGOTA)

    def die(signal: Any) -> None:
        if isinstance(signal, ZoneChanged):
            raise Crash

    dying.listener = die
    with pytest.raises(Crash):
        await dying.run_for(HOUR)
    again = world.live(MADRID, replaces=BOGOTA)
    await again.run_for(DAY + 2 * HOUR)
    assert again.heard(ZoneChanged) == []
    assert world.published == world.promised


@pytest.mark.parametrize("replaces", ["", MADRID, "Asia/Kathmandu"])
async def test_only_the_zone_that_was_wrong_confirms_the_change(replaces: str) -> None:
    """A confirmation that is left over from another change does not accept this one."""
    world = World(every(7, NOON, NOON + HOUR), BOGOTA)
    await world.live(BOGOTA).run_for(HOUR)
    moved = world.live(MADRID, replaces=replaces)
    await moved.run_for(HOUR)
    assert {failure.reason for failure in moved.failures} == {Reason.ZONE_CHANGED}
    assert "WOLKVOX_TIMEZONE_REPLACES=America/Bogota" in moved.failures[0].text
    assert checkpoint_in(world.kafka).timezone == BOGOTA


async def test_what_is_read_again_begins_well_behind_forgotten_time() -> None:
    """Whatever the horizon is now: what the wrong zone has published there is remembered."""
    world = World(every(60, NOON, NOON + 4 * HOUR))
    await world.live().run_for(40 * HOUR)
    old = checkpoint_in(world.kafka)
    (gap,) = rezoned(old, MADRID).checkpoint.gaps
    assert gap == Window(old.start, old.live.cursor)
    for hours in (1, 8, 20):
        gone = Window(old.start, old.start + hours * HOUR)
        moved = rezoned(replace(old, forgotten=(gone,)), MADRID).checkpoint
        begins = min(gone.end + FAR, old.live.cursor)
        assert moved.gaps == (
            (Window(begins, old.live.cursor),) if begins < old.live.cursor else ()
        )
        assert all(progress.cursor >= begins for progress in moved.passes.values())
        assert moved.live == old.live


async def test_a_zone_that_is_wrong_is_told_in_a_day_or_two_and_a_right_one_never() -> None:
    """Too far east live finds nothing, and re-reads find messages hours old."""
    world = World(every(7, NOON + POLL, NOON + 2 * DAY), BOGOTA)
    wrong = world.live(MADRID)
    await wrong.run_for(2 * DAY)
    told = wrong.heard(DatesOff)
    assert told
    assert all(each.off_seconds <= -3600 for each in told)
    world = World(every(7, NOON + POLL, NOON + 2 * DAY), BOGOTA)
    world.chat.said += [said_at(NOON + 300 * DAY, NOON + HOUR), said_at(NOON, NOON + 9 * HOUR)]
    right = world.live()
    await right.run_for(2 * DAY + 12 * HOUR)
    assert right.heard(DatesOff) == []


# --- a wrong clock --------------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_ten_minutes_of_skew_lose_nothing(minutes: int) -> None:
    """The server's clock counts, whichever side ours is on."""
    world = World(every(3, NOON + POLL, NOON + DAY))
    world.clock.skew = timedelta(minutes=minutes)
    await world.live().run_for(DAY + HOUR)
    assert world.published == world.promised


@pytest.mark.parametrize("step", [-40 * DAY, -3 * DAY, 3 * DAY, 40 * DAY])
@pytest.mark.parametrize("restart", [False, True])
async def test_a_step_of_our_clock_by_days_forgets_nothing(step: timedelta, restart: bool) -> None:
    """Held until it is put right, then caught up: also beyond the horizon, also over a restart."""
    world = World(every(7, NOON + POLL, NOON + 2 * DAY), horizon="8d")
    life = world.live()
    await life.run_for(DAY)
    ids = len(known(world.kafka).ledger)
    cursor = checkpoint_in(world.kafka).live.cursor
    world.clock.skew = step
    life = world.live() if restart else life
    await life.run_for(6 * HOUR)
    assert {failure.reason for failure in life.failures} == {Reason.CLOCK_SKEW}
    assert len(known(world.kafka).ledger) == ids
    assert checkpoint_in(world.kafka).live.cursor - cursor < POLL
    world.clock.skew = timedelta()
    life = world.live() if restart else life
    await life.run_for(DAY)
    assert world.published == world.promised


seconds = st.integers(-600, 600).map(lambda each: timedelta(seconds=each))
ahead = st.integers(0, 10_800).map(lambda each: timedelta(seconds=each))


@given(seconds, st.lists(st.tuples(ahead, st.integers(1, 2), st.integers(3, 6)), max_size=3))
def test_two_wrong_dates_in_a_row_settle_nothing_too_early(
    skew: timedelta, wrong: list[tuple[timedelta, int, int]]
) -> None:
    """Up to three hours ahead, the refused ones included: trial 30049916 of the promise."""
    server = ServerClock()

    def answered(skew_: timedelta) -> None:
        server.observe(NOON + skew_, NOON)
        assert server.now(NOON) <= NOON + max(skew + RESOLUTION, timedelta())

    for _ in range(3):
        answered(skew)
    for off, times, right in wrong:
        for _ in range(times):
            answered(skew + off)
        for _ in range(right):
            answered(skew)
        assert server.now(NOON) >= NOON + skew


async def test_a_clock_that_is_put_right_while_the_first_request_is_on_its_way() -> None:
    """A request is sent before its answer is dated.

    Else what was just read counts as read much later, and a re-read passes over it: found by
    trial 789525927 of the promise.
    """
    world = World(every(3, NOON + POLL, NOON + DAY))
    await world.live().run_for(2 * HOUR)
    world.clock.skew = timedelta(minutes=25)
    life = world.live()
    source = life.source

    class Putting:
        """Fits `context.Source`: our clock is put right after the question."""

        token_info = source.token_info

        async def read(self, request: Request) -> Answer:
            sent, world.clock.skew = world.clock.now(), timedelta(minutes=-15)
            return replace(await source.read(request), sent_at=sent)

    life.source = Putting()
    await life.run_for(timedelta(seconds=30))
    assert life.heard(WindowPublished)
    assert max(entry.read_at for entry in known(world.kafka).journal) <= world.clock.true


async def test_rows_of_the_future_and_of_long_ago_move_no_cursor() -> None:
    """Cursors come from the windows that were answered, never from what rows say."""
    chat = every(7, NOON + POLL, NOON + DAY)
    filed = NOON + HOUR
    strange = (NOON + 300 * DAY, NOON - 15_000 * DAY, NOON + 2 * DAY, NOON - 40 * DAY)
    chat.said += [said_at(date, filed) for date in strange]
    world = World(chat)
    life = world.live()
    await life.run_for(DAY + HOUR)
    assert world.published == world.promised
    ends = iter(life.heard(WindowPublished))
    assert all(each.covered_until <= each.committed_at for each in ends)
    assert world.clock.true - checkpoint_in(world.kafka).live.cursor < HOUR
    assert life.heard(StepFailed) == []


# --- the horizon ----------------------------------------------------------------------------------


@pytest.mark.parametrize("outage", [timedelta(), 3 * DAY, 20 * DAY])
async def test_the_ledger_holds_right_up_to_the_horizon(outage: timedelta) -> None:
    """Also after an outage that is longer: the horizon counts from the cursor, not from the clock.

    At every moment whatever a pass may ask for again is remembered, and little more.
    """
    horizon = 5 * DAY
    settings = {"rereads": "1h,6h,72h", "max_window": "12h", "horizon": "5d", "poll_every": "20m"}
    world = World(every(30, NOON + POLL, NOON + 12 * DAY + outage), **settings)
    life = world.live()
    await life.run_for(7 * DAY)
    world.clock.advance(outage.total_seconds())
    life = world.live()
    seen = []

    def look(signal: Any) -> None:
        if isinstance(signal, WindowPublished) and len(life.signals) % 40 == 0:
            now = known(world.kafka)
            oldest = min(entry.start for entry in now.journal)
            assert oldest <= now.checkpoint.live.cursor - horizon + HOUR
            seen.append(now.checkpoint.live.cursor - oldest)

    life.listener = look
    await life.run_for(5 * DAY + HOUR)
    assert world.published == world.promised
    if not outage:  # after one, what was caught up late is forgotten as much later
        assert max(seen) < horizon + 5 * DAY

"""Which windows are parked, and how they are read again: the rules, then a life with them."""

import itertools
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.errors import NeedsOperator, OutcomeUnknown, PublisherError, Reason, Stage, Transient
from publisher.events.publication import Limits, prepare
from publisher.model import Answer, Instant, Progress, Request, Window
from publisher.schedule.attempts import REST, TRIES
from publisher.schedule.failing_window import FailingWindow, Next, own
from publisher.schedule.gap_repair import Repair
from publisher.schedule.passes import REPAIRING, Read, passes_of
from publisher.settings import PublisherSettings
from publisher.signals import (
    RepairFailed,
    RequestAnswered,
    StepFailed,
    WindowParked,
    WindowPublished,
)
from publisher.state.checkpoint import Entry
from publisher.state.gaps import FAR, NEAR, added, before_next, beyond, near, removed
from publisher.state.state import State, first, restore
from publisher.wolkvox.responses import Classification, Verdict
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
    error,
    ids_of,
)
from tests.test_flow import HOUR, OPERATION, OWN, POLL, Life, checkpoint_in, fails, known, values

SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
LIVE, *_ = passes_of(PublisherSettings())


def at(seconds: float) -> Instant:
    return NOON + timedelta(seconds=seconds)


def window(start: float, end: float) -> Window:
    return Window(at(start), at(end))


# --- gaps ------------------------------------------------------------------------------

STRETCHES = st.tuples(st.integers(0, 60), st.integers(1, 20))


@given(st.lists(st.tuples(st.booleans(), STRETCHES), max_size=12))
def test_gaps_are_a_set_of_seconds(changes: list[tuple[bool, tuple[int, int]]]) -> None:
    """Whatever is added and removed: sorted, not touching, and exactly what was meant."""
    gaps: tuple[Window, ...] = ()
    meant: set[int] = set()
    for adds, (start, width) in changes:
        seconds = set(range(start, start + width))
        if adds:
            gaps, meant = added(gaps, window(start, start + width)), meant | seconds
        else:
            gaps, meant = removed(gaps, at(start), at(start + width)), meant - seconds
        for one, other in itertools.pairwise(gaps):
            assert one.end < other.start
        for second in range(-1, 82):
            inside = beyond(gaps, at(second)) > at(second)
            assert inside == (second in meant)
            assert beyond(gaps, beyond(gaps, at(second))) == beyond(gaps, at(second))
            if not inside:
                reach = before_next(gaps, at(second), at(82))
                assert all(at(other) >= reach for other in meant if other > second)


# --- the suspect -----------------------------------------------------------------------


def step(start: float = 0, end: float = 300) -> Read:
    return Read(LIVE, window(start, end), ends_round=True)


def timed_out() -> Transient:
    return Transient(Stage.READ, Reason.TIMEOUT, "slow")


def test_failed_twice_another_answers_failed_again() -> None:
    """Only this makes it guilty; the window may have grown meanwhile."""
    failing_window = FailingWindow()
    assert failing_window.next(step()) is Next.ASK
    failing_window.failed(step(), timed_out())
    assert failing_window.next(step()) is Next.ASK
    failing_window.failed(step(0, 301), timed_out())
    assert failing_window.next(step(0, 303)) is Next.PROBE
    other = failing_window.probe(step(), ())
    assert other.window.end <= at(-60)
    failing_window.answered(other)
    assert failing_window.next(step()) is Next.ASK
    failing_window.failed(step(0, 305), timed_out())
    assert failing_window.next(step()) is Next.PARK
    assert failing_window.step == step(0, 305)


def test_an_answer_to_itself_acquits() -> None:
    failing_window = FailingWindow()
    for _ in range(2):
        failing_window.failed(step(), timed_out())
    failing_window.answered(failing_window.probe(step(), ()))
    failing_window.answered(step(0, 307))
    assert failing_window == FailingWindow()


def test_while_probes_fail_it_takes_turns_and_is_never_guilty() -> None:
    failing_window, turns, ends = FailingWindow(), [], set()
    for _ in range(20):
        turns.append(failing_window.next(step()))
        if turns[-1] is Next.PROBE:
            ends.add(failing_window.probe(step(), ()).window.end)
        else:
            failing_window.failed(step(), timed_out())
    assert turns == [Next.ASK, *[Next.ASK, Next.PROBE] * 9, Next.ASK]
    assert len(ends) == 9, "each asks for another minute"


@pytest.mark.parametrize("reason", [Reason.TOKEN_BUSY, Reason.UNREACHABLE, Reason.QUOTA_SPENT])
def test_what_is_not_its_own_makes_proof_stale(reason: Reason) -> None:
    """After the probe answered, something else failed: it must be proven anew."""
    failing_window = FailingWindow()
    for _ in range(2):
        failing_window.failed(step(), timed_out())
    failing_window.answered(failing_window.probe(step(), ()))
    failing_window.failed(step(), Transient(Stage.READ, reason, "ours"))
    failing_window.failed(step(), timed_out())
    assert failing_window.next(step()) is Next.PROBE


def test_another_window_begins_from_nothing() -> None:
    failing_window = FailingWindow()
    for _ in range(2):
        failing_window.failed(step(), timed_out())
    assert failing_window.next(step(300, 600)) is Next.ASK
    failing_window.failed(step(300, 600), timed_out())
    assert failing_window.next(step(300, 600)) is Next.ASK


def test_a_probe_keeps_clear_of_gaps() -> None:
    gaps = (window(-900, -300), window(-120, 0))
    failing_window = FailingWindow()
    for _ in range(9):
        failing_window.failed(step(), timed_out())
        probe = failing_window.probe(step(), gaps).window
        assert probe.width == MINUTE
        for gap in gaps:
            assert probe.end <= gap.start - MINUTE or probe.start >= gap.end + MINUTE


@pytest.mark.parametrize("reason", Reason)
def test_which_reasons_are_a_windows_own(reason: Reason) -> None:
    mine = {"timeout", "connection_lost", "server_error", "not_understood", "too_large"}
    for stage in Stage:
        told: PublisherError = Transient(stage, reason, "")
        assert own(told) == (reason in mine and stage is Stage.READ)
        assert own(NeedsOperator(stage, reason, "")) == own(told)
    assert not own(OutcomeUnknown(reason, ""))


# --- repair ----------------------------------------------------------------------------


A_DAY = DAY // (REST * POLL)


class Repaired:
    """Gaps, a report in which some seconds fail, and the requests it took."""

    def __init__(self, *gaps: Window) -> None:
        self.gaps: tuple[Window, ...] = gaps
        self.now = max(gap.end for gap in gaps) + HOUR
        self.repair = Repair(15 * MINUTE, POLL, DAY)
        self.asked: list[Instant] = []
        self.vain: list[Instant] = []

    def go_on(self, duration: timedelta, *bad: float) -> None:
        """Let time pass; windows within their padding of a bad second fail."""
        until = self.now + duration
        while self.now < until:
            match self.repair.next(self.gaps, self.now):
                case Window() as piece:
                    assert piece.end <= self.now - 15 * MINUTE
                    self.asked.append(self.now)
                    padding = min(5 * SECOND, max(piece.width, SECOND)) + SECOND
                    broken = any(
                        piece.start - padding <= at(one) <= piece.end + padding for one in bad
                    )
                    if broken:
                        self.repair.failed(piece, self.now, halve=True)
                        self.vain.append(self.now)
                    else:
                        self.gaps = removed(self.gaps, piece.start, piece.end)
                        self.repair.answered(piece, self.now)
                    self.now += SECOND
                case None:
                    assert not self.gaps
                    return
                case wake:
                    assert wake > self.now
                    self.now = min(wake, until)

    @property
    def most_in_vain_in_a_day(self) -> int:
        return max(sum(at <= other < at + DAY for other in self.vain) for at in self.vain)


def test_what_can_be_read_at_once_takes_one_request() -> None:
    one = Repaired(window(0, 1200))
    one.go_on(MINUTE)
    assert len(one.asked) == 1
    assert not one.gaps


@settings(max_examples=25, deadline=None)
@given(st.integers(300, 86_400), st.integers(0, 2**32))
def test_a_gap_shrinks_to_seconds_around_one_that_fails(width: int, seed: int) -> None:
    """Within a day or two; it stays for ever, at 48 tries a day; then it closes within an hour."""
    bad = Random(seed).randrange(width)
    one = Repaired(window(0, width))
    one.go_on(2 * DAY, bad)
    left = sum((gap.width for gap in one.gaps), timedelta())
    assert timedelta() < left <= 15 * SECOND
    assert one.gaps[0].start <= at(bad) < one.gaps[-1].end + 5 * SECOND
    one.go_on(10 * DAY, bad)
    assert one.most_in_vain_in_a_day <= A_DAY + TRIES
    assert sum(at > one.now - DAY for at in one.vain) <= A_DAY + 1
    assert len(one.asked) - len(one.vain) <= 40, "what was read is not asked for again"
    one.go_on(REST * POLL + MINUTE)
    assert not one.gaps


def test_a_dead_stretch_does_not_keep_the_rest_from_being_read() -> None:
    """Ten minutes that fail whole, at the beginning, and a second gap behind."""
    one = Repaired(window(0, 3600), window(7200, 7500))
    one.go_on(4 * DAY, *range(0, 600, 5))
    assert sum((gap.width for gap in one.gaps), timedelta()) <= 15 * MINUTE, one.gaps
    assert one.gaps[-1].end < at(3600)
    assert one.most_in_vain_in_a_day <= A_DAY + TRIES
    one.go_on(2 * REST * POLL)
    assert not one.gaps


@pytest.mark.parametrize("polls", [1, 30, 90, 288, 2000])
def test_two_tries_are_never_further_apart_than_an_hour(polls: int) -> None:
    """However long it has failed: the next try is near, and what has recovered is read at once."""
    one = Repaired(window(0, 3600))
    one.go_on(polls * POLL, *range(0, 3600, 5))
    assert one.gaps == (window(0, 3600),)
    gaps = [later - earlier for earlier, later in itertools.pairwise(one.vain)]
    assert max(gaps, default=POLL) <= 12 * POLL
    one.go_on(12 * POLL + MINUTE)
    assert not one.gaps


def test_an_api_that_answers_again_brings_the_next_try_forward() -> None:
    """By the try that is kept for that; a report that flaps gets no more of them a day."""
    one = Repaired(window(0, 3600))
    dead = range(0, 3600, 5)
    one.go_on(DAY, *dead)
    before = len(one.vain)
    one.repair.hurry()
    one.go_on(MINUTE, *dead)
    assert len(one.vain) == before + 1
    for _ in range(288):
        one.repair.hurry()
        one.go_on(POLL, *dead)
    assert len(one.vain) - before <= A_DAY + 2


def test_a_clock_that_goes_back_does_not_keep_repair_waiting() -> None:
    repair = Repair(15 * MINUTE, POLL, DAY)
    gaps = (window(0, 300),)
    repair.failed(gaps[0], at(2 * DAY.total_seconds()), halve=True)
    assert isinstance(repair.next(gaps, at(7200)), Window)


def test_failures_that_say_nothing_about_a_piece_halve_nothing() -> None:
    repair = Repair(15 * MINUTE, POLL, DAY)
    gaps = (window(0, 300),)
    now = at(7200)
    for _ in range(3):
        assert repair.next(gaps, now) == gaps[0]
        repair.failed(gaps[0], now, halve=False)
        assert repair.next(gaps, now) == now + POLL
        now += POLL


# --- what is remembered near a gap -----------------------------------------------------


def test_of_a_piece_that_was_cut_where_the_clocks_go_back_the_rest_is_asked() -> None:
    """One request asks for one side of the jump only; the other side is not forgotten."""
    repair = Repair(15 * MINUTE, POLL, DAY)
    now = NOON + HOUR
    gaps = [Window(NOON, NOON + MINUTE)]
    piece = repair.next(gaps, now)
    assert piece == gaps[0]
    jump = NOON + 20 * SECOND
    repair.answered(Window(NOON, jump), now)
    assert repair.next([Window(jump, NOON + MINUTE)], now) == Window(jump, NOON + MINUTE)


def test_near_a_gap_nothing_is_forgotten_and_elsewhere_as_before() -> None:
    """A year with a second that fails: its hours stay, the others go; in topic and memory."""
    horizon = 2 * DAY
    state, record = first(OPERATION, "America/Bogota", NOON, "now", ["live"])
    topic = {record.key: record.value or b""}
    gap = Window(NOON + 10 * HOUR, NOON + 10 * HOUR + 10 * SECOND)

    def commit(number: int, gaps: tuple[Window, ...]) -> None:
        start = NOON + (number - 1) * HOUR
        end = start + HOUR
        entry = Entry(number, "live", start, end, end, 1, 1, 0, 0)
        ids = ids_of({f"{start:%Y-%m-%d %H}": [number]})
        done = state.successor(entry, {"live": Progress(end, end)}, ids, horizon, gaps)
        for key, value in done.records:
            if value is None:
                del topic[key]
            else:
                topic[key] = value
        state.apply(done, horizon)

    def remembered(of: State) -> set[int]:
        hours = {n: f"{NOON + (n - 1) * HOUR:%Y-%m-%d %H}" for n in range(1, 1001)}
        return {n for n, hour in hours.items() if of.ledger.knows(hour, n)}

    for number in range(1, 1001):
        commit(number, (gap,) if number > 11 else ())
    young = set(range(952, 1001))
    around = set(range(1, 11 + FAR // HOUR))
    assert remembered(state) >= young | around
    assert len(remembered(state)) <= len(young | around) + 4
    again = restore(OPERATION, dict(topic))
    assert again is not None
    assert again.checkpoint == state.checkpoint
    assert list(again.journal) == list(state.journal)
    assert remembered(again) == remembered(state)
    commit(1001, ())
    commit(1002, ())
    assert not remembered(state) & around
    assert near((gap,), gap.end + NEAR - SECOND, gap.end + DAY)
    assert not near((gap,), gap.end + NEAR, gap.end + DAY)


# --- a life ----------------------------------------------------------------------------


class World:
    """A message every 20 seconds, and seconds that fail."""

    def __init__(self, how: str, hours: int) -> None:
        self.how = how
        self.bad: set[str] = set()
        self.down = False
        self.asked = 0
        self.clock = FakeClock()
        self.chat = Chat("186067512")
        for number in range(hours * 180):
            said = NOON + timedelta(seconds=20 * number)
            fields = {"channel": "web", "from": "AGENT", "message": str(number), "customer_id": "1"}
            self.chat.said.append(Said(said, fields, said, said))
        self.report = FakeReport(
            self.clock, [self.chat], Random(1), kindly=True, trouble=self._trouble
        )
        self.kafka = MemoryKafka()
        self.settings = PublisherSettings.model_validate({"rereads": "1h"})
        self.lag = timedelta()
        self.life = self.start()

    def start(self) -> Life:
        log = MemoryCluster(self.kafka).log(OPERATION)
        self.life = Life(self.clock, self.report, log, self.settings)
        self.life.listener = self._look
        return self.life

    def fails_at(self, moment: Instant) -> None:
        self.bad.add(f"{self.report.local(moment):%Y%m%d%H%M%S}")

    def _trouble(self, request: Request) -> Answer | None:
        self.asked += 1
        if self.down or any(request.date_ini <= bad <= request.date_end for bad in self.bad):
            return fails(self.clock, self.how)
        return None

    def _look(self, signal: object) -> None:
        if isinstance(signal, WindowPublished | WindowParked | StepFailed | RequestAnswered):
            covered = checkpoint_in(self.kafka).live.covered_until
            self.lag = max(self.lag, self.clock.true - covered)

    @property
    def gaps(self) -> tuple[Window, ...]:
        return checkpoint_in(self.kafka).gaps

    @property
    def published(self) -> list[int]:
        return [int(event["message"]) for event in values(self.kafka.events[OPERATION])]


@pytest.mark.parametrize("how", OWN)
async def test_a_second_that_always_fails(how: str) -> None:
    """Live goes on in time, the gap shrinks to seconds, and closes when the report recovers."""
    world = World(how, 30)
    bad = NOON + HOUR + 7 * SECOND
    world.fails_at(bad)
    await world.life.run_for(30 * HOUR)
    assert world.life.heard(WindowParked)
    assert world.lag <= 2 * POLL + (2 * MINUTE if how == "timeout" else timedelta())
    assert sum((gap.width for gap in world.gaps), timedelta()) <= 15 * SECOND
    assert world.gaps[0].start - 2 * SECOND <= bad <= world.gaps[-1].end + 2 * SECOND
    missing = set(range(5000)) - set(world.published)
    assert missing <= {180, 181}
    assert len(world.published) == len(set(world.published))
    assert world.asked <= 1.25 * (288 + 48 + 10) * 30 / 24 + A_DAY * 2 + TRIES
    world.bad.clear()
    await world.start().run_for(HOUR)
    assert world.gaps == ()
    assert set(range(5000)) <= set(world.published)
    assert len(world.published) == len(set(world.published))


@pytest.mark.parametrize("how", OWN)
async def test_an_api_that_is_down_as_a_whole_parks_nothing(how: str) -> None:
    """For ten hours, whatever it says; then live goes on where it was, also after a restart."""
    world = World(how, 24)
    await world.life.run_for(2 * HOUR)
    world.down = True
    before = world.asked
    for hours in (7, 3):
        await world.start().run_for(hours * HOUR)
        assert world.life.heard(WindowParked) == []
    assert world.asked - before <= 10 * 60 / 7 + 20, "an outage costs no more than before"
    world.down = False
    await world.life.run_for(12 * HOUR)
    assert world.life.heard(WindowParked) == []
    assert world.life.heard(RepairFailed) == []
    assert set(range(4000)) <= set(world.published)
    assert len(world.published) == len(set(world.published))


@pytest.mark.parametrize(
    ("status", "msg"),
    [(403, "PLEASE VALIDATE TOKEN"), (403, "TOKEN LIMIT EXCEEDED"), (403, "MAINTENANCE"),
     (403, "SIMULTANEOUS REQUESTS"), (429, ""), (404, "Not Found"), (400, "")],
)  # fmt: skip
async def test_what_is_about_us_never_parks(status: int, msg: str) -> None:
    """Even if it were said of one second only."""
    world = World("", 3)
    bad = NOON + HOUR
    world.fails_at(bad)
    world.report._trouble = lambda request: (
        error(world.clock, status, msg) if request.date_end >= next(iter(world.bad)) else None
    )
    await world.life.run_for(3 * HOUR)
    assert world.life.heard(StepFailed)
    assert world.life.heard(WindowParked) == []
    assert checkpoint_in(world.kafka).live.covered_until < bad + POLL


async def test_a_row_that_repair_publishes_long_after_does_not_come_twice() -> None:
    """Days behind live, far beyond the horizon: what lay around the gap is still known."""
    world = World("server_error", 3)
    world.settings = world.settings.model_copy(update={"horizon": DAY / 2})
    world.start()
    world.fails_at(NOON + HOUR + 7 * SECOND)
    await world.life.run_for(3 * DAY)
    assert world.gaps
    journal = known(world.kafka).journal
    world.bad.clear()
    await world.life.run_for(DAY)
    assert world.gaps == ()
    assert sorted(world.published) == list(range(540))
    assert journal[0].end < NOON + 5 * HOUR
    spared, young = NOON + HOUR + FAR, NOON + 3 * DAY - DAY / 2 - NEAR
    assert all(one.start < spared + HOUR or one.end > young - HOUR for one in journal)


async def test_a_gap_closes_when_the_report_recovers() -> None:
    """After 90 polls in which one second failed; once by itself, once because of a restart."""
    for restarted in (False, True):
        world = World("server_error", 12)
        world.fails_at(NOON + HOUR + 7 * SECOND)
        await world.life.run_for(90 * POLL)
        assert world.gaps
        world.bad.clear()
        recovered = world.clock.true
        if restarted:
            world.start()
        await world.life.run_for(13 * POLL)
        assert world.gaps == ()
        read = [told for told in world.life.heard(WindowPublished) if told.pass_label == "repair"]
        assert read[-1].committed_at - recovered <= (2 if restarted else 12) * POLL + MINUTE
        assert len(world.published) == len(set(world.published))


async def test_a_gap_shrinks_only_by_what_was_read() -> None:
    """Of a piece that reaches beyond the answer's own date the rest stays a gap."""
    world = World("server_error", 3)
    world.settings = world.settings.model_copy(update={"overlap": timedelta(), "rereads": ()})
    world.start()
    await world.life.run_for(HOUR)
    told, until = known(world.kafka), world.clock.true
    gap = Window(until - HOUR / 2, until)
    told.checkpoint = replace(told.checkpoint, gaps=(gap,))
    piece = Read(REPAIRING, gap, ends_round=True)
    answered = answer(world.clock, b"{}")
    middle = gap.start + HOUR / 4
    done = prepare(
        told, piece, answered, Classification(Verdict.EMPTY), Zone("America/Bogota"),
        Limits.of(world.settings), now=until, covered_until=middle, possibly_cut=False,
    )  # fmt: skip
    assert done.successor.checkpoint.gaps == (Window(middle, gap.end),)


async def test_what_no_strict_decoder_takes_is_read_by_repair() -> None:
    """A window whose bytes are damaged leaves the gap at the first piece, marked as lenient."""
    world = World("", 3)
    bad = NOON + HOUR

    def damaged(request: Request) -> Answer | None:
        if world.down or request.date_end < f"{world.report.local(bad):%Y%m%d%H%M%S}":
            return None
        return answer(world.clock, b'\xef\xbb\xbf{"code":200,"error":null,"msg":"","data":[]}')

    world.report._trouble = damaged
    await world.life.run_for(2 * HOUR)
    assert world.life.heard(WindowParked) == []
    assert any(told.lenient for told in world.life.heard(WindowPublished))


def test_a_parked_window_without_time_is_none() -> None:
    """The journal entry of a parked window covers nothing, so no re-read passes over it."""
    state, _ = first(OPERATION, "America/Bogota", NOON, "now", ["live"])
    empty = Entry(1, "live", NOON, NOON, NOON + DAY, 0, 0, 0, 0)
    state.journal.append(empty)
    assert state.read_until(NOON, HOUR) == NOON
    state.checkpoint = replace(state.checkpoint, gaps=(Window(NOON, NOON + HOUR),))
    assert state.read_until(NOON, HOUR) == NOON + HOUR

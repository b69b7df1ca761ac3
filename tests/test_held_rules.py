"""Rules that trials alone do not hold: each of these tests fails on one changed line."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from publisher.commit import commit_state
from publisher.context import LoopState, OperationContext
from publisher.errors import Reason, Stage, Transient
from publisher.events import kafka_record
from publisher.events.encode import Encoder, Provenance
from publisher.events.identity import unsigned
from publisher.events.publication import Limits, prepare
from publisher.events.rows import read_rows
from publisher.model import SECOND, Answer, Backfill, Batch, Progress, Restored, Standing, Window
from publisher.pipeline import publish
from publisher.quarantine import park
from publisher.schedule import backfill_pass
from publisher.schedule.backfill_pass import BACKFILLING
from publisher.schedule.failing_window import FailingWindow, parked
from publisher.schedule.passes import (
    REPAIRING,
    Pace,
    Pass,
    Read,
    Step,
    Wait,
    next_step,
    passes_of,
    with_passes,
)
from publisher.schedule.quota import Quota
from publisher.settings import PublisherSettings
from publisher.state import state
from publisher.state.checkpoint import Entry
from publisher.state.gaps import added
from publisher.state.ledger import Ledger
from publisher.state.state import State
from publisher.wolkvox import responses
from publisher.wolkvox.request import PADDING
from publisher.wolkvox.responses import Verdict
from publisher.wolkvox.server_clock import ServerClock
from publisher.wolkvox.timezone import Zone
from tests.fakes import (
    NOON,
    FakeClock,
    MemoryCluster,
    MemoryKafka,
    Reply,
    ScriptedSource,
    conversation,
    error,
    found,
    nothing,
    row,
)
from tests.test_flow import OPERATION, Life

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
BOGOTA = Zone("America/Bogota")
SETTINGS = PublisherSettings()
LIVE_PASS = passes_of(SETTINGS)[0]
SHOWN = [conversation("186067512", row("2026-11-20 06:59:00"))]


def begun(start: datetime = NOON - HOUR) -> State:
    """An operation that has read nothing yet."""
    known, _ = state.first(OPERATION, "America/Bogota", start, "-1h", ["live"])
    return known


# --- what a re-read has covered ------------------------------------------------------------------


async def test_a_reread_covers_only_what_is_as_old_as_its_age() -> None:
    """Answers dated before the request count from their date, also for a pass behind now.

    The server's clock falls back by 5 s with every re-read, before it dates its answer.
    """
    clock = FakeClock()
    dates: list[datetime] = []
    behind = timedelta()

    def falling_back(_: FakeClock) -> Answer:
        nonlocal behind
        half_an_hour_ago = BOGOTA.bounds(Window(NOON, clock.true - HOUR / 2), SECOND, NOON + DAY)[1]
        if source.requests[-1].date_end < half_an_hour_ago:
            behind += timedelta(seconds=5)
        dates.append(clock.true - behind)
        return replace(nothing(clock), headers={"date": format_datetime(dates[-1], usegmt=True)})

    kafka = MemoryKafka()
    settings = PublisherSettings(rereads=(HOUR,), start="-6h")
    source = ScriptedSource(clock, *[nothing] * 40, then=falling_back)
    life = Life(clock, source, MemoryCluster(kafka).log(OPERATION), settings)
    await life.run_for(12 * HOUR)
    restored = state.restore(OPERATION, dict(kafka.state))
    assert restored is not None
    rereads = [entry for entry in restored.journal if entry.pass_name == "reread-1h"]
    assert len(rereads) > 10
    assert all(entry.end <= entry.read_at - HOUR for entry in rereads)
    # One answer each, the last ones dated early; nothing was read later than its answer is dated.
    dated = list(restored.journal)[-len(dates) :]
    assert all(entry.read_at <= date for entry, date in zip(dated, dates, strict=True))


# --- memory follows the log ----------------------------------------------------------------------


class Refusing:
    """Fits `context.Log`: nothing is committed, and nothing of ours was sent."""

    async def restore(self) -> Restored:
        raise AssertionError

    async def commit(self, _: Batch) -> None:
        raise Transient(Stage.COMMIT, Reason.KAFKA_TIMEOUT, "not now")


def job_without_kafka(*script: Reply) -> OperationContext:
    clock = FakeClock()
    source = ScriptedSource(clock, *script)
    return OperationContext(
        OPERATION, BOGOTA, SETTINGS, source, Refusing(), clock, lambda _: None, lambda _: None
    )


def remembered(known: State) -> object:
    return known.checkpoint, list(known.journal), len(known.ledger), known.again


async def test_a_window_that_was_not_committed_is_not_remembered() -> None:
    context = job_without_kafka(lambda clock: found(clock, SHOWN))
    known, loop_state = begun(), LoopState.starting(SETTINGS)
    before = remembered(known)
    step = Read(LIVE_PASS, Window(NOON - HOUR, NOON), ends_round=True)
    with pytest.raises(Transient):
        await publish(context, loop_state, known, step)
    assert remembered(known) == before
    assert not loop_state.pace.positions


async def test_orders_that_were_not_committed_are_not_remembered() -> None:
    context, known = job_without_kafka(), begun()
    before = remembered(known)
    begin = NOON - 9 * HOUR
    order = Backfill("1", begin, NOON - HOUR, True, begin, Standing.RUNNING, since=1)
    with pytest.raises(Transient):
        await commit_state(context, known, known.with_backfills((order,)))
    assert remembered(known) == before


async def test_a_parked_window_that_was_not_committed_is_not_remembered() -> None:
    context, known, loop_state = job_without_kafka(), begun(), LoopState.starting(SETTINGS)
    loop_state.failing_window.step = Read(LIVE_PASS, Window(NOON - HOUR, NOON), ends_round=True)
    before = remembered(known)
    with pytest.raises(Transient):
        await park(context, loop_state, known)
    assert remembered(known) == before


# --- gaps ----------------------------------------------------------------------------------------


def test_a_gap_loses_only_what_the_answer_covers() -> None:
    """The rest of a repaired window, which the server has not lived through, stays a gap."""
    known = begun()
    gap = Window(NOON - HOUR, NOON)
    known.checkpoint = replace(known.checkpoint, gaps=added((), gap))
    middle = NOON - HOUR / 2
    clock = FakeClock()
    told = found(clock, SHOWN)
    publication = prepare(
        known, Read(REPAIRING, gap, ends_round=True), told, responses.classify(told), BOGOTA,
        Limits.of(SETTINGS), now=middle, covered_until=middle, possibly_cut=False,
    )  # fmt: skip
    assert publication.successor.checkpoint.gaps == (Window(middle, NOON),)


# --- the journal ---------------------------------------------------------------------------------


def test_the_journal_counts_what_is_new_and_when_it_was_asked() -> None:
    """The second answer repeats the row of the first; it was asked for a minute before it came."""
    known, clock, asked_at = begun(), FakeClock(), NOON - timedelta(minutes=1)
    step = Read(LIVE_PASS, Window(NOON - HOUR, asked_at), ends_round=True)
    more = conversation("186067513", row("2026-11-20 06:59:30"))
    for data, new, duplicate in ((SHOWN, 1, 0), ([*SHOWN, more], 1, 1)):
        told = found(clock, data)
        publication = prepare(
            known, step, told, responses.classify(told), BOGOTA, Limits.of(SETTINGS),
            now=asked_at, covered_until=asked_at, possibly_cut=False,
        )  # fmt: skip
        known.apply(publication.successor, SETTINGS.horizon)
        entry = known.journal[-1]
        assert (entry.new, entry.duplicate, entry.read_at) == (new, duplicate, asked_at)


def noting(
    stretches: list[tuple[datetime, datetime]],
) -> Callable[[datetime, datetime], bool]:
    """Spares whatever it is asked about, and notes it."""

    def spared(start: datetime, end: datetime) -> bool:
        stretches.append((start, end))
        return True

    return spared


def test_a_bucket_of_the_ledger_is_spared_from_its_earliest_window_on() -> None:
    ledger, stretches = Ledger(), list[tuple[datetime, datetime]]()
    for number, hours in ((1, 0), (2, 5)):
        start = NOON + hours * HOUR
        ledger.add({"2026-11-20 07": array("Q", [number])}, start, start + HOUR)
    ledger.forget(NOON + DAY, noting(stretches))
    assert stretches == [(NOON, NOON + 6 * HOUR)]
    assert ledger.published_ids("2026-11-20 07", {1, 2, 3}) == {1, 2}


def test_a_checkpoint_counts_all_parts_of_its_journal() -> None:
    """What is written, less what is tombstoned: a restore that finds fewer is refused."""
    known, journal = begun(), set[bytes]()
    for number in range(1, 5):
        start = NOON + number * DAY
        entry = Entry(number, "live", start, start + HOUR, start + HOUR, 0, 0, 0, 0)
        many = array("Q", range(number * 100_000, number * 100_000 + 70_000))
        progress = {"live": Progress(start + HOUR, start + HOUR)}
        done = known.successor(entry, progress, {f"{start:%Y-%m-%d %H}": many}, DAY)
        for key, value in done.records:
            if key.startswith(b"journal/"):
                (journal.discard if value is None else journal.add)(key)
        known.apply(done, DAY)
        assert known.checkpoint.journal_records == len(journal)
    assert known.journal[0].sequence > 1, "nothing was tombstoned"
    assert known.journal[0].parts > 1


def test_a_restored_bucket_reaches_from_its_earliest_window_to_its_latest() -> None:
    known, _ = state.first(OPERATION, "America/Bogota", NOON, "now", ["live"])
    topic: dict[bytes, bytes] = {}
    for number, hours in ((1, 3), (2, 0), (3, 6), (4, 2)):
        start = NOON + hours * HOUR
        entry = Entry(number, "live", start, start + HOUR, NOON + 9 * HOUR, 0, 0, 0, 0)
        ids = {"2026-11-20 07": array("Q", [number])}
        done = known.successor(entry, known.checkpoint.passes, ids, DAY)
        topic |= {key: value for key, value in done.records if value is not None}
        known.apply(done, DAY)
    restored = state.restore(OPERATION, topic)
    assert restored is not None
    stretches: list[tuple[datetime, datetime]] = []
    for ledger in (known.ledger, restored.ledger):
        ledger.forget(NOON + DAY, noting(stretches))
    assert stretches == [(NOON, NOON + 7 * HOUR)] * 2


@pytest.mark.parametrize(
    ("seconds", "earlier"), [(-90, True), (-1, False), (0, False), (90, False)]
)
def test_a_start_moves_only_where_our_clock_is_ahead(seconds: int, *, earlier: bool) -> None:
    skew = timedelta(seconds=seconds)
    moved = state.earlier_start(begun().checkpoint, skew)
    assert moved == (NOON - HOUR + skew if earlier else None)


# --- parked windows and the quota ----------------------------------------------------------------


def test_another_window_that_fails_is_not_guilty_of_what_was_proven_of_the_first() -> None:
    failing_window, failure = FailingWindow(), Transient(Stage.READ, Reason.TIMEOUT, "slow")
    first, second = (
        Read(LIVE_PASS, Window(start, start + HOUR), ends_round=True)
        for start in (NOON - 3 * HOUR, NOON - 2 * HOUR)
    )
    elsewhere = replace(second, window=Window(NOON - 9 * HOUR, NOON - 8 * HOUR))
    failing_window.failed(first, failure)
    failing_window.answered(elsewhere)
    assert (failing_window.attempts, failing_window.others_answer) == (1, False), "once is nothing"
    failing_window.failed(first, failure)
    failing_window.answered(elsewhere)
    assert failing_window.others_answer
    failing_window.failed(second, failure)
    assert not failing_window.proven
    assert failing_window.attempts == 1


def test_a_parked_window_is_a_gap() -> None:
    window = Window(NOON - HOUR, NOON - HOUR / 2)
    step = Read(LIVE_PASS, window, ends_round=False)
    assert parked(begun(), step, NOON, SETTINGS.horizon).checkpoint.gaps == (window,)


def test_what_the_server_says_is_used_counts_our_own_requests() -> None:
    """And of a small quota live leaves half to the others."""
    quota = Quota(timedelta(minutes=5))
    quota.counted(spent=False)
    quota.asked(NOON, (49, 100))
    assert quota.used_now == 49
    assert not quota.holds_back(NOON)
    quota.asked(NOON, (51, 100))
    assert quota.holds_back(NOON)


# --- events and clocks ---------------------------------------------------------------------------


def test_encoding_leaves_a_row_as_it_was_and_names_what_has_no_event() -> None:
    """Revisions and dead letters look at the same rows afterwards."""
    shown = [conversation("186067512", row("2026-11-20 06:59:00", unknown_field="new"))]
    rows = read_rows(shown, OPERATION, BOGOTA).rows
    whose = Provenance(OPERATION, "live", NOON)
    first, second = ([*Encoder(whose, max_event_bytes=1_000).encode(rows)] for _ in range(2))
    assert first == second
    assert b"unknown_field" in first[0][1]
    encoder = Encoder(whose, max_event_bytes=10)
    assert [*encoder.encode(rows)] == []
    assert encoder.unpublished == {rows[0][1]}


def test_nothing_is_learned_of_a_server_hours_ahead() -> None:
    clock, far = ServerClock(), 2 * HOUR
    for _ in range(3):
        assert clock.observe(NOON + far, NOON) == far
    assert clock.now(NOON) == NOON


def test_of_skews_that_differ_by_the_headers_resolution_the_largest_counts() -> None:
    """A date is rounded down and comes late: the server's time does not jump back and forth."""
    clock = ServerClock()
    for _ in range(3):
        clock.observe(NOON + timedelta(seconds=10), NOON)
    for _ in range(3):
        assert clock.observe(NOON + timedelta(seconds=9), NOON) == timedelta(seconds=10)
    assert clock.now(NOON) == NOON + timedelta(seconds=10)


def test_a_backfill_never_goes_back_nor_beyond_its_end() -> None:
    begin, end = NOON - 9 * HOUR, NOON - HOUR
    ordered = Backfill("1", begin, end, False, begin + 2 * HOUR, Standing.RUNNING, since=1)
    step = Read(BACKFILLING, Window(begin, begin + HOUR), ends_round=True)
    for covered, cursor in ((begin + HOUR, begin + 2 * HOUR), (NOON, end)):
        [moved] = backfill_pass.advanced((ordered,), step, covered, 0, 0)
        assert moved.cursor == cursor


@pytest.mark.parametrize("value", [b"", b"x", b"x" * 300, None])
def test_a_value_is_read_back_behind_a_key_of_any_length(value: bytes | None) -> None:
    for key in (None, b"", b"k", b"k" * 5000):
        assert kafka_record.value_of(
            kafka_record.record(0, key, value, kafka_record.headers([]))
        ) == (value or b"")


# --- when it is asked ----------------------------------------------------------------------------


def next_of(known: State, pace: Pace, passes: Sequence[Pass], *, quota_low: bool = False) -> Step:
    progress = with_passes(known.checkpoint.passes, passes, known.checkpoint.start)
    return next_step(passes, progress, pace, NOON, known.read_until, quota_low=quota_low)


def test_live_asks_at_once_after_a_restore() -> None:
    """Also a moment after the last answer: what was committed may be less than what was read."""
    known, pace, passes = begun(NOON), Pace.starting(SETTINGS), passes_of(SETTINGS)[:1]
    pace.last_read = NOON - timedelta(seconds=1)
    assert isinstance(next_of(known, pace, passes), Wait)
    pace.begin(NOON - timedelta(minutes=15))
    assert isinstance(next_of(known, pace, passes), Read)


def test_re_reads_ask_seldom_while_the_quota_is_nearly_spent() -> None:
    passes = passes_of(SETTINGS)
    known, pace = begun(NOON - 9 * HOUR), Pace.starting(SETTINGS)
    live = Progress(NOON, NOON)
    known.checkpoint = replace(known.checkpoint, passes={"live": live})
    pace.last_read = NOON
    step = next_of(known, pace, passes)
    assert isinstance(step, Read)
    assert step.pass_.label == "reread"
    assert isinstance(next_of(known, pace, passes, quota_low=True), Wait)


def test_ages_within_the_overlap_are_not_read_again() -> None:
    settings = PublisherSettings(overlap=HOUR, rereads=(HOUR / 2, HOUR, 6 * HOUR))
    assert [pass_.name for pass_ in passes_of(settings)] == ["live", "reread-6h"]


@pytest.mark.parametrize("status", [300, 301, 399])
def test_every_status_of_a_redirect_is_held(status: int) -> None:
    classification = responses.classify(error(FakeClock(), status, "elsewhere"))
    assert (classification.verdict, classification.reason) == (Verdict.HOLD, Reason.REDIRECTED)


def test_what_is_made_anew_with_a_signature_is_left_out_with_it() -> None:
    assert unsigned("https://a/b?id=1&expires=5&Signature=c") == "https://a/b?id=1"
    assert unsigned("https://a/b?id=1&expires=5") == "https://a/b?id=1&expires=5", "not signed"


# --- what is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        # New York, 1 November 2026: at 06:00 UTC 02:00 becomes 01:00.
        ("05:10", "05:40", ("20261101005955", "20261101020005")),
        ("06:10", "06:40", ("20261101005955", "20261101020005")),
        ("05:40", "06:20", ("20261101005955", "20261101020005")),
        ("04:00", "05:20", ("20261031235955", "20261101020005")),
        ("06:30", "08:00", ("20261101005955", "20261101030005")),
        ("07:10", "07:40", ("20261101020955", "20261101024005")),
    ],
)
def test_bounds_widened_by_the_repeated_hour_are_padded(
    start: str, end: str, expected: tuple[str, str]
) -> None:
    """All of the repeated hour, and five seconds more on both sides, as everywhere."""
    window = Window(
        *(
            datetime.fromisoformat(f"2026-11-01T{text}:00").replace(tzinfo=UTC)
            for text in (start, end)
        )
    )
    zone = Zone("America/New_York")
    assert zone.bounds(window, PADDING, window.end + DAY) == expected

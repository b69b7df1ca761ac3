"""`verify --repair` publishes exactly what is missing; what `verify` may say. Rules only."""

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from publisher.commands.republish import prepare
from publisher.commands.verify.comparison import Comparison
from publisher.commands.verify.publish_missing import repair
from publisher.commands.verify.verdict import Verdict
from publisher.events.encode import event_ids
from publisher.events.kafka_record import value_of
from publisher.events.publication import Limits
from publisher.events.rows import read_rows
from publisher.model import Window
from publisher.settings import load
from publisher.wolkvox.responses import classify
from tests.fakes import seen
from tests.test_replay import DAY, LIMITS, OPERATION, ROW, START, WINDOW, ZONE, begun, body_of, chat
from tests.test_signals import NOON
from tests.test_upstream import answer

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
ROWS = [{**ROW, "message": text} for text in ("one", "two", "three", "three")]


def republished(known: Any, missing: set[bytes], limits: Limits = LIMITS, rows: Any = ROWS) -> Any:
    told = answer(200, body_of(chat(*rows)))
    return prepare(known, missing, WINDOW, told, classify(told), ZONE, limits, START)


def ids(rows: Any = ROWS) -> list[bytes]:
    data = classify(answer(200, body_of(chat(*rows)))).data
    found = read_rows(data, OPERATION, ZONE).rows
    return [*event_ids(found)]


@pytest.mark.parametrize("place", range(4))
def test_exactly_what_is_missing_comes_out(place: int) -> None:
    """Although nothing of the window is remembered; twins keep their numbers."""
    known = begun()
    id_ = ids()[place]
    found = republished(known, {id_, b"shown by another window"})
    events = [orjson.loads(value_of(event)) for event in found.batch.events]
    assert [event["event_id"].encode() for event in events] == [id_]
    assert found.event_ids == {id_}
    assert republished(known, {b"shown by another window"}) is None
    known.apply(found.successor, LIMITS.horizon)
    assert len(known.ledger) == 1


def test_a_row_listed_twice_comes_out_once() -> None:
    told = answer(200, body_of(chat(ROW), chat(ROW)))
    [id_] = ids([ROW])
    found = prepare(begun(), {id_}, WINDOW, told, classify(told), ZONE, LIMITS, START)
    assert found is not None
    assert len([*found.batch.events]) == 1


A: dict[str, Any] = {"customer_id": "1", "customer_phone": "573001112233"}
LESS: list[dict[str, Any]] = [{}, {"customer_id": "1"}, {"customer_phone": "573001112233"}]


@pytest.mark.parametrize("less", LESS)
def test_under_a_placeholder_one_customer_does_not_hide_another(less: dict[str, Any]) -> None:
    """Both were published from one answer, one of them with more told than the other."""
    told = answer(200, body_of(*(chat({**ROW, **who}, conn_id="0") for who in (less, A))))
    rows = read_rows(classify(told).data, OPERATION, ZONE).rows
    known = begun()
    both = prepare(known, {*event_ids(rows)}, WINDOW, told, classify(told), ZONE, LIMITS, START)
    assert both is not None
    assert len(both.event_ids) == 2
    known.apply(both.successor, LIMITS.horizon)
    for id_ in both.event_ids:
        found = prepare(known, {id_}, WINDOW, told, classify(told), ZONE, LIMITS, START)
        assert found is not None
        assert found.event_ids == {id_}


@pytest.mark.parametrize("less", LESS)
def test_what_came_out_with_more_or_less_told_is_not_missing(less: dict[str, Any]) -> None:
    """Its event has another id; a second one would be a double."""
    for first, second in ((less, A), (A, less)):
        known = begun()
        before, after = (
            answer(200, body_of(chat({**ROW, **who}, conn_id="0"))) for who in (first, second)
        )
        [old], [new] = (
            event_ids(read_rows(classify(told).data, OPERATION, ZONE).rows)
            for told in (before, after)
        )
        found = prepare(known, {old}, WINDOW, before, classify(before), ZONE, LIMITS, START)
        assert found is not None
        known.apply(found.successor, LIMITS.horizon)
        again = prepare(known, {new}, WINDOW, after, classify(after), ZONE, LIMITS, START)
        assert again is None


def test_who_must_read_that_time_still_does() -> None:
    """A gap stays, no cursor moves, nothing counts as read: new rows of the window come later."""
    known = begun(START - HOUR)
    known.checkpoint = replace(known.checkpoint, gaps=(Window(START - MINUTE, START + HOUR),))
    before = known.checkpoint
    found = republished(known, {ids()[0]})
    known.apply(found.successor, LIMITS.horizon)
    assert known.checkpoint.gaps == before.gaps
    assert known.checkpoint.passes == before.passes
    known.checkpoint = replace(known.checkpoint, gaps=())
    assert known.read_until(START, timedelta()) == START


def test_too_large_for_an_event_is_a_dead_letter_too() -> None:
    rows = [{**ROW, "message": "x" * 3000}]
    found = republished(begun(), {*ids(rows)}, Limits(31 * DAY, 2000), rows)
    assert len([*found.batch.events]) == 1
    letters = [seen(record) for record in found.batch.dead_letters]
    assert {part.header["event"] for part in letters} == {b"without_message"}


@pytest.mark.parametrize("beside", [timedelta(), 2 * HOUR, -2 * HOUR])
async def test_of_forgotten_time_nothing_is_asked_for(beside: timedelta) -> None:
    """What was published there may not be remembered: what is missing stays missing."""
    known = begun()
    forgotten = (Window(WINDOW.start + beside, WINDOW.end + beside),)
    known.checkpoint = replace(known.checkpoint, forgotten=forgotten)
    settings = load({"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": "t"}).publisher
    nobody: Any = SimpleNamespace(settings=settings)
    assert await repair(nobody, known, {WINDOW: {b"missing"}}) == 0


def value(number: int, minute: int = 55) -> dict[str, Any]:
    return {
        "event_id": f"00000000-0000-5000-8000-{number:012}",
        "conn_id": "1",
        "date": f"2026-11-20 06:{minute}:00",
        "occurred_at": f"2026-11-20T11:{minute}:00Z",
    }


@pytest.mark.parametrize(
    "copies", [[False, False], [False, True], [True, True], [False, False, True]]
)
@pytest.mark.parametrize("shown", [True, False])
def test_each_copy_more_is_a_finding(copies: list[bool], shown: bool) -> None:
    """Whenever they came, and whether or not the report shows it (any more)."""
    compared = Comparison(NOON - 10 * MINUTE, NOON, settled=NOON)
    window = Window(NOON - 10 * MINUTE, NOON)
    if shown:
        compared.shown(orjson.dumps(value(1)), window)
    for later in copies:
        compared.published(value(1), later=later)
    doubled = [each for each in compared.findings if each.kind == "doubled"]
    assert len(doubled) == len(copies) - 1
    assert {each.event_id for each in doubled} == {value(1)["event_id"]}
    assert not compared.missing
    # Nor is it missing when a wider window shows it.
    compared.shown(orjson.dumps(value(1)), window)
    assert not compared.missing


def test_of_another_time_no_double_is_told() -> None:
    compared = Comparison(NOON - MINUTE, NOON, settled=NOON)
    for _ in range(2):
        compared.published(value(1), later=False)
    assert not compared.findings


RANGE = Window(NOON - 10 * HOUR, NOON)
OLD = Window(NOON - 900 * HOUR, NOON - 12 * HOUR)


@pytest.mark.parametrize(
    ("kept", "settled", "forgotten", "may_lack", "expected"),
    [
        (None, NOON, (), 0, []),
        (NOON - 5 * HOUR, NOON, (), 0, [("deleted", -10, -5)]),
        (None, NOON - HOUR, (), 0, [("unsettled", -1, 0)]),
        (None, NOON - HOUR, (), 1, []),
        (None, NOON - 2 * HOUR, (), 1, [("unsettled", -2, 0)]),
        (None, NOON - 20 * HOUR, (), 100, [("unsettled", -10, 0)]),
        (NOON, NOON - HOUR, (), 1, [("deleted", -10, 0)]),
        (None, NOON, (OLD,), 0, [("forgotten", -10, -9)]),
        (None, NOON, (Window(OLD.start, OLD.end - HOUR),), 0, []),
        (None, NOON, (Window(NOON - 5 * HOUR, NOON - 4 * HOUR),), 0, [("forgotten", -8, -1)]),
    ],
)
def test_what_is_not_judged_is_never_complete(
    kept: Any, settled: Any, forgotten: Any, may_lack: int, expected: list[Any]
) -> None:
    verdict = Verdict(OPERATION, RANGE)
    bounds = verdict.bounds(kept, settled, forgotten, may_lack * HOUR)
    if bounds is not None:
        verdict.comparison = Comparison(bounds.start, bounds.end, settled)
    found = verdict.described()
    assert [
        (part, Window(NOON + start * HOUR, NOON + end * HOUR)) for part, start, end in expected
    ] == verdict.unjudged
    assert found["complete"] is not bool(expected)
    assert [part["reason"] for part in found["not_judged"]] == [part for part, *_ in expected]
    assert found["notes"] or not expected


def test_what_was_repaired_is_complete_and_a_double_is_not() -> None:
    verdict = Verdict(OPERATION, RANGE)
    compared = verdict.comparison = Comparison(RANGE.start, RANGE.end, NOON)
    compared.shown(orjson.dumps(value(1)), RANGE)
    assert not verdict.described()["complete"]
    verdict.repaired = 1
    assert verdict.described()["complete"]
    for _ in range(2):
        compared.shown(orjson.dumps(value(2)), RANGE)
        compared.published(value(2), later=False)
    found = verdict.described()
    assert (found["missing"], found["doubled"], found["complete"]) == (1, 1, False)


def test_behind_an_undecided_transaction_nothing_is_judged() -> None:
    verdict = Verdict(OPERATION, RANGE)
    verdict.undecided("hidden")
    found = verdict.described()
    assert (found["complete"], found["problem"]) == (False, "hidden")
    assert verdict.unjudged == [("undecided", RANGE)]

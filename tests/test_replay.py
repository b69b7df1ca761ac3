"""Dead letters come out exactly once, as the events they would have been. Rules only."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.commands.dead_letters.replay_batch import DONE, Outcome, prepare
from publisher.commands.dead_letters.stored_letter import Letter, Letters, Replayed
from publisher.events import dead_letter
from publisher.events.dead_letter import DeadLetter, Origin
from publisher.events.encode import Encoder, Provenance
from publisher.events.publication import Limits
from publisher.events.rows import Reject, RejectReason, Row, read_rows
from publisher.model import Progress, Record, Window
from publisher.state import state
from publisher.state.checkpoint import REPLAY, Entry
from publisher.state.state import State
from publisher.wolkvox.responses import classify
from publisher.wolkvox.timezone import Zone
from tests.fakes import Seen, ids_of, seen
from tests.test_upstream import answer

START: Final = datetime(2026, 11, 20, 15, tzinfo=UTC)
WINDOW: Final = Window(START, START + timedelta(minutes=5))
ZONE: Final = Zone("America/Bogota")
DAY: Final = timedelta(days=1)
OPERATION: Final = "wv0010"
NAMES: Final = {OPERATION: OPERATION}
LIMITS: Final = Limits(31 * DAY, 1_000_000)
ROW: Final = {"date": "2026-11-20 10:00:00", "from": "CUSTOMER", "message": "Hola"}


def begun(start: datetime = START) -> State:
    known, _ = state.first(OPERATION, ZONE.name, start, "now", ["live"])
    return known


def body_of(*data: Any) -> bytes:
    return json.dumps({"code": 200, "data": data}).encode()


def chat(*rows: Any, **fields: Any) -> dict[str, Any]:
    return {"conn_id": "7", "agent_name": "Luis", **fields, "conversation": rows}


def written(letters: Iterable[DeadLetter], part: int = 1_000_000) -> list[Seen]:
    origin = Origin(OPERATION, "live", WINDOW, START)
    return [seen(record) for record in dead_letter.records(letters, origin, part)]


def read_back(records: Iterable[Seen], without: Iterable[str] = ()) -> list[Letter]:
    """The letters of these records, as they come out of the topic."""
    found = Letters(NAMES, lambda _: True)
    letters = []
    for one in records:
        headers = [(name, told) for name, told in one.headers if name not in without]
        letter = found.add(headers, one.value, START)
        if letter:
            assert isinstance(letter, Letter)
            letters.append(letter)
    return letters + found.incomplete()


def values(records: Iterable[Record]) -> list[tuple[str, bytes]]:
    """Id and value of each event, in order."""
    return sorted((one.header["ce_id"].decode(), one.value) for one in map(seen, records))


def expected(rows: Sequence[Row], largest: int = 1_000_000) -> list[tuple[str, bytes]]:
    encoder = Encoder(Provenance(OPERATION, "live", START), max_event_bytes=largest)
    return values(encoder.encode(list({row[1]: row for row in rows}.values())))


def replayed(
    known: State, letters: Sequence[Letter], limits: Limits = LIMITS
) -> tuple[list[Outcome], list[Record], list[Seen], set[tuple[str, str]]]:
    """Outcomes, events, new letters, and the keys of the letters that are done."""
    found = prepare(known, letters, ZONE, limits, START)
    outcomes = [result.outcome for result in found.results]
    if found.batch is None or found.successor is None:
        return outcomes, [], [], set()
    known.apply(found.successor, limits.horizon)
    events = list(found.batch.events)
    fresh, done = [], set()
    for _, content in found.batch.dead_letters:
        one = Letters(NAMES).add(*_parts(content), START)
        if isinstance(one, Replayed):
            done.add(one.key)
        else:
            fresh.append(seen((0, content)))
    return outcomes, events, fresh, done


def _parts(content: bytes) -> tuple[list[tuple[str, bytes]], bytes | None]:
    one = seen((0, content), with_value=False)
    return one.headers, one.value if one.value != b"" else None


MESSAGES = st.sampled_from(["Hola", "si", ""])
ROWS = st.builds(
    lambda second, sender, message, feeling, who: {
        "date": f"2026-11-20 10:00:0{second}",
        "from": sender,
        "message": message,
        "customer_id": who,
        **({"feeling": feeling} if feeling else {}),
    },
    st.integers(0, 3),
    st.sampled_from(["CUSTOMER", "AGENT"]),
    MESSAGES,
    st.sampled_from([None, "neutral", "positive"]),
    st.sampled_from(["1", "2"]),
)
CHATS = st.builds(
    lambda conn_id, agent, rows: {"conn_id": conn_id, "agent_name": agent, "conversation": rows},
    st.sampled_from(["7", "8", "0", 9]),
    st.sampled_from(["Luis", None]),
    st.lists(ROWS, max_size=6),
)


@settings(max_examples=150)
@given(st.lists(CHATS, min_size=1, max_size=5), st.integers(0, 2**32))
def test_what_an_older_version_did_not_understand_comes_out_once(
    data: list[dict[str, Any]], seed: int
) -> None:
    """With the ids and bytes of a version that understands at once, in any order and batches.

    The older one knew neither odd seconds nor some conversations; re-reads have found some since.
    """
    random = Random(seed)
    body = body_of(*data)
    all_rows = read_rows(classify(answer(200, body)).data, OPERATION, ZONE).rows
    broken = {number for number in range(len(data)) if random.random() < 0.2}
    rejects = [Reject(RejectReason.CONVERSATION_INVALID, number, None) for number in broken]
    good = []
    for row in all_rows:
        element, index = row[4].position, row[5]
        if element in broken:
            continue
        if int(row[0][-1]) % 2:
            rejects.append(Reject(RejectReason.DATE_INVALID, element, index))
        else:
            good.append(row)
    known = begun()
    publish(known, good)
    found = dead_letter.unknown_to(known.ledger, dead_letter.cut_out(body, rejects))
    letters = read_back(written(found, part=random.choice([7, 1000])))
    assert len(letters) == len(found)
    meanwhile = [row for row in all_rows if random.random() < 0.2]
    publish(known, meanwhile)
    random.shuffle(letters)
    events: list[Record] = []
    done: set[tuple[str, str]] = set()
    while letters:
        size = random.randint(1, 4)
        outcomes, out, fresh, ended = replayed(known, letters[:size])
        empty = [not orjson.loads(x.raw or b"").get("conversation", 1) for x in letters[:size]]
        assert [outcome in DONE for outcome in outcomes] == [not one for one in empty]
        assert not fresh
        dates = [orjson.loads(seen(each).value)["date"] for each in out]
        assert dates == sorted(dates)
        events += out
        done |= ended
        letters = letters[size:]
    out_before = {id_ for id_, _ in expected([*good, *meanwhile])}
    told = dict(values(events))
    assert len(told) == len(events)
    assert out_before.isdisjoint(told)
    everything = dict(expected(all_rows))
    assert out_before | told.keys() == everything.keys()
    # Where a chat is listed twice, either of the two may have been first.
    twice = len({str(one["conn_id"]) for one in data}) < len(data)
    assert twice or all(everything[id_] == value for id_, value in told.items())
    again = read_back(written(found))
    assert replayed(known, again)[1] == []


def publish(known: State, rows: Iterable[Row]) -> None:
    """As if the service had published these rows."""
    ids: dict[str, set[int]] = {}
    for row in rows:
        id_ = int.from_bytes(row[1][:8])
        if not known.ledger.knows(row[2].hour, id_):
            ids.setdefault(row[2].hour, set()).add(id_)
    entry = Entry(
        known.checkpoint.sequence + 1, "live", WINDOW.start, WINDOW.end, START,
        rows=0, new=0, duplicate=0, rejected=0,
    )  # fmt: skip
    known.apply(known.successor(entry, known.checkpoint.passes, ids_of(ids), 31 * DAY), 31 * DAY)


def too_large(largest: int, row: dict[str, Any], twins: int = 1) -> tuple[list[Row], list[Letter]]:
    """The rows of an answer of equal rows, and the letters of those that are too large."""
    body = body_of(chat(*[row] * twins))
    rows = read_rows(classify(answer(200, body)).data, OPERATION, ZONE).rows
    encoder = Encoder(Provenance(OPERATION, "live", START), max_event_bytes=largest)
    list(encoder.encode(rows))
    reason = RejectReason.EVENT_TOO_LARGE
    late = dead_letter.of_rows(body, reason, encoder.oversized, encoder.unpublished)
    return rows, read_back(written(late, part=largest))


def test_what_was_too_large_comes_out_under_a_larger_limit() -> None:
    """Nothing of it had been published, although its id is remembered; twins keep their ids."""
    row = {**ROW, "from_name": "x" * 3000}
    rows, letters = too_large(1000, row, twins=3)
    known = begun()
    publish(known, rows)
    assert replayed(known, letters, Limits(31 * DAY, 1000))[:2] == ([Outcome.STILL_BAD] * 3, [])
    outcomes, events, fresh, done = replayed(known, letters)
    assert outcomes == [Outcome.PUBLISHED] * 3
    assert values(events) == expected(rows)
    assert (fresh, done) == ([], {letter.key for letter in letters})
    assert len(known.ledger) == 3  # each was remembered already


def test_an_event_that_went_out_without_its_message_is_a_duplicate() -> None:
    """Its id is taken, also when the ledger has long forgotten it."""
    _, letters = too_large(1000, {**ROW, "message": "x" * 3000})
    outcomes, events, _, done = replayed(begun(), letters)
    assert (outcomes, events) == ([Outcome.DUPLICATE], [])
    assert done == {letters[0].key}


def test_letters_of_an_older_version_never_come_out_twice() -> None:
    """Too large counts as published, a row as the first of its equals."""
    newer = ("id", "number", "event")
    for row in ({**ROW, "message": "x" * 3000}, {**ROW, "from_name": "x" * 3000}):
        body = body_of(chat(row))
        late = [
            DeadLetter(
                RejectReason.EVENT_TOO_LARGE, "data[0].conversation[0]", json.dumps(row).encode()
            )
        ]
        assert body
        assert replayed(begun(), read_back(written(late), newer))[:2] == ([Outcome.DUPLICATE], [])
    body = body_of(chat(ROW, ROW))
    rows = read_rows(classify(answer(200, body)).data, OPERATION, ZONE).rows
    cut = dead_letter.cut_out(body, [Reject(RejectReason.DATE_INVALID, 0, 1)])
    (old,) = read_back(written(cut), newer)
    assert old.id == old.headers["sha1"]
    known = begun()
    _, events, _, _ = replayed(known, [old])
    assert values(events) == expected(rows[:1])


def bad_letters() -> list[tuple[Letter, Outcome]]:
    """Letters that stay what they are, and why."""
    no_date = dead_letter.cut_out(body_of(chat({**ROW, "date": "never"}, 5)), [
        Reject(RejectReason.DATE_INVALID, 0, 0), Reject(RejectReason.ROW_INVALID, 0, 1)
    ])  # fmt: skip
    whole = dead_letter.cut_out(body_of(None), [Reject(RejectReason.CONVERSATION_INVALID, 0, None)])
    no_json = [dead_letter.of_answer(b"<html>")]
    bad = read_back(written([*no_date, *whole, *no_json]))
    lost = DeadLetter(
        RejectReason.DATE_INVALID, "data[0].conversation[0]", json.dumps(ROW).encode()
    )
    half = read_back(written(dead_letter.cut_out(
        body_of(chat(ROW)), [Reject(RejectReason.DATE_INVALID, 0, 0)]), part=20)[:-1])  # fmt: skip
    return [
        *((letter, Outcome.STILL_BAD) for letter in bad),
        (read_back(written([lost]))[0], Outcome.INCOMPLETE),
        (half[0], Outcome.INCOMPLETE),
    ]


def test_what_is_still_bad_stays_and_stops_no_other() -> None:
    known = begun()
    letters, outcomes = zip(*bad_letters(), strict=True)
    assert len(letters) == 6
    assert replayed(known, letters) == ([*outcomes], [], [], set())
    assert known.checkpoint.sequence == 0
    good = read_back(written(dead_letter.cut_out(
        body_of(chat(ROW)), [Reject(RejectReason.DATE_INVALID, 0, 0)])))  # fmt: skip
    told, events, fresh, done = replayed(known, [*letters, *good])
    assert told == [*outcomes, Outcome.PUBLISHED]
    assert (len(events), fresh, done) == (1, [], {good[0].key})


def test_of_a_conversation_that_can_be_read_now_what_is_bad_gets_a_letter() -> None:
    """In its place, once; and that one is a letter of a row like any other."""
    data = [None, chat(ROW, {**ROW, "date": "never"}, {**ROW, "from_name": "x" * 3000})]
    reject = Reject(RejectReason.CONVERSATION_INVALID, 1, None)
    (letter,) = read_back(written(dead_letter.cut_out(body_of(*data), [reject])))
    known = begun()
    outcomes, events, fresh, done = replayed(known, [letter], Limits(31 * DAY, 2000))
    assert (outcomes, len(events), len(done)) == ([Outcome.PUBLISHED], 1, 1)
    smaller = read_back(fresh)
    assert [(one.reason, one.position) for one in smaller] == [
        ("date_invalid", "data[1].conversation[1]"),
        ("event_too_large", "data[1].conversation[2]"),
    ]
    assert {one.headers["pass"] for one in smaller} == {"replay"}
    outcomes, events, fresh, _ = replayed(known, smaller)
    assert outcomes == [Outcome.STILL_BAD, Outcome.PUBLISHED]
    assert (len(events), fresh) == (1, [])


def test_a_damaged_answer_has_been_published_already() -> None:
    """All of its rows; those that the ledger lost come out again, and are marked."""
    body = b'\xef\xbb\xbf{"code":200,"data":[{"conn_id":"7","conversation":[' + orjson.dumps(ROW)
    letters = read_back(written([dead_letter.of_answer(body + b"]}]}")], part=10))
    known = begun()
    outcomes, (event,), _, _ = replayed(known, letters)
    assert outcomes == [Outcome.PUBLISHED]
    assert seen(event).header["wolkvox_decoding"] == b"lenient"
    assert seen(event).header["wolkvox_pass"] == b"replay"
    assert replayed(known, letters)[:2] == ([Outcome.DUPLICATE], [])


PHONE: Final = {"customer_phone": "573001112233"}


@pytest.mark.parametrize("order", [({}, PHONE), (PHONE, {})])
def test_what_came_out_with_more_or_less_told_of_its_customer_is_a_duplicate(
    order: tuple[dict[str, str], dict[str, str]],
) -> None:
    """A damaged answer that was kept, and its window read again later with another column."""
    kept, later = (body_of(chat({**ROW, **who}, conn_id="0")) for who in order)
    known = begun()
    one = replayed(known, read_back(written([dead_letter.of_answer(later)])))
    assert one[0] == [Outcome.PUBLISHED]
    other = replayed(known, read_back(written([dead_letter.of_answer(kept)])))
    assert other[:2] == ([Outcome.DUPLICATE], [])


def test_two_customers_in_one_answer_both_come_out() -> None:
    """Although one of them tells all that the other does, and more."""
    kept = body_of(*(chat({**ROW, **who}, conn_id="0") for who in ({}, PHONE)))
    outcomes, events, _, _ = replayed(begun(), read_back(written([dead_letter.of_answer(kept)])))
    assert (outcomes, len(events)) == ([Outcome.PUBLISHED], 2)


@pytest.mark.parametrize(("days", "outcome"), [(30, Outcome.PUBLISHED), (32, Outcome.TOO_OLD)])
def test_what_lies_beyond_the_horizon_stays(days: int, outcome: Outcome) -> None:
    """There nobody knows any more whether a re-read has published it."""
    letters = read_back(written(dead_letter.cut_out(
        body_of(chat(ROW)), [Reject(RejectReason.DATE_INVALID, 0, 0)])))  # fmt: skip
    known = begun(START + days * DAY)
    assert replayed(known, letters)[0] == [outcome]


@pytest.mark.parametrize(
    ("hours", "outcome"), [(2, Outcome.TOO_OLD), (-2, Outcome.TOO_OLD), (4, Outcome.PUBLISHED)]
)
def test_of_forgotten_time_nothing_comes_out(hours: int, outcome: Outcome) -> None:
    """However near: its row may have been published by a window of that time."""
    letters = read_back(written(dead_letter.cut_out(
        body_of(chat(ROW)), [Reject(RejectReason.DATE_INVALID, 0, 0)])))  # fmt: skip
    known = begun()
    at = WINDOW.end + timedelta(hours=hours)
    forgotten = (Window(at, at + timedelta(minutes=1)),)
    known.checkpoint = replace(known.checkpoint, forgotten=forgotten)
    assert replayed(known, letters)[0] == [outcome]


def test_a_replay_covers_nothing_and_is_journalled() -> None:
    """No pass takes it for a window that was read; a restore finds what it has published."""
    letters = read_back(written(dead_letter.cut_out(
        body_of(chat(ROW, ROW)), [Reject(RejectReason.DATE_INVALID, 0, 1)])))  # fmt: skip
    known = begun()
    before = known.checkpoint
    found = prepare(known, letters, ZONE, LIMITS, START)
    assert found.successor
    records = {one.key: one.value for one in found.successor.records if one.value is not None}
    known.apply(found.successor, LIMITS.horizon)
    restored = state.restore(OPERATION, records)
    assert restored
    (entry,) = restored.journal
    assert (entry.pass_name, entry.start, entry.end, entry.new) == (
        REPLAY, WINDOW.end, WINDOW.end, 1,
    )  # fmt: skip
    assert known.checkpoint.passes == restored.checkpoint.passes == before.passes
    assert known.read_until(START, timedelta()) == START
    assert replayed(restored, letters)[0] == [Outcome.DUPLICATE]


def test_records_of_others_are_passed_over() -> None:
    """The topic may hold anything."""
    (one,) = written([DeadLetter(RejectReason.ROW_INVALID, "data[0]", b"5")])
    spoil: dict[str, Callable[[bytes], bytes]] = {
        "window": lambda told: told.replace(b"Z", b""), "part": lambda _: b"x",
        "parts": lambda _: b"0", "sha1": lambda told: told[2:], "read_at": lambda _: b"",
    }  # fmt: skip
    for name, change in spoil.items():
        headers = [(each, change(told) if each == name else told) for each, told in one.headers]
        assert Letters(NAMES).add(headers, b"5", START) is None
    for name in ("reason", "operation", "window", "position", "sha1", "read_at"):
        headers = [(each, told) for each, told in one.headers if each != name]
        assert Letters(NAMES).add(headers, b"5", START) is None
    assert Letters(NAMES).add([], None, START) is None
    empty: Any = [(name, None) for name, _ in one.headers]  # as clients tell an empty header
    assert Letters(NAMES).add(empty, b"5", START) is None
    assert len(read_back([one])) == 1


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=30), min_size=1, max_size=4, unique=True), st.randoms())
def test_parts_of_several_letters_may_stand_between_each_other(
    raws: list[bytes], random: Random
) -> None:
    """As long as those of one stand in order: producers share a partition, not a transaction."""
    letters = [DeadLetter(RejectReason.ROW_INVALID, "data[0]", raw) for raw in raws]
    rows = [written([letter], part=7) for letter in letters]
    mixed = []
    while rows := [row for row in rows if row]:
        mixed.append(random.choice(rows).pop(0))
    assert sorted(letter.raw or b"" for letter in read_back(mixed)) == sorted(raws)


@pytest.mark.parametrize("edge", ["start", "end"])
def test_what_a_replay_published_is_remembered_as_long_as_a_gap_is_near(edge: str) -> None:
    """The same row may come again when the gap beside its window is read at last."""
    wide = Window(START, START + 12 * timedelta(hours=1))
    hour = timedelta(hours=1)
    beside = {
        "start": Window(wide.start - hour, wide.start), "end": Window(wide.end, wide.end + hour)
    }  # fmt: skip
    (cut,) = dead_letter.cut_out(body_of(chat(ROW)), [Reject(RejectReason.DATE_INVALID, 0, 0)])
    origin = Origin(OPERATION, "live", wide, START)
    letters = read_back(map(seen, dead_letter.records([cut], origin, 1000)))
    known = begun()
    known.checkpoint = replace(known.checkpoint, gaps=(beside[edge],))
    assert replayed(known, letters)[0] == [Outcome.PUBLISHED]
    for days in (40, 41):
        later = START + days * DAY
        entry = Entry(
            known.checkpoint.sequence + 1, "live", later, later, later,
            rows=0, new=0, duplicate=0, rejected=0,
        )  # fmt: skip
        passes = {"live": Progress(later, later)}
        known.apply(known.successor(entry, passes, {}, 31 * DAY), 31 * DAY)
    assert [each.pass_name for each in known.journal] == ["replay", "live", "live"]
    assert len(known.ledger) == 1

"""A message's identity is what the design says, whatever the answer around it looks like."""

import json
import re
from collections import Counter
from copy import deepcopy
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from publisher.events.format_change import format_changed
from publisher.events.rows import Reading, Reject, RejectReason, Row, read_rows
from publisher.state.checkpoint import Entry
from publisher.wolkvox.timezone import Zone

ZONE = Zone("America/Bogota")
DATE = "2026-11-20 10:00:01"
NOW = datetime(2026, 11, 20, 15, tzinfo=UTC)
NAMESPACE = uuid5(NAMESPACE_URL, "urn:wolkvox:chat_2")


def read(data: list[Any], operation: str = "wv0010") -> Reading:
    """What an answer holds; reading takes the dates out of the rows, hence a copy."""
    return read_rows(deepcopy(data), operation, ZONE)


def id_of(row: Row) -> UUID:
    return UUID(bytes=row[1][:16], version=5)


def ids(data: list[Any], operation: str = "wv0010") -> set[UUID]:
    return {id_of(row) for row in read(data, operation).rows}


def chat(*rows: Any, **fields: Any) -> dict[str, Any]:
    return {"conn_id": "186067512", **fields, "conversation": list(rows)}


def row(message: Any = "Hola", **fields: Any) -> dict[str, Any]:
    return {"date": DATE, "from": "CUSTOMER", "message": message, **fields}


# An oracle, written from design §4 with the standard library alone.


def as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def oracle(data: list[Any], operation: str = "wv0010") -> set[UUID]:
    """The ids that an answer's rows must have; twins are counted inside one element."""
    found = set()
    for element in data:
        conn_id = as_text(element.get("conn_id"))
        counted: Counter[tuple[str, ...]] = Counter()
        for message in element["conversation"]:
            name = [as_text(operation), conn_id, message["date"]]
            name += [as_text(message.get("from")), as_text(message.get("message"))]
            if not set("123456789") & set(conn_id) or conn_id.startswith("-"):
                name += [as_text(message.get(field)) for field in ("channel", "customer_id")]
                phone = as_text(message.get("customer_phone"))
                name.append("".join(re.findall(r"\d", phone)) or phone)
            counted[tuple(name)] += 1
        for name_, count in counted.items():
            for number in range(1, count + 1):
                found.add(uuid5(NAMESPACE, "\0".join([*name_, str(number)])))
    return found


MISSING = object()
VALUES = st.sampled_from(
    [MISSING, None, "", "Hola", "1", 1, 1.5, "1.5", True, "true", "Ho\0la", "Ho\ufffdla",
     "0", 0, "é", "e\u0301", "\U0001f600", ["Hola"], {"b": 1, "a": "é"}, "+57 (300) 1", "573001"]
)  # fmt: skip
CONN_IDS = st.sampled_from(
    [MISSING, None, "", "0", 0, "-", "1", 1, "186067512", "a1\0b", "a1\ufffdb", -5, "é", " ", "é7"]
)


def without_missing(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not MISSING}


ROWS = st.fixed_dictionaries(
    {
        "date": st.sampled_from([DATE, "2026-11-20 10:00:02", "2025-01-01 00:00:00"]),
        "from": st.sampled_from([MISSING, None, "", "AGENT", "CUSTOMER", 1, "1"]),
        "message": VALUES,
    },
    optional={
        "channel": VALUES,
        "customer_id": VALUES,
        "customer_phone": VALUES,
        "feeling": VALUES,
        "to_name": VALUES,
        "unknown": VALUES,
    },
).map(without_missing)
ELEMENTS = st.builds(
    lambda conn_id, rows, more: without_missing({"conn_id": conn_id, "conversation": rows, **more}),
    CONN_IDS,
    st.lists(ROWS, max_size=6),
    st.dictionaries(st.sampled_from(["agent_name", "customer_name", "zone"]), VALUES),
)
ANSWERS = st.lists(ELEMENTS, max_size=4)


@settings(max_examples=120, deadline=None)
@given(ANSWERS, st.sampled_from(["wv0010", "wv0011", "other"]))
def test_ids_are_those_of_the_design(data: list[Any], operation: str) -> None:
    """Every row of every answer has the id that uuid5 over the named parts gives."""
    reading = read(data, operation)
    assert {id_of(row) for row in reading.rows} == oracle(data, operation)
    assert len(reading.rows) == sum(len(element["conversation"]) for element in data)
    assert not reading.rejects


@settings(max_examples=80, deadline=None)
@given(ANSWERS, st.integers())
def test_shuffling_changes_no_id(data: list[Any], seed: int) -> None:
    """Conversations, rows and fields may come in any order: the ids stay the same."""
    random = Random(seed)
    shuffled = [
        {
            name: sorted(map(shuffled_fields(random), value), key=lambda _: random.random())
            if name == "conversation"
            else value
            for name, value in shuffled_fields(random)(element).items()
        }
        for element in data
    ]
    random.shuffle(shuffled)
    assert ids(shuffled) == ids(data)


def shuffled_fields(random: Random) -> Any:
    return lambda told: dict(sorted(told.items(), key=lambda _: random.random()))


@settings(max_examples=50, deadline=None)
@given(st.lists(ROWS, max_size=8), st.integers())
def test_shuffled_twins_keep_their_numbers(rows: list[Any], seed: int) -> None:
    """Equal rows are numbered by content: each id means the same fields in any order of rows."""
    shuffled = list(rows)
    Random(seed).shuffle(shuffled)

    def content(rows: list[Any]) -> dict[UUID, Any]:
        return {id_of(row): (row[0], row[3]) for row in read([chat(*rows)]).rows}

    assert content(shuffled) == content(rows)


CHANGING = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("feeling", "from_name", "to_name", "event_id", "new"), VALUES),
).map(without_missing)


@settings(max_examples=50, deadline=None)
@given(CHANGING, st.dictionaries(st.sampled_from(["agent_name", "customer_name", "x"]), VALUES))
def test_what_may_change_between_two_reads_is_no_part_of_identity(
    of_row: dict[str, Any], of_chat: dict[str, Any]
) -> None:
    """Feeling, names and unknown fields are filled in later: the message stays the same one."""
    plain = [chat(row("a"), row("b"), row("b"))]
    rich = [chat(row("a", **of_row), row("b", **of_row), row("b"), **without_missing(of_chat))]
    assert ids(rich) == ids(plain)


@pytest.mark.parametrize("field", ["channel", "customer_id", "customer_phone"])
def test_phone_and_customer_tell_apart_only_where_conn_id_does_not(field: str) -> None:
    """A placeholder conn_id is shared by strangers; a real one is not."""
    for conn_id, same in (("1", True), ("0", False), ("-", False), ("", False), (None, False)):
        one = chat(row(**{field: "a"}), conn_id=conn_id)
        other = chat(row(**{field: "b"}), conn_id=conn_id)
        assert (ids([one]) == ids([other])) == same


def test_equal_rows_are_as_many_messages_as_there_are() -> None:
    """Two equal rows in one conversation are two messages."""
    assert len(ids([chat(row(), row(), row())])) == 3
    assert ids([chat(row())]) < ids([chat(row(), row())])


def test_a_chat_listed_twice_is_one_chat() -> None:
    """After a transfer the same rows stand in two elements: the larger count is the truth."""
    twice = [chat(row(), row()), chat(row(), row(), row(), agent_name="Luis")]
    assert ids(twice) == ids(twice[1:]) == ids(list(reversed(twice)))


@pytest.mark.parametrize("absent", [{}, {"message": None}, {"message": ""}])
def test_null_missing_and_empty_are_equal(absent: dict[str, Any]) -> None:
    """How the API says "nothing" may differ between two reads."""
    told = {"date": DATE, "from": "AGENT", **absent}
    assert ids([chat(told)]) == ids([chat({"date": DATE, "from": "AGENT", "message": ""})])


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1"), (0, "0"), (-5, "-5"), (10**15, f"{10**15}")]
)
def test_a_number_equals_its_text(number: int, text: str) -> None:
    """Types drift: 1 and "1" are the same message and the same conversation."""
    assert ids([chat(row(number))]) == ids([chat(row(text))])
    assert ids([chat(row(), conn_id=number)]) == ids([chat(row(), conn_id=text)])


def test_u_0000_cannot_move_the_border_between_two_parts() -> None:
    """Parts are joined by U+0000, so inside a part it counts as U+FFFD."""
    one = row("b", **{"from": "a\0"})
    other = row("\0b", **{"from": "a"})
    assert ids([chat(one)]).isdisjoint(ids([chat(other)]))
    assert ids([chat(row("a\0b"))]) == ids([chat(row("a\ufffdb"))])


def test_no_unicode_normalisation() -> None:
    """Two ways to write é are two texts: what the API sends is taken as it is."""
    assert ids([chat(row("\u00e9"))]).isdisjoint(ids([chat(row("e\u0301"))]))


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        (None, RejectReason.CONVERSATION_INVALID),
        ("text", RejectReason.CONVERSATION_INVALID),
        ([], RejectReason.CONVERSATION_INVALID),
        ({}, RejectReason.CONVERSATION_INVALID),
        ({"conn_id": "1", "conversation": None}, RejectReason.CONVERSATION_INVALID),
        ({"conn_id": "1", "conversation": {"0": row()}}, RejectReason.CONVERSATION_INVALID),
        ({"conn_id": 1.5, "conversation": [row()]}, RejectReason.CONN_ID_INVALID),
        ({"conn_id": True, "conversation": [row()]}, RejectReason.CONN_ID_INVALID),
        ({"conn_id": ["1"], "conversation": [row()]}, RejectReason.CONN_ID_INVALID),
    ],
)
def test_a_broken_conversation_is_rejected_whole(element: Any, reason: RejectReason) -> None:
    """Its neighbours are read all the same."""
    reading = read([chat(row("a")), element, chat(row("b"))])
    assert reading.rejects == [Reject(reason, 1, None)]
    assert [row[3].message for row in reading.rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (None, RejectReason.ROW_INVALID),
        ("text", RejectReason.ROW_INVALID),
        ([row()], RejectReason.ROW_INVALID),
        ({}, RejectReason.DATE_INVALID),
        (row() | {"date": None}, RejectReason.DATE_INVALID),
        (row() | {"date": 20261120100001}, RejectReason.DATE_INVALID),
        (row() | {"date": [DATE]}, RejectReason.DATE_INVALID),
        (row() | {"date": {"a": 1}}, RejectReason.DATE_INVALID),
        (row() | {"date": {}}, RejectReason.DATE_INVALID),  # from Python 3.12 on: a KeyError
        (row() | {"date": True}, RejectReason.DATE_INVALID),
        (row() | {"date": 1.5}, RejectReason.DATE_INVALID),
        (row() | {"date": "2026-02-30 10:00:00"}, RejectReason.DATE_INVALID),
        (row() | {"date": f"{DATE}\0"}, RejectReason.DATE_INVALID),
    ],
)
def test_one_bad_row_never_stops_its_neighbours(broken: Any, reason: RejectReason) -> None:
    """Only the row is rejected, and its place is told."""
    reading = read([chat(), chat(row("a"), broken, row("b"))])
    assert reading.rejects == [Reject(reason, 1, 1)]
    assert [(row[3].message, row[5]) for row in reading.rows] == [("a", 0), ("b", 2)]


@settings(max_examples=80, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.just(DATE)),
        lambda inner: st.one_of(
            st.lists(inner),
            st.dictionaries(
                st.sampled_from(["conn_id", "conversation", "date", "from", "message", "x"]), inner
            ),
            st.lists(inner).map(lambda rows: chat(*rows)),
        ),
        max_leaves=12,
    ).filter(lambda value: isinstance(value, list))
)
@example([chat(*[{"date": DATE, "message": {"a": [1]}}] * 2)])
def test_whatever_data_holds_is_rows_or_rejects(data: list[Any]) -> None:
    """Nothing in `data` makes reading fail, and nothing in it is lost."""
    reading = read(data)
    total = 0
    for element in data:
        rows = element.get("conversation") if isinstance(element, dict) else None
        whole = isinstance(rows, list) and (
            element.get("conn_id") is None or type(element["conn_id"]) in (int, str)
        )
        total += len(rows) if whole and rows is not None else 1
    assert len(reading.rows) + len(reading.rejects) == total


@pytest.mark.parametrize(
    ("bad", "good", "changed"), [(10, 10, False), (11, 10, True), (19, 0, False), (20, 0, True)]
)
def test_when_most_rows_are_bad_the_format_has_changed(bad: int, good: int, changed: bool) -> None:
    """More than half of at least 20 rows: not bad rows, another format."""
    reading = read([chat(*[None] * bad, *[row(str(number)) for number in range(good)])])
    told = format_changed(len(reading.rows), len(reading.rejects))
    assert told == ((bad, bad + good) if changed else None)


def entry(bad: int, new_letters: int, good: int = 0) -> Entry:
    return Entry(1, "live", NOW, NOW, NOW, bad + good, 0, good, new_letters)


@pytest.mark.parametrize(
    ("good", "bad", "before", "changed"),
    [
        (0, 15, [entry(15, 15)], (30, 30)),  # the same 15, and the cursor moved on once
        (0, 5, [entry(5, 0), entry(5, 0), entry(5, 5)], (20, 20)),
        (0, 1, [entry(1, 1)] * 18, None),
        (0, 1, [entry(1, 1)] * 19, (20, 20)),
        (0, 1, [entry(0, 0), entry(1, 1)] * 19, (20, 20)),  # at night there is nothing between
        (0, 1, [entry(1, 0)] * 5_000 + [entry(1, 1)], None),  # one bad row, for weeks
        (0, 3, [entry(3, 0)] * 50 + [entry(3, 3)], None),
        (0, 3, [entry(3, 0, good=8)] * 50 + [entry(3, 3)], None),  # old ones among good ones
        (4, 6, [entry(6, 6, good=4)], (12, 20)),
        (6, 4, [entry(19, 19)], None),  # it is good again
        (0, 0, [entry(19, 19)], None),
        (0, 3, [entry(0, 0, good=20), *[entry(19, 19)] * 9], None),
        (0, 10, [entry(9, 9)], None),
    ],
)
def test_windows_of_few_rows_are_counted_together(
    good: int, bad: int, before: list[Entry], changed: tuple[int, int] | None
) -> None:
    """A quiet operation shows another format in windows of a few rows; the youngest first."""
    assert format_changed(good, bad, before) == changed


def test_ids_never_change_between_releases() -> None:
    """One id, worked out once and written down: consumers keep them for ever."""
    assert ids([chat(row())]) == {UUID("ad5e608b-b3eb-5007-8f67-9c709ca85c2d")}
    assert ids([chat(row(channel="web"), conn_id="0")]) == {
        UUID("b084cd8e-dcb0-53c4-ae82-d9b3ce5aac4b")
    }

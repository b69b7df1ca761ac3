"""What consumers see: the bytes of an event depend on the API's row alone."""

import json
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from publisher.events.encode import Encoder, Provenance
from publisher.events.murmur2 import murmur2
from publisher.events.rows import Row, read_rows
from publisher.model import Record
from publisher.wolkvox.responses import Verdict, classify
from publisher.wolkvox.timezone import Zone
from tests.fakes import Seen, seen
from tests.test_upstream import answer

GOLDEN = Path(__file__).parent / "golden"
READ_AT = datetime(2026, 11, 20, 15, 5, 0, 250_000, tzinfo=UTC)
DATE = "2026-11-20 10:00:01"


LIVE = Provenance("wv0010", "live", READ_AT)


def encoder(*, max_event_bytes: int = 1_000_000, **told: Any) -> Encoder:
    return Encoder(replace(LIVE, **told), max_event_bytes=max_event_bytes)


def rows_of(data: list[Any], zone: str = "America/Bogota") -> list[Row]:
    return read_rows(deepcopy(data), "wv0010", Zone(zone)).rows


def records_of(data: list[Any], **told: Any) -> list[Seen]:
    return [seen(record) for record in encoder(**told).encode(rows_of(data))]


def event_of(record: Seen) -> dict[str, Any]:
    """The event; its names must be unique, at whatever depth."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    event: dict[str, Any] = json.loads(record.value, object_pairs_hook=unique)
    return event


def chat(*rows: Any, **fields: Any) -> dict[str, Any]:
    return {"conn_id": "186067512", **fields, "conversation": list(rows)}


def row(message: Any = "Hola", **fields: Any) -> dict[str, Any]:
    return {"date": DATE, "from": "CUSTOMER", "message": message, **fields}


def shown(records: Iterable[Record]) -> bytes:
    """Records as a text that a person can review and a test can compare byte by byte."""
    lines = []
    for key, value, headers, partition_hash in map(seen, records):
        lines.append(b"key " + (key if key is not None else b"(none)"))
        lines.append(b"partition hash %d" % partition_hash)
        lines += [b"%b: %b" % (name.encode(), text) for name, text in headers]
        lines += [value, b""]
    return b"\n".join(lines)


def test_published_bytes_never_change_by_accident() -> None:
    """One answer with every speciality, and exactly the records it becomes.

    Whoever changes golden/events.txt changes what consumers see.
    """
    found = classify(answer(200, (GOLDEN / "answer.json").read_bytes()))
    assert found.verdict is Verdict.USE
    rows = rows_of(found.data, "Europe/Madrid")
    encoder_ = encoder(max_event_bytes=800)
    assert shown(encoder_.encode(rows)) == (GOLDEN / "events.txt").read_bytes()
    assert [row[0] for row in encoder_.oversized] == ["2026-11-20 10:00:03"]


# An oracle: the event of a row, as design §5 words it.

OF_ROW = [
    "channel", "from", "from_name", "to_name", "message", "customer_id", "customer_phone",
    "feeling",
]  # fmt: skip
OF_CHAT = ["agent_name", "customer_name"]


def expected(element: dict[str, Any], told: dict[str, Any], read: Row) -> dict[str, Any]:
    event: dict[str, Any] = {"event_id": str(UUID(bytes=read[1][:16], version=5))}
    event["source"] = "wv0010"
    if "conn_id" in element:
        event["conn_id"] = element["conn_id"]
    event["date"] = told["date"]
    event["occurred_at"] = read[2].occurred_at
    if read[2].ambiguous:
        event["occurred_at_ambiguous"] = True
    event |= {name: told[name] for name in OF_ROW if name in told}
    event |= {name: element[name] for name in OF_CHAT if name in element}
    extra = {
        "message": {n: v for n, v in told.items() if n not in (*OF_ROW, "date")},
        "conversation": {
            n: v for n, v in element.items() if n not in ("conn_id", "conversation", *OF_CHAT)
        },
    }
    extra = {name: fields for name, fields in extra.items() if fields}
    if extra:
        event["extra"] = extra
    return event


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=5,
)
NAMES = st.one_of(
    st.sampled_from([*OF_ROW, *OF_CHAT, "event_id", "source", "occurred_at", "extra", "", "é"]),
    st.text(),
)
ROWS = st.tuples(
    st.dictionaries(NAMES, JSON, max_size=8),
    st.sampled_from([DATE, "2026-10-25 02:30:00", "2026-03-29 02:30:00"]),
    st.integers(0, 8),
).map(
    # The date stands anywhere among the other fields.
    lambda t: (
        dict([*list(t[0].items())[: t[2]], ("date", t[1]), *list(t[0].items())[t[2] :]])
        | {"date": t[1]}
    )
)
CHATS = st.builds(
    lambda fields, conn_id, rows: {
        **{name: value for name, value in fields.items() if name != "conn_id"},
        **conn_id,
        "conversation": rows,
    },
    st.dictionaries(NAMES, JSON, max_size=4),
    st.sampled_from([{}, *({"conn_id": c} for c in (None, "", "0", 0, "1", 5, "é\0"))]),
    st.lists(ROWS, max_size=4),
)
ANSWERS = st.lists(CHATS, max_size=3)


@settings(max_examples=40, deadline=None)
@given(ANSWERS)
@example([chat({"date": DATE}), {"conversation": [{"date": "2026-10-25 02:30:00"}]}])
def test_an_event_holds_what_the_row_holds_in_the_order_told(data: list[Any]) -> None:
    """Documented fields first, null stays null, missing stays missing, the unknown in `extra`."""
    told = [(element, one) for element in data for one in element["conversation"]]
    rows = rows_of(data, "Europe/Madrid")
    records = [seen(record) for record in encoder().encode(rows)]
    assert len(records) == len(told) == len(rows)
    ordered = sorted(zip(told, rows, strict=True), key=lambda pair: pair[1][0])  # stable
    for record, ((element, one), read) in zip(records, ordered, strict=True):
        event, wanted = event_of(record), expected(element, one, read)
        assert event == wanted
        assert json.dumps(event) == json.dumps(wanted)  # the order, at every depth


@settings(max_examples=30, deadline=None)
@given(ANSWERS)
def test_when_and_how_a_row_was_read_changes_only_its_headers(data: list[Any]) -> None:
    """A row read again by another pass gives the same key, partition and bytes."""
    late = {"pass_label": "reread", "read_at": READ_AT + timedelta(days=3), "lenient": True}
    for one, other in zip(records_of(data), records_of(data, **late), strict=True):
        assert (one.key, one.value) == (other.key, other.value)
        assert one.partition_hash == other.partition_hash
        before, after = one.header, other.header
        assert after.pop("wolkvox_decoding") == b"lenient"
        differ = {name for name in before if before[name] != after[name]}
        assert differ == {"wolkvox_read_at", "wolkvox_pass"}
        assert before.keys() == after.keys()


def test_headers_are_cloud_events_in_binary_mode() -> None:
    """Every attribute that CloudEvents 1.0 wants, and where the row came from."""
    (record,) = records_of([chat(row())])
    assert record.header == {
        "ce_specversion": b"1.0",
        "ce_type": b"wolkvox.chat.message.v1",
        "ce_source": b"wv0010",
        "ce_id": event_of(record)["event_id"].encode(),
        "ce_time": b"2026-11-20T15:00:01Z",
        "ce_subject": b"186067512",
        "ce_dataschema": b"urn:wolkvox:schema:chat.message.v1",
        "content-type": b"application/json",
        "wolkvox_read_at": b"2026-11-20T15:05:00.250000Z",
        "wolkvox_pass": b"live",
        "wolkvox_sequence": b"1",
    }


@pytest.mark.parametrize("conn_id", ["0", 0, "-", "", None, "absent"])
def test_a_placeholder_is_no_key(conn_id: object) -> None:
    """Strangers must not be kept in one order on one partition; each spreads by its own id."""
    told = {} if conn_id == "absent" else {"conn_id": conn_id}
    rows = [row(str(number)) for number in range(300)]
    records = records_of([{**told, "conversation": rows}])
    assert {record.key for record in records} == {None}
    assert all("ce_subject" not in record.header for record in records)
    partitions = [record.partition_hash % 12 for record in records]
    assert set(partitions) == set(range(12))
    for record in records:
        first = UUID(event_of(record)["event_id"]).int >> 96
        assert record.partition_hash == first & 0x7FFFFFFF


@settings(max_examples=80, deadline=None)
@given(st.text().map(lambda text: f"7{text}"), st.integers(1, 500))
def test_a_key_goes_where_java_would_put_it(conn_id: str, partitions: int) -> None:
    """Producers in other languages that write the same key meet on the same partition."""
    (record,) = records_of([chat(row(), conn_id=conn_id)])
    assert record.key == conn_id.encode()
    every = range(partitions)
    assert record.partition_hash % partitions == DefaultPartitioner()(record.key, every, every)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_murmur2_is_kafkas(data: bytes) -> None:
    """Any bytes of any length modulo four, against the client's own implementation."""
    every = range(1_000_003)
    assert murmur2(data) % len(every) == DefaultPartitioner()(data, every, every)


def test_murmur2_as_java_prints_it() -> None:
    """Values from the tests of Apache Kafka itself (UtilsTest), made non-negative."""
    told = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }
    assert {data: murmur2(data) for data in told} == {
        data: value & 0x7FFFFFFF for data, value in told.items()
    }


def test_a_number_and_its_text_are_one_key() -> None:
    """Types drift; the conversation stays on its partition."""
    one, other = records_of([chat(row("a"), conn_id=5), chat(row("b"), conn_id="5")])
    assert one.key == other.key == b"5"
    assert (event_of(one)["conn_id"], event_of(other)["conn_id"]) == (5, "5")


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=600), st.integers(0, 900), st.booleans())
def test_no_event_is_larger_than_it_may_be(message: str, more: int, other: bool) -> None:
    """Too large an event goes out without its message, or not at all, and is told either way."""
    limit = 1000
    message += "é" * more
    fields = {"channel": "é" * more} if other else {}
    encoder_ = encoder(max_event_bytes=limit)
    plain = records_of([chat(row(message, **fields))], max_event_bytes=100_000_000)[0]
    records = list(
        map(seen, encoder_.encode(rows_of([chat(row(message, **fields)), chat(row("next"))])))
    )
    fits = len(plain.value) + 100 <= limit  # room for the key, twice
    assert event_of(records[-1])["message"] == "next"
    for record in records:
        assert len(record.value) <= limit
    if fits:
        assert records[0][:2] == plain[:2]
        assert encoder_.oversized == []
    elif len(plain.value) > limit:
        assert [(row[0], row[5]) for row in encoder_.oversized] == [(DATE, 0)]
        if len(records) == 2:
            event, whole = event_of(records[0]), event_of(plain)
            assert event["message"] is None
            assert event.pop("message_bytes") == len(message.encode())
            assert event.pop("message_sha256") == sha256(message.encode()).hexdigest()
            assert event == whole | {"message": None}
            assert list(event) == list(whole)
            assert records[0].headers == plain.headers
            assert records[0].key == plain.key
            assert records[0].partition_hash == plain.partition_hash
        else:
            assert other


def test_what_stands_in_place_of_a_large_message_follows_it() -> None:
    """`message_bytes` and `message_sha256` come where the message was."""
    (record,) = records_of(
        [chat(row("x" * 2000, channel="web", feeling="n"))], max_event_bytes=1000
    )
    names = list(event_of(record))
    place = names.index("message")
    assert names[place : place + 4] == ["message", "message_bytes", "message_sha256", "feeling"]


def test_a_large_message_that_is_no_text_counts_as_its_json() -> None:
    """Size and digest are those of the bytes that were left out."""
    (record,) = records_of([chat(row(["é" * 2000]))], max_event_bytes=1000)
    left_out = json.dumps(["é" * 2000], ensure_ascii=False).encode()
    event = event_of(record)
    assert event["message_bytes"] == len(left_out)
    assert event["message_sha256"] == sha256(left_out).hexdigest()

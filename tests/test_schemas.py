"""The contract with consumers: what the code writes is what `schemas/` says it writes.

The examples are compared byte for byte. They may be added to and never changed: a
difference is a change of the contract, see `schemas/README.md`.
"""

import json
from array import array
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from publisher.events import dead_letter
from publisher.events.encode import DATA_SCHEMA, Encoder, Provenance
from publisher.events.publication import Limits, prepare
from publisher.events.rows import RejectReason, read_rows
from publisher.kafka import commands_topic
from publisher.kafka.cluster import Cluster
from publisher.kafka.shard import Shard
from publisher.model import Answer, Backfill, Progress, Standing, StateRecord, Window
from publisher.schedule.backfill_pass import BackfillRequest
from publisher.schedule.passes import Read, passes_of
from publisher.settings import PublisherSettings, load
from publisher.state import state
from publisher.state.checkpoint import Checkpoint, Entry, decode_checkpoint, encode_checkpoint
from publisher.state.fingerprints import version
from publisher.state.journal import decode_journal, journal_parts
from publisher.state.ledger import REJECTED
from publisher.wolkvox.responses import classify
from publisher.wolkvox.timezone import Zone
from tests.fakes import Seen, ids_of, seen

SCHEMAS: Final = Path(__file__).parents[1] / "schemas"
EXAMPLES: Final = SCHEMAS / "examples"
NAMES: Final = (
    "event", "event-headers", "dead-letter-headers", "dead-letter-replayed-headers", "checkpoint",
    "journal", "owner", "command", "event-revised", "event-revised-headers",
)  # fmt: skip

OPERATION: Final = "wv0010"
READ_AT: Final = datetime(2026, 11, 20, 15, 5, 0, 250_000, tzinfo=UTC)
START: Final = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)

ROW: Final[Mapping[str, Any]] = {
    "channel": "whatsapp",
    "from": "CUSTOMER",
    "from_name": "Ana",
    "to_name": "chat_bot",
    "date": "2026-11-20 10:00:01",
    "message": "Hola",
    "customer_id": "123",
    "customer_phone": "573001112233",
    "feeling": "neutral",
}
CHAT: Final[Mapping[str, Any]] = {
    "conn_id": "186067512",
    "agent_name": "Luis",
    "customer_name": "Ana",
}

# Name of the example: (fields of the conversation, fields of the row, zone, largest event).
EVENTS: Final[Mapping[str, tuple[dict[str, Any], dict[str, Any], str, int]]] = {
    "event": ({}, {}, "America/Bogota", 1_000_000),
    "event.placeholder": ({"conn_id": "0"}, {}, "America/Bogota", 1_000_000),
    "event.ambiguous": ({}, {"date": "2026-10-25 02:30:00"}, "Europe/Madrid", 1_000_000),
    "event.extra": (
        {"queue": {"id": 7, "name": "ventas"}},
        {"sentiment_score": 0.5, "feeling": None},
        "America/Bogota",
        1_000_000,
    ),
    "event.oversized": ({}, {"message": "Ñ" * 600}, "America/Bogota", 1_000),
}


def schema(name: str) -> Draft202012Validator:
    return Draft202012Validator(
        json.loads((SCHEMAS / f"{name}.v1.schema.json").read_bytes()),
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )


def example(name: str) -> bytes:
    """The file without the line feed that ends it."""
    return (EXAMPLES / f"{name}.json").read_bytes().removesuffix(b"\n")


def encode(data: list[Any], zone: str = "America/Bogota", largest: int = 1_000_000) -> list[Seen]:
    encoder = Encoder(Provenance(OPERATION, "live", READ_AT), max_event_bytes=largest)
    return [seen(one) for one in encoder.encode(read_rows(data, OPERATION, Zone(zone)).rows)]


def record_of(name: str) -> Seen:
    chat, row, zone, largest = EVENTS[name]
    [record] = encode([{**CHAT, **chat, "conversation": [{**ROW, **row}]}], zone, largest)
    return record


def revision_of(chat: Mapping[str, Any], row: Mapping[str, Any]) -> Seen:
    """What a re-read publishes that shows the message with these fields."""
    pass_, again, *_ = passes = passes_of(PublisherSettings())
    known, _ = state.first(OPERATION, "America/Bogota", START, "now", [p.name for p in passes])
    limits = Limits(31 * DAY, 1_000_000, revisions=True)
    for reader, element in (
        (pass_, {**CHAT, "conversation": [dict(ROW)]}),
        (again, {**CHAT, **chat, "conversation": [{**ROW, **row}]}),
    ):
        body = orjson.dumps({"code": 200, "error": None, "msg": "", "data": [element]})
        answer = Answer(200, {}, body, READ_AT, READ_AT, 0.1)
        window = Window(START, START + 5 * MINUTE)
        publication = prepare(
            known, Read(reader, window, ends_round=True), answer, classify(answer),
            Zone("America/Bogota"), limits, now=READ_AT, covered_until=window.end,
            possibly_cut=False,
        )  # fmt: skip
        known.apply(publication.successor, limits.horizon)
    [record] = map(seen, publication.batch.revisions)
    return record


def checkpoint() -> StateRecord:
    """Of an operation with an hour behind it."""
    begun = Progress(START, START)
    return encode_checkpoint(
        Checkpoint(
            operation=OPERATION,
            timezone="America/Bogota",
            start=START,
            start_setting="now",
            sequence=13,
            journal_records=13,
            passes={
                "live": Progress(START + 45 * MINUTE, START + timedelta(minutes=60, seconds=0.25)),
                "reread-1h": begun,
                "reread-3d": begun,
            },
        )
    )


def journal() -> list[StateRecord]:
    """Of one window with three ids in two buckets, one of them a dead letter's."""
    entry = Entry(
        sequence=7, pass_name="live", start=START + 15 * MINUTE, end=START + 35 * MINUTE,
        read_at=START + timedelta(minutes=35, seconds=0.25), rows=5, new=2, duplicate=2, rejected=1,
    )  # fmt: skip
    ids = ids_of(
        {"2026-11-20 10": [1, 0xF00D_0000_0000_0002], f"{REJECTED}2026-11-20": [2**64 - 1]}
    )
    return list(journal_parts(OPERATION, entry, ids))


def owner() -> StateRecord:
    told = load({"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": "t"})
    shard = Cluster(told, lambda _: None).log(OPERATION)._shard
    assert isinstance(shard, Shard)
    return shard._owner()


def line_of(value: bytes) -> Any:
    return orjson.loads(value.partition(b"\n")[0])


# --- the schemas themselves -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_schema_is_a_schema(name: str) -> None:
    Draft202012Validator.check_schema(schema(name).schema)


def test_there_is_no_schema_that_nobody_checks() -> None:
    assert sorted(SCHEMAS.glob("*.schema.json")) == sorted(
        SCHEMAS / f"{name}.v1.schema.json" for name in NAMES
    )


def test_events_name_their_schema() -> None:
    assert schema("event").schema["$id"] == DATA_SCHEMA
    assert record_of("event").header["ce_dataschema"].decode() == DATA_SCHEMA


# --- the examples, byte for byte ------------------------------------------------------------------


def test_there_is_no_example_that_nobody_compares() -> None:
    compared = {*EVENTS, "event.record", "checkpoint", "checkpoint.first", "journal", "owner"}
    compared |= {"dead-letter.record"}  # in test_asyncapi.py
    compared |= {"event-revised", "event-revised.record"}
    assert {path.name.removesuffix(".json") for path in EXAMPLES.iterdir()} == compared


@pytest.mark.parametrize("name", EVENTS)
def test_the_events(name: str) -> None:
    value = record_of(name).value
    assert value == example(name)
    schema("event").validate(json.loads(value))


def test_key_and_headers_of_an_event() -> None:
    key, value, headers, _ = record_of("event")
    told = json.loads(example("event.record"))
    assert key is not None
    assert key.decode() == told["key"]
    assert {name: content.decode() for name, content in headers} == told["headers"]
    assert json.loads(value) == told["value"]


def test_a_revision() -> None:
    """Value, key and headers."""
    key, value, headers, _ = record = revision_of({}, {"feeling": "positive"})
    assert value == example("event-revised")
    told = json.loads(example("event-revised.record"))
    assert key is not None
    assert key.decode() == told["key"]
    assert [(name, content.decode()) for name, content in headers] == [*told["headers"].items()]
    assert json.loads(value) == told["value"]
    schema("event-revised").validate(told["value"])
    schema("event-revised-headers").validate(told["headers"])
    assert schema("event-revised").schema["$id"] == record.header["ce_dataschema"].decode()


def test_a_revision_is_an_event_and_its_number() -> None:
    """The two schemas cannot drift apart."""
    event, revised = schema("event").schema, schema("event-revised").schema
    assert revised["properties"].keys() == event["properties"].keys() | {"revision"}
    assert set(revised["required"]) == {*event["required"], "revision"}
    for part in ("dependentRequired", "dependentSchemas", "additionalProperties", "type"):
        assert revised[part] == event[part]
    for name, told in event["properties"].items():
        own = revised["properties"][name]
        assert {**own, "description": ""} == {**told, "description": ""}
    with pytest.raises(ValidationError):
        schema("event-revised").validate(json.loads(example("event")))
    with pytest.raises(ValidationError):
        schema("event").validate(json.loads(example("event-revised")))


def test_an_event_of_a_placeholder_has_neither_key_nor_subject() -> None:
    record = record_of("event.placeholder")
    assert record.key is None
    assert "ce_subject" not in record.header


def test_the_first_checkpoint() -> None:
    """What is durable before the first request."""
    names = ("live", "reread-1h", "reread-6h", "reread-1d", "reread-3d")
    assert [pass_.name for pass_ in passes_of(PublisherSettings())] == [*names]
    _, record = state.first(OPERATION, "America/Bogota", START, "now", names)
    assert record.key == b"checkpoint/wv0010"
    assert record.value == example("checkpoint.first")
    schema("checkpoint").validate(json.loads(record.value))


def test_a_checkpoint() -> None:
    record = checkpoint()
    assert record.key == b"checkpoint/wv0010"
    assert record.value == example("checkpoint")
    schema("checkpoint").validate(json.loads(record.value))


def test_a_journal_record() -> None:
    """The line as text, and the ids behind it as 8-byte big-endian numbers."""
    told = json.loads(example("journal"))
    [record] = journal()
    assert record.key == told["key"].encode()
    packed = b"".join(bytes.fromhex(id_) for id_ in told["ids"])
    assert record.value == told["line"].encode() + b"\n" + packed
    schema("journal").validate(json.loads(told["line"]))


def test_an_owner_record() -> None:
    record = owner()
    told = json.loads(example("owner"))
    value = json.loads(record.value or b"")
    assert record.key == f"owner/{told['partition']}".encode()
    assert list(value) == list(told)
    schema("owner").validate(value)
    # The instance is random: nothing else may differ.
    assert {**value, "instance": told["instance"]} == told
    schema("owner").validate(told)


# --- everything else the code may write -----------------------------------------------------------

FIELDS = (*ROW, "brand_new", "event_id", "extra", "occurred_at_ambiguous", "message_bytes")
values: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
rows = st.dictionaries(st.sampled_from(FIELDS), values).map(
    lambda row: {**row, "date": ROW["date"]}
)
chats = st.fixed_dictionaries(
    {"conversation": st.lists(rows, max_size=3)},
    optional={
        "conn_id": st.sampled_from(["1", "0", "", 7, None]),
        "agent_name": values,
        "customer_name": values,
        "source": values,
        "queue": values,
    },
)


@settings(max_examples=150, deadline=None)
@given(st.lists(chats, max_size=3), st.sampled_from([1_000, 1_000_000]))
def test_every_event_fits_whatever_the_api_sends(data: list[Any], largest: int) -> None:
    validator = schema("event")
    for record in encode(data, largest=largest):
        validator.validate(json.loads(record.value))


@settings(max_examples=100, deadline=None)
@given(rows, st.dictionaries(st.sampled_from(["agent_name", "customer_name", "queue"]), values))
def test_every_revision_fits_whatever_the_api_sends(
    row: dict[str, Any], chat: dict[str, Any]
) -> None:
    told = {**row, "from": ROW["from"], "message": ROW["message"], "brand_new": 1}
    schema("event-revised").validate(json.loads(revision_of(chat, told).value))


@pytest.mark.parametrize(
    "spoilt",
    [
        {"surprise": 1},
        {"occurred_at": "2026-11-20 15:00:01"},
        {"occurred_at_ambiguous": False},
        {"event_id": "186067512"},
        {"extra": {}},
        {"message_bytes": 4},
        {"message_bytes": 4, "message_sha256": "0" * 64},
    ],
)
def test_the_event_schema_refuses_what_is_no_event(spoilt: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        schema("event").validate({**json.loads(example("event")), **spoilt})


def test_what_a_window_writes_fits() -> None:
    """From an answer to a transaction: events, checkpoint and journal together."""
    pass_, *_ = passes = passes_of(PublisherSettings())
    known, _ = state.first(OPERATION, "America/Bogota", START, "now", [p.name for p in passes])
    chat = {**CHAT, "conversation": [dict(ROW), {**ROW, "date": "never"}]}
    body = orjson.dumps({"code": 200, "error": None, "msg": "", "data": [chat]})
    answer = Answer(200, {}, body, READ_AT, READ_AT, 0.1)
    window = Window(START, START + 5 * MINUTE)
    publication = prepare(
        known, Read(pass_, window, ends_round=True), answer, classify(answer),
        Zone("America/Bogota"), Limits(31 * DAY, 1_000_000),
        now=READ_AT, covered_until=window.end, possibly_cut=False,
    )  # fmt: skip
    [event] = map(seen, publication.batch.events)
    schema("event").validate(json.loads(event.value))
    assert event.value == example("event")
    [letter] = map(seen, publication.batch.dead_letters)
    assert orjson.loads(letter.value)["date"] == "never"
    [entry, after] = publication.batch.state
    assert entry.value
    schema("journal").validate(line_of(entry.value))
    assert [bucket for bucket, _ in line_of(entry.value)["ids"]] == [
        "2026-11-20 10",
        "rejected 2026-11-20",
    ]
    assert after.value
    schema("checkpoint").validate(json.loads(after.value))


def test_a_journal_record_with_fingerprints_fits() -> None:
    """An addition to the line: what stood there before stands there still."""
    [plain] = journal()
    entry, _ = decode_journal(plain.value or b"")
    told = {"2026-11-20 10": {1: version(5, 0), 2**64 - 1: version(2**32 - 1, 7)}}
    [record] = journal_parts(OPERATION, entry, {}, told)
    line = line_of(record.value or b"")
    schema("journal").validate(line)
    text = line.pop("fingerprints")["2026-11-20 10"]
    assert b64decode(text).hex() == (
        "0000000000000001" "ffffffffffffffff" "00000005" "ffffffff" "0000" "0007"
    )  # fmt: skip
    [without] = journal_parts(OPERATION, entry, {})
    assert line == line_of(without.value or b"")


def test_a_large_window_comes_in_parts_that_fit() -> None:
    [small] = journal()
    entry, _ = decode_journal(small.value or b"")
    ids = ids_of({"2026-11-20 10": range(70_000), "2026-11-20 11": range(3)})
    parts = list(journal_parts(OPERATION, entry, ids))
    assert [part.key for part in parts] == [b"journal/wv0010/7/0", b"journal/wv0010/7/1",
                                            b"journal/wv0010/7/2"]  # fmt: skip
    found: dict[str, array[int]] = {}
    for number, part in enumerate(parts):
        assert part.value
        assert len(part.value) <= 256 * 1024
        told = line_of(part.value)
        schema("journal").validate(told)
        assert told["part"] == number
        for bucket, those in decode_journal(part.value)[1]:
            found.setdefault(bucket, array("Q")).extend(those)
    assert found == ids


def test_a_gap_fits() -> None:
    told = decode_checkpoint(example("checkpoint"))
    with_gap = Checkpoint(
        told.operation, told.timezone, told.start, told.start_setting, told.sequence,
        told.journal_records, told.passes, (Window(START, START + MINUTE),),
    )  # fmt: skip
    value = encode_checkpoint(with_gap).value
    assert value
    schema("checkpoint").validate(json.loads(value))


def test_a_backfill_and_its_order_fit() -> None:
    """Both survive what writes and reads them."""
    told = decode_checkpoint(example("checkpoint"))
    end = START + MINUTE
    backfill = Backfill("1", START, end, True, START, Standing.PAUSED, 3, 5, 4)
    written = replace(told, backfills=(backfill,))
    value = encode_checkpoint(written).value
    assert value
    schema("checkpoint").validate(json.loads(value))
    assert decode_checkpoint(value) == written
    backfill_request = BackfillRequest("1", START, end, again=True, wanted=Standing.CANCELLED)
    schema("command").validate(json.loads(commands_topic._encoded(backfill_request)))
    assert (
        commands_topic._decoded(b"wv0010/1", commands_topic._encoded(backfill_request))
        == backfill_request
    )


def test_the_headers_of_a_dead_letter_are_those_of_the_readme() -> None:
    readme = (SCHEMAS / "README.md").read_text(encoding="utf-8")
    letter = dead_letter.DeadLetter(
        RejectReason.DATE_INVALID, "data[0].conversation[0]", b"{}", b"{}"
    )
    window = Window(START, START + MINUTE)
    origin = dead_letter.Origin(OPERATION, "live", window, READ_AT)
    [record] = dead_letter.records([letter], origin, 1_000_000)
    section = readme.partition("## Dead letters")[2].partition("\n## ")[0]
    for name in seen(record).header:
        assert f"`{name}`" in section, name


def test_every_header_of_an_event_stands_in_the_readme() -> None:
    readme = (SCHEMAS / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Events")[2].partition("\n## ")[0]
    for name in [*record_of("event").header, "wolkvox_decoding"]:
        assert f"`{name}`" in section, name

"""Decoding straight into types is a shorter way to the same: it accepts less, changes nothing."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.events.rows import Reading, Reject, RejectReason, read_rows
from publisher.wolkvox import schema
from publisher.wolkvox.responses import classify
from publisher.wolkvox.schema import Chat, Message
from publisher.wolkvox.timezone import Zone
from tests.test_events import encoder, shown
from tests.test_rows import ANSWERS, DATE, chat, row
from tests.test_upstream import answer, envelope

ZONE = Zone("America/Bogota")
TEXT = st.one_of(st.none(), st.text(max_size=8), st.sampled_from(["", "Hola", "\0", "AGENT"]))
DOCUMENTED = st.lists(
    st.fixed_dictionaries(
        {
            "conversation": st.lists(
                st.fixed_dictionaries(
                    {"date": st.sampled_from([DATE, "2026-11-20 10:00:02", "yesterday", ""])},
                    optional=dict.fromkeys(schema.MESSAGE_FIELDS.keys() - {"date"}, TEXT),
                ),
                max_size=4,
            )
        },
        optional={
            "conn_id": st.sampled_from([None, "", "0", "1", "a\0b", "\u00e9"]),
            "agent_name": TEXT,
            "customer_name": TEXT,
        },
    ),
    max_size=3,
)


def both(body: bytes) -> Iterator[Reading]:
    """What an answer holds, decoded into types and decoded as plain JSON."""
    for data in (classify(answer(200, body)).data, orjson.loads(body)["data"]):
        yield read_rows(data, "wv0010", ZONE)


def told_by(reading: Reading) -> tuple[Any, ...]:
    """All that is known of a reading; what it becomes, byte by byte."""
    ids = [(row[0], row[1], row[2], row[4].position, row[5]) for row in reading.rows]
    return ids, reading.rejects, shown(encoder().encode(reading.rows))


@settings(max_examples=200, deadline=None)
@given(st.one_of(DOCUMENTED, ANSWERS))
def test_both_ways_lead_to_the_same_events(data: list[Any]) -> None:
    """Rows, ids, rejects and records are equal, whether an answer is as documented or not."""
    typed, plain = both(envelope(data=data))
    assert told_by(typed) == told_by(plain)


@settings(max_examples=100, deadline=None)
@given(DOCUMENTED)
def test_what_is_documented_is_decoded_into_types(data: list[Any]) -> None:
    """The short way is the usual one, and it leaves out nothing."""
    told = schema.decode(envelope(data=data))
    assert told is not None
    assert all(type(each) is Chat for each in told["data"])
    assert msgspec.to_builtins(told["data"]) == data


SPOILT = [
    b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\\ud800", b"\\udc00\\ud800",
    b"\x00", b"\x01", b"\t", b"\n", b"\x1f", b"\\x", b"\\u00", b'"', b"\\",
]  # fmt: skip


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize("place", [b"Hola", b"found", b"CUSTOMER", b"conn_id", b"code"])
def test_what_the_strict_decoder_refuses_is_refused(spoilt: bytes, place: bytes) -> None:
    """In every text and name of an answer, also in those that nobody looks at."""
    body = envelope(msg="1 records were found", data=[chat(row("Hola"))])
    assert schema.decode(body.replace(place, spoilt, 1)) is None


@pytest.mark.parametrize("seed", range(4))
def test_no_mutation_is_read_otherwise_than_by_the_strict_decoder(seed: int) -> None:
    """5,000 spoilt answers a seed: what is decoded into types is what plain JSON says."""
    rng = Random(seed)
    base = envelope(200, None, "2 records", [chat(row('Hola\n\u20ac \U0001f600 "q"'), row(None))])
    accepted = 0
    for _ in range(5_000):
        body = bytearray(base)
        for _ in range(rng.choice((1, 1, 2, 3))):
            place = rng.randrange(len(body))
            match rng.randrange(4):
                case 0:
                    body[place] = rng.randrange(256)
                case 1:
                    del body[place]
                case 2:
                    body.insert(place, rng.choice(b'"\\{}[],:0123u\x00\xff\xc3'))
                case _:
                    body[place:place] = body[place : place + rng.randrange(1, 8)]
        told = schema.decode(bytes(body))
        if told is not None:
            accepted += 1
            assert msgspec.to_builtins(told) == orjson.loads(body)
    assert accepted > 100


@pytest.mark.parametrize("name", ["occurred_at", "occurred_at_ambiguous", "extra", "event_id"])
@pytest.mark.parametrize("value", ["", "2026-11-20T15:00:01Z", True, None, 1, {"message": {}}])
def test_no_answer_sets_a_field_of_ours(name: str, value: Any) -> None:
    """A field of that name in the report is one that nobody documented."""
    body = envelope(data=[{**chat(row(**{name: value})), name: value}])
    assert schema.decode(body) is None
    (record,) = encoder().encode(next(both(body)).rows)
    event = json.loads(shown([record]).splitlines()[-1])
    assert event["extra"] == {"message": {name: value}, "conversation": {name: value}}
    assert event["occurred_at"] == "2026-11-20T15:00:01Z"


@pytest.mark.parametrize("char", [*map(chr, range(0x20)), '"', "\\", "/", "\x7f", "\u2028"])
def test_texts_are_written_as_orjson_writes_them(char: str) -> None:
    """Whatever encoded an event, its bytes are the same."""
    assert schema.encode(Message(message=char)) == orjson.dumps({"message": char})


def test_what_cannot_be_written_again_is_rejected() -> None:
    """Orjson reads 1,024 levels and writes 254: a deeper value can be in no event."""
    deep = json.loads("[" * 300 + "]" * 300)
    reading = read_rows([chat(row(deep), row(more=deep), row()), chat(more=deep)], "wv0010", ZONE)
    assert len(reading.rows) == 1
    assert reading.rejects == [
        Reject(RejectReason.ROW_INVALID, 0, 0),
        Reject(RejectReason.ROW_INVALID, 0, 1),
        Reject(RejectReason.CONVERSATION_INVALID, 1, None),
    ]

"""What could not be understood is kept as the bytes that the server sent."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from random import Random
from time import process_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.events.dead_letter import (
    DeadLetter,
    Event,
    Origin,
    cut_out,
    of_answer,
    of_rows,
    records,
    unknown_to,
)
from publisher.events.rows import Reject, RejectReason, read_rows
from publisher.model import Window
from publisher.state.ledger import REJECTED, Ledger
from publisher.wolkvox.responses import Verdict, classify
from publisher.wolkvox.timezone import Zone
from tests.fakes import ids_of, seen
from tests.test_events import encoder
from tests.test_upstream import answer

START = datetime(2026, 11, 20, 15, tzinfo=UTC)
ORIGIN = Origin("wv0010", "live", Window(START, START + timedelta(minutes=5)), START)
BAD = RejectReason.ROW_INVALID


class Writer:
    """JSON as some server may format it: any white space, any escapes, names twice.

    Remembers the exact bytes of every element and of every row.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._dense = self._random.random() < 0.2
        self.elements: list[bytes] = []
        self.rows: list[list[bytes]] = []

    def answer(self, data: list[Any]) -> bytes:
        listed = self._list(data, self._element)
        decoy = self._random.choice([b"", b'"data":[{"conversation":["decoy"]}, 1],'])
        return b"%b{%b%b%b:%b%b,%b}%b" % (
            self._space(), decoy, self._space(), self._text("data"), self._space(), listed,
            self._pair("code", "200") + b"," + self._pair("msg", 'x "data":[1,2] {'),
            self._space(),
        )  # fmt: skip

    def _element(self, element: Any) -> bytes:
        if not isinstance(element, dict) or not isinstance(element.get("conversation"), list):
            written = self._value(element)
            rows: list[bytes] = []
        else:
            rows = []

            def row(value: Any) -> bytes:
                rows.append(self._value(value))
                return rows[-1]

            pairs = [
                self._text(name)
                + self._space()
                + b":"
                + self._space()
                + (self._list(value, row) if name == "conversation" else self._value(value))
                for name, value in element.items()
            ]
            if self._random.random() < 0.3:
                pairs.insert(0, self._pair("conversation", ["a decoy", {}, [1]]))
            written = b"{" + self._space() + self._comma(pairs) + self._space() + b"}"
        self.elements.append(written)
        self.rows.append(rows)
        return written

    def _pair(self, name: str, value: Any) -> bytes:
        return self._text(name) + self._space() + b":" + self._space() + self._value(value)

    def _list(self, items: list[Any], write: Callable[[Any], bytes]) -> bytes:
        inside = self._comma([write(item) for item in items])
        return b"[" + self._space() + inside + self._space() + b"]"

    def _comma(self, parts: list[bytes]) -> bytes:
        return b"".join(
            (self._space() + b"," + self._space() if number else b"") + part
            for number, part in enumerate(parts)
        )

    def _value(self, value: Any) -> bytes:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, list):
            return self._list(value, self._value)
        if isinstance(value, dict):
            pairs = [self._pair(name, inner) for name, inner in value.items()]
            return b"{" + self._space() + self._comma(pairs) + self._space() + b"}"
        if isinstance(value, float):
            return self._random.choice([b"%.3f", b"%e", b"%E"]) % value
        return json.dumps(value).encode()

    def _text(self, text: str) -> bytes:
        return b'"' + b"".join(map(self._character, text)) + b'"'

    def _character(self, character: str) -> bytes:
        if not self._dense and self._random.random() < 0.2:
            code = ord(character)
            if code <= 0xFFFF:
                return self._random.choice([b"\\u%04x", b"\\u%04X"]) % code
            code -= 0x10000
            return b"\\u%04x\\u%04x" % (0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF))
        if character == "/" and self._random.random() < 0.5:
            return b"\\/"
        return json.dumps(character, ensure_ascii=False)[1:-1].encode()

    def _space(self) -> bytes:
        if self._dense:
            return b""
        return b"".join(self._random.choices([b"", b" ", b"\n", b"\t", b"\r\n"], k=2))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(-1e9, 1e9),
    st.text(),
    st.sampled_from(['"]}', "\\", "{[,", "\U0001f600é", "/\0\u2028"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=5,
)
ELEMENTS = st.one_of(
    VALUES.filter(lambda value: not isinstance(value, dict)),
    st.builds(
        lambda fields, rows, behind: (
            {**fields, "conversation": rows, **behind}
            if "conversation" not in behind
            else {**fields, "conversation": rows}
        ),
        st.dictionaries(st.sampled_from(["conn_id", "data", "é", ""]), VALUES),
        st.lists(VALUES, max_size=5),
        st.dictionaries(st.text(), VALUES, max_size=2),
    ),
)


def all_rejects(writer: Writer) -> Iterator[tuple[Reject, bytes, str]]:
    """Everything that could be rejected in what was written, with its bytes and its place."""
    for element, raw in enumerate(writer.elements):
        yield Reject(BAD, element, None), raw, f"data[{element}]"
        for number, row in enumerate(writer.rows[element]):
            place = f"data[{element}].conversation[{number}]"
            yield Reject(BAD, element, number), row, place


@settings(max_examples=80, deadline=None)
@given(st.lists(ELEMENTS, max_size=4), st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_what_is_cut_out_is_exactly_what_the_server_sent(
    data: list[Any], seed: int, random: Random
) -> None:
    """Byte for byte, however the answer is formatted; in the answer's order, whatever is asked."""
    writer = Writer(seed)
    body = writer.answer(data)
    wanted = [told for told in all_rejects(writer) if random.random() < 0.7]
    asked = [reject for reject, _, _ in wanted]
    random.shuffle(asked)
    found = [(letter.raw, letter.position) for letter in cut_out(body, asked)]
    assert found == [(raw, place) for _, raw, place in wanted]
    for raw, _ in found:
        assert raw in body


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.just("good"), st.text(max_size=3)), max_size=6),
    st.integers(0, 2**32),
    st.sampled_from([b"", b"\xef\xbb\xbf", b"<br />Warning: {closure}() { failed<br />\n"]),
)
def test_rejected_rows_of_a_real_answer_are_found_again(
    kinds: list[str | None], seed: int, before: bytes
) -> None:
    """From the body to rejects and back to the bytes: also behind what had to be forgiven."""
    good = {"date": "2026-11-20 10:00:00", "message": "é"}
    rows = [good if kind == "good" else kind for kind in kinds]
    writer = Writer(seed)
    body = before + writer.answer([{"conn_id": "1", "conversation": rows}, None])
    classification = classify(answer(200, body), lenient=True)
    assert classification.verdict is Verdict.USE
    assert classification.lenient == bool(before)
    reading = read_rows(classification.data, "wv0010", Zone("America/Bogota"))
    bad = [raw for kind, raw in zip(kinds, writer.rows[0], strict=True) if kind != "good"]
    assert [letter.raw for letter in cut_out(body, reading.rejects)] == [*bad, writer.elements[1]]


def test_bytes_that_no_decoder_accepts_are_kept_as_they_came() -> None:
    """Invalid UTF-8, control characters, lone surrogates, NaN and endless numbers."""
    odd = b'"\xff\xfe\x01\t\\ud800 NaN" , NaN, ' + b"9" * 5000
    body = b'{"code":200,"data":[{"conversation":[' + odd + b"]}]}"
    classification = classify(answer(200, body.replace(b"9" * 5000, b"7")), lenient=True)
    assert classification.verdict is Verdict.USE
    rejects = [Reject(BAD, 0, number) for number in range(3)]
    assert [letter.raw for letter in cut_out(body, rejects)] == [
        b'"\xff\xfe\x01\t\\ud800 NaN"', b"NaN", b"9" * 5000,
    ]  # fmt: skip


def test_a_row_is_cut_out_alone_and_a_conversation_whole() -> None:
    """The smallest broken level goes, with what a replay of a lone row needs beside it."""
    body = (
        b'{"code":200,"data":[ {"conn_id":"7","agent_name":"L","conversation":[{"date":"x"} , 5]},'
        b' {"conn_id":1.5,"conversation":[{"date":"x"}]} ]}'
    )
    classification = classify(answer(200, body))
    reading = read_rows(classification.data, "wv0010", Zone("America/Bogota"))
    context = b'{"conn_id":"7","agent_name":"L"}'
    identity = sha1(b"7\0x\0\0\x001").digest()
    assert list(cut_out(body, reading.rejects)) == [
        DeadLetter(
            RejectReason.DATE_INVALID,
            "data[0].conversation[0]",
            b'{"date":"x"}',
            context,
            identity,
        ),
        DeadLetter(RejectReason.ROW_INVALID, "data[0].conversation[1]", b"5", context),
        DeadLetter(
            RejectReason.CONN_ID_INVALID,
            "data[1]",
            b'{"conn_id":1.5,"conversation":[{"date":"x"}]}',
        ),
    ]


def test_a_context_that_is_large_or_unreadable_is_left_out() -> None:
    """Headers stay small; the bytes of the row are there all the same."""
    for name in (b'"' + b"x" * 20_000 + b'"', b'"\xff"'):
        body = b'{"code":200,"data":[{"agent_name":' + name + b',"conversation":[5]}]}'
        assert list(cut_out(body, [Reject(BAD, 0, 0)])) == [
            DeadLetter(BAD, "data[0].conversation[0]", b"5")
        ]


def test_nothing_rejected_costs_nothing() -> None:
    """Without rejects the body is not even looked at."""
    assert list(cut_out(b"not JSON at all", [])) == []


def test_cutting_many_rows_out_of_one_conversation_is_quick() -> None:
    """The work grows with the rows, not with their square."""
    rows = [{"date": "x", "message": "Hola"}] * 10_000
    body = json.dumps({"code": 200, "data": [{"conn_id": "0", "conversation": rows}]}).encode()
    began = process_time()
    letters = cut_out(body, [Reject(BAD, 0, number) for number in range(10_000)])
    assert {letter.raw for letter in letters} == {json.dumps(rows[0]).encode()}
    assert process_time() - began < 5  # the square takes a minute


def test_rows_too_large_for_an_event_are_kept_whole() -> None:
    """The raw row goes to the dead letters when its event went out without the message."""
    small = {"date": "2026-11-20 10:00:00", "message": "x"}
    large = {"date": "2026-11-20 10:00:00", "message": "x" * 2000}
    data = [{"conn_id": "1", "conversation": [small, large]}]
    body = json.dumps({"code": 200, "data": data}).encode()
    encoder_ = encoder(max_event_bytes=1000)
    rows = read_rows(classify(answer(200, body)).data, "wv0010", Zone("America/Bogota")).rows
    assert len(list(encoder_.encode(rows))) == 2
    (letter,) = of_rows(
        body, RejectReason.EVENT_TOO_LARGE, encoder_.oversized, encoder_.unpublished
    )
    assert letter.raw == json.dumps(large).encode()
    assert letter.reason is RejectReason.EVENT_TOO_LARGE
    assert letter.position == "data[0].conversation[1]"
    assert (letter.identity, letter.event) == (rows[1][1], Event.WITHOUT_MESSAGE)


def test_an_answer_that_was_decoded_leniently_is_kept_whole() -> None:
    """Its true bytes, under one id: however often it is read again."""
    body = b'\xef\xbb\xbf{"data":[]}'
    assert of_answer(body) == DeadLetter(RejectReason.ANSWER_UNDECODABLE, "answer", body)
    assert of_answer(body).id == of_answer(bytes(body)).id


def test_an_id_is_the_beginning_of_the_digest_of_the_bytes() -> None:
    """The same bytes are the same dead letter wherever they stood; other bytes are another."""
    one = DeadLetter(BAD, "data[0]", b"5")
    assert one.digest == sha1(b"5").digest()
    assert one.id == int.from_bytes(sha1(b"5").digest()[:8]) == DeadLetter(BAD, "x", b"5").id
    assert one.id != DeadLetter(BAD, "data[0]", b"5 ").id


def test_re_reads_do_not_repeat_dead_letters() -> None:
    """What the ledger knows is left out, and so is what an answer shows twice."""
    letters = [DeadLetter(BAD, f"data[{n}]", raw) for n, raw in enumerate([b"1", b"2", b"1"])]
    ledger = Ledger()
    fresh = unknown_to(ledger, letters)
    assert [letter.position for letter in fresh] == ["data[0]", "data[1]"]
    ledger.add(ids_of({f"{REJECTED}2026-11-20": [letters[1].id]}), START, START)
    assert [letter.raw for letter in unknown_to(ledger, letters)] == [b"1"]
    # A message with the same number is no dead letter.
    ledger.add(ids_of({"2026-11-20 10": [letters[0].id]}), START, START)
    assert [letter.raw for letter in unknown_to(ledger, letters)] == [b"1"]


def letters_of(*rows: dict[str, Any], conn_id: Any = "7", **fields: Any) -> list[DeadLetter]:
    """What is cut out where every one of these rows is rejected."""
    chat = {"conn_id": conn_id, **fields, "conversation": rows}
    body = json.dumps({"code": 200, "data": [chat]}).encode()
    return cut_out(body, [Reject(BAD, 0, number) for number in range(len(rows))])


def test_a_broken_row_has_the_identity_of_a_message() -> None:
    """Equal rows are as many letters; neither other fields nor their order change an id."""
    row = {"date": "x", "from": "CUSTOMER", "message": "Hola", "customer_id": "1"}
    later = {**row, "feeling": "neutral"}
    ids = [letter.id for letter in letters_of(row, later, row)]
    assert len(set(ids)) == 3
    assert sorted(letter.number for letter in letters_of(row, later, row)) == [1, 2, 3]
    assert {each.id for each in letters_of(later, later, row, agent_name="L")} == set(ids)
    assert [each.id for each in letters_of(later)] == [
        each.id for each in letters_of(row) if each.number == 1
    ]
    assert {each.raw: each.id for each in letters_of(row, later)} == {
        each.raw: each.id for each in letters_of(later, row)
    }
    other = {**row, "customer_id": "2"}
    assert [each.id for each in letters_of(row, conn_id="8")] != ids[:1]
    assert [each.number for each in letters_of(row, other)] == [1, 2]
    assert [each.number for each in letters_of(row, other, conn_id="0")] == [1, 1]
    assert {each.id for each in letters_of({**row, "date": 5}, conn_id=7)} == {
        each.id for each in letters_of({**row, "date": "5"}, conn_id="7")
    }


def test_letters_of_an_older_version_are_not_repeated() -> None:
    """It remembered the bytes of broken rows."""
    (letter,) = letters_of({"date": "x"})
    ledger = Ledger()
    old = int.from_bytes(letter.digest[:8])
    ledger.add(ids_of({f"{REJECTED}2026-11-20": [old]}), START, START)
    assert unknown_to(ledger, [letter]) == []


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 2001, 10_000])
def test_large_bytes_come_in_parts_of_one_key_and_partition(size: int) -> None:
    """Joined in order the parts are the bytes; each tells which it is of how many."""
    raw = bytes(number % 251 for number in range(size))
    letter = DeadLetter(BAD, "answer", raw)
    found = [seen(record) for record in records([letter], ORIGIN, 1000)]
    assert b"".join(one.value for one in found) == raw
    assert len(found) == max(1, -(-size // 1000))
    assert all(len(one.value) <= 1000 for one in found)
    assert {one.key for one in found} == {sha1(raw).hexdigest().encode()}
    assert len({one.partition_hash for one in found}) == 1
    for number, one in enumerate(found):
        told = one.header
        assert (told["part"], told["parts"]) == (b"%d" % number, b"%d" % len(found))


def test_a_dead_letter_tells_where_it_comes_from() -> None:
    """Reason, operation, window, position: what a person or a replay needs."""
    letter = DeadLetter(BAD, "data[3].conversation[2]", b"5", b'{"conn_id":"7"}')
    (record,) = records([letter], ORIGIN, 1000)
    assert seen(record).header == {
        "reason": b"row_invalid",
        "operation": b"wv0010",
        "pass": b"live",
        "window": b"2026-11-20T15:00:00Z/2026-11-20T15:05:00Z",
        "read_at": b"2026-11-20T15:00:00Z",
        "position": b"data[3].conversation[2]",
        "sha1": sha1(b"5").hexdigest().encode(),
        "id": sha1(b"5").hexdigest().encode(),
        "part": b"0",
        "parts": b"1",
        "conversation": b'{"conn_id":"7"}',
    }

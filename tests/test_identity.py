"""The edges of identity: what stands for "none", what is signed anew, what a number is."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from publisher.events.encode import Encoder
from publisher.events.identity import is_placeholder, unsigned
from publisher.events.rows import read_rows
from publisher.wolkvox.responses import classify
from publisher.wolkvox.timezone import Zone
from tests.fakes import seen
from tests.test_events import LIVE
from tests.test_rows import chat, ids, row
from tests.test_upstream import answer

NONE = [
    "", " ", "\t\n", "\u00a0", "\u200b", "0", "00", "000000000", "0.0", "+0", "-0", "0x0",
    "0,00", "\u0660",
    "-", "--", "\u2013", "\u2014", "_", ".", "?",
    "null", "NULL", " Null ", "None", "nil", "undefined", "NaN",
    "N/A", "#N/A", "n.a.", "false", "(null)", "\\N", "ninguno", "sin id",
    "unknown", "[object Object]",
    "-1", " -1 ", "-1.0", "\u22121", "-99", "00000000-0000-0000-0000-000000000000",
]  # fmt: skip
REAL = [
    "1", "186067512", "0186067512", " 186067512 ", "wv-7", "a3f", "186067512-2", "9" * 30, "\u0663",
    "6fa459ea-ee8a-3ca4-894e-db77e160355e", "2026-11-20", "null1",
]  # fmt: skip


@pytest.mark.parametrize("conn_id", NONE)
def test_what_stands_for_none_names_no_conversation(conn_id: str) -> None:
    assert is_placeholder(conn_id)
    one, other = (chat(row(customer_id=who), conn_id=conn_id) for who in "12")
    assert len(ids([one, other])) == 2


@pytest.mark.parametrize("conn_id", REAL)
def test_what_holds_a_digit_names_one(conn_id: str) -> None:
    assert not is_placeholder(conn_id)
    one, other = (chat(row(customer_id=who), conn_id=conn_id) for who in "12")
    assert ids([one]) == ids([other])


@given(st.text(max_size=9), st.text(max_size=9), st.integers(1, 10**18))
def test_no_number_is_hidden_by_what_stands_around_it(one: str, other: str, number: int) -> None:
    """But for a minus, whatever else a conn_id holds."""
    assert not is_placeholder(f"x{one}{number}{other}")


LINK = 'see <a href="https://b.test/a%20b.png?v=2&{}">x</a> https://b.test/?page=1'
SIGNED = [
    "X-Amz-Algorithm=A&X-Amz-Credential=C{0}&X-Amz-Date={0}&X-Amz-Expires=60&X-Amz-Security-Token={0}"
    "&X-Amz-SignedHeaders=host&X-Amz-Signature={0}",
    "AWSAccessKeyId=K&Expires={0}&Signature={0}",
    "Expires={0}&Signature={0}&Key-Pair-Id=K{0}",
    "Policy={0}&Signature={0}&Key-Pair-Id=K",
    "X-Goog-Algorithm=A&X-Goog-Credential={0}&X-Goog-Date={0}"
    "&X-Goog-Expires=9&X-Goog-SignedHeaders=host&X-Goog-Signature={0}",
    "GoogleAccessId=G&Expires={0}&Signature={0}",
    "sv=2024&st={0}&se={0}&sr=b&sp=r&skoid={0}&sktid={0}&sig={0}",
    "token={0}&expires={0}",
    "_nc_ht=h{0}&_nc_ohc={0}&oh={0}&oe={0}",
]  # fmt: skip


@pytest.mark.parametrize("signing", SIGNED)
@pytest.mark.parametrize("escape", [False, True])
def test_a_link_that_is_signed_anew_is_the_same_message(signing: str, *, escape: bool) -> None:
    """Also where HTML writes & as &amp;; the event holds the text as it came."""
    first, second, other = (
        LINK.format(signing.format(number)).replace("&", "&amp;" if escape else "&")
        for number in ("1a", "2b", "2b")
    )
    other = other.replace("v=2", "v=3")
    assert first != second
    assert ids([chat(row(first))]) == ids([chat(row(second))])
    assert ids([chat(row(first))]) != ids([chat(row(other))])
    rows = read_rows([chat(row(second))], "wv0010", Zone("America/Bogota")).rows
    assert rows[0][3].message == second


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://b.test/?page=1", "https://b.test/?page=2"),
        ("https://b.test/?se=1&sp=2", "https://b.test/?se=2&sp=2"),  # nothing signs it
        ("https://b.test/?Expires=1", "https://b.test/?Expires=2"),
        ("https://b.test/1?sig=1", "https://b.test/2?sig=1"),
        ("https://b.test/?sig=1#a", "https://b.test/?sig=1#b"),
        ("what? sig=1", "what? sig=2"),
        ("ftp://b.test/?sig=1", "ftp://b.test/?sig=2"),
    ],
)
def test_other_links_are_other_messages(one: str, other: str) -> None:
    assert unsigned(one) != unsigned(other)
    assert ids([chat(row(one))]).isdisjoint(ids([chat(row(other))]))


def test_two_signed_links_of_one_second_are_two_messages() -> None:
    assert len(ids([chat(row("https://b.test/?sig=1"), row("https://b.test/?sig=2"))])) == 2


NUMBERS = [
    "1e3", "1E+3", "1.10", "57300.0", "-0", "-0.0", "0", "7", "-5", "18446744073709551615",
    "18446744073709551616", "186067512345678901234", "-9223372036854775809", "1e999",
    "0.1000000000000000055511151231257827", "9" * 400,
]  # fmt: skip


@pytest.mark.parametrize("digits", NUMBERS)
@pytest.mark.parametrize("before", [b"", b"warning "])
def test_a_number_keeps_its_digits(digits: str, before: bytes) -> None:
    """In whatever field, also deep in one that nobody documented, and in a damaged answer."""
    told: dict[str, Any] = {"customer_id": "N", "message": "N", "new": {"a": ["N"]}, "feeling": "N"}
    data = [chat(row(**told), queue="N")]
    body = before + orjson.dumps({"code": 200, "msg": "", "data": data})
    classification = classify(
        answer(200, body.replace(b'"N"', digits.encode())), lenient=bool(before)
    )
    reading = read_rows(classification.data, "wv0010", Zone("America/Bogota"))
    (record,) = map(seen, Encoder(LIVE, max_event_bytes=9_000).encode(reading.rows))
    number = digits.encode()
    parts = b'"message":%b,', b'"customer_id":%b,', b'"feeling":%b,', b'{"a":[%b]}', b'"queue":%b}'
    for part in parts:
        assert part % number in record.value, part


def test_an_event_without_its_message_keeps_the_other_digits() -> None:
    body = orjson.dumps({"code": 200, "data": [chat(row("x" * 900, customer_id="N"))]})
    data = classify(answer(200, body.replace(b'"N"', b"1.10"))).data
    rows = read_rows(data, "wv0010", Zone("America/Bogota")).rows
    (record,) = map(seen, Encoder(LIVE, max_event_bytes=800).encode(rows))
    assert b'"message":null' in record.value
    assert b'"customer_id":1.10' in record.value


@pytest.mark.parametrize("digits", ["186067512345678901234", "9" * 40])
def test_a_long_conn_id_is_the_key_and_equals_its_text(digits: str) -> None:
    whole = orjson.dumps({"code": 200, "msg": "", "data": [chat(row(), conn_id="N")]})
    data = classify(answer(200, whole.replace(b'"N"', digits.encode()))).data
    rows = read_rows(data, "wv0010", Zone("America/Bogota")).rows
    (record,) = map(seen, Encoder(LIVE, max_event_bytes=9_000).encode(rows))
    assert record.key == digits.encode()
    text = read_rows([chat(row(), conn_id=digits)], "wv0010", Zone("America/Bogota")).rows
    assert rows[0][1] == text[0][1]

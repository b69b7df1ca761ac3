"""Every answer a server of this kind can give is understood, or known not to be."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from publisher.errors import Reason
from publisher.model import Answer
from publisher.wolkvox.responses import (
    LONGEST_RETRY_AFTER,
    ROW_CAP,
    Classification,
    Verdict,
    classify,
    decode_leniently,
    server_time,
)

NOW = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
ROW = {"from": "CUSTOMER", "date": "2026-11-20 10:00:01", "message": "Hola"}
CHAT = {"conn_id": "186067512", "conversation": [ROW]}


def answer(
    status: int, body: bytes, headers: Mapping[str, str] | None = None, *, oversized: bool = False
) -> Answer:
    return Answer(status, headers or {}, body, NOW, NOW, 0.1, oversized)


def envelope(code: Any = "200", error: Any = None, msg: Any = "", data: Any = ()) -> bytes:
    return json.dumps({"code": code, "error": error, "msg": msg, "data": data}).encode()


def plain(found: Classification) -> Classification:
    """The same with `data` as the JSON that it was."""
    return replace(found, data=msgspec.to_builtins(found.data))


def said(status: int, msg: str, error: str = "X", code: Any = None) -> Classification:
    """How an error answer with this `msg` is judged: the code stands in both places."""
    return classify(answer(status, envelope(code or status, error, msg, None)))


# wolkvox-api.md §2, line by line.
@pytest.mark.parametrize("inside", [False, True], ids=["HTTP status", "code inside 200"])
@pytest.mark.parametrize("as_text", [False, True], ids=["code 1", 'code "1"'])
@pytest.mark.parametrize(
    ("status", "error", "msg", "verdict", "reason"),
    [
        (404, "NOT FOUND", "Validate dates entered", "empty", None),
        (404, "NOT FOUND", "VALIDATE DATES ENTERED", "empty", None),
        (404, "NOT FOUND", "Report not available", "not_understood", "report_missing"),
        (404, "NOT FOUND", "", "not_understood", "report_missing"),
        (400, "BAD REQUEST", "THE API YOU WANT TO CONSULT DOES NOT EXIST", "hold", "bad_request"),
        (400, "BAD REQUEST", "SOME PARAMETERS ARE REQUIRED", "hold", "bad_request"),
        (401, "UNAUTHORIZED", "PLEASE ENTER THE WOLKVOX-TOKEN", "hold", "token_missing"),
        (403, "FORBIDDEN", "PLEASE VALIDATE TOKEN", "hold", "token_refused"),
        (
            403, "FORBIDDEN",
            "EXCEEDS THE LIMIT OF SIMULTANEOUS REQUESTS PER TOKEN (2)", "wait", "token_busy",
        ),
        (403, "FORBIDDEN", "TOKEN LIMIT EXCEEDED", "wait", "quota_spent"),
        (403, "FORBIDDEN", "BACKUP IN PROGRESS", "wait", "forbidden"),
        (403, "FORBIDDEN", "", "wait", "forbidden"),
        (408, "", "", "wait", "timeout"),
        (413, "", "", "too_large", "too_large"),
        (429, "", "", "wait", "rate_limited"),
        (500, "", "", "wait", "server_error"),
        (503, "", "", "wait", "server_error"),
        (418, "", "", "not_understood", "not_understood"),
    ],
)  # fmt: skip
def test_the_table_of_answers(
    status: int,
    error: str,
    msg: str,
    verdict: str,
    reason: str | None,
    *,
    as_text: bool,
    inside: bool,
) -> None:
    """Each documented error has one meaning, whether HTTP says it or the body, number or text."""
    code = str(status) if as_text else status
    found = classify(answer(200 if inside else status, envelope(code, error, msg, None)))
    assert (found.verdict, found.reason) == (verdict, reason)
    assert found.data == []
    assert bool(found.text) == (verdict != "empty")
    assert found.not_found == (verdict == "empty")


@pytest.mark.parametrize("code", [200, "200", " 200 "])
@pytest.mark.parametrize("error", [None, "null", ""])
@pytest.mark.parametrize("msg", ["1 records were found", " 1 records were found", "x records…", 7])
def test_rows_are_used(code: object, error: object, msg: object) -> None:
    """A 200 with rows is used in all the variants that documentation and samples show."""
    found = classify(answer(200, envelope(code, error, msg, [CHAT])))
    assert plain(found) == Classification(Verdict.USE, data=[CHAT])


@pytest.mark.parametrize("fields", [("data",), ("code", "data"), ("msg", "data", "error")])
def test_other_fields_of_the_envelope_may_be_absent(fields: tuple[str, ...]) -> None:
    """An envelope of rows without code, error or msg is still rows."""
    told = {"code": 200, "error": None, "msg": "", "data": [CHAT]}
    body = json.dumps({name: told[name] for name in fields}).encode()
    assert classify(answer(200, body)).verdict == Verdict.USE


def test_an_empty_list_is_an_empty_window() -> None:
    """200 with `data: []` says the same as the 404, without its doubt."""
    found = classify(answer(200, envelope(msg="0 records were found", data=[])))
    assert (found.verdict, found.not_found) == (Verdict.EMPTY, False)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  \n",
        b"<html><body>Validate dates entered</body></html>",
        b"null",
        b"[]",
        b'"text"',
        b"17",
        b"[[]]",
        envelope(data=None),
        envelope(data={}),
        envelope(data={"0": CHAT}),
        envelope(data="[]"),
        envelope(data=0),
        envelope(error="FORBIDDEN", data=[]),
        envelope(error="FORBIDDEN", data=[CHAT]),
        envelope(code="OK", data=[CHAT]),
        envelope(code=None, data=[CHAT]),
        envelope(code=True, data=[CHAT]),
        envelope(code=200.5, data=[CHAT]),
        envelope(code="9" * 5000, data=[CHAT]),
        envelope(code=573001112233, data=[]),
        envelope(code=-200, data=[]),
        envelope(msg="3 records were found", data=[]),
        b'{"code":"200","error":null,"msg":""}',
        envelope(data=[CHAT])[:-1],
        envelope(data=[CHAT])[: len(envelope(data=[CHAT])) // 2],
        b"<br /><b>Warning</b>: oci_connect() {closure} failed<br />" + envelope(data=[CHAT]),
        b"\xef\xbb\xbf" + envelope(data=[CHAT]),
        envelope(data=["\udc00"]),
        envelope(data=[CHAT]).replace(b"Hola", b"\xff"),
        envelope(data=[CHAT]).replace(b"Hola", b"\x01"),
        envelope(data=[float("nan")]),
    ],
)
def test_what_is_not_understood_leaves_the_cursor(body: bytes) -> None:
    """Nothing but rows and an empty list counts as read by the strict decoder."""
    found = classify(answer(200, body))
    assert found.verdict == Verdict.NOT_UNDERSTOOD
    assert found.reason == Reason.NOT_UNDERSTOOD
    assert found.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Validate dates entered",
        b"<html>404 Not Found: validate dates</html>",
        b'["Validate dates entered"]',
        b'"Validate dates entered"',
        envelope(404, "NOT FOUND", ["Validate dates entered"]),
        envelope(404, "NOT FOUND", "Validate dates entered", [CHAT]),
        envelope(404, "NOT FOUND", "Validate dates entered", [])[:-1],
    ],
)
@pytest.mark.parametrize("lenient", [False, True])
def test_no_other_404_is_an_empty_window(body: bytes, *, lenient: bool) -> None:
    """Only the JSON 404 that says so and holds nothing; a proxy's 404 must alarm."""
    found = classify(answer(404, body), lenient=lenient)
    assert found.verdict == Verdict.NOT_UNDERSTOOD


@pytest.mark.parametrize("status", [301, 302, 304, 307, 308])
def test_redirects_are_held(status: int) -> None:
    """A redirect would carry the token along: a person corrects the address."""
    found = classify(answer(status, envelope(data=[CHAT]), {"location": "https://elsewhere"}))
    assert (found.verdict, found.reason) == (Verdict.HOLD, Reason.REDIRECTED)


def test_an_answer_over_budget_is_too_large() -> None:
    """A body that was thrown away is asked for again in smaller pieces."""
    found = classify(answer(200, b"", oversized=True))
    assert (found.verdict, found.reason, found.data) == ("too_large", "too_large", [])


@pytest.mark.parametrize(
    ("data", "msg"),
    [
        ([{"conversation": []}] * ROW_CAP, ""),
        ([{"conversation": [{}] * ROW_CAP}], ""),
        ([{"conversation": [{}] * (ROW_CAP // 2)}] * 2 + [CHAT], ""),
        ([CHAT], "2 records were found"),
        ([CHAT], " 60000 RECORDS WERE FOUND"),
    ],
    ids=["conversations", "messages", "messages of several", "N larger", "N much larger"],
)
def test_a_cut_answer_is_too_large_by_either_count(data: list[Any], msg: str) -> None:
    """60,000 records of nobody knows what; its data is kept for the narrowest window."""
    found = classify(answer(200, envelope(msg=msg, data=data)))
    assert (found.verdict, found.reason) == (Verdict.TOO_LARGE, Reason.TOO_LARGE)
    assert plain(found).data == data


@pytest.mark.parametrize(
    ("data", "msg"),
    [
        ([{"conversation": [{}] * (ROW_CAP - 1)}], ""),
        ([{"conversation": [{}, {}]}], "2 records were found"),
        ([CHAT, CHAT], "2 records were found"),
        ([CHAT], "0 records were found"),
        ([CHAT], "many records were found"),
        ([CHAT], "-5 records were found"),
        ([CHAT], "9999999999999 records were found"),
        ([CHAT], None),
        ([CHAT, None, 5, {"conversation": "x"}], ""),
    ],
)
def test_an_answer_below_the_cap_is_used(data: list[Any], msg: object) -> None:
    """N may count conversations or messages, or be no number at all."""
    assert classify(answer(200, envelope(msg=msg, data=data))).verdict == Verdict.USE


@pytest.mark.parametrize("status", [403, 429, 500, 503])
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("99999999999999999999", LONGEST_RETRY_AFTER.total_seconds()),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0.0),
        (format_datetime(NOW + timedelta(days=9), usegmt=True), 3600.0),
        ("Fri, 20 Nov 2026 10:01:00 -0500", 60.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("\u0663", None),
        ("Fri, 99 Nov 2026 10:01:00 GMT", None),
        ("Fri, 20 Nov 2026 99:01:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(status: int, text: str, seconds: float | None) -> None:
    """Both forms of RFC 9110, at most an hour; nonsense asks for nothing."""
    body = envelope(status, "X", "")
    assert classify(answer(status, body, {"retry-after": text})).retry_after == seconds


def test_a_retry_date_counts_from_the_servers_clock() -> None:
    """Where the answer has a Date, our own clock does not matter."""
    headers = {
        "retry-after": "Fri, 20 Nov 2026 03:10:00 GMT",
        "date": "Fri, 20 Nov 2026 03:09:00 GMT",
    }
    assert classify(answer(429, b"", headers)).retry_after == 60.0


def test_the_servers_time_is_its_date_header() -> None:
    """GMT in whole seconds; an absent or unreadable one is None."""
    told = {"date": "Fri, 20 Nov 2026 15:00:01 GMT"}
    assert server_time(answer(200, b"", told)) == NOW + timedelta(seconds=1)
    assert server_time(answer(200, b"")) is None
    assert server_time(answer(200, b"", {"date": "yesterday"})) is None
    assert server_time(answer(200, b"", {"date": "Fri, 31 Dec 9999 23:59:59 -2359"})) is None


STRICTLY_REFUSED = [
    (b"\xef\xbb\xbf" + envelope(data=[CHAT]), [CHAT]),
    (b"\xef\xbb\xbf\xef\xbb\xbf \n" + envelope(data=[CHAT]), [CHAT]),
    (envelope(data=["a\udc00b"]), ["a\ufffdb"]),
    (envelope(data=["\ud83d", "\ud83d\ude00"]), ["\ufffd", "\U0001f600"]),
    (envelope(data=[{"k\ud800": ["\udfff"]}]), [{"k\ufffd": ["\ufffd"]}]),
    (envelope(data=[{"message": "Hola"}]).replace(b"Ho", b"H\xff"), [{"message": "H\ufffdla"}]),
    (envelope(data=["aXb"]).replace(b"aXb", b"a\xe2\x82"), ["a\ufffd"]),
    (envelope(data=["aXb"]).replace(b"X", b"\x01\n\t\x1f"), ["a\x01\n\t\x1fb"]),
    (envelope(data=[float("nan"), float("inf"), -float("inf"), 1]), [None, None, None, 1]),
    (b"<br /><b>Warning</b>: {closure}() { in x.php<br />\n" + envelope(data=[CHAT]), [CHAT]),
    (b"Notice: x" + envelope(data=[CHAT]) + b"<br />trailing {", [CHAT]),
    (b"Notice: x" + envelope(data=[]), []),
]  # fmt: skip


@pytest.mark.parametrize(("body", "data"), STRICTLY_REFUSED)
def test_the_lenient_decoder_replaces_and_keeps_everything_else(
    body: bytes, data: list[Any]
) -> None:
    """What stays so is decoded with U+FFFD or null in the places that no strict decoder takes."""
    assert classify(answer(200, body)).verdict == Verdict.NOT_UNDERSTOOD
    found = classify(answer(200, body), lenient=True)
    assert found.verdict == (Verdict.USE if data else Verdict.EMPTY)
    assert found.lenient
    assert plain(found).data == data


def test_lenient_judging_of_a_sound_answer_is_strict() -> None:
    """Only what had to be forgiven is marked."""
    found = classify(answer(200, envelope(data=[CHAT])), lenient=True)
    assert plain(found) == Classification(Verdict.USE, data=[CHAT])


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**30, 2**64 - 1, -(2**63)])
def test_both_decoders_read_numbers_alike(number: int) -> None:
    """A number that no 64 bits hold becomes a float either way: ids must not depend on it."""
    body = b'{"code":200,"data":[%d]}' % number
    strict = classify(answer(200, body)).data
    lenient = classify(answer(200, b"\xef\xbb\xbf" + body), lenient=True).data
    assert strict == lenient
    assert list(map(type, strict)) == list(map(type, lenient))


@pytest.mark.parametrize(
    "body",
    [
        b"<html>{}</html>",
        b'{"data": [], "code": 200',
        b'{"a": 1}',
        # An object inside a cut one is no envelope, however much it looks like one.
        b'{"code":200,"data":[{"conn_id":"1","conversation":[{"extra":{"code":1,"data":[]}',
        b"Warning: {x} " + b'{"code":200,"data":[{"extra":' + envelope(data=[]),
    ],
)
def test_the_lenient_decoder_takes_only_whole_envelopes(body: bytes) -> None:
    """Forgiving is about characters, never about what is missing."""
    found = classify(answer(200, body), lenient=True)
    assert found.verdict == Verdict.NOT_UNDERSTOOD


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_cut_answer_is_ever_read(data: st.DataObject) -> None:
    """A prefix of an answer, at whatever byte it was cut, is never rows or an empty window."""
    chat = {"conn_id": "1", "conversation": [{**ROW, "message": '{"code":200,"data":[]}'}]}
    body = envelope(msg='{"data":[],"code":404}', data=[chat, {"data": [], "msg": ""}])
    cut = body[: data.draw(st.integers(0, len(body) - 1))]
    for lenient in (False, True):
        assert classify(answer(200, cut), lenient=lenient).verdict == Verdict.NOT_UNDERSTOOD


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)
BODIES = st.one_of(
    st.binary(),
    st.builds(
        lambda told, prefix, cut: prefix + json.dumps(told).encode()[:cut],
        st.fixed_dictionaries(
            {},
            optional={
                "code": st.one_of(JSON, st.sampled_from([200, "200", 404, "404", 403, 500])),
                "error": st.one_of(JSON, st.just("null")),
                "msg": st.one_of(
                    JSON, st.sampled_from(["Validate dates entered", "5 records were found"])
                ),
                "data": st.one_of(JSON, st.just([]), st.lists(st.just(CHAT))),
            },
        ),
        st.sampled_from([b"", b"\xef\xbb\xbf", b"<br />{"]),
        st.sampled_from([None, None, None, -1, 20]),
    ),
)
HEADERS = st.dictionaries(
    st.sampled_from(["date", "retry-after", "content-type"]),
    st.one_of(
        st.text(),
        st.integers().map(str),
        st.datetimes(timezones=st.just(UTC)).map(format_datetime),
        st.from_regex(r"(\w+, )?\d+ (Jan|Nov) \d+ \d+:\d+:\d+ ([+-]\d+|GMT)"),
    ),
)
STATUSES = st.one_of(st.sampled_from([200, 404, 403, 429, 503]), st.integers(100, 999))


@settings(max_examples=200, deadline=None)
@given(STATUSES, HEADERS, BODIES, st.booleans())
@example(200, {}, b'{"code":"' + b"9" * 5000 + b'"}', False)
@example(200, {}, b'{"data":[1],"msg":' + b"[" * 1000 + b"]" * 1000 + b"}", False)
@example(200, {}, b'\xef\xbb\xbf{"code":1,"data":' + b"[" * 900 + b"]" * 900 + b"}", True)
@example(429, {"retry-after": "0", "date": ","}, b"", False)
@example(429, {"retry-after": "Mon, 01 Jan 0001 00:00:00 +2359"}, b"", False)
def test_judging_never_fails_and_never_invents_rows(
    status: int, headers: Mapping[str, str], body: bytes, lenient: bool
) -> None:
    """Any bytes, status and headers get a verdict; rows or emptiness only where they are told."""
    found = classify(answer(status, body, headers), lenient=lenient)
    server_time(answer(status, body, headers))
    assert found.retry_after is None or 0 <= found.retry_after <= 3600
    if found.verdict not in (Verdict.USE, Verdict.EMPTY):
        return
    told = decode_leniently(body) if found.lenient else json.loads(body)
    assert isinstance(told, dict)
    if found.not_found:
        code = status if status != 200 else int(told["code"])
        assert code == 404
        assert "validate dates" in told["msg"].lower()
        assert not told.get("data")
    else:
        assert status == 200
        assert str(told.get("code", 200)).strip() == "200"
        assert told["data"] == plain(found).data or "NaN" in str(body) or found.lenient
        assert bool(found.data) == (found.verdict is Verdict.USE)
        assert told.get("error") in (None, "", "null")


SECRET = "Ana-5730o111"  # lower case and digits: no text of ours, no capitals of the vendor's


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([200, 301, 400, 401, 403, 404, 413, 418, 429, 500]),
    st.sampled_from(["code", "error", "msg", "data", "whole", "key"]),
    st.sampled_from(["{}", "PLEASE VALIDATE TOKEN {}", "{} DOES NOT EXIST", "7 records {}"]),
    st.sampled_from([None, "", [], [CHAT], {}]),
    st.booleans(),
)
def test_no_text_repeats_the_body(
    status: int, place: str, form: str, data: Any, lenient: bool
) -> None:
    """Bodies hold personal data: a word of one never gets into a log through a judgement."""
    told: dict[str, Any] = {"code": status, "error": "X", "msg": "SORRY", "data": data}
    told[form.format(SECRET) if place == "key" else place] = form.format(SECRET)
    body = form.format(SECRET).encode() if place == "whole" else json.dumps(told).encode()
    for http in (status, 200):
        found = classify(answer(http, body), lenient=lenient)
        assert SECRET not in found.text
        assert SECRET.lower() not in repr(found.reason).lower()


@pytest.mark.parametrize("number", [573001112233, 1234567, 5730, -573, "573001112233"])
def test_no_text_repeats_a_number_of_the_body(number: object) -> None:
    """A code that is not a status may be somebody's telephone number."""
    found = classify(answer(200, envelope(number, data=[])))
    assert str(number).strip("-") not in found.text


def test_the_vendor_s_own_words_are_repeated() -> None:
    """An error message in capital letters without digits helps whoever reads the log."""
    assert '"BACKUP IN PROGRESS"' in said(403, "BACKUP IN PROGRESS").text
    assert "ANA LOPEZ 3001112233" not in said(403, "ANA LOPEZ 3001112233").text
    assert "hola" not in said(403, "hola").text

"""Judges the answers of the Wolkvox reports API, by one table of all its errors.

Rules of this file:
- Only three answers are understood: a 200 with rows, a 200 whose `data` is `[]`, and the
  single JSON 404 that means "no rows". Any other answer leaves the cursor where it is.
- The body wins over the HTTP status: servers of this kind answer 200 with an error inside.
- No text made here repeats a body, because bodies hold personal data. The exception is
  an error `msg` in capital letters without digits.

Sources: the vendor's page of `chat_2` and the reports of integrators. What is undocumented
counts as "not understood".
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final

from publisher.errors import Reason
from publisher.model import Answer, Instant
from publisher.wolkvox import schema
from publisher.wolkvox.schema import Chat, Counted

ROW_CAP: Final = 59_000
"""The vendor caps a report at 60,000 records and does not say what a record is. Integrators
treat 59,000 as cut already."""

MAX_BYTES: Final = 256 * 1024 * 1024
"""The vendor's largest result."""

SERVER_LIMIT: Final = timedelta(seconds=60)
"""The vendor ends a call after this time. Until then the server may still be busy."""

LONGEST_RETRY_AFTER: Final = timedelta(hours=1)


class Verdict(StrEnum):
    """What an answer means for the next step; a metric label."""

    USE = "use"
    EMPTY = "empty"
    WAIT = "wait"
    TOO_LARGE = "too_large"
    HOLD = "hold"
    NOT_UNDERSTOOD = "not_understood"


@dataclass(frozen=True, slots=True)
class Classification:
    """The verdict on an answer, with its reason and the data."""

    verdict: Verdict
    reason: Reason | None = None
    text: str = ""
    """What happened and what to do, for a log."""
    retry_after: float | None = None
    """Seconds the server asked us to wait."""
    data: list[Any] = field(default_factory=list)
    """Conversations: `Chat` objects where the answer is as documented, else plain JSON."""
    lenient: bool = False
    """Only the forgiving decoder could read the body: it replaced what is not strict JSON."""
    not_found: bool = False
    """Empty because of a 404. A server without the report gives the same answer."""
    counted: Counted | None = field(default=None, compare=False)
    """Set where the answer says how many records it found, and has no other fault."""


# (status, what `msg` contains in lower case, verdict, reason, text). The first match counts.
_V, _R = Verdict, Reason
_TABLE: Final = (
    (400, "does not exist", _V.HOLD, _R.BAD_REQUEST,
     "the server does not know the report chat_2: check WOLKVOX_SERVER and WOLKVOX_URL"),
    (400, "", _V.HOLD, _R.BAD_REQUEST,
     "the server refuses the request as malformed: check WOLKVOX_URL"),
    (401, "", _V.HOLD, _R.TOKEN_MISSING,
     "the server saw no token: check WOLKVOX_TOKEN, and that no proxy removes headers"),
    (403, "validate token", _V.HOLD, _R.TOKEN_REFUSED,
     "the token is wrong or has expired: put a valid one into WOLKVOX_TOKEN"
     " (or its file) and restart"),
    (403, "simultaneous", _V.WAIT, _R.TOKEN_BUSY,
     "somebody else is using the same token: give this service a token of its own"),
    (403, "token limit", _V.WAIT, _R.QUOTA_SPENT,
     "the daily quota of the operation is spent: it is asked again until the vendor resets it"),
    (403, "", _V.WAIT, _R.FORBIDDEN,
     "the server refuses for now (maintenance or backup)"),
    (404, "validate dates", _V.EMPTY, None, ""),
    (404, "", _V.NOT_UNDERSTOOD, _R.REPORT_MISSING,
     "a 404 that does not mean an empty window: check WOLKVOX_SERVER and WOLKVOX_URL"),
    (408, "", _V.WAIT, _R.TIMEOUT, "the server gave up on the request"),
    (413, "", _V.TOO_LARGE, _R.TOO_LARGE, "the server finds the window too large"),
    (429, "", _V.WAIT, _R.RATE_LIMITED, "the server asks for fewer requests"),
)  # fmt: skip

_SPEAKABLE = re.compile(r"[A-Z][A-Z ,.'()-]{2,99}", re.ASCII)
_CODE = re.compile(r"\s*[1-5]\d\d\s*", re.ASCII)
_RECORDS_FOUND = re.compile(r"\s*(\d{1,9}) record", re.IGNORECASE | re.ASCII)


def classify(answer: Answer, *, lenient: bool = False) -> Classification:
    """Judge an answer. `lenient` also reads a body that only the forgiving decoder accepts."""
    if answer.oversized:
        return Classification(
            Verdict.TOO_LARGE, Reason.TOO_LARGE, "the answer is larger than the memory budget"
        )
    if 300 <= answer.status < 400:
        return Classification(
            Verdict.HOLD,
            Reason.REDIRECTED,
            f"the server redirects (HTTP {answer.status}); redirects are not followed because"
            " they would carry the token along: put the right address into WOLKVOX_URL",
        )
    envelope, was_lenient = _decode(answer.body, lenient=lenient)
    status = _status(answer.status, envelope)
    if status == 200:
        return _judge_rows(envelope, len(answer.body), lenient=was_lenient)
    return _judge_error(status, envelope, answer)


def server_time(answer: Answer) -> Instant | None:
    """The answer's `Date` header (GMT, whole seconds, rounded down); None if it is not usable."""
    return _http_date(answer.headers.get("date"))


def _judge_rows(envelope: Any, size_bytes: int, *, lenient: bool) -> Classification:
    if not isinstance(envelope, dict):
        return _not_understood("the answer is not the JSON object that the report sends")
    data, msg = envelope.get("data"), envelope.get("msg")
    if not isinstance(data, list):
        return _not_understood(f"the answer holds no list of conversations (data is {_kind(data)})")
    if envelope.get("error") not in (None, "", "null"):
        return _not_understood("the answer says 200 and an error at once")
    rows = _rows(data)
    capped = max(len(data), rows) >= ROW_CAP
    claim = _RECORDS_FOUND.match(msg) if isinstance(msg, str) and not capped else None
    counted = Counted(len(data), rows, size_bytes, int(claim[1])) if claim else None
    claims_more = counted is not None and counted.excess > 0
    if not data and claims_more:
        text = "the answer says that it found records and holds none"
        return Classification(Verdict.NOT_UNDERSTOOD, Reason.NOT_UNDERSTOOD, text, counted=counted)
    if capped or claims_more:
        text = "the answer reaches the report's row cap"
        return Classification(
            Verdict.TOO_LARGE, Reason.TOO_LARGE, text, data=data, lenient=lenient, counted=counted
        )
    verdict = Verdict.USE if data else Verdict.EMPTY
    return Classification(verdict, data=data, lenient=lenient, counted=counted)


def _judge_error(status: int | None, envelope: Any, answer: Answer) -> Classification:
    fields = envelope if isinstance(envelope, dict) else {}
    msg = fields.get("msg")
    msg = msg if isinstance(msg, str) else ""
    retry_after = _retry_after(answer.headers, answer.received_at)
    if status is None:
        return _not_understood(
            "the body is empty"
            if not answer.body.strip()
            else "the body is not the JSON that the report sends"
        )
    for row_status, words, verdict, reason, text in _TABLE:
        if status == row_status and words in msg.lower():
            if verdict is Verdict.EMPTY:
                if fields.get("data"):
                    return _not_understood("the answer says that there are no rows and holds some")
                return Classification(Verdict.EMPTY, not_found=True)
            quote = f' - it says "{msg}"' if _SPEAKABLE.fullmatch(msg) else ""
            return Classification(verdict, reason, f"{text}{quote}", retry_after)
    if status >= 500:
        text = f"the server has a problem of its own (status {status})"
        return Classification(Verdict.WAIT, Reason.SERVER_ERROR, text, retry_after)
    return _not_understood(f"the server answers with status {status}")


def _not_understood(text: str) -> Classification:
    return Classification(Verdict.NOT_UNDERSTOOD, Reason.NOT_UNDERSTOOD, text)


def _status(http: int, envelope: Any) -> int | None:
    """The effective status: in an HTTP 200 the body's `code` (200 or "200"), else `http`.

    None = there is no body, or its `code` is no status.
    """
    if http != 200:
        return http
    if envelope is None:
        return None
    code = envelope.get("code", 200) if isinstance(envelope, dict) else 200
    # Three digits and nothing else: any other number may be personal data.
    return int(code) if type(code) in (int, str) and _CODE.fullmatch(str(code)) else None


def _decode(body: bytes, *, lenient: bool) -> tuple[Any, bool]:
    """Decode a body: its value, and whether only the forgiving decoder read it. None = no JSON."""
    documented = schema.decode(body)
    if documented is not None:
        return documented, False
    try:
        return schema.loads(body), False
    except ValueError:
        return (decode_leniently(body), True) if lenient else (None, False)


def decode_leniently(body: bytes) -> Any:
    """Return the JSON object in a body that the strict decoder refuses, or None.

    It forgives a byte order mark, invalid UTF-8, control characters and lone surrogates
    (all become U+FFFD where they stand in text), NaN and Infinity (they become null), and
    PHP warnings before the object. It never accepts a cut object, nor an object inside
    another object.
    """
    text = body.decode("utf-8", errors="replace")
    start = object_start(text)
    if start is None:
        return None
    try:
        value, _end = _LENIENT.raw_decode(text, start)
        is_envelope = "data" in value and ("code" in value or "msg" in value)
        return _without_surrogates(value) if is_envelope else None
    except (ValueError, RecursionError):
        return None


def object_start(text: str) -> int | None:
    """The index of the first JSON object in a text. A warning before it may hold braces, too."""
    match = _OBJECT.search(text)
    return match.start() if match else None


_OBJECT = re.compile(r'\{[ \t\r\n]*"')


_LENIENT = json.JSONDecoder(
    strict=False,
    parse_constant=lambda _: None,
    parse_int=schema.number,
    parse_float=schema.Number,
)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    return value


def _retry_after(headers: Mapping[str, str], now: Instant) -> float | None:
    """Seconds that `Retry-After` asks for, at most an hour. It is a number or a date (RFC 9110)."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    if text.isdecimal() and text.isascii():
        seconds = float(text[:9])
    else:
        retry_at = _http_date(text)
        if retry_at is None:
            return None
        seconds = (retry_at - (_http_date(headers.get("date")) or now)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER.total_seconds())


def _http_date(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        date = parsedate_to_datetime(text)
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _rows(data: list[Any]) -> int:
    """Count the messages in all conversations."""
    if data and type(data[0]) is Chat:  # then all elements are
        return sum([len(chat.conversation) for chat in data])
    return sum(map(_messages, data))


def _messages(element: Any) -> int:
    rows = element.get("conversation") if isinstance(element, dict) else None
    return len(rows) if isinstance(rows, list) else 0


def _kind(value: Any) -> str:
    names = {type(None): "absent or null", dict: "an object", str: "a text"}
    return names.get(type(value), "of another type")

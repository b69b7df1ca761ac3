"""Everything that can be made to go wrong, by name, and what it does to an answer. No IO.

Refusals replace an answer, content faults change its elements, text faults a word inside it, body
faults its bytes; `wire.py` plays those of the transport, `server.py` those of the server's state.
Which of them were ever seen on the live API: wolkvox-api.md, section 2.

Faults add rather than alter: a broken row is put among the genuine ones, and what a text fault
spoils is no part of a message's identity. So "nothing lost" can still be checked afterwards. The
exceptions say so.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson

from sandbox.wolkvox.report import Window
from sandbox.wolkvox.world import Fields

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    # Refusals.
    "not_found": ("404, as an empty window or a missing report", {}),
    "no_token": ("401 PLEASE ENTER THE WOLKVOX-TOKEN", {}),
    "wrong_token": ("403 PLEASE VALIDATE TOKEN", {}),
    "simultaneous": ("403 EXCEEDS THE LIMIT OF SIMULTANEOUS REQUESTS PER TOKEN (2)", {}),
    "quota_spent": ("403 TOKEN LIMIT EXCEEDED", {}),
    "maintenance": ("403 with a text of our own, the real one is not known", {}),
    "missing_parameters": ("400 SOME PARAMETERS ARE REQUIRED", {}),
    "unknown_api": ("400 THE API YOU WANT TO CONSULT DOES NOT EXIST", {}),
    "rate_limited": ("429; form: seconds, date, none", {"retry_after": 2, "form": "seconds"}),
    "unavailable": ("503; form: seconds, date, none", {"retry_after": 2, "form": "seconds"}),
    "server_error": ("500", {}),
    # Answers that are not what they say; all 200.
    "html": ("a page instead of JSON", {}),
    "php_warning": ("a PHP warning before the JSON", {}),
    "cut_body": ("the first `share` of the JSON, its Content-Length agreeing", {"share": 0.5}),
    "empty_body": ("no bytes at all", {}),
    "empty_list": ("`data` [] although there may be rows: hides them", {}),
    "code_in_body": (
        "an error inside HTTP 200",
        {"code": 500, "error": "INTERNAL", "msg": "TRY AGAIN"},
    ),
    "found_more": ("N in 'N records were found' larger than what came", {"more": 1000}),
    "data_null": ("`data` null", {}),
    "data_absent": ("no `data`", {}),
    "data_object": ("`data` an object keyed 0, 1, 2 ... instead of a list", {}),
    "bom": ("a byte order mark first", {}),
    "mutate": ("random bytes flipped and deleted", {"seed": 1, "flips": 3, "deletions": 1}),
    # A word that a strict decoder refuses, in the first element's `field`, or in msg.
    "invalid_utf8": ("bytes that are not UTF-8", {"field": "customer_name"}),
    "lone_surrogate": ("half of a pair, escaped", {"field": "customer_name"}),
    "control_characters": ("raw U+0001 and newline", {"field": "customer_name"}),
    "nan": ("NaN for a value", {"field": "score"}),
    # Rows among good ones; added, their conn_id that of the first element or `fault-...`.
    "wrong_types": ("numbers, null, lists for values (conn_id fault-...)", {"rows": 1}),
    "missing_date": ("rows without `date`", {"rows": 1}),
    "bad_date": ("rows whose `date` is no date", {"rows": 1}),
    "numeric_date": ("rows whose `date` is a number", {"rows": 1}),
    "broken_row": ("rows of all the kinds above and some that are no objects", {"rows": 6}),
    "broken_conversation": ("elements that are no objects", {"rows": 1}),
    "conversation_missing": ("elements without `conversation`", {"rows": 1}),
    "format_changed": ("ALTERS every row: `date` is called `fecha`", {}),
    # Transport.
    "broken_transfer": ("the connection ends after `share` of the answer", {"share": 0.5}),
    "gzip": ("compressed, whether asked for or not", {}),
    "gzip_bomb": ("some kB that become `megabytes`", {"megabytes": 512}),
    "redirect": ("302 to another port, which notes whether it got the token", {}),
    "slow_headers": ("`delay` seconds of silence first", {"delay": 5.0}),
    "slow_body": ("the answer in `pieces`, over `delay` seconds", {"delay": 5.0, "pieces": 20}),
    "reset": ("connection reset without an answer", {}),
    "closed": ("connection closed without an answer", {}),
    # State: last until their seconds are over or they are cleared, not for a count of requests.
    "clock_off": ("server's clock off by `offset` seconds", {"offset": 3600.0}),
    "silent_gap": (
        "hides rows said in [start, end) of `share` of the conversations",
        {"start": -math.inf, "end": math.inf, "share": 1.0},
    ),
}
"""Name -> (what it does, its options and their defaults)."""

COMMON: dict[str, Any] = {"touching": None, "wider_than": 0.0, "probability": 1.0}
"""Options of every fault: only windows that hold an instant, only windows of more than so many
seconds, only so often."""

STATES = frozenset({"clock_off", "silent_gap"})

REFUSALS: dict[str, tuple[int, str, str]] = {
    "not_found": (404, "NOT FOUND", "Validate dates entered"),
    "no_token": (401, "UNAUTHORIZED", "PLEASE ENTER THE WOLKVOX-TOKEN"),
    "wrong_token": (403, "FORBIDDEN", "PLEASE VALIDATE TOKEN"),
    "simultaneous": (
        403,
        "FORBIDDEN",
        "EXCEEDS THE LIMIT OF SIMULTANEOUS REQUESTS PER TOKEN (2)",
    ),
    "quota_spent": (403, "FORBIDDEN", "TOKEN LIMIT EXCEEDED"),
    "maintenance": (403, "FORBIDDEN", "SERVER UNDER MAINTENANCE, BACKUP IN PROGRESS"),
    "missing_parameters": (400, "BAD REQUEST", "SOME PARAMETERS ARE REQUIRED"),
    "unknown_api": (400, "BAD REQUEST", "THE API YOU WANT TO CONSULT DOES NOT EXIST"),
    "too_many_rows": (400, "BAD REQUEST", "THE QUERY EXCEEDS THE MAXIMUM OF RECORDS"),
    "rate_limited": (429, "TOO MANY REQUESTS", "SLOW DOWN"),
    "unavailable": (503, "SERVICE UNAVAILABLE", "TRY LATER"),
    "server_error": (500, "INTERNAL SERVER ERROR", "SOMETHING WENT WRONG"),
}
"""Kind -> HTTP status and code, error, msg. `too_many_rows` is our guess; it is no fault."""


@dataclass(slots=True)
class Fault:
    """One switched-on fault; spent after `count` answers or at `until` (monotonic seconds)."""

    kind: str
    count: int | None
    until: float
    options: Fields
    used: int = 0
    draw: Random = field(default_factory=lambda: Random(1))

    def over(self) -> bool:
        """Say whether it has had its day."""
        spent = self.count is not None and self.used >= self.count
        return spent or time.monotonic() >= self.until

    def meets(self, window: Window | None) -> bool:
        """Say whether it strikes an answer about this window (wall-clock seconds)."""
        touching, wider = self.options["touching"], self.options["wider_than"]
        if window is None:
            return touching is None and wider <= 0 and self._lucky()
        if touching is not None and not window.ini <= touching <= window.end:
            return False
        if wider > 0 and window.end - window.ini <= wider:
            return False
        return self._lucky()

    def _lucky(self) -> bool:
        return self.draw.random() < float(self.options["probability"])


@dataclass(slots=True)
class Faults:
    """The switched-on faults, the oldest first; an answer meets at most one of them."""

    on: list[Fault] = field(default_factory=list)

    def add(self, kind: str, count: int | None, seconds: float | None, options: Fields) -> Fault:
        """Switch one on; ValueError for unknown names. Instants in `options` are prepared."""
        if kind not in KINDS:
            raise ValueError(f"no such fault: {kind}; there are: {', '.join(KINDS)}")
        known = COMMON | KINDS[kind][1]
        if odd := set(options) - set(known):
            raise ValueError(f"{kind} has no option {', '.join(sorted(odd))}; only {sorted(known)}")
        until = math.inf if seconds is None else time.monotonic() + seconds
        fault = Fault(kind, count, until, known | options)
        self.on.append(fault)
        return fault

    def clear(self, kind: str | None = None) -> None:
        """Switch off all, or those of one kind."""
        self.on = [fault for fault in self.on if kind is not None and fault.kind != kind]

    def pick(self, window: Window | None) -> Fault | None:
        """Return the fault that this answer meets, and count it."""
        self.on = [fault for fault in self.on if not fault.over()]
        for fault in self.on:
            if fault.kind not in STATES and fault.meets(window):
                fault.used += 1
                return fault
        return None

    def states(self, kind: str) -> list[Fault]:
        """Return the lasting faults of a kind."""
        return [fault for fault in self.on if fault.kind == kind and not fault.over()]


# --- content: elements in, elements out ---------------------------------------------------------


def _good_row(number: int) -> Fields:
    return {
        "channel": "web",
        "from": "CUSTOMER",
        "from_name": "Fila de prueba",
        "to_name": "chat_bot",
        "date": "2026-01-01 00:00:00",
        "message": f"fila defectuosa {number}",
        "customer_id": "0",
    }


def _without_date(number: int) -> Fields:
    row = _good_row(number)
    del row["date"]
    return row


def _bad_date(number: int) -> Fields:
    dates = ("2026-02-30 10:00:00", "ayer", "", "0000-00-00 00:00:00", "2026-01-01T25:00:00")
    return {**_good_row(number), "date": dates[number % len(dates)]}


def _numeric_date(number: int) -> Fields:
    return {**_good_row(number), "date": 1_767_225_600 + number}


def _odd_types(number: int) -> Fields:
    odd: tuple[Any, ...] = (17, None, ["a", 1], {"b": None}, True, 1.5)
    name = ("message", "from", "channel", "customer_id", "to_name", "from_name")[number % 6]
    return {**_good_row(number), name: odd[number // 6 % len(odd)]}


def _no_row(number: int) -> Any:
    return (None, "fila", 17, [], True)[number % 5]


_ROWS: dict[str, Callable[[int], Any]] = {
    "missing_date": _without_date,
    "bad_date": _bad_date,
    "numeric_date": _numeric_date,
}
_ALL_ROWS = (_without_date, _bad_date, _numeric_date, _no_row)


def _of_its_own(rows: list[Any]) -> Fields:
    told = {"conn_id": "fault-1", "agent_name": "FALLO", "customer_name": "Fallo"}
    return {**told, "conversation": rows}


def change(elements: Sequence[Fields], fault: Fault) -> list[Any]:
    """Return an answer's elements with a content fault among them; others change nothing."""
    kind, numbers = fault.kind, range(fault.options.get("rows", 0))
    if kind == "wrong_types":
        return [_of_its_own([_odd_types(number) for number in numbers]), *elements]
    if kind == "broken_conversation":
        return [*((None, "x", 17, ["y"])[number % 4] for number in numbers), *elements]
    if kind == "conversation_missing":
        return [*({"conn_id": f"fault-{number}"} for number in numbers), *elements]
    if kind == "format_changed":
        return [{**one, "conversation": [_renamed(row) for row in one["conversation"]]}
                for one in elements]  # fmt: skip
    if kind == "broken_row":
        extra = [_ALL_ROWS[number % len(_ALL_ROWS)](number) for number in numbers]
    elif kind in _ROWS:
        extra = [_ROWS[kind](number) for number in numbers]
    else:
        return list(elements)
    if not elements:
        return [_of_its_own(extra)]
    first = elements[0]
    return [{**first, "conversation": [*extra, *first["conversation"]]}, *elements[1:]]


def _renamed(row: Fields) -> Fields:
    return {"fecha" if name == "date" else name: value for name, value in row.items()}


# --- text: a marked word becomes what no strict decoder takes -------------------------------------

MARK = "@@fault@@"
_WORDS = {
    "invalid_utf8": b'"Jos\xe9 \xff\xc3"',
    "lone_surrogate": b'"\\ud83d sola"',
    "control_characters": b'"uno\x01dos\ntres"',
    "nan": b"NaN",
}


def mark(elements: Sequence[Any], fault: Fault) -> list[Any]:
    """Put the mark of a text fault into the first element; others mark nothing."""
    if fault.kind not in _WORDS or not elements:
        return list(elements)
    name, first = fault.options["field"], elements[0]
    if name in ("conn_id", "agent_name", "customer_name"):
        return [{**first, name: MARK}, *elements[1:]]
    row, *others = first["conversation"]
    return [{**first, "conversation": [{**row, name: MARK}, *others]}, *elements[1:]]


# --- body: bytes in, bytes out --------------------------------------------------------------------

_PAGE = (
    b"<!DOCTYPE html><html><head><title>wolkvox</title></head><body>En mantenimiento</body></html>"
)
_WARNING = b"<br />\n<b>Warning</b>:  mysqli::query(): MySQL server has gone away in "
_WARNING += b"<b>/var/www/html/api/v2/reports_manager.php</b> on line <b>217</b><br />\n"


def spoil(body: bytes, fault: Fault) -> bytes:
    """Return what a fault makes of a successful body; faults of other sorts leave it alone."""
    options = fault.options
    match fault.kind:
        case "html":
            return _PAGE
        case "php_warning":
            return _WARNING + body
        case "cut_body":
            return body[: max(1, int(len(body) * options["share"]))]
        case "empty_body":
            return b""
        case "bom":
            return b"\xef\xbb\xbf" + body
        case "mutate":
            return _mutated(body, Random(f"{options['seed']}/{fault.used}"), options)
        case "empty_list" | "code_in_body" | "data_null" | "data_absent" | "data_object":
            return orjson.dumps(_envelope(orjson.loads(body), fault))
        case kind if kind in _WORDS:
            marked = f'"{MARK}"'.encode()
            if marked in body:
                return body.replace(marked, _WORDS[kind], 1)
            # An answer without rows: its msg must do.
            return b'{"code":200,"error":null,"msg":' + _WORDS[kind] + b',"data":[]}'
        case _:
            return body


def _envelope(told: Fields, fault: Fault) -> Fields:
    if fault.kind == "code_in_body":
        return {name: fault.options[name] for name in ("code", "error", "msg")} | {"data": []}
    if fault.kind == "data_absent":
        del told["data"]
    elif fault.kind == "data_null":
        told["data"] = None
    elif fault.kind == "empty_list":
        told["data"] = []
    else:
        told["data"] = {str(index): one for index, one in enumerate(told["data"])}
    return told


def _mutated(body: bytes, rng: Random, options: Fields) -> bytes:
    spoilt = bytearray(body)
    for _ in range(options["flips"]):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    for _ in range(options["deletions"]):
        begin = rng.randrange(len(spoilt))
        del spoilt[begin : begin + rng.randrange(1, 20)]
        spoilt = spoilt or bytearray(b"?")
    return bytes(spoilt)

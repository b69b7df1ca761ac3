"""What could not be an event, as the bytes that came. Pure.

Rules of this file:
- The value is cut out of the answer's body, byte by byte as the server sent it.
- Its id is the SHA-1 of those bytes, so that re-reads do not repeat it.
- The topic holds personal data: only the reason and positions may go elsewhere.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha1
from itertools import groupby
from typing import Final

import orjson

from publisher.model import Header, Instant, Record, Window, iso
from publisher.rules import wire
from publisher.rules.ledger import Id, Ledger
from publisher.rules.rows import Reject, RejectReason, Row
from publisher.rules.upstream import object_start

_CONTEXT_LIMIT: Final = 16_384
_SPACE = re.compile(r"[ \t\r\n]*")
# Values are only measured: no number is too long for it.
_DECODE = json.JSONDecoder(strict=False, parse_int=len).raw_decode


@dataclass(frozen=True, slots=True)
class Origin:
    """Where dead letters come from; becomes their headers."""

    operation: str
    pass_label: str
    window: Window
    read_at: Instant


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Bytes that could not be understood, and where they stood."""

    reason: RejectReason
    position: str
    """`data[3].conversation[2]`, or `answer`."""
    raw: bytes
    context: bytes = b""
    """The other fields of the conversation as JSON: what a replay of a lone row needs."""

    @property
    def digest(self) -> bytes:
        return sha1(self.raw).digest()  # noqa: S324 - names bytes, protects nothing

    @property
    def id(self) -> Id:
        return int.from_bytes(self.digest[:8])


def of_answer(body: bytes) -> DeadLetter:
    """The whole answer: it had to be decoded leniently, so these are its true bytes."""
    return DeadLetter(RejectReason.ANSWER_UNDECODABLE, "answer", body)


def cut_out(body: bytes, rejects: Iterable[Reject]) -> list[DeadLetter]:
    """The bytes of what was rejected, in the answer's order."""
    wanted = sorted(rejects, key=lambda r: (r.element, -1 if r.row is None else r.row))
    try:
        return list(_cut_out(body, wanted)) if wanted else []
    except RecursionError:
        # Nested deeper than the standard library reads: nothing smaller can be found.
        return [DeadLetter(wanted[0].reason, "answer", body)]


def _cut_out(body: bytes, wanted: Iterable[Reject]) -> Iterator[DeadLetter]:
    # One character per byte: JSON's own characters are ASCII, so places are exact.
    text = body.decode("latin-1")
    begins = object_start(text)
    if begins is None:
        raise ValueError("the body that rows were read from holds no object")
    elements = _items(text, begins, "data")
    for number, of_element in groupby(wanted, key=lambda reject: reject.element):
        start, end = elements[number]
        whole, position = body[start:end], f"data[{number}]"
        rows: list[tuple[int, int]] = []
        for reject in of_element:
            if reject.row is None:
                yield DeadLetter(reject.reason, position, whole)
                continue
            if not rows:
                rows, context = _items(text, start, "conversation"), _context(whole)
            first, last = rows[reject.row]
            place = f"{position}.conversation[{reject.row}]"
            yield DeadLetter(reject.reason, place, body[first:last], context)


def of_rows(body: bytes, reason: RejectReason, rows: Iterable[Row]) -> list[DeadLetter]:
    """Rows that turned out to be no event, or none with its message, only when encoded."""
    rejects = [Reject(reason, conversation.position, index) for *_, conversation, index in rows]
    return cut_out(body, rejects)


def unknown_to(ledger: Ledger, letters: Iterable[DeadLetter]) -> list[DeadLetter]:
    """Those that were not dead-lettered before, each once."""
    fresh: dict[Id, DeadLetter] = {}
    for letter in letters:
        if letter.id not in fresh and not ledger.knows_rejected(letter.id):
            fresh[letter.id] = letter
    return list(fresh.values())


def records(letters: Iterable[DeadLetter], origin: Origin, max_bytes: int) -> Iterator[Record]:
    """Kafka records; bytes longer than `max_bytes` come in parts of one key, in order."""
    for letter in letters:
        digest = letter.digest
        parts = max(1, -(-len(letter.raw) // max_bytes))
        for part in range(parts):
            headers: list[Header] = [
                ("reason", letter.reason.encode()),
                ("operation", origin.operation.encode()),
                ("pass", origin.pass_label.encode()),
                ("window", str(origin.window).encode()),
                ("read_at", iso(origin.read_at).encode()),
                ("position", letter.position.encode()),
                ("sha1", digest.hex().encode()),
                ("part", b"%d" % part),
                ("parts", b"%d" % parts),
            ]
            if letter.context:
                headers.append(("conversation", letter.context))
            key = digest.hex().encode()
            value = letter.raw[part * max_bytes : (part + 1) * max_bytes]
            hash_ = int.from_bytes(digest[:4]) & 0x7FFFFFFF
            yield wire.record(hash_, key, value, wire.headers(headers))


def _context(element: bytes) -> bytes:
    try:
        fields = orjson.loads(element)
        fields.pop("conversation", None)
        context = orjson.dumps(fields)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return b""
    return context if len(context) <= _CONTEXT_LIMIT else b""


def _items(text: str, at: int, name: str) -> list[tuple[int, int]]:
    """Start and end of each item of the array that is the object's member of that name."""
    members = {key: start for key, start, _ in _parts(text, at)}  # of equal names the last counts
    return [(start, end) for _, start, end in _parts(text, members[name])]


def _parts(text: str, at: int) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of each value in the object or array that begins at `at`."""
    named = text[at] == "{"
    name = ""
    at = _skip(text, at + 1)
    while text[at] not in "}]":
        if named:
            name, at = _DECODE(text, at)
            at = _skip(text, _skip(text, at) + 1)
        _, end = _DECODE(text, at)
        yield name, at, end
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at

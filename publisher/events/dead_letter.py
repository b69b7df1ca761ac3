"""Builds the dead letters: the bytes of an answer that could not become an event as they came.

Rules of this file:
- The value of a letter is cut out of the answer's body, byte by byte as the server sent it.
- A letter has an identity, so that a re-read does not repeat it. A broken row gets its identity
  as a message does, from the date as it came. Anything else is identified by the SHA-1 of its
  bytes.
- The topic holds personal data. Only the reason and the positions may appear elsewhere.
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha1
from itertools import groupby
from typing import Final

from publisher.events import kafka_record
from publisher.events.identity import id_fields, is_placeholder, text_of, unsigned
from publisher.events.rows import Reject, RejectReason, Row
from publisher.model import Header, Instant, Record, Window, iso
from publisher.state.ledger import Id, Ledger, id_of
from publisher.wolkvox import schema
from publisher.wolkvox.responses import object_start

_CONTEXT_LIMIT: Final = 16_384
_SPACE = re.compile(r"[ \t\r\n]*")
# Values are only measured. `len` accepts numbers of any length.
_DECODE = json.JSONDecoder(strict=False, parse_int=len).raw_decode


class Event(StrEnum):
    """What became of a row's event. Only a row that was understood has an event."""

    WITHOUT_MESSAGE = "without_message"
    """The event was published with its message left out."""
    NONE = "none"
    """Nothing was published: the event was too large even without its message."""
    REVISION = "revision"
    """The message is published, but its revision is not: it was too large even without its
    message."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where dead letters come from. It becomes their headers."""

    operation: str
    pass_label: str
    window: Window
    read_at: Instant


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Bytes that could not become an event as they came, and where they stood in the answer."""

    reason: RejectReason
    position: str
    """`data[3].conversation[2]`, or `answer` for the whole body."""
    raw: bytes
    context: bytes = b""
    """The other fields of the conversation as JSON. A replay of a single row needs them."""
    row_identity: bytes = b""
    """The SHA-1 that identifies the row. Empty where only the bytes identify the letter."""
    number: int = 1
    """Number of a broken row among the rows that are equal to it in every identity field."""
    event: Event | None = None

    @property
    def digest(self) -> bytes:
        return sha1(self.raw).digest()  # noqa: S324 - names bytes, protects nothing

    @property
    def identity(self) -> bytes:
        return self.row_identity or self.digest

    @property
    def id(self) -> Id:
        return id_of(self.identity)


def of_answer(body: bytes) -> DeadLetter:
    """A letter of the whole answer. It had to be decoded leniently; these are its true bytes."""
    return DeadLetter(RejectReason.ANSWER_UNDECODABLE, "answer", body)


def cut_out(body: bytes, rejects: Iterable[Reject]) -> list[DeadLetter]:
    """Cut what was rejected out of the body, in the answer's order."""
    wanted = sorted(rejects, key=lambda r: (r.element, -1 if r.row is None else r.row))
    try:
        return list(_cut_out(body, wanted)) if wanted else []
    except RecursionError:
        # Nested deeper than the standard library reads: only the whole body can be kept.
        return [DeadLetter(wanted[0].reason, "answer", body)]


def _cut_out(body: bytes, wanted: Iterable[Reject]) -> Iterator[DeadLetter]:
    # One character per byte. JSON's own characters are ASCII, so the positions are exact.
    text = body.decode("latin-1")
    begins = object_start(text)
    if begins is None:
        raise ValueError("the body that rows were read from holds no object")
    elements = _items(text, begins, "data")
    for number, of_element in groupby(wanted, key=lambda reject: reject.element):
        start, end = elements[number]
        whole = body[start:end]
        rows: list[tuple[int, int]] = []
        letters: list[DeadLetter] = []
        for reject in of_element:
            if reject.row is None:
                yield DeadLetter(reject.reason, _place(number), whole)
                continue
            if not rows:
                rows, context = _items(text, start, "conversation"), _context(whole)
            first, last = rows[reject.row]
            place = _place(number, reject.row)
            letters.append(DeadLetter(reject.reason, place, body[first:last], context))
        yield from _numbered(letters)


def of_rows(
    body: bytes, reason: RejectReason, rows: Sequence[Row], unpublished: Collection[bytes]
) -> list[DeadLetter]:
    """Letters of rows that turned out to be too large only when they were encoded.

    `unpublished` holds the digests of the rows that have no event at all. The events of the
    other rows were published without their message.
    """
    late = {_place(row[4].position, row[5]): row[1] for row in rows}
    rejects = [Reject(reason, conversation.position, index) for *_, conversation, index in rows]
    return [
        _late(letter, late.get(letter.position), unpublished) for letter in cut_out(body, rejects)
    ]


def of_revisions(body: bytes, reason: RejectReason, rows: Sequence[Row]) -> list[DeadLetter]:
    """Letters of rows whose revision was too large for an event. No replay publishes them."""
    letters = of_rows(body, reason, rows, ())
    return [replace(letter, event=Event.REVISION) for letter in letters]


def _late(letter: DeadLetter, digest: bytes | None, unpublished: Collection[bytes]) -> DeadLetter:
    """The letter of a row that already has the identity of an event: `digest`."""
    if digest is None:
        return letter
    event = Event.NONE if digest in unpublished else Event.WITHOUT_MESSAGE
    return replace(letter, row_identity=digest, number=1, event=event)


def _place(element: int, row: int | None = None) -> str:
    whole = f"data[{element}]"
    return whole if row is None else f"{whole}.conversation[{row}]"


def unknown_to(ledger: Ledger, letters: Iterable[DeadLetter]) -> list[DeadLetter]:
    """The letters that were not written before, without repetitions."""
    fresh: dict[Id, DeadLetter] = {}
    for letter in letters:
        # Earlier releases gave broken rows no identity. They remembered the SHA-1 of the bytes.
        ids = {letter.id, id_of(letter.digest)}
        if letter.id not in fresh and not any(map(ledger.knows_rejected, ids)):
            fresh[letter.id] = letter
    return list(fresh.values())


def records(letters: Iterable[DeadLetter], origin: Origin, max_bytes: int) -> Iterator[Record]:
    """Kafka records of the letters.

    Bytes longer than `max_bytes` are split into parts, which have the same key and stay in order.
    """
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
                ("id", letter.identity.hex().encode()),
                ("part", b"%d" % part),
                ("parts", b"%d" % parts),
            ]
            if letter.number > 1:
                headers.append(("number", b"%d" % letter.number))
            if letter.event:
                headers.append(("event", letter.event.encode()))
            if letter.context:
                headers.append(("conversation", letter.context))
            value = letter.raw[part * max_bytes : (part + 1) * max_bytes]
            yield keyed(digest, value, headers)


def keyed(digest: bytes, value: bytes | None, headers: Iterable[Header]) -> Record:
    """A record of the dead-letter topic. Records with the same key lie in the same partition."""
    hash_ = int.from_bytes(digest[:4]) & 0x7FFFFFFF
    return kafka_record.record(hash_, digest.hex().encode(), value, kafka_record.headers(headers))


def _numbered(letters: list[DeadLetter]) -> list[DeadLetter]:
    """Identify and number the broken rows of a conversation as messages would be.

    So a row stays the same letter however its other fields change, and two equal rows are two
    letters.
    """
    if not letters or not letters[0].context:
        return letters
    conn_id = text_of(schema.loads(letters[0].context).get("conn_id"))
    names = id_fields(placeholder=is_placeholder(conn_id))
    equal: defaultdict[str, list[tuple[bytes, int]]] = defaultdict(list)
    for place, letter in enumerate(letters):
        try:
            row = schema.loads(letter.raw)
        except ValueError:
            continue
        if isinstance(row, dict):
            texts = [unsigned(text_of(row.get(name))) for name in names]
            equal["\0".join([conn_id, *texts])].append((schema.canonical(row), place))
    for name, places in equal.items():
        for number, (_, place) in enumerate(sorted(places), start=1):
            identity = sha1(f"{name}\0{number}".encode()).digest()  # noqa: S324 - as above
            letters[place] = replace(letters[place], row_identity=identity, number=number)
    return letters


def _context(element: bytes) -> bytes:
    try:
        fields = schema.loads(element)
        fields.pop("conversation", None)
        context = schema.dumps(fields)
    except (ValueError, TypeError):
        return b""
    return context if len(context) <= _CONTEXT_LIMIT else b""


def _items(text: str, at: int, name: str) -> list[tuple[int, int]]:
    """Start and end of every item of an array: the member `name` of the object at `at`."""
    members = {key: start for key, start, _ in _parts(text, at)}  # of equal names the last counts
    return [(start, end) for _, start, end in _parts(text, members[name])]


def _parts(text: str, at: int) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of every value in the object or array that begins at `at`."""
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

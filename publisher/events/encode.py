"""Encodes an identified row as the event that consumers see.

Rules of this file:
- An event's bytes depend on the API's row alone, never on when it was read.
  What depends on the reading (when, by which pass) stands in the headers.
- Field names are the API's own. Ours are event_id, source and occurred_at*,
  message_bytes and message_sha256. Undocumented fields go to `extra`.
- This is the hot path. What is constant in a conversation is encoded once per
  conversation, and the rest is joined as bytes.

The schema is `schemas/event.v1.schema.json`; headers follow the CloudEvents 1.0
Kafka binding in binary mode.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from typing import Any, Final, NamedTuple, TypeAlias

import orjson
from msgspec import UNSET

from publisher.events import kafka_record
from publisher.events.murmur2 import murmur2
from publisher.events.rows import Conversation, Row
from publisher.model import Header, Instant, Record, iso
from publisher.wolkvox import schema

EVENT_TYPE: Final = "wolkvox.chat.message.v1"
DATA_SCHEMA: Final = "urn:wolkvox:schema:chat.message.v1"
SEQUENCE_HEADER: Final = "wolkvox_sequence"

_OPEN: Final = b'{"event_id":"'
_OPENED: Final = [kafka_record.varint(size) + _OPEN for size in range(4096)]
"""By the size of a value: that size as Kafka writes it, and the beginning of the value."""
_ID: Final = kafka_record.sized(b"ce_id") + kafka_record.varint(36)
_TIME: Final = kafka_record.sized(b"ce_time") + kafka_record.varint(len("2026-11-20T15:00:01Z"))
_SUBJECT: Final = kafka_record.sized(b"ce_subject")
_NO_KEY: Final = kafka_record.sized(None)
_NO_EXTRA: Final[dict[str, Any]] = {}
_CONN_ID: Final = b',"conn_id":'
_OF_CONVERSATION: Final = [
    (line.attribute, b',"%b":' % line.name.encode())
    for line in schema.CHAT_FIELDS.values()
    if line.name != "conn_id"
]
"""The conversation's fields that stand behind the row's own: attribute and beginning in JSON."""


_Shared: TypeAlias = tuple[bytes, bytes, bytes, bytes, bytes, int, int | None, dict[str, Any]]
"""What the records of a conversation have in common, as Kafka or JSON writes it.

A plain tuple, because most conversations of a poll have only a few messages:

- key;
- head: the part of the value between the event's id and its date;
- names: the part of the value behind the row's own fields;
- tail: the names and the end of the value, for a row without undocumented fields;
- headers, up to the value of `ce_id`;
- room: the most bytes that a value may have;
- partition hash; None = the event's digest decides the partition;
- extra: the undocumented fields of the conversation.
"""

EVENT_FIELDS: Final = (
    "event_id", "source", *schema.CHAT_FIELDS, "occurred_at", "occurred_at_ambiguous",
    *schema.MESSAGE_FIELDS, "message_bytes", "message_sha256", "extra",
)  # fmt: skip
"""The names of all fields that an event may have."""


class _Second(NamedTuple):
    """What the rows of the same date have in common, and the records made of them."""

    time: bytes
    """The whole header `ce_time`, as Kafka writes it."""
    occurred_at: str
    ambiguous: bool
    records: list[Record]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What all events of an answer have in common: whose answer it is, and how it was read."""

    operation: str
    """The operation's name. It is the header `ce_source`, and the ids are made of it."""
    pass_label: str
    read_at: Instant
    lenient: bool = False
    """The answer was decoded leniently: characters may be replaced by U+FFFD."""
    sequence: int = 1
    """Number of the transaction that publishes the events."""
    label: str = ""
    """The field `source` of the events; empty = the operation's name."""


class Encoder:
    """Encodes the rows of one answer."""

    def __init__(self, provenance: Provenance, *, max_event_bytes: int) -> None:
        self._head = b'","source":' + orjson.dumps(provenance.label or provenance.operation)
        self._max_event_bytes = max_event_bytes
        shared = shared_headers(EVENT_TYPE, DATA_SCHEMA, provenance)
        encoded = b"".join(kafka_record.header(name, content) for name, content in shared)
        # The shared headers are followed by ce_subject (not under a placeholder), ce_id, ce_time.
        self._headers = kafka_record.varint(len(shared) + 2) + encoded
        self._headers_with_subject = kafka_record.varint(len(shared) + 3) + encoded + _SUBJECT
        self._seconds: dict[str, _Second] = {}
        """What was encoded so far, by the date of the rows."""
        self.oversized: list[Row] = []
        """Rows too large for an event: published without their message, or not at all."""
        self.unpublished: set[bytes] = set()
        """Digests of the oversized rows that were not published at all."""

    def encode(self, rows: Sequence[Row]) -> Iterator[Record]:
        """One Kafka record per row, ordered by date. Equal seconds keep the order given."""
        self.add(rows)
        return self.records()

    def occurred(self) -> Counter[str]:
        """Count the records so far by the second at which the message occurred (RFC 3339, UTC)."""
        counts: Counter[str] = Counter()
        for second in self._seconds.values():
            counts[second.occurred_at] += len(second.records)
        return counts

    def records(self) -> Iterator[Record]:
        """The records of all added rows, ordered by date. They are handed over only once."""
        return chain.from_iterable(
            self._seconds.pop(date).records for date in sorted(self._seconds)
        )

    def add(self, rows: Sequence[Row]) -> None:
        """Encode the rows in the order given, which is their order in memory.

        Encoding them in the order of their dates would take twice as long.
        """
        seconds = self._seconds
        encode, varint, join = schema.encode, kafka_record.varint, b"".join
        conversation: Conversation | None = None
        for (date, digest, moment, message, row_conversation, index), id_ in zip(
            rows, event_ids(rows), strict=True
        ):
            if conversation is not row_conversation:
                conversation = row_conversation
                key, head, names, usual_tail, headers, room, key_hash, chat_extra = self._shared(
                    conversation
                )
                fixed = len(_OPEN) + len(id_) + len(head)
            try:
                second = seconds[date]
            except KeyError:
                time = _TIME + moment.occurred_at.encode()
                second = seconds[date] = _Second(time, *moment[1:], [])
            time, message.occurred_at, ambiguous, contents = second
            if ambiguous:
                message.occurred_at_ambiguous = True
            tail, extra = usual_tail, message.extra
            if extra is UNSET:
                body = encode(message)[1:-1]
            else:
                message.extra = UNSET  # `extra` belongs behind the conversation's fields
                body = encode(message)[1:-1]
                message.extra = extra
                tail = names + _end(extra, chat_extra)
            size = fixed + len(body) + len(tail)
            hash_ = int.from_bytes(digest[:4]) & 0x7FFFFFFF if key_hash is None else key_hash
            if size <= room:
                opened = _OPENED[size] if size < 4096 else varint(size) + _OPEN
                content = join((key, opened, id_, head, body, tail, headers, id_, time))
                contents.append((hash_, content))
                continue
            self.oversized.append((date, digest, moment, message, conversation, index))
            value = _without_message(join((_OPEN, id_, head, body, tail)))
            if len(value) <= room:
                content = join((key, kafka_record.sized(value), headers, id_, time))
                contents.append((hash_, content))
            else:
                self.unpublished.add(digest)

    def _shared(self, conversation: Conversation) -> _Shared:
        chat, dumps = conversation.chat, schema.dumps
        head = self._head if chat.conn_id is UNSET else self._head + _CONN_ID + dumps(chat.conn_id)
        head += b","
        names = b""
        for attribute, opened in _OF_CONVERSATION:
            if (value := getattr(chat, attribute)) is not UNSET:
                names += opened + dumps(value)
        if chat.extra is UNSET:
            extra, tail = _NO_EXTRA, names + b"}"
        else:
            extra, tail = chat.extra, names + _end(_NO_EXTRA, chat.extra)
        room = self._max_event_bytes
        if conversation.placeholder:
            return _NO_KEY, head, names, tail, self._headers + _ID, room, None, extra
        id_ = conversation.conn_id.encode()
        key = kafka_record.sized(id_)
        headers = self._headers_with_subject + key + _ID
        room -= 2 * len(_SUBJECT + key)
        return key, head, names, tail, headers, room, murmur2(id_), extra


def shared_headers(event_type: str, data_schema: str, provenance: Provenance) -> list[Header]:
    """The headers that all events of one type have in common within an answer."""
    headers: list[Header] = [
        ("ce_specversion", b"1.0"),
        ("ce_type", event_type.encode()),
        ("ce_source", provenance.operation.encode()),
        ("content-type", b"application/json"),
        ("ce_dataschema", data_schema.encode()),
        ("wolkvox_read_at", iso(provenance.read_at).encode()),
        ("wolkvox_pass", provenance.pass_label.encode()),
        (SEQUENCE_HEADER, str(provenance.sequence).encode()),
    ]
    if provenance.lenient:
        headers.append(("wolkvox_decoding", b"lenient"))
    return headers


def event_ids(rows: Sequence[Row]) -> list[bytes]:
    """The version 5 UUIDs (RFC 9562) of the rows' digests, as text.

    It builds all of them at once, digit by digit. Formatting them one at a time would take ten
    times as long.
    """
    digits = b"".join([row[1] for row in rows]).hex().encode()
    text = bytearray(_UUID * len(rows))
    digit = 0
    for place, kind in enumerate(_UUID.decode()):
        if kind == "x":
            text[place::36] = digits[digit::40]
        elif kind == "y":
            text[place::36] = digits[digit::40].translate(_VARIANT)
        digit += kind != "-"
    ids = bytes(text)
    return [ids[at : at + 36] for at in range(0, len(ids), 36)]


_UUID: Final = b"xxxxxxxx-xxxx-5xxx-yxxx-xxxxxxxxxxxx"
_VARIANT: Final = bytes.maketrans(b"0123456789abcdef", b"89ab" * 4)


def _end(message: dict[str, Any], conversation: dict[str, Any]) -> bytes:
    """The end of an event: `extra` if there is any, and the closing brace."""
    extra = {"message": message, "conversation": conversation}
    extra = {name: value for name, value in extra.items() if value}
    return b',"extra":%b}' % schema.dumps(extra) if extra else b"}"


def _without_message(value: bytes) -> bytes:
    """The same event with `message` null, and with the size and digest of the message instead."""
    event: dict[str, Any] = {}
    for name, field in schema.loads(value).items():
        if name == "message":
            content = field.encode() if isinstance(field, str) else schema.dumps(field)
            event["message"] = None
            event["message_bytes"] = len(content)
            event["message_sha256"] = sha256(content).hexdigest()
        else:
            event[name] = field
    return schema.dumps(event)

"""From an identified row to the event that consumers see. Pure.

Rules of this file:
- An event's bytes depend on the API's row alone, never on when it was read.
  What depends on the reading (when, by which pass) stands in the headers.
- Field names are the API's own; ours are event_id, source and occurred_at*,
  message_bytes and message_sha256. Fields that nobody documented go to `extra`.
- What is constant in a conversation is encoded once per conversation, the rest
  is joined as bytes: this is the hot path.

The schema is `schemas/event.v1.schema.json`; headers follow the CloudEvents 1.0
Kafka binding in binary mode.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson

from publisher.model import Header, Instant, Record, iso
from publisher.rules import wire
from publisher.rules.murmur2 import murmur2
from publisher.rules.rows import Conversation, Row

EVENT_TYPE: Final = "wolkvox.chat.message.v1"
DATA_SCHEMA: Final = "urn:wolkvox:schema:chat.message.v1"

ROW_FIELDS: Final = (
    "channel", "from", "from_name", "to_name", "message", "customer_id", "customer_phone",
    "feeling",
)  # fmt: skip
"""The documented fields of a row, in the order in which events carry them behind `date`."""
CONVERSATION_FIELDS: Final = ("agent_name", "customer_name")


# The headers of an event up to the value, whose length is always the same.
_ID: Final = wire.sized(b"ce_id") + wire.varint(36)
_SUBJECT: Final = wire.sized(b"ce_subject")
_TIME: Final = wire.sized(b"ce_time") + wire.varint(len("2026-11-20T15:00:01Z"))


class Encoder:
    """Encodes the rows of one answer, which share when and how they were read."""

    def __init__(
        self,
        source: str,
        *,
        pass_label: str,
        read_at: Instant,
        lenient: bool,
        max_event_bytes: int,
    ) -> None:
        self._source = orjson.dumps(source).decode()
        self._max_event_bytes = max_event_bytes
        shared: list[Header] = [
            ("ce_specversion", b"1.0"),
            ("ce_type", EVENT_TYPE.encode()),
            ("ce_source", source.encode()),
            ("content-type", b"application/json"),
            ("ce_dataschema", DATA_SCHEMA.encode()),
            ("wolkvox_read_at", iso(read_at).encode()),
            ("wolkvox_pass", pass_label.encode()),
        ]
        if lenient:
            shared.append(("wolkvox_decoding", b"lenient"))
        encoded = b"".join(wire.header(name, content) for name, content in shared)
        # Behind the shared headers follow ce_id and ce_time, and ce_subject where there is one.
        self._headers = wire.varint(len(shared) + 2) + encoded + _ID
        self._headers_with_subject = wire.varint(len(shared) + 3) + encoded + _ID
        self.oversized: list[Row] = []
        """Rows too large for an event: published without their message, or not at all."""
        self.unencodable: list[Row] = []
        """Rows nested too deep for an event: not published."""

    def encode(self, rows: Iterable[Row]) -> Iterator[Record]:
        """One Kafka record per row, in the order given."""
        headers, headers_with_subject = self._headers, self._headers_with_subject
        limit = self._max_event_bytes
        dumps = orjson.dumps
        fields: tuple[str, ...] | None = None
        layout: Layout | None = None
        for row in rows:
            date, digest, occurred_at, ambiguous, raw, conversation, _ = row
            if fields != (fields := tuple(raw)):  # most rows are like the row before
                layout = layout_of(fields)
            try:
                if not conversation.head:
                    self._begin(conversation)
                if layout is None:
                    body, tail = dumps(raw)[1:-1], conversation.tail
                else:
                    body, tail = _rearranged(raw, layout, conversation)
            except orjson.JSONEncodeError:
                self.unencodable.append(row)
                continue
            # One formatting for all that is plain text; the headers are cut out of it.
            h = digest.hex()
            begin = (
                f'{{"event_id":"{h[:8]}-{h[8:12]}-5{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:32]}'
                f'{conversation.head}{date}","occurred_at":"{occurred_at}'
            ).encode()
            event_id, time = begin[13:49], begin[-20:]
            value = (
                begin
                + (b'","occurred_at_ambiguous":true' if ambiguous else b'"')
                + (b"," + body if body else b"")
                + tail
            )
            key = conversation.key
            if len(value) + 2 * len(conversation.subject) > limit:
                self.oversized.append(row)
                value = _without_message(value)
                if len(value) + 2 * len(conversation.subject) > limit:
                    continue
            if key is None:
                hash_ = int.from_bytes(digest[:4]) & 0x7FFFFFFF
                yield None, value, b"".join((headers, event_id, _TIME, time)), hash_
            else:
                ours = (headers_with_subject, event_id, _TIME, time, conversation.subject)
                yield key, value, b"".join(ours), conversation.partition_hash

    def _begin(self, conversation: Conversation) -> None:
        """Encode what all events of the conversation share."""
        raw, dumps = conversation.raw, orjson.dumps
        conn_id = f',"conn_id":{dumps(raw["conn_id"]).decode()}' if "conn_id" in raw else ""
        conversation.names = b"".join(
            [prefix + dumps(raw[name]) for name, prefix in _NAMES if name in raw]
        )
        if raw.keys() <= _ELEMENT_FIELDS:
            conversation.tail = conversation.names + b"}"
        else:
            conversation.extra = {
                name: value for name, value in raw.items() if name not in _ELEMENT_FIELDS
            }
            conversation.tail = conversation.names + _end({}, conversation.extra)
        if not conversation.placeholder:
            key = conversation.key = conversation.conn_id.encode()
            conversation.subject = _SUBJECT + wire.sized(key)
            conversation.partition_hash = murmur2(key)
        # Last: it also says that all the others are there.
        conversation.head = f'","source":{self._source}{conn_id},"date":"'


_NAMES: Final = [(name, b',"%b":' % name.encode()) for name in CONVERSATION_FIELDS]
_ELEMENT_FIELDS: Final = frozenset({"conn_id", "conversation", *CONVERSATION_FIELDS})


class Layout(NamedTuple):
    """How to bring the fields of a row into an event's order."""

    documented: tuple[str, ...]
    unknown: tuple[str, ...]


@lru_cache(maxsize=1024)
def layout_of(fields: tuple[str, ...]) -> Layout | None:
    """None where the fields stand in an event's order already, which is the rule."""
    layout = Layout(
        tuple(name for name in ROW_FIELDS if name in fields),
        tuple(name for name in fields if name not in ROW_FIELDS),
    )
    return None if layout.documented == fields else layout


# The version 5 UUID (RFC 9562) of a SHA-1 digest: 16 bytes with version and variant put in.
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def _rearranged(
    raw: dict[str, Any], layout: Layout, conversation: Conversation
) -> tuple[bytes, bytes]:
    body = orjson.dumps({name: raw[name] for name in layout.documented})[1:-1]
    if not layout.unknown:
        return body, conversation.tail
    unknown = {name: raw[name] for name in layout.unknown}
    return body, conversation.names + _end(unknown, conversation.extra)


def _end(message: dict[str, Any], conversation: dict[str, Any] | None) -> bytes:
    """The end of an event: `extra` where there is any, and the closing brace."""
    extra = {"message": message, "conversation": conversation}
    extra = {name: value for name, value in extra.items() if value}
    return b',"extra":%b}' % orjson.dumps(extra) if extra else b"}"


def _without_message(value: bytes) -> bytes:
    """The same event with `message` null and its size and digest instead."""
    event: dict[str, Any] = {}
    for name, field in orjson.loads(value).items():
        if name == "message":
            content = field.encode() if isinstance(field, str) else orjson.dumps(field)
            event["message"] = None
            event["message_bytes"] = len(content)
            event["message_sha256"] = sha256(content).hexdigest()
        else:
            event[name] = field
    return orjson.dumps(event)

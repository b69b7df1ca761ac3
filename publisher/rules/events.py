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

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson

from publisher.model import Header, Instant, Record, iso
from publisher.rules import wire
from publisher.rules.murmur2 import murmur2
from publisher.rules.rows import Conversation, Moment, Row

EVENT_TYPE: Final = "wolkvox.chat.message.v1"
DATA_SCHEMA: Final = "urn:wolkvox:schema:chat.message.v1"

ROW_FIELDS: Final = (
    "channel", "from", "from_name", "to_name", "message", "customer_id", "customer_phone",
    "feeling",
)  # fmt: skip
"""The documented fields of a row, in the order in which events carry them behind `date`."""
CONVERSATION_FIELDS: Final = ("agent_name", "customer_name")


_OPEN: Final = b'{"event_id":"'
_ID: Final = wire.sized(b"ce_id") + wire.varint(36)
_TIME: Final = wire.sized(b"ce_time") + wire.varint(len("2026-11-20T15:00:01Z"))
_SUBJECT: Final = wire.sized(b"ce_subject")


class _Shared(NamedTuple):
    """What the records of one conversation have in common, as Kafka or JSON writes it."""

    key: bytes
    head: bytes
    """Of the value, between the event's id and its date."""
    tail: bytes
    """Of the value, behind the row's own fields, where all of those are documented."""
    headers: bytes
    """As far as the value of `ce_id`."""
    subject: bytes
    """The last header."""
    partition_hash: int | None
    """None = by the event's id."""
    names: bytes
    """The documented fields of the conversation."""
    extra: dict[str, Any]
    """Its other fields."""


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
        self._head = b'","source":' + orjson.dumps(source)
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

    def encode(self, rows: Sequence[Row]) -> Iterator[Record]:
        """One Kafka record per row, ordered by date, equal seconds in the order given.

        Encoded in the order given, which is how the rows lie in memory: to follow
        the dates through it would take twice as long.
        """
        found: defaultdict[str, list[Record]] = defaultdict(list)
        times: dict[str, tuple[bytes, bytes]] = {}
        dumps, varint, join = orjson.dumps, wire.varint, b"".join
        conversation: Conversation | None = None
        fields: tuple[str, ...] | None = None
        layout: Layout | None = None
        for row, id_ in zip(rows, event_ids(rows), strict=True):
            date, digest, moment, raw, its_conversation, _ = row
            try:
                if conversation is not its_conversation:
                    shared = self._shared(its_conversation)
                    key, head, usual_tail, headers, subject, its_hash, _, _ = shared
                    conversation = its_conversation
                    room = self._max_event_bytes - 2 * len(subject)
                    fixed = len(_OPEN) + len(id_) + len(head)
                if fields != (fields := tuple(raw)):  # most rows are like the row before
                    layout = layout_of(fields)
                if layout is None:
                    body, tail = dumps(raw)[1:-1], usual_tail
                else:
                    body, tail = _rearranged(raw, layout, shared)
            except orjson.JSONEncodeError:
                self.unencodable.append(row)
                continue
            if (time := times.get(date)) is None:
                time = times[date] = _time(date, moment)
            json_time, header_time = time
            if not body:
                json_time = json_time[:-1]
            size = fixed + len(json_time) + len(body) + len(tail)
            hash_ = int.from_bytes(digest[:4]) & 0x7FFFFFFF if its_hash is None else its_hash
            if size <= room:
                content = join(
                    (key, varint(size), _OPEN, id_, head, json_time, body, tail,
                     headers, id_, header_time, subject)
                )  # fmt: skip
                found[date].append((hash_, content))
                continue
            self.oversized.append(row)
            value = _without_message(join((_OPEN, id_, head, json_time, body, tail)))
            if len(value) <= room:
                content = join((key, wire.sized(value), headers, id_, header_time, subject))
                found[date].append((hash_, content))
        for date in sorted(found):
            yield from found[date]

    def _shared(self, conversation: Conversation) -> _Shared:
        raw, dumps = conversation.raw, orjson.dumps
        conn_id = b',"conn_id":' + dumps(raw["conn_id"]) if "conn_id" in raw else b""
        head = self._head + conn_id + b',"date":"'
        names = b""
        for name, prefix in _NAMES:
            if name in raw:
                names += prefix + dumps(raw[name])
        extra = {}
        if not raw.keys() <= _ELEMENT_FIELDS:
            extra = {name: raw[name] for name in raw if name not in _ELEMENT_FIELDS}
        tail = names + _end({}, extra) if extra else names + b"}"
        if conversation.placeholder:
            return _Shared(_NO_KEY, head, tail, self._headers, b"", None, names, extra)
        id_ = conversation.conn_id.encode()
        key = wire.sized(id_)
        subject, headers = _SUBJECT + key, self._headers_with_subject
        return _Shared(key, head, tail, headers, subject, murmur2(id_), names, extra)


_NAMES: Final = [(name, b',"%b":' % name.encode()) for name in CONVERSATION_FIELDS]
_ELEMENT_FIELDS: Final = frozenset({"conn_id", "conversation", *CONVERSATION_FIELDS})
_NO_KEY: Final = wire.sized(None)


def _time(date: str, moment: Moment) -> tuple[bytes, bytes]:
    """`date` and `occurred_at` in the value up to a comma, and `ce_time` in the headers."""
    ambiguous = ',"occurred_at_ambiguous":true' if moment.ambiguous else ""
    value = f'{date}","occurred_at":"{moment.occurred_at}"{ambiguous},'
    return value.encode(), _TIME + moment.occurred_at.encode()


def event_ids(rows: Sequence[Row]) -> list[bytes]:
    """The version 5 UUIDs (RFC 9562) of the rows' digests, as text.

    All of them at once, digit by digit: a tenth of what formatting each would take.
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


def _rearranged(raw: dict[str, Any], layout: Layout, shared: _Shared) -> tuple[bytes, bytes]:
    """The documented fields of a row, and the end of its event."""
    body = orjson.dumps({name: raw[name] for name in layout.documented})[1:-1]
    if not layout.unknown:
        return body, shared.tail
    unknown = {name: raw[name] for name in layout.unknown}
    return body, shared.names + _end(unknown, shared.extra)


def _end(message: dict[str, Any], conversation: dict[str, Any]) -> bytes:
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

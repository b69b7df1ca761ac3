"""From an answer's `data` to rows with an identity, and to what cannot have one. Pure.

Rules of this file:
- Strict about identity (conn_id and date), forgiving about everything else.
- One bad row never stops its neighbours; one bad conversation never stops the
  others: each is rejected at the smallest level that is broken.
- The identity of a row depends on the row alone, never on when, in which window
  or in which order it was read.
"""

from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum

# Without usedforsecurity=False, which costs as much as the digest itself (measured, OpenSSL 3);
# FIPS modes allow SHA-1 where, as here, nothing is signed.
from hashlib import sha1
from typing import Any, Final, NamedTuple
from uuid import NAMESPACE_URL, uuid5

import orjson

from publisher.rules.zone import Zone

NAMESPACE: Final = uuid5(NAMESPACE_URL, "urn:wolkvox:chat_2").bytes
PLACEHOLDERS: Final = frozenset({"", "0", "-"})
"""conn_ids that several conversations may share (seen in sibling reports)."""


class RejectReason(StrEnum):
    """Why something went to the dead letters; a metric label."""

    CONVERSATION_INVALID = "conversation_invalid"
    CONN_ID_INVALID = "conn_id_invalid"
    ROW_INVALID = "row_invalid"
    DATE_INVALID = "date_invalid"
    EVENT_TOO_LARGE = "event_too_large"
    ANSWER_UNDECODABLE = "answer_undecodable"


@dataclass(slots=True)
class Conversation:
    """What the rows of one element of `data` have in common."""

    position: int
    """Of the element in `data`, from 0."""
    raw: dict[str, Any]
    conn_id: str
    """As text; a placeholder stays what it is."""
    placeholder: bool
    # What all its events share, filled in by `rules/events.py` at the first of them.
    head: str = ""
    names: bytes = b""
    extra: dict[str, Any] | None = None
    tail: bytes = b""
    key: bytes | None = None
    subject: bytes = b""
    partition_hash: int = 0


class Row(NamedTuple):
    """One message of the answer, identified."""

    date: str
    """`YYYY-MM-DD HH:MM:SS`, checked."""
    digest: bytes
    """SHA-1 of the identity's name: 20 bytes."""
    occurred_at: str
    """UTC, RFC 3339 with `Z`."""
    ambiguous: bool
    """`date` lies in a repeated hour; `occurred_at` is its first occurrence."""
    raw: dict[str, Any]
    """The row's fields without `date`."""
    conversation: Conversation
    position: int
    """Of the row in its conversation, from 0."""


class Reject(NamedTuple):
    """Something that cannot be an event; its bytes are cut out of the body later."""

    reason: RejectReason
    element: int
    """Position in `data`, from 0."""
    row: int | None
    """Position in `conversation`, from 0; None when the whole conversation is meant."""


@dataclass(slots=True)
class Reading:
    """All of one answer: rows in the answer's order, and what was rejected."""

    rows: list[Row]
    rejects: list[Reject]

    @property
    def format_changed(self) -> bool:
        """More than half of at least 20 rows are bad: not bad rows but another format."""
        total = len(self.rows) + len(self.rejects)
        return total >= 20 and len(self.rejects) * 2 > total


def read_rows(data: list[Any], operation: str, zone: Zone) -> Reading:
    """Identify every row of an answer."""
    reading = Reading([], [])
    for position, element in enumerate(data):
        _read_conversation(position, element, operation, zone, reading)
    return reading


def _read_conversation(
    position: int, element: Any, operation: str, zone: Zone, reading: Reading
) -> None:
    rejects = reading.rejects
    if not isinstance(element, dict) or not isinstance(element.get("conversation"), list):
        rejects.append(Reject(RejectReason.CONVERSATION_INVALID, position, None))
        return
    conn_id = element.get("conn_id")
    if conn_id is None:
        conn_id = ""
    elif type(conn_id) is int:
        conn_id = str(conn_id)
    elif type(conn_id) is not str:
        # A float has lost digits already; anything else identifies nothing.
        rejects.append(Reject(RejectReason.CONN_ID_INVALID, position, None))
        return
    placeholder = conn_id in PLACEHOLDERS
    conversation = Conversation(position, element, conn_id, placeholder)

    first = len(reading.rows)
    twins = False
    seen: set[bytes] = set()
    begin = _beginning(operation, conn_id)
    occurred_at, append, new = zone.occurred_at, reading.rows.append, tuple.__new__
    for index, row in enumerate(element["conversation"]):
        if type(row) is not dict:
            rejects.append(Reject(RejectReason.ROW_INVALID, position, index))
            continue
        # Taken out, so that what is left can be encoded as it stands.
        date = row.pop("date", None)
        try:
            occurred, ambiguous = occurred_at(date)
        except (ValueError, TypeError):
            rejects.append(Reject(RejectReason.DATE_INVALID, position, index))
            continue
        sender, message = row.get("from"), row.get("message")
        if type(sender) is not str or "\0" in sender:
            sender = _text(sender)
        if type(message) is not str or "\0" in message:
            message = _text(message)
        name = f"{date}\0{sender}\0{message}\0"
        if placeholder:
            name += _placeholder_parts(row)
        digest = sha1(begin + name.encode() + b"1").digest()  # noqa: S324 - see the import
        twins = twins or digest in seen
        seen.add(digest)
        # tuple.__new__ is what Row() does, without its argument handling.
        append(new(Row, (date, digest, occurred, ambiguous, row, conversation, index)))
    if twins:
        _number_twins(begin, reading.rows, first)


def _beginning(operation: str, conn_id: str) -> bytes:
    return NAMESPACE + f"{_clean(operation)}\0{_clean(conn_id)}\0".encode()


def _placeholder_parts(row: dict[str, Any]) -> str:
    return "".join(
        f"{_text(row.get(part))}\0" for part in ("channel", "customer_id", "customer_phone")
    )


def _number_twins(begin: bytes, rows: list[Row], first: int) -> None:
    """Number the equal rows from `first` on, in the order of their canonical bytes.

    That order makes a shuffled answer number them alike. Counted inside one
    element of `data`: a chat that is listed twice is still one chat.
    """
    places: defaultdict[bytes, list[int]] = defaultdict(list)
    for place in range(first, len(rows)):
        places[rows[place].digest].append(place)
    for equal in places.values():
        equal.sort(key=lambda place: canonical(rows[place].raw))
        for number, place in enumerate(equal[1:], start=2):
            date, _, _, _, raw, conversation, _ = rows[place]
            name = f"{date}\0{_text(raw.get('from'))}\0{_text(raw.get('message'))}\0"
            if conversation.placeholder:
                name += _placeholder_parts(raw)
            digest = sha1(begin + f"{name}{number}".encode()).digest()  # noqa: S324
            rows[place] = rows[place]._replace(digest=digest)


def _text(value: Any) -> str:
    """A field as identity sees it: null, missing and "" are equal, 1 equals "1"."""
    if value is None:
        return ""
    if isinstance(value, str):
        return _clean(value)
    return canonical(value).decode()


def canonical(value: Any) -> bytes:
    """JSON with sorted keys; nothing for what is nested too deep to be written again.

    orjson reads 1,024 levels and writes 254: such a row is rejected when its
    event is encoded.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return b""


def _clean(text: str) -> str:
    """U+0000 separates the parts of a name, so inside a part it counts as U+FFFD."""
    return text.replace("\0", "\ufffd")

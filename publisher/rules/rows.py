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
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias
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


class Conversation(NamedTuple):
    """What the rows of one element of `data` have in common."""

    position: int
    """Of the element in `data`, from 0."""
    raw: dict[str, Any]
    conn_id: str
    """As text; a placeholder stays what it is."""
    placeholder: bool


class Moment(NamedTuple):
    """What a row's `date` means; rows of one second share it."""

    hour: str
    """`YYYY-MM-DD HH` of the `date` text: the ledger's bucket."""
    occurred_at: str
    """UTC, RFC 3339 with `Z`."""
    ambiguous: bool
    """`date` lies in a repeated hour; `occurred_at` is its first occurrence."""


Row: TypeAlias = tuple[str, bytes, Moment, dict[str, Any], Conversation, int]
"""One message of the answer, identified. A plain tuple, because there is one per message:

- date: `YYYY-MM-DD HH:MM:SS`, checked;
- digest: SHA-1 of the identity's name, 20 bytes;
- moment: what the date means;
- raw: the row's fields without `date`;
- conversation: whose message it is;
- position of the row in its conversation, from 0.
"""


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
    begin = NAMESPACE + f"{_clean(operation)}\0".encode()
    moments: dict[str, Moment] = {}
    for position, element in enumerate(data):
        _read_conversation(position, element, begin, zone, moments, reading)
    return reading


def _read_conversation(
    position: int,
    element: Any,
    begin: bytes,
    zone: Zone,
    moments: dict[str, Moment],
    reading: Reading,
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
    begin += f"{_clean(conn_id)}\0".encode()
    rows = reading.rows
    first = len(rows)
    for index, row in enumerate(element["conversation"]):
        if type(row) is not dict:
            rejects.append(Reject(RejectReason.ROW_INVALID, position, index))
            continue
        # Taken out, so that what is left can be encoded as it stands.
        date = row.pop("date", None)
        try:
            moment = moments.get(date)
            if moment is None:
                moment = moments[date] = Moment(date[:13], *zone.occurred_at(date))
        except (ValueError, TypeError):
            rejects.append(Reject(RejectReason.DATE_INVALID, position, index))
            continue
        sender, message = row.get("from"), row.get("message")
        name = f"{date}\0{sender}\0{message}\x001"
        if (
            placeholder
            or type(sender) is not str
            or type(message) is not str
            or "\0" in sender
            or "\0" in message
        ):
            name = _name(date, row, 1, placeholder=placeholder)
        digest = sha1(begin + name.encode()).digest()  # noqa: S324 - see the import
        rows.append((date, digest, moment, row, conversation, index))
    if len(set(map(_DIGEST, rows[first:]))) < len(rows) - first:
        _number_twins(begin, rows, first)


_DIGEST: Final = itemgetter(1)


def _name(date: str, row: dict[str, Any], number: int, *, placeholder: bool) -> str:
    """The end of an identity's name: what tells the rows of one conn_id apart."""
    parts = ("from", "message", "channel", "customer_id", "customer_phone")
    texts = [_text(row.get(part)) for part in (parts if placeholder else parts[:2])]
    return "\0".join([date, *texts, str(number)])


def _number_twins(begin: bytes, rows: list[Row], first: int) -> None:
    """Number the equal rows from `first` on, in the order of their canonical bytes.

    That order makes a shuffled answer number them alike. Counted inside one
    element of `data`: a chat that is listed twice is still one chat.
    """
    places: defaultdict[bytes, list[int]] = defaultdict(list)
    for place in range(first, len(rows)):
        places[rows[place][1]].append(place)
    for equal in places.values():
        equal.sort(key=lambda place: canonical(rows[place][3]))
        for number, place in enumerate(equal[1:], start=2):
            date, _, moment, raw, conversation, index = rows[place]
            name = _name(date, raw, number, placeholder=conversation.placeholder)
            digest = sha1(begin + name.encode()).digest()  # noqa: S324 - see the import
            rows[place] = date, digest, moment, raw, conversation, index


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

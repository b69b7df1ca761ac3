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

from msgspec import UNSET

from publisher.rules.shapes import Chat, Message, canonical, chat_of, message_of, told_by
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
    chat: Chat
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


Row: TypeAlias = tuple[str, bytes, Moment, Message, Conversation, int]
"""One message of the answer, identified. A plain tuple, because there is one per message:

- date: `YYYY-MM-DD HH:MM:SS`, checked;
- digest: SHA-1 of the identity's name, 20 bytes;
- moment: what the date means;
- message: the row's fields;
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
    chat = element if type(element) is Chat else chat_of(element)
    if chat is None:
        rejects.append(Reject(RejectReason.CONVERSATION_INVALID, position, None))
        return
    told: Any = chat.conn_id
    if type(told) not in (str, int) and told not in (None, UNSET):
        # A float has lost digits already; anything else identifies nothing.
        rejects.append(Reject(RejectReason.CONN_ID_INVALID, position, None))
        return
    conn_id = "" if told in (None, UNSET) else str(told)
    placeholder = conn_id in PLACEHOLDERS
    conversation = Conversation(position, chat, conn_id, placeholder)
    begin += f"{_clean(conn_id)}\0".encode()
    rows = reading.rows
    first = len(rows)
    for index, row in enumerate(chat.conversation):
        message = row if type(row) is Message else message_of(row)
        if message is None:
            rejects.append(Reject(RejectReason.ROW_INVALID, position, index))
            continue
        date: Any = message.date
        try:
            moment = moments.get(date)
            if moment is None:
                moment = moments[date] = Moment(date[:13], *zone.occurred_at(date))
        except (ValueError, TypeError):
            rejects.append(Reject(RejectReason.DATE_INVALID, position, index))
            continue
        sender, text = message.from_, message.message
        name = f"{date}\0{sender}\0{text}\x001"
        if (
            placeholder
            or type(sender) is not str
            or type(text) is not str
            or "\0" in sender
            or "\0" in text
        ):
            name = _name(message, 1, placeholder=placeholder)
        digest = sha1(begin + name.encode()).digest()  # noqa: S324 - see the import
        rows.append((date, digest, moment, message, conversation, index))
    if len(set(map(_DIGEST, rows[first:]))) < len(rows) - first:
        _number_twins(begin, rows, first)


_DIGEST: Final = itemgetter(1)


def _name(message: Message, number: int, *, placeholder: bool) -> str:
    """The end of an identity's name: what tells the rows of one conn_id apart."""
    parts = [message.from_, message.message]
    if placeholder:
        parts += [message.channel, message.customer_id, message.customer_phone]
    return "\0".join([str(message.date), *map(_text, parts), str(number)])


def _number_twins(begin: bytes, rows: list[Row], first: int) -> None:
    """Number the equal rows from `first` on, in the order of their canonical bytes.

    That order makes a shuffled answer number them alike. Counted inside one
    element of `data`: a chat that is listed twice is still one chat.
    """
    places: defaultdict[bytes, list[int]] = defaultdict(list)
    for place in range(first, len(rows)):
        places[rows[place][1]].append(place)
    for equal in places.values():
        equal.sort(key=lambda place: canonical(told_by(rows[place][3])))
        for number, place in enumerate(equal[1:], start=2):
            date, _, moment, message, conversation, index = rows[place]
            name = _name(message, number, placeholder=conversation.placeholder)
            digest = sha1(begin + name.encode()).digest()  # noqa: S324 - see the import
            rows[place] = date, digest, moment, message, conversation, index


def digest_of(operation: str, row: Row, number: int) -> bytes:
    """The SHA-1 that such a row has as that number among its equals."""
    conversation = row[4]
    name = _name(row[3], number, placeholder=conversation.placeholder)
    name = f"{_clean(operation)}\0{_clean(conversation.conn_id)}\0{name}"
    return sha1(NAMESPACE + name.encode()).digest()  # noqa: S324 - see the import


def _text(value: Any) -> str:
    """A field as identity sees it: null, missing and "" are equal, 1 equals "1"."""
    if value is None or value is UNSET:
        return ""
    if isinstance(value, str):
        return _clean(value)
    return canonical(value).decode()


def _clean(text: str) -> str:
    """U+0000 separates the parts of a name, so inside a part it counts as U+FFFD."""
    return text.replace("\0", "\ufffd")

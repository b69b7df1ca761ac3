"""Turns an answer's `data` into rows with an identity, and notes what cannot have one.

Rules of this file:
- It is strict about identity (conn_id and date) and forgiving about everything else.
- A bad row never stops its neighbours, and a bad conversation never stops the
  others. What is rejected is the smallest level that is broken.
- The identity of a row depends on the row alone, never on when, in which window
  or in which order it was read (events/identity.py).
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

# Called without usedforsecurity=False, which costs as much as the digest itself (measured,
# OpenSSL 3). FIPS modes allow SHA-1 where nothing is signed, as here.
from hashlib import sha1
from struct import unpack
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import NAMESPACE_URL, uuid5

from msgspec import Struct

from publisher.events.identity import (
    Stranger,
    Who,
    clean,
    conn_id_of,
    is_placeholder,
    less,
    strangers,
    text_of,
    unsigned,
    who_of,
)
from publisher.state.ledger import Id, id_of
from publisher.wolkvox.schema import Chat, Message, canonical, chat_of, message_of, sent_fields
from publisher.wolkvox.timezone import Zone

NAMESPACE: Final = uuid5(NAMESPACE_URL, "urn:wolkvox:chat_2").bytes
CHUNK: Final = 1_000
"""A portion ends when it has so many rows. It may have more: a conversation is never divided."""


class RejectReason(StrEnum):
    """Why something went to the dead letters. It is also a metric label."""

    CONVERSATION_INVALID = "conversation_invalid"
    CONN_ID_INVALID = "conn_id_invalid"
    ROW_INVALID = "row_invalid"
    DATE_INVALID = "date_invalid"
    EVENT_TOO_LARGE = "event_too_large"
    ANSWER_UNDECODABLE = "answer_undecodable"


class Conversation(Struct, frozen=True, gc=False):
    """What the rows of an element of `data` have in common."""

    position: int
    """Position of the element in `data`, from 0."""
    chat: Chat
    conn_id: str
    """The conn_id as text. A placeholder is kept as it came."""
    placeholder: bool
    """Several conversations may share the conn_id."""


class Moment(NamedTuple):
    """What a row's `date` means. Rows of the same second share it."""

    hour: str
    """`YYYY-MM-DD HH` of the `date` text: the ledger's bucket."""
    occurred_at: str
    """UTC, RFC 3339 with `Z`."""
    ambiguous: bool
    """`date` lies in a repeated hour; `occurred_at` is its first occurrence."""


Row: TypeAlias = tuple[str, bytes, Moment, Message, Conversation, int]
"""An identified message of the answer. A plain tuple, because an answer has so many:

- date: `YYYY-MM-DD HH:MM:SS`, checked;
- digest: SHA-1 of the identity's name, 20 bytes;
- moment: what the date means;
- message: the row's fields;
- conversation: the conversation that holds the row;
- position of the row in its conversation, from 0.
"""


class Reject(NamedTuple):
    """Something that cannot be an event. Its bytes are cut out of the body later."""

    reason: RejectReason
    element: int
    """Position in `data`, from 0."""
    row: int | None
    """Position in `conversation`, from 0; None = the whole conversation."""


@dataclass(slots=True)
class Reading:
    """A portion of an answer: its rows in the answer's order, and what was rejected."""

    rows: list[Row] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    ids: tuple[Id, ...] = ()
    """The ledger's ids of the rows, in their order."""
    strangers: dict[bytes, Stranger] = field(default_factory=dict)
    """Rows under placeholders, by digest: all that the answer holds, once the first is read."""
    hours: set[str] = field(default_factory=set)
    """The hours of all rows that were read of the answer so far: the ledger's buckets."""


def read_rows(data: list[Any], identity: str, zone: Zone) -> Reading:
    """Read all rows and rejects of an answer at once, without what only screening needs."""
    whole = Reading()
    for reading in chunks([*data], identity, zone):
        whole.rows += reading.rows
        whole.rejects += reading.rejects
        whole.strangers = reading.strangers
    return whole


def chunks(data: list[Any], identity: str, zone: Zone) -> Iterator[Reading]:
    """Identify every row of an answer, portion by portion.

    It replaces the elements of `data` by None as it reads them. `identity` is the operation name
    of which ids are made.

    A portion that is thrown away before the next one is read fits into the processor's cache. So a
    large answer takes a tenth less time and half the memory.
    """
    begin = NAMESPACE + f"{clean(identity)}\0".encode()
    moments: dict[str, Moment] = {}
    reading = Reading()
    for position, element in enumerate(data):
        data[position] = None  # so its rows are freed with their portion
        placeholder = _read_conversation(position, element, begin, zone, moments, reading)
        if placeholder and not reading.strangers:
            reading.strangers = strangers(_strangers([element, *data[position + 1 :]], begin, zone))
        if len(reading.rows) >= CHUNK:
            _tell_apart(reading, begin)
            yield reading
            reading = Reading(strangers=reading.strangers, hours=reading.hours)
    _tell_apart(reading, begin)
    yield reading


def _read_conversation(
    position: int,
    element: Any,
    begin: bytes,
    zone: Zone,
    moments: dict[str, Moment],
    reading: Reading,
) -> bool:
    """Read an element of `data` into `reading`. Return whether it lies under a placeholder.

    `begin` is the beginning of all identity names. `moments` caches what the dates mean.
    """
    rejects = reading.rejects
    chat = element if type(element) is Chat else chat_of(element)
    if chat is None:
        rejects.append(Reject(RejectReason.CONVERSATION_INVALID, position, None))
        return False
    conn_id = conn_id_of(chat.conn_id)
    if conn_id is None:
        rejects.append(Reject(RejectReason.CONN_ID_INVALID, position, None))
        return False
    placeholder = is_placeholder(conn_id)
    conversation = Conversation(position, chat, conn_id, placeholder)
    begin = _begin(begin, conn_id)
    rows = reading.rows
    for index, row in enumerate(chat.conversation):
        message = row if type(row) is Message else message_of(row)
        if message is None:
            rejects.append(Reject(RejectReason.ROW_INVALID, position, index))
            continue
        date: Any = message.date
        try:
            moment = moments[date]
        except (KeyError, TypeError):  # TypeError: the date is not even a text
            try:
                moment = moments[date] = Moment(date[:13], *zone.occurred_at(date))
                reading.hours.add(moment.hour)
            except (LookupError, ValueError, TypeError):
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
            or ("?" in text and "://" in text)
        ):
            name = _name(message, 1, placeholder=placeholder)
        digest = sha1(begin + name.encode()).digest()  # noqa: S324 - see the import
        rows.append((date, digest, moment, message, conversation, index))
    return placeholder


def _begin(begin: bytes, conn_id: str) -> bytes:
    """The beginning that the identity names of a conversation have in common."""
    return begin + f"{clean(conn_id)}\0".encode()


def _name(message: Message, number: int, *, placeholder: bool) -> str:
    """The end of an identity name, which tells the rows of a conn_id apart."""
    who = (text_of(message.channel), *who_of(message)) if placeholder else ()
    return "\0".join([*_said(message), *who, str(number)])


def _said(message: Message) -> list[str]:
    return [str(message.date), text_of(message.from_), unsigned(text_of(message.message))]


def _tell_apart(reading: Reading, begin: bytes) -> dict[int, int]:
    """Number the equal rows of an element of `data`, and set `reading.ids`.

    Return the numbers above 1, by the place of the row. The numbers follow the order of the
    canonical bytes, so a shuffled answer gets the same numbers. Every element is numbered for
    itself: a chat that is listed twice is still one chat.
    """
    rows = reading.rows
    reading.ids = _ids(rows)
    numbers: dict[int, int] = {}
    if len({*reading.ids}) < len(rows):
        equal: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            equal[row[4].position, row[1]].append(place)
        for places in equal.values():
            places.sort(key=lambda place: canonical(sent_fields(rows[place][3])))
            for number, place in enumerate(places[1:], start=2):
                date, _, moment, message, conversation, index = rows[place]
                name = _name(message, number, placeholder=conversation.placeholder)
                digest = sha1(_begin(begin, conversation.conn_id) + name.encode()).digest()  # noqa: S324
                rows[place] = date, digest, moment, message, conversation, index
                numbers[place] = number
        reading.ids = _ids(rows)
    return numbers


def _strangers(data: list[Any], begin: bytes, zone: Zone) -> Iterator[tuple[bytes, Stranger]]:
    """The rows under placeholders in these elements, by digest."""
    for element in data:
        chat = element if type(element) is Chat else chat_of(element)
        conn_id = None if chat is None else conn_id_of(chat.conn_id)
        if conn_id is not None and is_placeholder(conn_id):
            reading = Reading()
            _read_conversation(0, element, begin, zone, {}, reading)
            numbers = _tell_apart(reading, begin)
            for place, row in enumerate(reading.rows):
                yield row[1], _stranger(row, numbers.get(place, 1), begin)


def _stranger(row: Row, number: int, begin: bytes) -> Stranger:
    message, begin = row[3], _begin(begin, row[4].conn_id)
    said = "\0".join([*_said(message), text_of(message.channel)])

    def id_as(who: Who, number: str) -> Id:
        name = "\0".join([said, *who, number])
        return id_of(sha1(begin + name.encode()).digest())  # noqa: S324 - see the import

    who, more = who_of(message), f"{number} and more"
    fewer = less(who)
    return Stranger(
        known_by=frozenset(
            [id_as(who, more), *(id_as(customer, str(number)) for customer in fewer)]
        ),
        tells_more_than=frozenset(id_as(customer, more) for customer in fewer),
    )


def _ids(rows: list[Row]) -> tuple[Id, ...]:
    """The ledger's ids: the beginnings of the digests. All at once, because that is faster."""
    return unpack(">" + "Q12x" * len(rows), b"".join([row[1] for row in rows]))


def digest_of(identity: str, row: Row, number: int) -> bytes:
    """The SHA-1 that the row has if it is number `number` among its equals."""
    conversation = row[4]
    name = _name(row[3], number, placeholder=conversation.placeholder)
    name = f"{clean(identity)}\0{clean(conversation.conn_id)}\0{name}"
    return sha1(NAMESPACE + name.encode()).digest()  # noqa: S324 - see the import

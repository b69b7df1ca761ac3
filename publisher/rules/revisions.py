"""Which published messages an answer shows with other content, and the events that say so. Pure.

Rules of this file:
- Content is all that an event carries and identity does not take.
- Equal rows are compared as multisets: in whatever order an answer tells them, it says the same.
- What is published here as a message is remembered, never revised by the same answer.
- What is hashed must never change: every message that is read again would be revised.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from itertools import count
from typing import Any, Final, TypeAlias

from msgspec import UNSET

from publisher.model import Header, Instant, Record, iso
from publisher.rules import wire
from publisher.rules.events import Encoder
from publisher.rules.fingerprints import (
    MOST_REVISIONS,
    NO_FINGERPRINT,
    Fingerprints,
    Version,
    fingerprint_of,
    revisions_of,
    version,
)
from publisher.rules.ledger import Id, Ledger
from publisher.rules.rows import Conversation, Row, digest_of
from publisher.rules.shapes import CHAT_FIELDS, MESSAGE_FIELDS, Chat, Message, canonical

EVENT_TYPE: Final = "wolkvox.chat.message.revised.v1"
DATA_SCHEMA: Final = "urn:wolkvox:schema:chat.message.revised.v1"

_OPEN: Final = b'{"event_id":"'
_BEHIND_ID: Final = len(_OPEN) + 36 + 1
"""Where `revision` stands in a value."""
_ROOM: Final = len(b',"revision":') + len(str(MOST_REVISIONS))

_NOT_SHARED: Final = {"conn_id", "conversation"}
_IDENTITY: Final = {"date", "from", "message"}
_OF_PLACEHOLDERS: Final = _IDENTITY | {"channel", "customer_id", "customer_phone"}
"""With a conn_id that several conversations share these are identity, too."""

_REPLACED: Final = "\ufffd".encode()
_NOTHING: Final = version(NO_FINGERPRINT, 0)

Shown: TypeAlias = tuple[Row, int]
"""A row and its fingerprint."""


@dataclass(slots=True)
class Revised:
    """What an answer says anew of messages that were published."""

    rows: list[tuple[Row, int]] = field(default_factory=list)
    """Rows to publish, under the id of the message that they revise, and their numbers."""
    versions: dict[str, dict[Id, Version]] = field(default_factory=dict)
    """What to remember of messages, published ones and revised ones, by bucket."""

    unpublished: list[Row] = field(default_factory=list)
    """Rows too large for an event even without their message; known once all are encoded."""

    def remember(self, hour: str, id_: Id, told: Version) -> None:
        self.versions.setdefault(hour, {})[id_] = told

    def encode(
        self,
        source: str,
        *,
        pass_label: str,
        read_at: Instant,
        lenient: bool,
        max_event_bytes: int,
    ) -> Iterator[Record]:
        """One Kafka record for each revision, in the order of the dates.

        The event of the message as it is now, and `revision` behind its id.
        """
        encoder = Encoder(
            source,
            pass_label=pass_label,
            read_at=read_at,
            lenient=lenient,
            max_event_bytes=max_event_bytes - _ROOM,
        )
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
        for row, number in sorted(self.rows, key=lambda each: each[0][0]):
            records = [*encoder.encode([row])]
            if not records:
                self.unpublished.append(row)
                continue
            [message] = records
            value = wire.value_of(message)
            id_ = value[len(_OPEN) : _BEHIND_ID - 1]
            value = b'%b,"revision":%d%b' % (value[:_BEHIND_ID], number, value[_BEHIND_ID:])
            key = None if row[4].placeholder else row[4].conn_id.encode()
            subject: list[Header] = [] if key is None else [("ce_subject", key)]
            headers: list[Header] = [
                *shared, *subject,
                ("ce_id", b"%b/%d" % (id_, number)),
                ("ce_time", row[2].occurred_at.encode()),
            ]  # fmt: skip
            yield wire.record(message[0], key, value, wire.headers(headers))


def revise(
    operation: str,
    rows: Sequence[Row],
    fresh: Iterable[Row],
    ledger: Ledger,
    fingerprints: Fingerprints,
    *,
    lenient: bool = False,
) -> Revised:
    """What the rows of an answer revise, and what to remember of those that it publishes.

    `fresh` rows are published as messages; of rows with one id the first is. In an answer
    that was decoded leniently a row that holds U+FFFD revises nothing: the damage is no change.
    """
    revised = Revised()
    shown = [*zip(rows, fingerprints_of(rows), strict=True)]
    wanted: defaultdict[str, set[Id]] = defaultdict(set)
    for row in rows:
        wanted[row[2].hour].add(_id(row[1]))
    known = {hour: fingerprints.known(hour, ids) for hour, ids in wanted.items()}
    to_publish = {row[1] for row in fresh}
    published: set[bytes] = set()
    suspects: list[Row] = []
    for row, fingerprint in shown:
        hour, id_ = row[2].hour, _id(row[1])
        if row[1] in to_publish and row[1] not in published:
            published.add(row[1])
            revisions = revisions_of(known[hour].get(id_, _NOTHING))
            known[hour][id_] = version(fingerprint, revisions)
            revised.remember(hour, id_, known[hour][id_])
        elif fingerprint_of(known[hour].get(id_, _NOTHING)) != fingerprint:
            suspects.append(row)
    for equal in _equal(operation, shown, suspects) if suspects else ():
        if not (lenient and any(_REPLACED in _content(row) for row, _ in equal)):
            _match(operation, equal, ledger, fingerprints, revised, published)
    return revised


def fingerprints_of(rows: Iterable[Row]) -> list[int]:
    """32 bits of the content of each row, never 0."""
    found = []
    conversation: Conversation | None = None
    shared = b""
    for row in rows:
        if row[4] is not conversation:
            conversation = row[4]
            shared = _shared(conversation)
        content = shared + _own(row)
        digest = sha1(content).digest()  # noqa: S324 - tells contents apart, protects nothing
        found.append(int.from_bytes(digest[:4]) or 1)
    return found


def _content(row: Row) -> bytes:
    return _shared(row[4]) + _own(row)


def _shared(conversation: Conversation) -> bytes:
    return canonical(_told(conversation.chat, CHAT_FIELDS, _NOT_SHARED))


def _own(row: Row) -> bytes:
    identity = _OF_PLACEHOLDERS if row[4].placeholder else _IDENTITY
    return canonical(_told(row[3], MESSAGE_FIELDS, identity))


def _told(shape: Chat | Message, fields: dict[str, str], identity: set[str]) -> dict[str, Any]:
    """The fields that the API told, by its names; an undocumented one is a field like others."""
    told = {
        name: value
        for name, attribute in fields.items()
        if name not in identity and (value := getattr(shape, attribute)) is not UNSET
    }
    return told if shape.extra is UNSET else told | shape.extra


def _id(digest: bytes) -> Id:
    return int.from_bytes(digest[:8])


def _equal(operation: str, shown: list[Shown], suspects: list[Row]) -> list[list[Shown]]:
    """The rows that share all of identity but the number with one of the suspects."""
    near = {(row[0], row[4].conn_id) for row in suspects}
    found: defaultdict[bytes, list[Shown]] = defaultdict(list)
    for row, fingerprint in shown:
        if (row[0], row[4].conn_id) in near:
            found[digest_of(operation, row, 1)].append((row, fingerprint))
    wanted = dict.fromkeys(digest_of(operation, row, 1) for row in suspects)
    return [found[each] for each in wanted]


def _match(
    operation: str,
    equal: list[Shown],
    ledger: Ledger,
    fingerprints: Fingerprints,
    revised: Revised,
    published: set[bytes],
) -> None:
    """Give the contents of equal rows to their messages, and note what that revises."""
    (date, _, moment, *_), _ = equal[0]
    listings: defaultdict[int, list[Shown]] = defaultdict(list)
    for row, fingerprint in equal:
        listings[row[4].position].append((row, fingerprint))
    longest = max(map(len, listings.values()))
    messages: dict[bytes, Version] = {}
    for number in count(1):
        digest = digest_of(operation, equal[0][0], number)
        id_ = _id(digest)
        if number > longest and not ledger.knows(moment.hour, id_):
            break
        told = revised.versions.get(moment.hour, {}).get(id_)
        if told is None:
            told = fingerprints.known(moment.hour, [id_]).get(id_, _NOTHING)
        messages[digest] = told
    remembered = Counter(map(fingerprint_of, messages.values()))
    numbers = {digest: number for number, digest in enumerate(messages)}
    same, changed = min(
        (
            _compared(remembered, sorted(listing, key=lambda each: numbers[each[0][1]]))
            for listing in listings.values()
            if len(listing) == longest
        ),
        # By content alone: which listing stands first says nothing.
        key=lambda found: (len(found[1]), sorted(fingerprint for _, fingerprint in found[1])),
    )
    free: list[tuple[bytes, Version]] = []
    for digest, told in sorted(messages.items(), key=lambda each: each[0] not in published):
        if same[fingerprint_of(told)]:
            same[fingerprint_of(told)] -= 1
        elif digest not in published:
            free.append((digest, told))
    # One of which no content is remembered comes first: nothing need have changed.
    free.sort(key=lambda each: fingerprint_of(each[1]) != NO_FINGERPRINT)
    for (row, fingerprint), (digest, told) in zip(changed, free, strict=False):
        revisions = revisions_of(told)
        if fingerprint_of(told) != NO_FINGERPRINT:
            if revisions == MOST_REVISIONS:
                continue
            revisions += 1
            revised.rows.append(((date, digest, moment, *row[3:]), revisions))
        revised.remember(moment.hour, _id(digest), version(fingerprint, revisions))


def _compared(remembered: Counter[int], listing: list[Shown]) -> tuple[Counter[int], list[Shown]]:
    """Which contents of a listing are remembered, and the rows whose content is not."""
    left = remembered.copy()
    same: Counter[int] = Counter()
    changed = []
    for row, fingerprint in listing:
        if left[fingerprint]:
            left[fingerprint] -= 1
            same[fingerprint] += 1
        else:
            changed.append((row, fingerprint))
    return same, changed

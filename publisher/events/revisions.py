"""Finds published messages that an answer shows with other content, and encodes their revisions.

Rules of this file:
- Content is everything that an event carries and that identity does not use.
- Equal rows are compared as multisets. The order in which an answer lists them has no meaning.
- After an answer, the content of equal rows is what its longest listing says. This also holds for
  rows that the answer itself publishes, if a shorter listing shows them first.
- The input of the hash must never change. Otherwise every message that is read again would be
  revised.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from itertools import count
from typing import Any, Final, TypeAlias

from publisher.events import kafka_record
from publisher.events.encode import Encoder, Provenance, shared_headers
from publisher.events.identity import id_fields
from publisher.events.rows import Conversation, Row, digest_of
from publisher.model import Header, Record
from publisher.state.fingerprints import (
    MOST_REVISIONS,
    NO_FINGERPRINT,
    Fingerprints,
    Version,
    fingerprint_of,
    revisions_of,
    version,
)
from publisher.state.ledger import Id, Ledger, id_of
from publisher.wolkvox.schema import canonical, sent_fields

EVENT_TYPE: Final = "wolkvox.chat.message.revised.v1"
DATA_SCHEMA: Final = "urn:wolkvox:schema:chat.message.revised.v1"

_OPEN: Final = b'{"event_id":"'
_BEHIND_ID: Final = len(_OPEN) + 36 + 1
"""The position of `revision` in a value."""
_ROOM: Final = len(b',"revision":') + len(str(MOST_REVISIONS))

_IDENTITY: Final = {*id_fields(placeholder=False)}
_OF_PLACEHOLDERS: Final = {*id_fields(placeholder=True)}
"""The identity fields where several conversations share a conn_id."""

_REPLACED: Final = "\ufffd".encode()
_NOTHING: Final = version(NO_FINGERPRINT, 0)

Shown: TypeAlias = tuple[Row, int]
"""A row and its fingerprint."""


@dataclass(slots=True)
class Revised:
    """What an answer changes about messages that were published before."""

    rows: list[tuple[Row, int]] = field(default_factory=list)
    """Rows to publish, under the id of the message that they revise, and their revision numbers."""
    versions: dict[str, dict[Id, Version]] = field(default_factory=dict)
    """By bucket: what to remember of the published and the revised messages."""
    unpublished: list[Row] = field(default_factory=list)
    """Rows too large for an event even without their message. `encode` fills it."""

    def remember(self, hour: str, id_: Id, version_: Version) -> None:
        self.versions.setdefault(hour, {})[id_] = version_

    def encode(self, provenance: Provenance, *, max_event_bytes: int) -> list[Record]:
        """One Kafka record per revision, ordered by date.

        It holds the event of the message as it is now, with `revision` behind the id.
        """
        if not self.rows:
            return []
        encoder = Encoder(provenance, max_event_bytes=max_event_bytes - _ROOM)
        shared = shared_headers(EVENT_TYPE, DATA_SCHEMA, provenance)
        revisions: list[Record] = []
        for row, number in sorted(self.rows, key=lambda revised: revised[0][0]):
            records = [*encoder.encode([row])]
            if not records:
                self.unpublished.append(row)
                continue
            [message] = records
            value = kafka_record.value_of(message)
            id_ = value[len(_OPEN) : _BEHIND_ID - 1]
            value = b'%b,"revision":%d%b' % (value[:_BEHIND_ID], number, value[_BEHIND_ID:])
            key = None if row[4].placeholder else row[4].conn_id.encode()
            subject: list[Header] = [] if key is None else [("ce_subject", key)]
            headers: list[Header] = [
                *shared, *subject,
                ("ce_id", b"%b/%d" % (id_, number)),
                ("ce_time", row[2].occurred_at.encode()),
            ]  # fmt: skip
            revisions.append(
                kafka_record.record(message[0], key, value, kafka_record.headers(headers))
            )
        return revisions


class Reviser:
    """Compares one answer, portion by portion, with the content that was published last.

    It keeps only the fingerprint of most rows. So the rows of a portion are freed when the next
    portion is read.
    """

    def __init__(
        self, identity: str, ledger: Ledger, fingerprints: Fingerprints, *, lenient: bool
    ) -> None:
        self._identity = identity
        self._ledger = ledger
        self._fingerprints = fingerprints
        self._lenient = lenient
        self._revised = Revised()
        self._published: set[bytes] = set()
        """Digests of the rows that the answer publishes as messages."""
        self._shown: defaultdict[bytes, list[tuple[int, int]]] = defaultdict(list)
        """By digest: the elements of `data` that show the row, and its fingerprint there."""
        self._suspects: list[Shown] = []
        """Rows whose content is not the content that was published last."""

    def add(self, rows: Sequence[Row], fresh: Iterable[Row]) -> None:
        """Compare a portion. `fresh` rows are published; of rows with equal ids the first is."""
        wanted: defaultdict[str, set[Id]] = defaultdict(set)
        for row in rows:
            wanted[row[2].hour].add(id_of(row[1]))
        versions = {hour: self._last_versions(hour, ids) for hour, ids in wanted.items()}
        to_publish = {row[1] for row in fresh}
        for row, fingerprint in zip(rows, fingerprints_of(rows), strict=True):
            digest, hour, id_ = row[1], row[2].hour, id_of(row[1])
            last = versions[hour].get(id_, _NOTHING)
            self._shown[digest].append((row[4].position, fingerprint))
            if digest in to_publish and digest not in self._published:
                self._published.add(digest)
                versions[hour][id_] = version(fingerprint, revisions_of(last))
                self._revised.remember(hour, id_, versions[hour][id_])
            elif fingerprint_of(last) != fingerprint:
                self._suspects.append((row, fingerprint))

    def revised(self) -> Revised:
        """What the whole answer revises, and what to remember of it."""
        groups: defaultdict[bytes, list[Shown]] = defaultdict(list)
        for row, fingerprint in self._suspects:
            groups[digest_of(self._identity, row, 1)].append((row, fingerprint))
        for suspects in groups.values():
            # In an answer that was decoded leniently, U+FFFD is damage and not a change.
            if not (self._lenient and any(_REPLACED in _content(row) for row, _ in suspects)):
                self._match(suspects)
        return self._revised

    def _last_versions(self, hour: str, ids: Iterable[Id]) -> dict[Id, Version]:
        revised = self._revised.versions.get(hour, {})
        return self._fingerprints.versions_of(hour, ids) | {
            id_: revised[id_] for id_ in ids if id_ in revised
        }

    def _match(self, suspects: list[Shown]) -> None:
        """Assign the contents of equal rows to their messages, and note what that revises."""
        (date, _, moment, *_), _ = suspects[0]
        messages: dict[bytes, Version] = {}
        listings: defaultdict[int, list[int]] = defaultdict(list)
        for number in count(1):
            digest = digest_of(self._identity, suspects[0][0], number)
            shown, id_ = self._shown.get(digest, ()), id_of(digest)
            if not shown and not self._ledger.knows(moment.hour, id_):
                break
            messages[digest] = self._last_versions(moment.hour, [id_]).get(id_, _NOTHING)
            for position, fingerprint in shown:
                listings[position].append(fingerprint)
        longest = max(map(len, listings.values()))
        remembered = Counter(map(fingerprint_of, messages.values()))
        same, changed = min(
            (
                _compared(remembered, listing)
                for listing in listings.values()
                if len(listing) == longest
            ),
            # By content alone: the order of the listings has no meaning.
            key=lambda compared: (len(compared[1]), sorted(compared[1])),
        )
        free: list[tuple[bytes, Version]] = []
        for digest, version_ in sorted(
            messages.items(), key=lambda message: message[0] not in self._published
        ):
            if same[fingerprint_of(version_)]:
                same[fingerprint_of(version_)] -= 1
            else:
                free.append((digest, version_))
        # A message whose content is not remembered comes first: it need not have changed. A message
        # that this answer publishes comes last: its content was published only now.
        free.sort(
            key=lambda message: (
                message[0] in self._published,
                fingerprint_of(message[1]) != NO_FINGERPRINT,
            )
        )
        # Changed content belongs to a suspect: the content of every other row is remembered.
        rows = {fingerprint: row for row, fingerprint in suspects}
        for fingerprint, (digest, version_) in zip(changed, free, strict=False):
            revisions = revisions_of(version_)
            if fingerprint_of(version_) != NO_FINGERPRINT:
                if revisions == MOST_REVISIONS:
                    continue
                revisions += 1
                revising = (date, digest, moment, *rows[fingerprint][3:])
                self._revised.rows.append((revising, revisions))
            self._revised.remember(moment.hour, id_of(digest), version(fingerprint, revisions))


def _compared(remembered: Counter[int], listing: list[int]) -> tuple[Counter[int], list[int]]:
    """The contents of a listing that are remembered, and those that are not, in its order."""
    left = remembered.copy()
    same: Counter[int] = Counter()
    changed = []
    for fingerprint in listing:
        if left[fingerprint]:
            left[fingerprint] -= 1
            same[fingerprint] += 1
        else:
            changed.append(fingerprint)
    return same, changed


def fingerprints_of(rows: Iterable[Row]) -> list[int]:
    """The fingerprint of every row: 32 bits of the hash of its content, never 0."""
    fingerprints = []
    conversation: Conversation | None = None
    shared = b""
    for row in rows:
        if row[4] is not conversation:
            conversation = row[4]
            shared = _shared(conversation)
        content = shared + _own(row)
        digest = sha1(content).digest()  # noqa: S324 - tells contents apart, protects nothing
        fingerprints.append(int.from_bytes(digest[:4]) or 1)
    return fingerprints


def _content(row: Row) -> bytes:
    return _shared(row[4]) + _own(row)


def _shared(conversation: Conversation) -> bytes:
    return canonical(_without(sent_fields(conversation.chat), {"conn_id"}))


def _own(row: Row) -> bytes:
    identity = _OF_PLACEHOLDERS if row[4].placeholder else _IDENTITY
    return canonical(_without(sent_fields(row[3]), identity))


def _without(fields: dict[str, Any], identity: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in identity}

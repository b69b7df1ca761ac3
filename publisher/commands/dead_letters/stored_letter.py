"""Dead letters as they are read back from their topic.

Rules of this file:
- A letter may be written in several parts. It is complete when all parts came in order.
- A record with the key of a letter and without a value says that the letter was replayed.
- Letters of older versions stay readable: without `id` the hash of the bytes identifies them.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha1
from typing import Final, TypeAlias

from publisher.events.dead_letter import keyed
from publisher.model import Header, Instant, Record, Window, iso

Key: TypeAlias = tuple[str, str]
"""The operation and the id, which together identify a letter."""

_NEEDED: Final = {"reason", "operation", "position", "sha1"}
_SHA1_BYTES: Final = 20


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, or the parts of it that exist."""

    headers: Mapping[str, str]
    """The headers of its first part, without `part`."""
    window: Window
    read_at: Instant
    number: int
    """The number of a row among equal rows, from 1."""
    parts: int
    """How many parts it was written in."""
    written_at: Instant
    """The timestamp of its first record."""
    missing: int
    """How many parts are missing."""
    size: int = 0
    """The size in bytes of the parts that exist."""
    pieces: list[bytes] = field(default_factory=list)
    """The bytes, part by part; empty unless the caller wanted them."""

    @property
    def operation(self) -> str:
        return self.headers["operation"]

    @property
    def reason(self) -> str:
        return self.headers["reason"]

    @property
    def position(self) -> str:
        return self.headers["position"]

    @property
    def id(self) -> str:
        """The id: 40 hexadecimal digits."""
        return self.headers.get("id", self.headers["sha1"])

    @property
    def key(self) -> Key:
        return self.operation, self.id

    @property
    def context(self) -> bytes:
        """The other fields of the row's conversation, as JSON; empty = the letter has none."""
        return self.headers.get("conversation", "").encode()

    @property
    def raw(self) -> bytes | None:
        """The bytes as the server sent them; None = they are not complete."""
        raw = b"".join(self.pieces)
        return raw if sha1(raw).hexdigest() == self.headers["sha1"] else None  # noqa: S324 - compares


@dataclass(frozen=True, slots=True)
class Replayed:
    """The record that says that a letter was replayed, and needs no other replay."""

    operation: str
    id: str
    replayed_at: Instant
    result: str
    """A member of `replay_batch.Outcome`."""

    @property
    def key(self) -> Key:
        return self.operation, self.id


class Letters:
    """Assembles the letters of some operations from records, read partition by partition."""

    def __init__(
        self, operations: Collection[str], wanted: Callable[[Letter], bool] = lambda _: False
    ) -> None:
        """Start without letters. The letters that are `wanted` keep their bytes."""
        self._operations = operations
        self._wanted = wanted
        self._open: dict[Key, Letter] = {}

    def add(
        self, headers: Iterable[Header], value: bytes | None, written_at: Instant
    ) -> Letter | Replayed | None:
        """Add a record. Return the letter that it completes, the replay that it reports, or None.

        Ignores records of other operations, and records that the publisher did not write.
        """
        fields = {name: (content or b"").decode("utf-8", "replace") for name, content in headers}
        try:
            if fields["operation"] not in self._operations:
                return None
            if value is None:
                replayed_at = _instant(fields["replayed_at"])
                return Replayed(fields["operation"], fields["id"], replayed_at, fields["result"])
            part = int(fields["part"])
            letter = _first(fields, written_at) if part == 0 else self._open.pop(_key(fields), None)
        except (KeyError, ValueError):
            return None
        if letter is None or letter.parts - letter.missing != part:
            return None  # its first parts are older than the topic's retention
        if self._wanted(letter):
            letter.pieces.append(value)
        letter = replace(letter, missing=letter.missing - 1, size=letter.size + len(value))
        if not letter.missing:
            return letter
        self._open[letter.key] = letter
        return None

    def incomplete(self) -> list[Letter]:
        """The letters whose last parts did not come."""
        return list(self._open.values())


def _key(fields: Mapping[str, str]) -> Key:
    """The key of the letter with these headers."""
    return fields["operation"], fields.get("id", fields["sha1"])


def _first(fields: Mapping[str, str], written_at: Instant) -> Letter:
    """The letter that begins with a record of these headers. Raises KeyError or ValueError."""
    if not fields.keys() >= _NEEDED:
        raise KeyError
    start, _, end = fields["window"].partition("/")
    parts = int(fields["parts"])
    hashes = [bytes.fromhex(fields[name]) for name in ("sha1", "id") if name in fields]
    if parts < 1 or any(len(hash_) != _SHA1_BYTES for hash_ in hashes):
        raise ValueError
    return Letter(
        headers={name: text for name, text in fields.items() if name != "part"},
        window=Window(_instant(start), _instant(end)),
        read_at=_instant(fields["read_at"]),
        number=int(fields.get("number", "1")),
        parts=parts,
        written_at=written_at,
        missing=parts,
    )


def _instant(text: str) -> Instant:
    """The instant in the text. Raises ValueError if it is none, or has no offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment


def replayed(letter: Letter, result: str, at: Instant) -> Record:
    """The record that says that the letter was replayed, with this result."""
    return keyed(
        bytes.fromhex(letter.headers["sha1"]),
        None,
        [
            ("operation", letter.operation.encode()),
            ("id", letter.id.encode()),
            ("sha1", letter.headers["sha1"].encode()),
            ("replayed_at", iso(at).encode()),
            ("result", result.encode()),
        ],
    )

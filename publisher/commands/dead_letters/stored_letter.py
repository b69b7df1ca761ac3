"""Dead letters as the topic gives them back.

Rules of this file:
- A letter may come in parts; it is whole when they came in order.
- That a letter was replayed is told by a record of its own: the letter's key, no value.
- What an older version has written stays readable: without `id` the bytes identify a letter.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha1
from typing import Final, TypeAlias

from publisher.events.dead_letter import keyed
from publisher.model import Header, Instant, Record, Window, iso

Key: TypeAlias = tuple[str, str]
"""Operation and id: what a letter is known by."""

_NEEDED: Final = {"reason", "operation", "position", "sha1"}
_SHA1_BYTES: Final = 20


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter, or what is there of it."""

    headers: Mapping[str, str]
    """Of its first part, without `part`."""
    window: Window
    read_at: Instant
    number: int
    """Of a row among its equals."""
    parts: int
    written_at: Instant
    """The record's timestamp."""
    missing: int
    """Parts that are not there."""
    size: int = 0
    """Bytes, of all parts that are there."""
    pieces: list[bytes] = field(default_factory=list)
    """The bytes, where somebody wants them."""

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
        """40 hexadecimal digits."""
        return self.headers.get("id", self.headers["sha1"])

    @property
    def key(self) -> Key:
        return self.operation, self.id

    @property
    def context(self) -> bytes:
        """The other fields of a row's conversation as JSON; empty where they are not known."""
        return self.headers.get("conversation", "").encode()

    @property
    def raw(self) -> bytes | None:
        """The bytes that the server sent; None where they are not whole."""
        raw = b"".join(self.pieces)
        return raw if sha1(raw).hexdigest() == self.headers["sha1"] else None  # noqa: S324 - compares


@dataclass(frozen=True, slots=True)
class Replayed:
    """A letter needs no replay any more."""

    operation: str
    id: str
    at: Instant
    result: str
    """A member of `replay.Outcome`."""

    @property
    def key(self) -> Key:
        return self.operation, self.id


class Letters:
    """Puts the letters of some operations together from a topic's records, by partition."""

    def __init__(
        self, names: Mapping[str, str], wanted: Callable[[Letter], bool] = lambda _: False
    ) -> None:
        """`names` says how an operation is called now, by every name that it has borne."""
        self._names = names
        self._wanted = wanted
        self._open: dict[Key, Letter] = {}

    def add(
        self, headers: Iterable[Header], value: bytes | None, at: Instant
    ) -> Letter | Replayed | None:
        """The letter that is whole with this record, or what tells of one; None = not yet.

        Records of other operations are passed over, and what the publisher did not write.
        """
        fields = {name: (content or b"").decode("utf-8", "replace") for name, content in headers}
        try:
            fields["operation"] = self._names[fields["operation"]]
            if value is None:
                when = _instant(fields["replayed_at"])
                return Replayed(fields["operation"], fields["id"], when, fields["result"])
            part = int(fields["part"])
            letter = _first(fields, at) if part == 0 else self._open.pop(_key(fields), None)
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
        """Those whose last parts did not come."""
        return list(self._open.values())


def _key(fields: Mapping[str, str]) -> Key:
    return fields["operation"], fields.get("id", fields["sha1"])


def _first(fields: Mapping[str, str], at: Instant) -> Letter:
    """The letter that begins with a record of these headers."""
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
        written_at=at,
        missing=parts,
    )


def _instant(text: str) -> Instant:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment


def replayed(letter: Letter, result: str, at: Instant) -> Record:
    """The record that says that a letter was replayed."""
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

"""The values that all packages of the service share. This module imports none of them.

An *instant* is always an aware `datetime` in UTC. Local times without a zone exist only as text in
requests and rows. Only `wolkvox/timezone.py` translates between the two.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, TypeAlias

Instant: TypeAlias = datetime
Header: TypeAlias = tuple[str, bytes]

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


def iso(instant: Instant) -> str:
    """Return RFC 3339 text in UTC with `Z`. Microseconds appear only if they are not zero."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Window:
    """The half-open stretch of time [start, end) that a request asks about."""

    start: Instant
    end: Instant

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise ValueError(f"a window must start before it ends: {self}")

    @property
    def width(self) -> timedelta:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{iso(self.start)}/{iso(self.end)}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pass has come."""

    cursor: Instant
    """All time before is settled: published, and read late enough not to be read again."""
    covered_until: Instant
    """All time before has been read at least once."""


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """A stretch of time that was read only once, and late."""

    window: Window
    due: Instant
    """From this instant on it may be read a second time."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How a pass walks: at a distance of `delay` behind now, with a round every `cadence`."""

    delay: timedelta
    cadence: timedelta


@dataclass(frozen=True, slots=True)
class HourShare:
    """How many requests besides polls an hour may still cost, and how fast they come back."""

    left: float
    size: float
    fill_seconds: float
    """Seconds until another request comes back."""

    def left_after(self, seconds: float) -> int:
        """How many requests may be made at once, so many idle seconds later; 0 = only polls may."""
        return int(min(self.size, self.left + max(seconds, 0.0) / self.fill_seconds))


class Standing(StrEnum):
    """The status of a backfill."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Backfill:
    """A fixed range of history that a person asked for, and how far it has been read."""

    id: str
    start: Instant
    end: Instant
    again: bool
    """Messages that were published before `since` are published once more."""
    cursor: Instant
    standing: Standing
    since: int
    """Sequence number of the commit that accepted the request."""
    rows: int = 0
    new: int = 0
    skipped_seconds: int = 0
    """How much of its range it skips, because what was published of it is forgotten."""

    @property
    def active(self) -> bool:
        """Whether it may still read its range."""
        return self.standing in (Standing.RUNNING, Standing.PAUSED)

    @property
    def remaining(self) -> timedelta:
        """How much of its range is still to be read; zero once it has ended."""
        return self.end - self.cursor if self.active else timedelta()


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the report, in the terms of the API."""

    date_ini: str
    """Local time of the operation, `YYYYmmddHHiiss`. Whether it is inclusive is unknown."""
    date_end: str
    max_bytes: int
    """The longest decompressed body that is kept. A longer one is read to its end and discarded."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over HTTP, before it is classified."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    sent_at: Instant
    """By our own clock, as `received_at` is."""
    received_at: Instant
    """When the status line and the headers had arrived."""
    took: float
    """Seconds from sending to the last byte."""
    oversized: bool = False
    """The body was longer than the request's `max_bytes`. Then `body` is empty."""


Record: TypeAlias = tuple[int, bytes]
"""The partition hash of a Kafka record, and its key, value and headers as Kafka writes them (see
`events/kafka_record.py`). The partition is the hash, which is not negative, modulo the number of
partitions. It is a plain tuple because every message has such a record."""


class StateRecord(NamedTuple):
    """A record of the state topic. Without a value it is a tombstone."""

    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Batch:
    """All that a window publishes: a single Kafka transaction, or nothing.

    The iterators are consumed once, while the record batches are built and before the transaction
    begins.
    """

    operation: str
    follows: int | None
    """Sequence number of the checkpoint from which this batch was computed; None = it is the first.
    A log with a later checkpoint refuses the batch."""
    sequence: int
    """Sequence number of the checkpoint that this batch writes."""
    state: Sequence[StateRecord]
    events: Iterator[Record] = field(default_factory=lambda: iter(()))
    dead_letters: Iterator[Record] = field(default_factory=lambda: iter(()))
    revisions: Iterator[Record] = field(default_factory=lambda: iter(()))
    """Messages that the window shows with other content than was published last."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What Kafka holds of an operation."""

    records: MutableMapping[bytes, bytes]
    """The live records of its state; empty = it has never published."""
    history_lost: bool
    """There is no state, but the messages topic holds events that must have had a state."""
    newest_published: int = -1
    """The greatest transaction number in the last events of the operation; -1 = no events."""
    topic_unused: bool = False
    """The messages topic holds no record and never held any."""
    topic_readable: bool = True
    """The messages topic may be read. Only then a state that was set back is detected."""

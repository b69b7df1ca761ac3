"""The values that every other room speaks of. Imports nothing of ours.

An *instant* is always an aware `datetime` in UTC. Zone-less local times exist
only as text inside requests and rows; `wolkvox/timezone.py` is their one translator.
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
    """RFC 3339 in UTC with `Z`, microseconds only where there are any."""
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
    """How far one pass has come."""

    cursor: Instant
    """Everything before is settled: published, and read late enough not to be read again."""
    covered_until: Instant
    """Everything before has been read at least once."""


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """A stretch of time that was read only once, and late."""

    window: Window
    due: Instant
    """From then on it may be read a second time."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How a pass walks: as far behind now as `delay`, in rounds that begin every `cadence`."""

    delay: timedelta
    cadence: timedelta


@dataclass(frozen=True, slots=True)
class HourShare:
    """What is left of the requests that an hour may cost beside polls, and how it comes back."""

    left: float
    size: float
    fill_seconds: float
    """Until one more may be made."""

    def left_after(self, seconds: float) -> int:
        """How many may be made at once, if none was made since; 0 = all but polls wait."""
        return int(min(self.size, self.left + max(seconds, 0.0) / self.fill_seconds))


class Standing(StrEnum):
    """What a backfill does."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Backfill:
    """A fixed range that a person asked for, and how far it is."""

    id: str
    start: Instant
    end: Instant
    again: bool
    """What was published before it was taken up is published once more."""
    cursor: Instant
    standing: Standing
    since: int
    """Sequence number of the commit that took it up."""
    rows: int = 0
    new: int = 0
    skipped_seconds: int = 0
    """How much of its range it passes over, because what was published of it is forgotten."""

    @property
    def active(self) -> bool:
        """It may still read its range."""
        return self.standing in (Standing.RUNNING, Standing.PAUSED)

    @property
    def remaining(self) -> timedelta:
        """How much time of its range is still to be read; nothing once it has ended."""
        return self.end - self.cursor if self.active else timedelta()


@dataclass(frozen=True, slots=True)
class Request:
    """One question to the report, as the API wants it asked."""

    date_ini: str
    """Local time of the operation, `YYYYmmddHHiiss`; may be exclusive or inclusive (unknown)."""
    date_end: str
    max_bytes: int
    """Largest decompressed body that is kept; a longer one is read to its end and discarded."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over HTTP, before anybody has judged it."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    sent_at: Instant
    """By our own clock, like `received_at`."""
    received_at: Instant
    """When the status line and the headers were there."""
    took: float
    """Seconds from sending to the last byte."""
    oversized: bool = False
    """The body was longer than the request's `max_bytes`; `body` is then empty."""


Record: TypeAlias = tuple[int, bytes]
"""Partition hash of one Kafka record, and its key, value and headers as Kafka writes them: see
`events/kafka_record.py`. The partition is the hash (not negative) modulo the number of partitions.
A plain tuple: there is one per message."""


class StateRecord(NamedTuple):
    """One record of the state topic; without a value it is a tombstone."""

    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Batch:
    """All that one window publishes: one Kafka transaction, or nothing.

    The iterators are consumed once, while the record batches are built and
    before the transaction begins.
    """

    operation: str
    follows: int | None
    """Sequence number of the checkpoint this batch was computed from, None before the first;
    a log that has moved on refuses the batch."""
    sequence: int
    """Sequence number of the checkpoint that this batch writes."""
    state: Sequence[StateRecord]
    events: Iterator[Record] = field(default_factory=lambda: iter(()))
    dead_letters: Iterator[Record] = field(default_factory=lambda: iter(()))
    revisions: Iterator[Record] = field(default_factory=lambda: iter(()))
    """What a window shows otherwise than it was told last; consumed once, too."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What the log holds of an operation."""

    records: MutableMapping[bytes, bytes]
    """The live records of its state; empty = never published."""
    history_lost: bool
    """There is no state, yet the messages topic holds events that must have had one."""
    newest_published: int = -1
    """Greatest transaction number that the last events of the operation bear; -1 = none seen."""
    topic_unused: bool = False
    """The messages topic holds no record, and none was deleted from it."""
    goes_on_as: str = ""
    """There is no state, yet another operation once had this name, and makes its ids of it."""
    topic_readable: bool = True
    """The messages topic may be read, so that a state that was set back is noticed."""

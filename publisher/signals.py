"""What happened inside the service: facts that logs and metrics both listen to.

Noun + past participle, units in field names. A listener must not raise, block
or await. One signal per window, never per message; no field ever holds anything
from a message.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias

from publisher.errors import Reason, Stage
from publisher.model import Backfill, HourShare, Instant, Progress, Rhythm, Unconfirmed, Window


@dataclass(frozen=True, slots=True)
class ServiceStarted:
    version: str
    operations: tuple[str, ...]
    http_port: int


@dataclass(frozen=True, slots=True)
class HintGiven:
    """Something looks wrong and stops nothing."""

    text: str
    operation: str = ""


@dataclass(frozen=True, slots=True)
class TopicCreated:
    topic: str
    partitions: int


@dataclass(frozen=True, slots=True)
class EventsGone:
    """The topic lacks events that were published: it was made anew, or lost its end."""

    topic: str
    operation: str = ""


@dataclass(frozen=True, slots=True)
class StateRestored:
    operation: str
    first_start: bool
    cursor: Instant
    covered_until: Instant
    """Of the live pass, like `cursor`."""
    passes: Mapping[str, Progress]
    gaps: tuple[Window, ...]
    journal_entries: int
    ledger_ids: int
    took_seconds: float
    backfills: tuple[Backfill, ...] = ()
    unconfirmed: tuple[Unconfirmed, ...] = ()
    rhythms: Mapping[str, Rhythm] = field(default_factory=dict)
    """Of the passes, by the same names."""


@dataclass(frozen=True, slots=True)
class RequestAnswered:
    operation: str
    verdict: str
    """A member of `upstream.Verdict`, or `failed` when there was no answer."""
    took_seconds: float
    size_bytes: int
    clock_skew_seconds: float | None
    """The server's clock minus ours; None without a usable Date header."""
    clock_refused: bool = False
    """The skew is too large to be believed."""
    hour_share: HourShare | None = None
    """After this request."""


@dataclass(frozen=True, slots=True)
class TransactionEnded:
    operation: str
    result: str
    """`committed`, `failed` (outcome told by the log) or `fenced`."""
    took_seconds: float


@dataclass(frozen=True, slots=True)
class WindowPublished:
    """One transaction is durable: all of a window."""

    operation: str
    pass_label: str
    window: Window
    rows: int
    new: int
    duplicate: int
    rejected: Mapping[str, int]
    """New dead letters by `rows.RejectReason`."""
    possibly_cut: bool
    lenient: bool
    committed_at: Instant
    occurred: Mapping[str, int]
    """How many of the new messages occurred at which second (RFC 3339, UTC)."""
    cursor: Instant
    covered_until: Instant
    """Of the live pass, like `cursor`."""
    passes: Mapping[str, Progress]
    gaps: tuple[Window, ...]
    ledger_ids: int
    next_width: timedelta
    request_seconds: float
    commit_seconds: float
    revised: int = 0
    """Messages published before, whose change was told; 0 while revisions are off."""
    backfills: tuple[Backfill, ...] = ()
    unconfirmed: tuple[Unconfirmed, ...] = ()


@dataclass(frozen=True, slots=True)
class StepFailed:
    """Nothing was published; the step is tried again."""

    operation: str
    stage: Stage
    reason: Reason
    text: str
    needs_person: bool
    retry_in_seconds: float
    attempt: int
    """From 1."""


@dataclass(frozen=True, slots=True)
class WindowParked:
    """A window that fails while others answer was set aside: it is one of the gaps now."""

    operation: str
    pass_label: str
    window: Window
    cursor: Instant
    covered_until: Instant
    """Of the live pass, like `cursor`."""
    passes: Mapping[str, Progress]
    gaps: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class RepairFailed:
    """A piece of a gap, or of a backfill, could not be read; it is tried again later."""

    operation: str
    window: Window
    stage: Stage
    reason: Reason
    text: str
    pass_label: str


@dataclass(frozen=True, slots=True)
class BackfillRequestsApplied:
    """What people want of backfills has changed, and is durable."""

    operation: str
    backfills: tuple[Backfill, ...]


@dataclass(frozen=True, slots=True)
class WindowNarrowed:
    """A window was too large to be read or published at once: not an error."""

    operation: str
    reason: Reason
    window: Window
    next_width: timedelta


@dataclass(frozen=True, slots=True)
class ZoneChanged:
    """A confirmed change of the time zone is durable; what was read before is among the gaps."""

    operation: str
    before: str
    after: str
    gaps: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class DatesOff:
    """For a day no new message was dated near the server's clock: so a wrong zone looks."""

    operation: str
    off_seconds: float
    """The nearest date of the last window minus the server's clock."""


@dataclass(frozen=True, slots=True)
class NothingFound:
    """Only 404s for implausibly long: an empty operation, or a server without the report."""

    operation: str
    since: Instant


@dataclass(frozen=True, slots=True)
class DateMissing:
    """Answer after answer says nothing usable of the server's clock."""

    operation: str
    since: Instant


@dataclass(frozen=True, slots=True)
class QuotaTold:
    """The server told how many of the day's requests are used."""

    operation: str
    used: int
    """By all tokens of the operation."""
    limit: int


@dataclass(frozen=True, slots=True)
class OffsetsCompared:
    """High watermark minus last stable offset, summed over the partitions of a topic."""

    unstable: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class StopRequested:
    by: str
    """The name of the OS signal."""


@dataclass(frozen=True, slots=True)
class ServiceStopped:
    clean: bool
    """Every step in hand was finished or abandoned and no transaction is left open."""


Signal: TypeAlias = (
    ServiceStarted
    | HintGiven
    | TopicCreated
    | EventsGone
    | StateRestored
    | RequestAnswered
    | TransactionEnded
    | WindowPublished
    | StepFailed
    | WindowParked
    | RepairFailed
    | BackfillRequestsApplied
    | WindowNarrowed
    | ZoneChanged
    | DatesOff
    | NothingFound
    | DateMissing
    | QuotaTold
    | OffsetsCompared
    | StopRequested
    | ServiceStopped
)

Emit: TypeAlias = Callable[[Signal], None]

"""The signals: facts about what happened inside the service, for logs, metrics and status.

A signal is named by a noun and a past participle; its fields carry their units in their names. A
listener must not raise, block or await. There is a signal per window, never per message. No field
holds anything from a message.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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
    """Something looks wrong, but stops nothing."""

    text: str
    operation: str = ""


@dataclass(frozen=True, slots=True)
class TopicCreated:
    topic: str
    partitions: int


@dataclass(frozen=True, slots=True)
class EventsGone:
    """The topic lacks events that were published. It was created anew, or it lost its end."""

    topic: str
    operation: str = ""


@dataclass(frozen=True, slots=True)
class StateRestored:
    operation: str
    first_start: bool
    cursor: Instant
    covered_until: Instant
    """Of the live pass, as `cursor` is."""
    passes: Mapping[str, Progress]
    gaps: tuple[Window, ...]
    journal_entries: int
    ledger_ids: int
    took_seconds: float
    backfills: tuple[Backfill, ...] = ()
    unconfirmed: tuple[Unconfirmed, ...] = ()
    rhythms: Mapping[str, Rhythm] = field(default_factory=dict)
    """The rhythms of the passes, by the same names as in `passes`."""


@dataclass(frozen=True, slots=True)
class RequestAnswered:
    operation: str
    verdict: str
    """A member of `responses.Verdict`, or `failed` if there was no answer."""
    took_seconds: float
    size_bytes: int
    clock_skew_seconds: float | None
    """The server's clock minus ours; None = the answer had no usable Date header."""
    clock_refused: bool = False
    """The skew is too large to be believed."""
    hour_share: HourShare | None = None
    """What is left after this request."""


@dataclass(frozen=True, slots=True)
class TransactionEnded:
    operation: str
    result: str
    """`committed`, `failed` (only the log shows the outcome) or `fenced`."""
    took_seconds: float


@dataclass(frozen=True, slots=True)
class WindowPublished:
    """The transaction with all of a window is durable."""

    operation: str
    pass_label: str
    window: Window
    rows: int
    new: int
    duplicate: int
    rejected: Mapping[str, int]
    """New dead letters, counted by `rows.RejectReason`."""
    possibly_cut: bool
    lenient: bool
    committed_at: Instant
    occurred: Mapping[str, int]
    """The new messages, counted by the second at which they occurred (RFC 3339, UTC)."""
    cursor: Instant
    covered_until: Instant
    """Of the live pass, as `cursor` is."""
    passes: Mapping[str, Progress]
    gaps: tuple[Window, ...]
    ledger_ids: int
    next_width: timedelta
    request_seconds: float
    commit_seconds: float
    revised: int = 0
    """How many earlier messages were published as changed; 0 while revisions are off."""
    backfills: tuple[Backfill, ...] = ()
    unconfirmed: tuple[Unconfirmed, ...] = ()


@dataclass(frozen=True, slots=True)
class StepFailed:
    """Nothing was published. The step is tried again."""

    operation: str
    stage: Stage
    reason: Reason
    text: str
    needs_person: bool
    retry_in_seconds: float
    attempt: int
    """Counts from 1."""


@dataclass(frozen=True, slots=True)
class WindowParked:
    """A window that fails while other windows answer was set aside. Now it is a gap."""

    operation: str
    pass_label: str
    window: Window
    cursor: Instant
    covered_until: Instant
    """Of the live pass, as `cursor` is."""
    passes: Mapping[str, Progress]
    gaps: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class RepairFailed:
    """A window beside the passes (a gap, a backfill, late time) failed. It is tried again later."""

    operation: str
    window: Window
    stage: Stage
    reason: Reason
    text: str
    pass_label: str


@dataclass(frozen=True, slots=True)
class BackfillRequestsApplied:
    """Requests of people for backfills were applied and are durable."""

    operation: str
    backfills: tuple[Backfill, ...]


@dataclass(frozen=True, slots=True)
class WindowNarrowed:
    """A window was too large to be read or published at once. This is no error."""

    operation: str
    reason: Reason
    window: Window
    next_width: timedelta


@dataclass(frozen=True, slots=True)
class ZoneChanged:
    """A confirmed change of the time zone is durable. The gaps hold what was read before."""

    operation: str
    before: str
    after: str
    gaps: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class DatesOff:
    """For long no new message had a date near the server's clock. The zone may be wrong."""

    operation: str
    off_seconds: float
    """The date in the last window that is nearest to the server's clock, minus that clock."""


@dataclass(frozen=True, slots=True)
class NothingFound:
    """For implausibly long all answers were 404s. The operation is empty, or has no report."""

    operation: str
    since: Instant


@dataclass(frozen=True, slots=True)
class DateMissing:
    """Answers have had no usable date for long, so the server's clock is unknown."""

    operation: str
    since: Instant


@dataclass(frozen=True, slots=True)
class QuotaTold:
    """The server reported how many requests of the day are used."""

    operation: str
    used: int
    """Requests of all tokens of the operation."""
    limit: int


@dataclass(frozen=True, slots=True)
class OffsetsCompared:
    """The high watermarks of topics were compared with their last stable offsets."""

    unstable: Mapping[str, int]
    """By topic: high watermark minus last stable offset, summed over the partitions."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    by: str
    """The name of the OS signal."""


@dataclass(frozen=True, slots=True)
class ServiceStopped:
    clean: bool
    """All steps were finished or abandoned, and no transaction is left open."""


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


def labelled(signal: Signal, labels: Mapping[str, str]) -> Signal:
    """Return the signal with the operation's label in place of its name: what people see."""
    if isinstance(
        signal, ServiceStarted | TopicCreated | OffsetsCompared | StopRequested | ServiceStopped
    ):
        return signal
    return replace(signal, operation=labels.get(signal.operation, signal.operation))

"""What is true at the moment: the listener behind `/readyz`, the page, and gauges of `/metrics`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from publisher.errors import Stage
from publisher.model import Backfill, Instant, Progress, Window
from publisher.signals import (
    HintGiven,
    OrdersObeyed,
    RequestAnswered,
    Signal,
    StateRestored,
    StepFailed,
    StopRequested,
    TransactionEnded,
    WindowParked,
    WindowPublished,
)


class Standing(StrEnum):
    """What an operation does at the moment, in one word."""

    HANGING = "hanging"
    STOPPING = "stopping"
    NEEDS_PERSON = "needs_person"
    RETRYING = "retrying"
    RESTORING = "restoring"
    STARTING = "starting"
    PUBLISHING = "publishing"


@dataclass(slots=True)
class OperationStatus:
    """One operation, as far as signals have told."""

    name: str
    restored: bool = False
    kafka_problem: str = ""
    """Why Kafka takes nothing from us; empty while it does."""
    cursor: Instant | None = None
    covered_until: Instant | None = None
    """Of the live pass, like `cursor`."""
    passes: Mapping[str, Progress] = field(default_factory=dict)
    gaps: tuple[Window, ...] = ()
    backfills: tuple[Backfill, ...] = ()
    """Those that have ended, too, for as long as the checkpoint holds them."""
    ledger_ids: int = 0
    clock_skew_seconds: float = 0.0
    """The server's clock minus ours."""
    published: int = 0
    """Events since the start of the process."""
    window: WindowPublished | None = None
    """The last one, of whatever pass."""
    failure: StepFailed | None = None
    """The last one, for as long as the process runs."""
    failed_at: Instant | None = None
    failing: bool = False
    """Nothing has worked since the last failure."""

    def lag_seconds(self, now: Instant) -> float | None:
        """How far the server's now is ahead of what is read and committed."""
        if self.covered_until is None:
            return None
        return max((now - self.covered_until).total_seconds() + self.clock_skew_seconds, 0.0)

    @property
    def gap_seconds(self) -> float:
        """How much time lies in parked windows."""
        return sum(gap.width.total_seconds() for gap in self.gaps)

    def backfill_seconds(self, standing: str) -> float:
        """How much time the backfills of that standing have still to read."""
        left = (one.remaining for one in self.backfills if one.standing == standing)
        return sum(each.total_seconds() for each in left)

    def retry_in_seconds(self, now: Instant) -> float:
        """How long until the step that fails is tried again; 0 = nothing is waited for."""
        if not (self.failing and self.failure and self.failed_at):
            return 0.0
        waited = (now - self.failed_at).total_seconds()
        return max(self.failure.retry_in_seconds - waited, 0.0)

    def standing(self, *, hangs: bool, stopping: bool) -> Standing:
        """Tell what matters most: `hangs` and `stopping` are known to others."""
        if hangs:
            return Standing.HANGING
        if stopping:
            return Standing.STOPPING
        if self.failing and self.failure:
            return Standing.NEEDS_PERSON if self.failure.needs_person else Standing.RETRYING
        if not self.restored:
            return Standing.RESTORING
        return Standing.PUBLISHING if self.window else Standing.STARTING


class Status:
    """A listener: call it with each signal."""

    def __init__(self, operations: Iterable[str], version: str, now: Callable[[], Instant]) -> None:
        self.now = now
        self.version = version
        self.started_at = now()
        self.stopping = False
        self.hints: list[str] = []
        self.operations = {name: OperationStatus(name) for name in operations}

    def missing(self) -> list[str]:
        """Tell what keeps us from being ready, a line each; empty = ready."""
        lines = ["the service is stopping"] if self.stopping else []
        for operation in self.operations.values():
            if not operation.restored:
                why = f": {operation.kafka_problem}" if operation.kafka_problem else " yet"
                lines.append(f"{operation.name}: state not restored{why}")
            elif operation.kafka_problem:
                lines.append(f"{operation.name}: {operation.kafka_problem}")
        return lines

    def __call__(self, signal: Signal) -> None:
        """Remember what happened."""
        match signal:
            case StateRestored() | WindowPublished() | WindowParked():
                operation = self._of(signal.operation)
                operation.failing = False
                operation.cursor = signal.cursor
                operation.covered_until = signal.covered_until
                operation.passes = signal.passes
                operation.gaps = signal.gaps
                if isinstance(signal, WindowParked):
                    return
                operation.ledger_ids = signal.ledger_ids
                operation.backfills = signal.backfills
                if isinstance(signal, StateRestored):
                    operation.restored = True
                    operation.kafka_problem = ""
                else:
                    operation.published += signal.new
                    operation.window = replace(signal, occurred={})
            case OrdersObeyed():
                self._of(signal.operation).backfills = signal.backfills
            case RequestAnswered(clock_skew_seconds=skew) if skew is not None:
                self._of(signal.operation).clock_skew_seconds = skew
            case TransactionEnded(result="committed"):
                self._of(signal.operation).kafka_problem = ""
            case StepFailed():
                operation = self._of(signal.operation)
                operation.failure, operation.failed_at = signal, self.now()
                operation.failing = True
                if signal.stage in (Stage.COMMIT, Stage.RESTORE):
                    operation.kafka_problem = signal.text
                if signal.stage is Stage.RESTORE:
                    operation.restored = False
            case HintGiven():
                if signal.text not in self.hints:
                    self.hints.append(signal.text)
            case StopRequested():
                self.stopping = True
            case _:
                pass  # nothing that holds for longer

    def _of(self, operation: str) -> OperationStatus:
        return self.operations.setdefault(operation, OperationStatus(operation))

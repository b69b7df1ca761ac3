"""What is true at the moment: the listener behind `/readyz`, the page, and gauges of `/metrics`.

The listener keeps the latest facts that signals report, by operation. It computes nothing from
them: readers ask `OperationStatus`.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from publisher.errors import Stage
from publisher.model import Instant
from publisher.signals import (
    BackfillRequestsApplied,
    DateMissing,
    DatesOff,
    HintGiven,
    NothingFound,
    QuotaTold,
    RequestAnswered,
    Signal,
    StateRestored,
    StepFailed,
    StopRequested,
    TransactionEnded,
    WindowParked,
    WindowPublished,
)
from publisher.telemetry.operation_status import OperationStatus


class Status:
    """The current facts of all operations; call it with every signal."""

    def __init__(self, operations: Iterable[str], version: str, now: Callable[[], Instant]) -> None:
        self.now = now
        self.version = version
        self.started_at = now()
        self.stopping = False
        self.hints: list[str] = []
        self.operations = {name: OperationStatus(name) for name in operations}

    def missing(self) -> list[str]:
        """The reasons why the service is not ready, a line for every reason; empty = ready."""
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
                self._go_on(self._of(signal.operation), signal)
            case BackfillRequestsApplied():
                self._of(signal.operation).backfills = signal.backfills
            case RequestAnswered():
                self._answered(self._of(signal.operation), signal)
            case DateMissing():
                self._of(signal.operation).undated_since = signal.since
            case DatesOff():
                operation = self._of(signal.operation)
                operation.dates_off, operation.dates_off_at = signal, self.now()
            case NothingFound():
                self._of(signal.operation).silent = signal
            case QuotaTold():
                operation = self._of(signal.operation)
                operation.quota, operation.quota_at = signal, self.now()
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
                pass  # an event, not a fact that stays true

    def _answered(self, operation: OperationStatus, signal: RequestAnswered) -> None:
        now, skew = self.now(), signal.clock_skew_seconds
        operation.hour_share, operation.requested_at = signal.hour_share, now
        if skew is None:
            return
        operation.clock_skew_seconds, operation.clock_at = skew, now
        if not signal.clock_refused:
            operation.ahead_seconds, operation.undated_since = max(skew, 0.0), None

    def _go_on(
        self, operation: OperationStatus, signal: StateRestored | WindowPublished | WindowParked
    ) -> None:
        operation.failing = False
        operation.cursor = signal.cursor
        operation.covered_until = signal.covered_until
        operation.passes = signal.passes
        operation.gaps = signal.gaps
        if isinstance(signal, WindowParked):
            return
        operation.ledger_ids = signal.ledger_ids
        operation.backfills = signal.backfills
        operation.unconfirmed = signal.unconfirmed
        if isinstance(signal, StateRestored):
            operation.restored = True
            operation.restored_at = operation.restored_at or self.now()
            operation.kafka_problem = ""
            operation.rhythms = signal.rhythms
            operation.row_seen |= bool(signal.ledger_ids)
        else:
            operation.published += signal.new
            operation.window = replace(signal, occurred={})
            if signal.rows:
                operation.row_seen, operation.silent = True, None

    def _of(self, operation: str) -> OperationStatus:
        return self.operations.setdefault(operation, OperationStatus(operation))

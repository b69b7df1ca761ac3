"""Builds the report of `/status` and of the command `status`: where every operation stands.

The report is a JSON object. A running service and the state topic give the same shape; what only a
running service knows is null in the report by the state topic. `docs/reference/commands.md`
describes the fields.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final, Literal, TypedDict

import orjson

from publisher.errors import StepError
from publisher.model import Backfill, Instant, Progress, Window, iso
from publisher.signals import WindowPublished
from publisher.state.state import State
from publisher.telemetry.current_status import Status
from publisher.telemetry.operation_status import OperationStatus

SERVICE: Final = "service"
STATE_TOPIC: Final = "state_topic"


class PassReport(TypedDict):
    cursor: str
    covered_until: str


GapReport = TypedDict("GapReport", {"from": str, "to": str})

BackfillReport = TypedDict(
    "BackfillReport",
    {
        "id": str,
        "from": str,
        "to": str,
        "again": bool,
        "standing": str,
        "cursor": str,
        "rows": int,
        "new": int,
    },
)

WindowReport = TypedDict(  # `from` is a word of the language
    "WindowReport",
    {
        "pass": str,
        "from": str,
        "to": str,
        "rows": int,
        "new": int,
        "duplicate": int,
        "rejected": int,
        "possibly_cut": bool,
        "committed_at": str | None,
    },
)


class ErrorReport(TypedDict):
    stage: str
    reason: str
    problem: str
    needs_person: bool
    solved: bool
    at: str | None
    attempt: int | None
    retry_in_seconds: float | None


class OperationReport(TypedDict):
    operation: str
    standing: str | None
    lag_seconds: float | None
    missing: list[str] | None
    pass_lags: dict[str, float] | None
    covered_until: str | None
    cursor: str | None
    ids: int | None
    passes: dict[str, PassReport]
    gaps: list[GapReport]
    backfills: list[BackfillReport]
    last_window: WindowReport | None
    last_error: ErrorReport | None
    published: int | None


class Report(TypedDict):
    answered_by: Literal["service", "state_topic"]
    where: str | None
    at: str
    version: str | None
    started_at: str | None
    hints: list[str]
    operations: list[OperationReport]


def as_json(report: Report) -> bytes:
    """The report as indented JSON, for people."""
    return orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def of_service(status: Status, overdue: Collection[str], now: Instant) -> Report:
    """The report of a running service about itself.

    `overdue` holds the names of the operations whose loop hangs.
    """
    return {
        "answered_by": SERVICE,
        "where": None,  # the client knows the address that it asked
        "at": iso(now),
        "version": status.version,
        "started_at": iso(status.started_at),
        "hints": list(status.hints),
        "operations": [
            _of_operation(operation, now, hangs=operation.name in overdue, stopping=status.stopping)
            for operation in status.operations.values()
        ],
    }


def _of_operation(
    operation: OperationStatus, now: Instant, *, hangs: bool, stopping: bool
) -> OperationReport:
    return {
        "operation": operation.name,
        "standing": operation.standing(now, hangs=hangs, stopping=stopping).value,
        "lag_seconds": _seconds(operation.lag_seconds(now)),
        "missing": operation.missing(now),
        "pass_lags": {name: round(lag, 1) for name, lag in operation.pass_lags(now).items()},
        "covered_until": _iso(operation.covered_until),
        "cursor": _iso(operation.cursor),
        "ids": operation.ledger_ids if operation.covered_until else None,
        "passes": _passes(operation.passes),
        "gaps": _gaps(operation.gaps),
        "backfills": _backfills(operation.backfills),
        "last_window": _window(operation.window),
        "last_error": _error(operation, now),
        "published": operation.published,
    }


def _window(window: WindowPublished | None) -> WindowReport | None:
    if window is None:
        return None
    return {
        "pass": window.pass_label,
        "from": iso(window.window.start),
        "to": iso(window.window.end),
        "rows": window.rows,
        "new": window.new,
        "duplicate": window.duplicate,
        "rejected": window.rows - window.new - window.duplicate,
        "possibly_cut": window.possibly_cut,
        "committed_at": iso(window.committed_at),
    }


def _error(operation: OperationStatus, now: Instant) -> ErrorReport | None:
    failure = operation.failure
    if failure is None:
        return None
    return {
        "stage": failure.stage.value,
        "reason": failure.reason.value,
        "problem": failure.text,
        "needs_person": failure.needs_person,
        "solved": not operation.failing,
        "at": _iso(operation.failed_at),
        "attempt": failure.attempt,
        "retry_in_seconds": _seconds(operation.retry_in_seconds(now)),
    }


def of_state_topic(
    where: str,
    states: Iterable[tuple[str, State | StepError | None]],
    hints: list[str],
    now: Instant,
) -> Report:
    """The report by the state topic.

    `where` names the topic and the cluster. `states` holds the state of every operation by its
    name; a state that cannot be used is replaced by its error, and None = it has not begun.
    """
    return {
        "answered_by": STATE_TOPIC,
        "where": where,
        "at": iso(now),
        "version": None,
        "started_at": None,
        "hints": hints,
        "operations": [_of_state(name, outcome, now) for name, outcome in states],
    }


def _of_state(name: str, outcome: State | StepError | None, now: Instant) -> OperationReport:
    report: OperationReport = {
        "operation": name,
        "standing": None,
        "lag_seconds": None,
        "missing": None,
        "pass_lags": None,
        "covered_until": None,
        "cursor": None,
        "ids": None,
        "passes": {},
        "gaps": [],
        "backfills": [],
        "last_window": None,
        "last_error": None,
        "published": None,
    }
    if isinstance(outcome, StepError):
        report["last_error"] = {
            "stage": outcome.stage.value,
            "reason": outcome.reason.value,
            "problem": str(outcome),
            "needs_person": outcome.needs_person,
            "solved": False,
            "at": None,
            "attempt": None,
            "retry_in_seconds": None,
        }
    elif outcome is not None:
        live = outcome.checkpoint.live
        report["lag_seconds"] = _seconds(max((now - live.covered_until).total_seconds(), 0.0))
        report["covered_until"] = iso(live.covered_until)
        report["cursor"] = iso(live.cursor)
        report["ids"] = len(outcome.ledger)
        report["passes"] = _passes(outcome.checkpoint.passes)
        report["gaps"] = _gaps(outcome.checkpoint.gaps)
        report["backfills"] = _backfills(outcome.checkpoint.backfills)
        if outcome.journal:
            last = outcome.journal[-1]
            report["last_window"] = {
                "pass": last.pass_name.partition("-")[0],
                "from": iso(last.start),
                "to": iso(last.end),
                "rows": last.rows,
                "new": last.new,
                "duplicate": last.duplicate,
                "rejected": last.rejected,
                "possibly_cut": last.possibly_cut,
                "committed_at": None,
            }
    return report


def _passes(passes: Mapping[str, Progress]) -> dict[str, PassReport]:
    return {
        name: {"cursor": iso(progress.cursor), "covered_until": iso(progress.covered_until)}
        for name, progress in passes.items()
    }


def _gaps(gaps: Iterable[Window]) -> list[GapReport]:
    return [{"from": iso(gap.start), "to": iso(gap.end)} for gap in gaps]


def _backfills(backfills: Iterable[Backfill]) -> list[BackfillReport]:
    """The backfills that have not ended; the command `backfill list` shows all."""
    return [
        {
            "id": backfill.id,
            "from": iso(backfill.start),
            "to": iso(backfill.end),
            "again": backfill.again,
            "standing": backfill.standing.value,
            "cursor": iso(backfill.cursor),
            "rows": backfill.rows,
            "new": backfill.new,
        }
        for backfill in backfills
        if backfill.active
    ]


def _iso(instant: Instant | None) -> str | None:
    return iso(instant) if instant else None


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)

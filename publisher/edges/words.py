"""What happened, in words: level, sentence and fields of each signal."""

import logging
from typing import Any, TypeAlias, assert_never

from publisher.model import Window, iso
from publisher.settings import duration_text
from publisher.signals import (
    HintGiven,
    NothingFound,
    OffsetsCompared,
    RequestAnswered,
    ServiceStarted,
    ServiceStopped,
    Signal,
    StateRestored,
    StepFailed,
    StopRequested,
    TopicCreated,
    TransactionEnded,
    WindowNarrowed,
    WindowPublished,
)

Line: TypeAlias = dict[str, Any]


def told(signal: Signal) -> tuple[int, str, Line]:
    """Put a signal into level, sentence and fields."""
    match signal:
        case ServiceStarted():
            return (
                logging.INFO,
                "Service started",
                {
                    "version": signal.version,
                    "operations": list(signal.operations),
                    "http_port": signal.http_port,
                },
            )
        case HintGiven():
            operation = {"operation": signal.operation} if signal.operation else {}
            return logging.WARNING, "Something looks wrong", {**operation, "hint": signal.text}
        case TopicCreated():
            fields = {"topic": signal.topic, "partitions": signal.partitions}
            return logging.INFO, "Topic created", fields
        case StateRestored():
            return (
                logging.INFO,
                "First start, state created" if signal.first_start else "State restored",
                {
                    "operation": signal.operation,
                    "cursor": iso(signal.cursor),
                    "covered_until": iso(signal.covered_until),
                    "journal_entries": signal.journal_entries,
                    "ledger_ids": signal.ledger_ids,
                    "took_seconds": round(signal.took_seconds, 3),
                },
            )
        case RequestAnswered():
            return (
                logging.DEBUG,
                "Request answered" if signal.verdict != "failed" else "Request not answered",
                {
                    "operation": signal.operation,
                    "verdict": str(signal.verdict),
                    "took_seconds": round(signal.took_seconds, 3),
                    "size_bytes": signal.size_bytes,
                    "clock_skew_seconds": signal.clock_skew_seconds,
                },
            )
        case TransactionEnded():
            return (
                logging.DEBUG,
                "Transaction ended",
                {
                    "operation": signal.operation,
                    "result": signal.result,
                    "took_seconds": round(signal.took_seconds, 3),
                },
            )
        case WindowPublished():
            return _window_published(signal)
        case StepFailed():
            return (
                logging.ERROR if signal.needs_person else logging.WARNING,
                "Step failed, somebody must act" if signal.needs_person else "Step failed",
                {
                    "operation": signal.operation,
                    "stage": signal.stage.value,
                    "reason": signal.reason.value,
                    "problem": signal.text,
                    "attempt": signal.attempt,
                    "retry_in_seconds": round(signal.retry_in_seconds, 1),
                },
            )
        case WindowNarrowed():
            return (
                logging.INFO,
                "Window too large, narrowed",
                {
                    "operation": signal.operation,
                    "reason": signal.reason.value,
                    **_bounds(signal.window),
                    "next_width": duration_text(signal.next_width),
                },
            )
        case NothingFound():
            return (
                logging.ERROR,
                "Nothing but 404 for implausibly long",
                {
                    "operation": signal.operation,
                    "since": iso(signal.since),
                    "problem": "either nobody writes, or this server has no chat_2 report:"
                    " check WOLKVOX_SERVER, WOLKVOX_URL and the token",
                },
            )
        case OffsetsCompared():
            return logging.DEBUG, "Offsets compared", {"unstable": dict(signal.unstable)}
        case StopRequested():
            return logging.INFO, "Stop requested", {"by": signal.by}
        case ServiceStopped(clean=True):
            return logging.INFO, "Service stopped", {}
        case ServiceStopped():
            return (
                logging.WARNING,
                "Service stopped in the middle of a step",
                {"hint": "the next start settles what is open"},
            )
        case _:
            assert_never(signal)


def _window_published(signal: WindowPublished) -> tuple[int, str, Line]:
    level, event = logging.INFO, "Window published"
    fields = {
        "operation": signal.operation,
        "pass": signal.pass_label,
        **_bounds(signal.window),
        "rows": signal.rows,
        "new": signal.new,
        "duplicate": signal.duplicate,
        "covered_until": iso(signal.covered_until),
        "request_seconds": round(signal.request_seconds, 3),
        "commit_seconds": round(signal.commit_seconds, 3),
        "next_width": duration_text(signal.next_width),
    }
    if signal.lenient:
        level, event = logging.WARNING, "Window published from a damaged answer"
        fields["hint"] = "its bytes lie in the dead letters"
    if signal.rejected:
        level, event = logging.WARNING, "Window published, some rows to the dead letters"
        fields["rejected"] = dict(signal.rejected)
    if signal.possibly_cut:
        level, event = logging.ERROR, "Window published, possibly cut by the report"
        fields["problem"] = (
            "one second holds as many rows as a report can show: compare it with the vendor's own"
        )
    return level, event, fields


def _bounds(window: Window) -> Line:
    return {"from": iso(window.start), "to": iso(window.end)}

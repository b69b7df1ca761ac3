"""The log line of every signal: level, sentence and fields.

The sentence of a kind of signal never changes. What varies is in the fields.
"""

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from enum import StrEnum
from logging import DEBUG, ERROR, INFO, WARNING
from typing import Any, Final, TypeAlias, assert_never

from publisher import signals
from publisher.model import Backfill, Progress, Window, iso
from publisher.settings import duration_text
from publisher.signals import Signal, WindowPublished
from publisher.state.checkpoint import REPAIR

Line: TypeAlias = dict[str, Any]

_SAID_BY_THE_SENTENCE: Final = {
    "first_start", "needs_person", "clean", "possibly_cut", "lenient", "rhythms", "clock_refused",
}  # fmt: skip
_NOT_WORTH_A_LINE: Final = {
    "cursor", "passes", "gaps", "backfills", "unconfirmed", "ledger_ids", "committed_at",
    "occurred",
}  # fmt: skip
"""Fields left out of the line of a window: such a line comes every few minutes, and /status has
these fields."""


def log_line(signal: Signal) -> tuple[int, str, Line]:
    """The level, the sentence and the fields that log a signal."""
    level, event, more = _sentence(signal)
    return level, event, _fields(signal) | more


def _sentence(signal: Signal) -> tuple[int, str, Line]:
    """The level, the sentence, and the fields with the same text every time, such as what to do."""
    match signal:
        case signals.ServiceStarted():
            return INFO, "Service started", {}
        case signals.HintGiven():
            return WARNING, "Something looks wrong", {}
        case signals.TopicCreated():
            return INFO, "Topic created", {}
        case signals.EventsGone():
            hint = (
                "the topic was deleted and made again, or its brokers lost data; publishing goes"
                " on, a backfill that publishes again brings back what the report still shows"
            )
            return ERROR, "Published events are gone from their topic", {"hint": hint}
        case signals.StateRestored(first_start=True):
            return INFO, "First start, state created", {}
        case signals.StateRestored():
            return INFO, "State restored", {}
        case signals.RequestAnswered(verdict="failed"):
            return DEBUG, "Request not answered", {}
        case signals.RequestAnswered():
            return DEBUG, "Request answered", {}
        case signals.TransactionEnded():
            return DEBUG, "Transaction ended", {}
        case WindowPublished():
            return _window(signal)
        case signals.StepFailed(needs_person=True):
            return ERROR, "Step failed: action required", {}
        case signals.StepFailed():
            return WARNING, "Step failed", {}
        case signals.WindowParked():
            hint = "repair reads it again, piece by piece; gap_seconds tells what is missing"
            return WARNING, "Window parked; continuing with the others", {"hint": hint}
        case signals.RepairFailed(pass_label="backfill"):
            return WARNING, "Window of a backfill failed; trying again later", {}
        case signals.RepairFailed(pass_label="reread"):
            return INFO, "Second reading of a window failed; trying again later", {}
        case signals.RepairFailed():
            return INFO, "Parked window failed again", {}
        case signals.BackfillRequestsApplied():
            return INFO, "Backfill requests applied", {}
        case signals.WindowNarrowed():
            return INFO, "Window too large; narrowing it", {}
        case signals.ZoneChanged():
            hint = (
                "repair reads again what was read under the other zone; occurred_at of the events"
                " of before stays wrong"
            )
            return WARNING, "Time zone changed, gaps recorded", {"hint": hint}
        case signals.DatesOff():
            problem = "either the time zone is wrong, or the report is hours late: compare with it"
            return ERROR, "Dates far off the server's clock for a day", {"problem": problem}
        case signals.NothingFound():
            problem = (
                "either nobody writes, or this server has no chat_2 report:"
                " check WOLKVOX_SERVER, WOLKVOX_URL and the token"
            )
            return ERROR, "No rows for a long time: every answer was 404", {"problem": problem}
        case signals.DateMissing():
            problem = (
                "without the server's clock nothing counts as read before a row proves it: find the"
                " proxy that takes the Date header away, and see that NTP runs on this machine"
            )
            return ERROR, "Answers carry no usable Date header", {"problem": problem}
        case signals.QuotaTold():
            return DEBUG, "Quota told", {}
        case signals.OffsetsCompared():
            return DEBUG, "Offsets compared", {}
        case signals.StopRequested():
            return INFO, "Stop requested", {}
        case signals.ServiceStopped(clean=True):
            return INFO, "Service stopped", {}
        case signals.ServiceStopped():
            hint = "the next start settles what is open"
            return WARNING, "Service stopped in the middle of a step", {"hint": hint}
        case _:
            assert_never(signal)


def _window(signal: WindowPublished) -> tuple[int, str, Line]:
    repaired = signal.pass_label == REPAIR
    level, event, more = INFO, "Parked window repaired" if repaired else "Window published", {}
    if signal.lenient:
        level, event = WARNING, "Window published from a damaged answer"
        more["hint"] = "its bytes lie in the dead letters"
    if signal.rejected:
        level, event = WARNING, "Window published, some rows to the dead letters"
    if signal.possibly_cut:
        level, event = ERROR, "Window published, possibly cut by the report"
        more["problem"] = (
            "one second holds as many rows as a report can show: compare it with the vendor's own"
        )
    return level, event, more


def _fields(signal: Signal) -> Line:
    """The other fields of the signal, under the names that people search for."""
    left_out = _SAID_BY_THE_SENTENCE
    if isinstance(signal, WindowPublished):
        left_out = left_out | _NOT_WORTH_A_LINE
        if not signal.revised:  # revisions are off, or nothing has changed
            left_out = left_out | {"revised"}
    text = "hint" if isinstance(signal, signals.HintGiven) else "problem"
    names = {"pass_label": "pass", "text": text}
    line: Line = {}
    for field in fields(signal):
        value = getattr(signal, field.name)
        if isinstance(value, Window):
            line |= {"from": iso(value.start), "to": iso(value.end)}
        elif field.name not in left_out and value not in ("", {}, ()):
            line[names.get(field.name, field.name)] = _plain(value)
    return line


def _plain(value: object) -> object:
    match value:
        case datetime():
            return iso(value)
        case timedelta():
            return duration_text(value)
        case StrEnum():
            return value.value
        case float():
            return round(value, 3)
        case Mapping():
            return {name: _plain(item) for name, item in value.items()}
        case Progress():
            return iso(value.covered_until)
        case tuple():
            return [_plain(item) for item in value]
        case Window():
            return str(value)
        case Backfill():
            return f"{value.id} {value.standing} {Window(value.start, value.end)}"
        case _:
            return value

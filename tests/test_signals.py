"""The two listeners: every signal becomes a log line, and numbers under the promised names."""

import asyncio
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, get_args

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from publisher import signals
from publisher.errors import Reason, Stage
from publisher.events.rows import RejectReason
from publisher.model import (
    Backfill,
    HourShare,
    Progress,
    Rhythm,
    Standing,
    Unconfirmed,
    Window,
    iso,
)
from publisher.signals import (
    BackfillRequestsApplied,
    DateMissing,
    DatesOff,
    EventsGone,
    HintGiven,
    NothingFound,
    OffsetsCompared,
    QuotaTold,
    RepairFailed,
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
    WindowParked,
    WindowPublished,
    ZoneChanged,
)
from publisher.telemetry import logs
from publisher.telemetry.current_status import Status
from publisher.telemetry.gauges import BACKFILL_STANDINGS
from publisher.telemetry.metrics import (
    DELAY_BUCKETS,
    ERRORS,
    LATENESS_BUCKETS,
    PASSES,
    TRANSACTION_RESULTS,
    VERDICTS,
    BulkHistogram,
    Metrics,
)

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
WINDOW = Window(NOON - timedelta(minutes=20), NOON)
MINUTE = timedelta(minutes=1)

PUBLISHED = WindowPublished(
    operation="wv0010",
    pass_label="live",
    window=WINDOW,
    rows=412,
    new=398,
    duplicate=14,
    rejected={},
    possibly_cut=False,
    lenient=False,
    committed_at=NOON,
    occurred={},
    cursor=NOON - timedelta(minutes=15),
    covered_until=NOON,
    passes={"live": Progress(NOON - timedelta(minutes=15), NOON)},
    gaps=(),
    ledger_ids=1_234_965,
    next_width=timedelta(minutes=5),
    request_seconds=1.0,
    commit_seconds=0.1,
)
FAILED = StepFailed(
    "wv0010", Stage.READ, Reason.UNREACHABLE, "cannot reach it",
    needs_person=False, retry_in_seconds=5.0, attempt=1,
)  # fmt: skip
PARKED = WindowParked(
    operation="wv0010",
    pass_label="live",
    window=WINDOW,
    cursor=NOON - timedelta(minutes=15),
    covered_until=NOON,
    passes={"live": Progress(NOON - timedelta(minutes=15), NOON)},
    gaps=(Window(NOON - timedelta(hours=5), NOON - timedelta(hours=4)), WINDOW),
)
RESTORED = StateRestored(
    operation="wv0010",
    first_start=False,
    cursor=NOON - timedelta(minutes=18),
    covered_until=NOON - timedelta(minutes=3),
    passes={"live": Progress(NOON - timedelta(minutes=18), NOON - timedelta(minutes=3))},
    gaps=(),
    journal_entries=300,
    ledger_ids=1_234_567,
    took_seconds=0.5,
    rhythms={"live": Rhythm(timedelta(), 5 * MINUTE)},
)
HISTORY = Backfill(
    "20261120T100000-ab12",
    NOON - timedelta(hours=9),
    NOON - timedelta(hours=3),
    again=False,
    cursor=NOON - timedelta(hours=8),
    standing=Standing.RUNNING,
    since=7,
    rows=1_500,
    new=1_400,
)

CASES: list[tuple[Signal, int]] = [
    (ServiceStarted("0.1.0", ("wv0010",), 9108), logging.INFO),
    (HintGiven("something"), logging.WARNING),
    (HintGiven("something", "wv0010"), logging.WARNING),
    (TopicCreated("wolkvox.messages", 12), logging.INFO),
    (RESTORED, logging.INFO),
    (replace(RESTORED, first_start=True), logging.INFO),
    (RequestAnswered("wv0010", "use", 1.0, 100, 0.5), logging.DEBUG),
    (RequestAnswered("wv0010", "failed", 0.0, 0, None), logging.DEBUG),
    (TransactionEnded("wv0010", "committed", 0.1), logging.DEBUG),
    (PUBLISHED, logging.INFO),
    (replace(PUBLISHED, rejected={"row_invalid": 1}), logging.WARNING),
    (replace(PUBLISHED, lenient=True), logging.WARNING),
    (replace(PUBLISHED, possibly_cut=True), logging.ERROR),
    (FAILED, logging.WARNING),
    (replace(FAILED, needs_person=True), logging.ERROR),
    (PARKED, logging.WARNING),
    (replace(PUBLISHED, pass_label="repair"), logging.INFO),
    (
        RepairFailed(
            "wv0010", WINDOW, Stage.READ, Reason.SERVER_ERROR, "a problem of its own", "repair"
        ),
        logging.INFO,
    ),
    (BackfillRequestsApplied("wv0010", (HISTORY,)), logging.INFO),
    (WindowNarrowed("wv0010", Reason.TOO_LARGE, WINDOW, MINUTE), logging.INFO),
    (NothingFound("wv0010", NOON), logging.ERROR),
    (DatesOff("wv0010", -21_600.0), logging.ERROR),
    (EventsGone("wolkvox.messages", "wv0010"), logging.ERROR),
    (DateMissing("wv0010", NOON), logging.ERROR),
    (QuotaTold("wv0010", 300, 1000), logging.DEBUG),
    (
        ZoneChanged("wv0010", "America/Bogota", "Europe/Madrid", (WINDOW,)),
        logging.WARNING,
    ),
    (OffsetsCompared({"wolkvox.messages": 0}), logging.DEBUG),
    (StopRequested("SIGTERM"), logging.INFO),
    (ServiceStopped(clean=True), logging.INFO),
    (ServiceStopped(clean=False), logging.WARNING),
]
EVERY_SIGNAL = [signal for signal, _ in CASES]


class Log:
    """What was written, line by line, and a clock to move."""

    def __init__(self, level: logs.Level, render: logs.Render = logs.render_json) -> None:
        self.stream = io.StringIO()
        self.seconds = 100.0
        self.handler = logs.Handler(
            self.stream, render, getattr(logging, level.upper()), lambda: self.seconds
        )

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Log]]:
    """Configure logging as the service does, with a handler that writes to memory."""
    loggers = [logging.root, *map(logging.getLogger, (logs.OURS, "aiokafka", "asyncio"))]
    before = [(logger, logger.level) for logger in loggers]
    handlers = logging.root.handlers[:]
    raising = logging.raiseExceptions
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    showing = warnings.showwarning

    def configured(level: logs.Level = "info", render: logs.Render = logs.render_json) -> Log:
        logs.configure("json", level)
        it = Log(level, render)
        logging.root.handlers[:] = [it.handler]
        return it

    try:
        yield configured
    finally:
        logging.captureWarnings(capture=False)
        warnings.showwarning = showing
        logging.raiseExceptions = raising
        logging.root.handlers[:] = handlers
        for logger, level in before:
            logger.setLevel(level)


# --- all signals


def test_every_signal_has_a_case_here() -> None:
    assert {type(signal) for signal in EVERY_SIGNAL} == set(get_args(signals.Signal))
    defined = {kind for kind in vars(signals).values() if is_dataclass(kind)}
    assert {kind for kind in defined if kind.__module__ == signals.__name__} == set(
        get_args(signals.Signal)
    )


@pytest.mark.parametrize(("signal", "level"), CASES, ids=lambda case: type(case).__name__)
def test_a_signal_becomes_one_line_at_the_level_of_the_readers_duty(
    log: Callable[..., Log], signal: Signal, level: int
) -> None:
    written = log("debug")
    logs.record(signal)
    [line] = written.lines
    assert line["level"] == logging.getLevelName(level).lower()
    assert line["event"][0].isupper()
    assert not line["event"].endswith(".")
    assert datetime.fromisoformat(line["timestamp"]).tzinfo
    assert line["timestamp"].endswith("Z")
    if operation := getattr(signal, "operation", ""):
        assert line["operation"] == operation


@pytest.mark.parametrize("signal", EVERY_SIGNAL, ids=lambda signal: type(signal).__name__)
def test_no_listener_minds_any_signal(signal: Signal) -> None:
    Scraped().tell(signal)


def test_no_signal_has_room_for_what_people_wrote() -> None:
    """Texts are ours; mappings hold counts."""
    free = {
        (kind.__name__, field.name)
        for kind in get_args(signals.Signal)
        for field in fields(kind)
        if field.type is str
    }
    assert free == {
        ("ServiceStarted", "version"), ("HintGiven", "text"), ("HintGiven", "operation"),
        ("TopicCreated", "topic"), ("EventsGone", "topic"), ("EventsGone", "operation"),
        ("StateRestored", "operation"),
        ("RequestAnswered", "operation"), ("RequestAnswered", "verdict"),
        ("TransactionEnded", "operation"), ("TransactionEnded", "result"),
        ("WindowPublished", "operation"), ("WindowPublished", "pass_label"),
        ("StepFailed", "operation"), ("StepFailed", "text"), ("WindowNarrowed", "operation"),
        ("NothingFound", "operation"), ("DatesOff", "operation"), ("QuotaTold", "operation"),
        ("DateMissing", "operation"), ("ZoneChanged", "operation"),
        ("ZoneChanged", "before"), ("ZoneChanged", "after"), ("StopRequested", "by"),
        ("WindowParked", "operation"), ("WindowParked", "pass_label"),
        ("RepairFailed", "operation"), ("RepairFailed", "text"),
        ("RepairFailed", "pass_label"), ("BackfillRequestsApplied", "operation"),
    }  # fmt: skip


# --- our lines


def test_a_window_is_told_with_its_pass_bounds_and_counts(log: Callable[..., Log]) -> None:
    written = log()
    logs.record(replace(PUBLISHED, rejected={"row_invalid": 2}))
    [line] = written.lines
    expected = {
        "operation": "wv0010", "pass": "live", "from": "2026-11-20T11:40:00Z",
        "to": "2026-11-20T12:00:00Z", "rows": 412, "new": 398, "duplicate": 14,
        "rejected": {"row_invalid": 2}, "next_width": "5m",
    }  # fmt: skip
    assert expected.items() <= line.items()


def test_revisions_are_told_where_there_are_any(log: Callable[..., Log]) -> None:
    """Whoever does not want them sees nothing of them."""
    written = log()
    logs.record(replace(PUBLISHED, revised=3))
    logs.record(PUBLISHED)
    revised, usual = written.lines
    assert revised["revised"] == 3
    assert "revised" not in usual


def test_a_parked_window_and_its_repair_are_told(log: Callable[..., Log]) -> None:
    written = log()
    logs.record(PARKED)
    logs.record(replace(PUBLISHED, pass_label="repair"))
    logs.record(
        RepairFailed("wv0010", WINDOW, Stage.READ, Reason.SERVER_ERROR, "of its own", "repair")
    )
    parked, repaired, failed = written.lines
    bounds = {"from": "2026-11-20T11:40:00Z", "to": "2026-11-20T12:00:00Z"}
    assert parked["event"] == "Window parked; continuing with the others"
    assert bounds.items() <= parked.items()
    assert parked["gaps"] == [
        "2026-11-20T07:00:00Z/2026-11-20T08:00:00Z", "2026-11-20T11:40:00Z/2026-11-20T12:00:00Z"
    ]  # fmt: skip
    assert repaired["event"] == "Parked window repaired"
    assert bounds.items() <= repaired.items()
    assert "gaps" not in repaired
    assert failed["event"] == "Parked window failed again"
    assert {**bounds, "reason": "server_error", "problem": "of its own"}.items() <= failed.items()


def test_a_second_reading_that_fails_is_logged(log: Callable[..., Log]) -> None:
    """It is tried again by itself, so nobody is woken up for it."""
    written = log()
    logs.record(
        RepairFailed("wv0010", WINDOW, Stage.READ, Reason.SERVER_ERROR, "of its own", "reread")
    )
    [line] = written.lines
    assert line["event"] == "Second reading of a window failed; trying again later"
    assert (line["level"], line["problem"]) == ("info", "of its own")


def test_gaps_are_not_known_before_the_state_is() -> None:
    """Absent until then; a restore, a parked window and a repair set them."""
    scraped = Scraped()

    def shown() -> tuple[float | None, float | None]:
        return scraped.value("parked_windows"), scraped.value("gap_seconds")

    assert shown() == (None, None)
    scraped.tell(replace(RESTORED, gaps=PARKED.gaps[:1]))
    assert shown() == (1, 3600)
    scraped.tell(PARKED)
    assert shown() == (2, 3600 + 1200)
    assert scraped.value("lag_seconds") == 0  # a gap counts as covered
    scraped.tell(replace(PUBLISHED, pass_label="repair"))
    assert shown() == (0, 0)


def test_backfills_are_a_gauge_once_the_state_is_known() -> None:
    """Zero where there are none, and again once all have ended; the paused ones apart."""
    scraped = Scraped()

    def shown() -> tuple[float | None, ...]:
        name = "backfill_remaining_seconds"
        return tuple(scraped.value(name, standing=one) for one in ("running", "paused"))

    hour = 3_600
    assert shown() == (None, None)
    scraped.tell(replace(RESTORED, backfills=(HISTORY,)))
    assert shown() == (5 * hour, 0)
    other = replace(HISTORY, id="other", cursor=HISTORY.start, standing=Standing.PAUSED)
    scraped.tell(BackfillRequestsApplied("wv0010", (HISTORY, other)))
    assert shown() == (5 * hour, 6 * hour)
    done = replace(HISTORY, cursor=HISTORY.end, standing=Standing.DONE)
    scraped.tell(replace(PUBLISHED, pass_label="backfill", backfills=(done, other)))
    assert shown() == (0, 6 * hour)
    cancelled = replace(other, standing=Standing.CANCELLED)
    scraped.tell(BackfillRequestsApplied("wv0010", (done, cancelled)))
    assert shown() == (0, 0)


def test_what_people_want_of_backfills_is_told(log: Callable[..., Log]) -> None:
    written = log()
    logs.record(BackfillRequestsApplied("wv0010", (HISTORY,)))
    [line] = written.lines
    assert line["event"] == "Backfill requests applied"
    assert line["backfills"] == [
        "20261120T100000-ab12 running 2026-11-20T03:00:00Z/2026-11-20T09:00:00Z"
    ]


def test_a_failure_is_told_with_its_reason_its_text_and_the_next_attempt(
    log: Callable[..., Log],
) -> None:
    written = log()
    logs.record(replace(FAILED, attempt=3))
    [line] = written.lines
    expected = {
        "stage": "read", "reason": "unreachable", "problem": "cannot reach it", "attempt": 3,
        "retry_in_seconds": 5.0,
    }  # fmt: skip
    assert expected.items() <= line.items()


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_only_what_the_level_asks_for_is_written(
    log: Callable[..., Log], level: logs.Level
) -> None:
    written = log(level)
    for signal in EVERY_SIGNAL:
        logs.record(signal)
    lowest = getattr(logging, level.upper())
    expected = [logging.getLevelName(of).lower() for _, of in CASES if of >= lowest]
    assert [line["level"] for line in written.lines] == expected


@pytest.mark.parametrize(
    "weird",
    [
        "\ud800 alone", 2**80, float("nan"), object(), b"\xff", {1: {2: 3}}, {object(): 1},
        ("a", {"b"}), "line\nbreak\x1b[31m", NOON, RuntimeError("x"),
    ],
    ids=lambda weird: type(weird).__name__,
)  # fmt: skip
def test_logging_does_not_fail_on_weird_values(log: Callable[..., Log], weird: object) -> None:
    written = log()
    ours = logging.getLogger(logs.OURS)
    ours.info("Weird", extra={"fields": {"value": weird}})
    [line] = written.lines
    assert line["event"] == "Weird"


def test_logging_does_not_fail_on_endless_values_or_a_closed_stream(
    log: Callable[..., Log],
) -> None:
    written = log()
    endless: list[object] = []
    endless.append(endless)
    logging.getLogger(logs.OURS).info("Endless", extra={"fields": {"value": endless}})
    assert written.lines[0]["event"] == "Endless"
    written.stream.close()
    logs.record(PUBLISHED)


def test_the_console_gets_one_readable_line(
    log: Callable[..., Log], capsys: pytest.CaptureFixture[str]
) -> None:
    log()
    logs.configure("console", "info")
    logs.record(FAILED)
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "Step failed" in text
    assert "cannot reach it" in text
    assert "\x1b" not in text


def test_json_is_the_format_where_there_is_no_terminal(
    log: Callable[..., Log], capsys: pytest.CaptureFixture[str]
) -> None:
    log()
    logs.configure(None, "info")
    logs.record(StopRequested("SIGTERM"))
    assert json.loads(capsys.readouterr().err)["by"] == "SIGTERM"


# --- lines of libraries

SECRET = "Ana dijo: hola"


def raised(error: Exception) -> tuple[type[Exception], Exception, TracebackType | None]:
    try:
        raise error  # noqa: TRY301 - it is here to have a place
    except Exception as caught:
        return type(caught), caught, caught.__traceback__


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_aiokafka_is_never_asked_for_debug(log: Callable[..., Log], level: logs.Level) -> None:
    written = log(level)
    sender = logging.getLogger("aiokafka.producer.producer")
    assert not sender.isEnabledFor(logging.DEBUG)
    try:
        sender.setLevel(logging.DEBUG)  # even when somebody meant to
        sender.debug("Sending (key=%s value=%s)", SECRET, SECRET)
    finally:
        sender.setLevel(logging.NOTSET)
    assert written.text == ""


@pytest.mark.parametrize(
    ("theirs", "level", "ours"),
    [
        ("error", "info", "warning"), ("critical", "info", "warning"), ("warning", "info", "info"),
        ("info", "info", None), ("info", "debug", "debug"), ("error", "warning", "warning"),
        ("warning", "warning", None), ("error", "error", None),
    ],
)  # fmt: skip
def test_a_library_speaks_a_level_lower(
    log: Callable[..., Log], theirs: str, level: logs.Level, ours: str | None
) -> None:
    written = log(level)
    getattr(logging.getLogger("aiokafka"), theirs)('Unable connect to "%s"', "broker")
    assert [line["level"] for line in written.lines] == ([ours] if ours else [])


def test_a_library_says_the_same_thing_once_in_a_while(log: Callable[..., Log]) -> None:
    written = log()
    aiokafka = logging.getLogger("aiokafka")
    for node in range(1_000):
        aiokafka.error("Unable connect to node with id %s: %s", node, OSError(SECRET))
    aiokafka.error("Another thing")
    assert [line["event"] for line in written.lines] == [
        "Unable connect to node with id 0: OSError",
        "Another thing",
    ]
    written.seconds += logs.REPEATED_AFTER
    aiokafka.error("Unable connect to node with id %s: %s", 7, OSError(SECRET))
    assert written.lines[-1]["suppressed"] == 999
    written.seconds += logs.REPEATED_AFTER
    aiokafka.error("Unable connect to node with id %s: %s", 7, OSError(SECRET))
    assert "suppressed" not in written.lines[-1]
    assert SECRET not in written.text


def test_what_is_remembered_against_repetition_is_bounded(log: Callable[..., Log]) -> None:
    written = log()
    for number in range(5_000):
        logging.getLogger("aiokafka").error(f"Formatted beforehand {number}")  # noqa: G004
    assert len(written.lines) == 5_000
    assert len(written.handler._said) <= 1_000


def test_an_exception_of_a_library_is_told_by_class_and_place(log: Callable[..., Log]) -> None:
    written = log()
    logging.getLogger("aiokafka").error("Unexpected error", exc_info=raised(ValueError(SECRET)))
    [line] = written.lines
    assert line["exception"] == "ValueError"
    [place] = line["where"]
    assert place.startswith("tests/test_signals.py:")
    assert SECRET not in written.text


async def test_what_asyncio_says_of_a_lost_task_holds_no_text_of_it(
    log: Callable[..., Log],
) -> None:
    written = log()

    async def failing(message: str) -> None:
        raise ValueError(message)

    task = asyncio.create_task(failing(SECRET))
    await asyncio.wait([task])
    del task
    asyncio.get_running_loop().call_exception_handler(
        {"message": "Task exception was never retrieved", "exception": ValueError(SECRET)}
    )
    assert {line["event"] for line in written.lines} == {"Task exception was never retrieved"}
    assert {line["exception"] for line in written.lines} == {"ValueError"}
    assert {line["logger"] for line in written.lines} == {"asyncio"}
    assert SECRET not in written.text


async def test_what_asyncio_says_of_a_callback_holds_no_argument_of_it(
    log: Callable[..., Log],
) -> None:
    written = log()
    happened = asyncio.Event()

    def callback(message: str) -> None:
        happened.set()
        raise ValueError(message)

    asyncio.get_running_loop().call_soon(callback, SECRET)
    await happened.wait()
    [line] = written.lines
    assert line["event"].startswith("Exception in callback ")
    assert SECRET not in written.text


@pytest.mark.parametrize(
    "arguments", [("%d %d", "x"), ("%s", 1, 2), ("%(name)s", {"other": 1}), (object(),), ("",)]
)
def test_a_library_that_logs_wrongly_is_forgiven(
    log: Callable[..., Log], arguments: tuple[Any, ...]
) -> None:
    written = log()
    logging.getLogger("aiohttp.client").error(*arguments)
    assert len(written.lines) == 1


def test_warnings_come_through_the_log(log: Callable[..., Log]) -> None:
    written = log()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    [line] = written.lines
    assert line["logger"] == "py.warnings"
    assert line["event"].endswith("DeprecationWarning: old ways")


def test_what_nobody_caught_is_told_by_class_and_place(log: Callable[..., Log]) -> None:
    written = log()
    sys.excepthook(*raised(ValueError(SECRET)))
    [line] = written.lines
    assert (line["level"], line["exception"]) == ("error", "ValueError")
    assert line["event"] == "Service crashed because of a bug; please report it"
    assert SECRET not in written.text


def test_an_error_in_a_finalizer_is_told_by_class_and_place(log: Callable[..., Log]) -> None:
    class Clumsy:
        def __del__(self) -> None:
            raise ValueError(SECRET)

    written = log()
    Clumsy()
    [line] = written.lines
    assert (line["level"], line["exception"]) == ("warning", "ValueError")
    assert line["event"] == "Bug during cleanup; please report it"
    assert SECRET not in written.text


# --- metrics

PROMISED = {
    "lag_seconds": {"operation"},
    "pass_lag_seconds": {"operation", "pass"},
    "pass_cadence_seconds": {"operation", "pass"},
    "row_seen": {"operation"},
    "gap_seconds": {"operation"},
    "parked_windows": {"operation"},
    "backfill_remaining_seconds": {"operation", "standing"},
    "message_delay_seconds": {"operation"},
    "message_lateness_seconds": {"operation"},
    "messages_published_total": {"operation", "pass"},
    "messages_duplicate_total": {"operation"},
    "messages_revised_total": {"operation"},
    "records_rejected_total": {"operation", "reason"},
    "requests_total": {"operation", "verdict"},
    "request_duration_seconds": {"operation"},
    "windows_total": {"operation", "pass", "result"},
    "transactions_total": {"operation", "result"},
    "transaction_duration_seconds": {"operation"},
    "errors_total": {"operation", "stage", "reason"},
    "last_success_timestamp_seconds": {"operation"},
    "clock_skew_seconds": {"operation"},
    "quota_used": {"operation"},
    "quota_limit": {"operation"},
    "ledger_ids": {"operation"},
    "unstable_offsets": {"topic"},
    "build_info": {"version"},
}
"""Design §10, but for `quota_used` and `quota_limit`, which nothing feeds yet."""


class Scraped:
    """Metrics as Prometheus would see them, and a clock to move."""

    def __init__(self, *operations: str) -> None:
        self.now = NOON
        self.status = Status(operations or ("wv0010",), "0.1.0", lambda: self.now)
        self.metrics = Metrics(self.status)

    def tell(self, signal: Signal) -> None:
        self.status(signal)
        self.metrics(signal)

    def samples(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        text = generate_latest(self.metrics.registry).decode()
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = sample.name.removeprefix("wolkvox_publisher_")
                found.setdefault(name, []).append((sample.labels, sample.value))
        return found

    def value(self, name: str, **labels: str) -> float | None:
        """The one sample of that name with those labels, or None."""
        labels.setdefault("operation", "wv0010")
        wanted = {key.rstrip("_"): value for key, value in labels.items()}
        found = [
            value
            for sample, value in self.samples().get(name, [])
            if wanted.items() <= sample.items()
        ]
        assert len(found) <= 1
        return found[0] if found else None


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


def test_the_names_and_labels_are_the_promised_ones(scraped: Scraped) -> None:
    for signal in EVERY_SIGNAL:
        scraped.tell(signal)
    found: dict[str, set[str]] = {}
    for name, samples in scraped.samples().items():
        if not name.startswith("process_"):
            for part in ("_bucket", "_count", "_sum"):
                name = name.removesuffix(part)  # noqa: PLW2901 - to the name of the family
            found.setdefault(name, set()).update(*(labels for labels, _ in samples))
            found[name] -= {"le"}
    assert found == PROMISED


def test_labels_are_closed_sets(scraped: Scraped) -> None:
    for signal in EVERY_SIGNAL:
        scraped.tell(signal)
    closed = {
        "operation": {"wv0010"},
        "topic": {"wolkvox.messages"},
        "version": {"0.1.0"},
        "pass": {*PASSES, "reread-late", ""},
        "result": {*TRANSACTION_RESULTS, "published", "possibly_cut", "narrowed", "parked"},
        "verdict": set(map(str, VERDICTS)),
        "standing": set(BACKFILL_STANDINGS),
        "stage": set(map(str, Stage)),
        "reason": set(map(str, (*Reason, *RejectReason))),
    }
    for name, samples in scraped.samples().items():
        for labels, _ in samples:
            for label, value in labels.items():
                if label != "le" and not name.startswith("process_"):
                    assert value in closed[label], (name, label)


def test_series_are_there_before_anything_happened() -> None:
    scraped = Scraped("wv0010", "wv0041")
    for operation in ("wv0010", "wv0041"):
        for name, labels in (
            ("errors_total", {"stage": "read", "reason": "token_refused"}),
            ("messages_published_total", {"pass_": "reread"}),
            ("records_rejected_total", {"reason": "row_invalid"}),
            ("requests_total", {"verdict": "hold"}),
            ("windows_total", {"pass_": "live", "result": "published"}),
            ("windows_total", {"result": "failed"}),
            ("transactions_total", {"result": "fenced"}),
            ("message_delay_seconds_count", {}),
            ("message_lateness_seconds_count", {}),
            ("request_duration_seconds_count", {}),
        ):
            assert scraped.value(name, operation=operation, **labels) == 0, name


def test_every_reason_begins_somewhere_at_zero() -> None:
    assert {reason for _, reason in ERRORS} == set(Reason)
    assert {stage for stage, _ in ERRORS} == set(Stage)
    assert len(set(ERRORS)) == len(ERRORS)


def test_lag_is_there_from_the_restore_on_and_grows_by_itself(scraped: Scraped) -> None:
    assert scraped.value("lag_seconds") is None
    scraped.tell(RESTORED)
    assert scraped.value("lag_seconds") == 180
    scraped.now += timedelta(hours=5)
    assert scraped.value("lag_seconds") == 180 + 5 * 3600
    scraped.tell(replace(PUBLISHED, covered_until=scraped.now - MINUTE))
    assert scraped.value("lag_seconds") == 60


def test_lag_counts_by_the_later_of_both_clocks_and_is_never_negative(scraped: Scraped) -> None:
    """No date makes it smaller, and none that was refused makes it larger."""
    scraped.tell(RESTORED)
    scraped.tell(RequestAnswered("wv0010", "use", 1.0, 1, 30.0))
    assert scraped.value("lag_seconds") == 210
    assert scraped.value("clock_skew_seconds") == 30
    scraped.tell(RequestAnswered("wv0010", "use", 1.0, 1, None))
    assert scraped.value("clock_skew_seconds") == 30
    scraped.tell(RequestAnswered("wv0010", "use", 1.0, 1, -500.0))
    assert scraped.value("lag_seconds") == 180
    scraped.tell(RequestAnswered("wv0010", "use", 1.0, 1, 86_400.0, clock_refused=True))
    assert scraped.value("lag_seconds") == 180
    assert scraped.value("clock_skew_seconds") == 86_400
    scraped.tell(replace(RESTORED, covered_until=NOON + 5 * MINUTE))
    assert scraped.value("lag_seconds") == 0


def test_what_nobody_tells_any_more_disappears(scraped: Scraped) -> None:
    """A skew after an hour, or three polls; a quota after a day."""
    scraped.tell(RESTORED)
    scraped.tell(RequestAnswered("wv0010", "use", 1.0, 1, 2.0))
    scraped.tell(QuotaTold("wv0010", 300, 1000))
    scraped.now += timedelta(minutes=59)
    assert scraped.value("clock_skew_seconds") == 2
    scraped.now += timedelta(minutes=2)
    assert scraped.value("clock_skew_seconds") is None
    assert (scraped.value("quota_used"), scraped.value("quota_limit")) == (300, 1000)
    scraped.now += timedelta(days=1)
    assert (scraped.value("quota_used"), scraped.value("quota_limit")) == (None, None)


def test_what_an_hour_may_still_cost_is_told_and_comes_back(scraped: Scraped) -> None:
    """0 while others than polls wait; absent before the first request."""
    asked = RequestAnswered("wv0010", "failed", 0.0, 0, None)
    assert scraped.value("quota_hour_left") is None
    scraped.tell(replace(asked, hour_share=HourShare(0.9, 124, 28.8)))
    assert scraped.value("quota_hour_left") == 0
    scraped.now += timedelta(seconds=3)
    assert scraped.value("quota_hour_left") == 1
    scraped.now += timedelta(seconds=28.8)
    assert scraped.value("quota_hour_left") == 2
    scraped.now -= timedelta(hours=5)
    assert scraped.value("quota_hour_left") == 0, "a clock that goes back takes nothing away"
    scraped.now += timedelta(days=1)
    assert scraped.value("quota_hour_left") == 124


def test_each_pass_has_its_own_lag(scraped: Scraped) -> None:
    """Behind the distance that it keeps; repair is as far behind as the oldest gap is old."""
    hour = timedelta(hours=1)
    at = NOON - 10 * hour
    passes = {"live": Progress(NOON, NOON), "reread-6h": Progress(at, at)}
    rhythms = {"live": Rhythm(timedelta(), 5 * MINUTE), "reread-6h": Rhythm(6 * hour, 3 * hour)}
    scraped.tell(replace(RESTORED, passes=passes, rhythms=rhythms, covered_until=NOON))
    assert scraped.value("pass_lag_seconds", pass_="live") == 0
    assert scraped.value("pass_lag_seconds", pass_="reread-6h") == 4 * 3600
    assert scraped.value("pass_cadence_seconds", pass_="reread-6h") == 3 * 3600
    assert scraped.value("pass_lag_seconds", pass_="repair") == 0
    assert scraped.value("pass_lag_seconds", pass_="reread-late") == 0
    scraped.now += hour
    assert scraped.value("pass_lag_seconds", pass_="reread-6h") == 5 * 3600
    assert scraped.value("pass_lag_seconds", pass_="repair") == 0
    scraped.tell(PARKED)
    assert scraped.value("pass_lag_seconds", pass_="repair") == 6 * 3600
    late = Unconfirmed(WINDOW, NOON + hour / 2)
    scraped.tell(replace(PUBLISHED, unconfirmed=(late, replace(late, due=NOON + 9 * hour))))
    assert scraped.value("pass_lag_seconds", pass_="reread-late") == 1800


def test_whether_a_row_was_ever_read_is_told(scraped: Scraped) -> None:
    assert scraped.value("row_seen") is None
    scraped.tell(replace(RESTORED, ledger_ids=0))
    scraped.tell(replace(PUBLISHED, rows=0, new=0, duplicate=0))
    assert scraped.value("row_seen") == 0
    scraped.tell(PUBLISHED)
    assert scraped.value("row_seen") == 1


def test_a_window_is_counted_by_its_pass(scraped: Scraped) -> None:
    scraped.tell(replace(PUBLISHED, rejected={"row_invalid": 2}))
    scraped.tell(replace(PUBLISHED, pass_label="reread", new=3, duplicate=1, revised=5))
    assert scraped.value("messages_published_total", pass_="live") == 398
    assert scraped.value("messages_published_total", pass_="reread") == 3
    assert scraped.value("messages_duplicate_total") == 15
    assert scraped.value("messages_revised_total") == 5
    assert scraped.value("records_rejected_total", reason="row_invalid") == 2
    assert scraped.value("windows_total", pass_="live", result="published") == 1
    assert scraped.value("last_success_timestamp_seconds") == NOON.timestamp()
    assert scraped.value("ledger_ids") == 1_234_965


def test_failures_and_narrowings_are_counted(scraped: Scraped) -> None:
    scraped.tell(FAILED)
    scraped.tell(replace(FAILED, stage=Stage.RESTORE, reason=Reason.KAFKA_TIMEOUT))
    scraped.tell(WindowNarrowed("wv0010", Reason.TOO_LARGE, WINDOW, MINUTE))
    assert scraped.value("errors_total", stage="read", reason="unreachable") == 1
    assert scraped.value("errors_total", stage="restore", reason="kafka_timeout") == 1
    assert scraped.value("windows_total", result="failed") == 1  # a restore is no window
    assert scraped.value("windows_total", result="narrowed") == 1


def test_requests_and_transactions_are_timed(scraped: Scraped) -> None:
    scraped.tell(RequestAnswered("wv0010", "use", 1.5, 1, None))
    scraped.tell(RequestAnswered("wv0010", "failed", 0.0, 0, None))
    scraped.tell(TransactionEnded("wv0010", "committed", 0.25))
    assert scraped.value("requests_total", verdict="use") == 1
    assert scraped.value("requests_total", verdict="failed") == 1
    assert scraped.value("request_duration_seconds_count") == 1
    assert scraped.value("request_duration_seconds_sum") == 1.5
    assert scraped.value("transactions_total", result="committed") == 1
    assert scraped.value("transaction_duration_seconds_sum") == 0.25


def test_offsets_and_version_are_shown(scraped: Scraped) -> None:
    scraped.tell(OffsetsCompared({"wolkvox.messages": 7}))
    scraped.tell(OffsetsCompared({"wolkvox.messages": 3}))
    assert scraped.value("unstable_offsets", topic="wolkvox.messages", operation="") is None
    assert ({"topic": "wolkvox.messages"}, 3.0) in scraped.samples()["unstable_offsets"]
    assert scraped.samples()["build_info"] == [({"version": "0.1.0"}, 1.0)]


def occurred(*seconds_and_counts: tuple[float, int]) -> dict[str, int]:
    return {iso(NOON - timedelta(seconds=age)): count for age, count in seconds_and_counts}


def buckets(scraped: Scraped, name: str) -> dict[float, float]:
    return {float(labels["le"]): value for labels, value in scraped.samples()[f"{name}_bucket"]}


def test_delay_is_counted_in_bulk_for_the_live_pass(scraped: Scraped) -> None:
    ages = occurred((0, 1), (5, 10), (6, 100), (300, 1_000), (1_000_000, 5), (-40, 2))
    scraped.tell(replace(PUBLISHED, occurred=ages))
    found = buckets(scraped, "message_delay_seconds")
    assert tuple(found)[:-1] == tuple(map(float, DELAY_BUCKETS))
    assert found[5] == 1 + 10 + 2  # bounds are inclusive; the future counts as now
    assert found[15] == 113
    assert found[240] == 113
    assert found[300] == 1_113
    assert found[86_400] == 1_113
    assert found[float("inf")] == 1_118
    assert scraped.value("message_delay_seconds_count") == 1_118
    assert scraped.value("message_delay_seconds_sum") == 50 + 600 + 300_000 + 5_000_000
    assert scraped.value("message_lateness_seconds_count") == 0


def test_lateness_is_counted_for_rereads_and_nothing_for_the_rest(scraped: Scraped) -> None:
    ages = occurred((3_600 * 5, 7))
    scraped.tell(replace(PUBLISHED, pass_label="reread", occurred=ages))
    scraped.tell(replace(PUBLISHED, pass_label="repair", occurred=ages))
    scraped.tell(replace(PUBLISHED, pass_label="backfill", occurred=ages))
    found = buckets(scraped, "message_lateness_seconds")
    assert tuple(found)[:-1] == tuple(map(float, LATENESS_BUCKETS))
    assert (found[4 * 3_600], found[8 * 3_600]) == (0, 7)
    assert scraped.value("message_lateness_seconds_sum") == 7 * 5 * 3_600
    assert scraped.value("message_delay_seconds_count") == 0


def test_a_bulk_of_equal_values_equals_each_on_its_own() -> None:
    bulk, each = (BulkHistogram("x_seconds", "X.", (1, 2, 3)) for _ in range(2))
    for value, count in ((0.5, 3), (2.0, 4), (9.0, 1)):
        bulk.observe("a", value, count)
        for _ in range(count):
            each.observe("a", value, 1)
    assert [family.samples for family in bulk.collect()] == [
        family.samples for family in each.collect()
    ]

"""Counts what happened: the listener behind `/metrics`.

The names are a contract with people's dashboards and alarms (`docs`, design §10). Labels take
their values from closed sets; only operations and topics come from the settings. Every series of
an operation exists from the start, at zero: so Prometheus sees the first error of a kind as an
increase.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import accumulate, product
from typing import Final

from prometheus_client import disable_created_metrics
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics import Counter, Gauge, Info
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from publisher.errors import Reason, Stage
from publisher.events.rows import RejectReason
from publisher.signals import (
    DateMissing,
    DatesOff,
    NothingFound,
    OffsetsCompared,
    RepairFailed,
    RequestAnswered,
    Signal,
    StepFailed,
    TransactionEnded,
    WindowNarrowed,
    WindowParked,
    WindowPublished,
)
from publisher.state.checkpoint import LIVE, REPAIR
from publisher.telemetry.current_status import Status
from publisher.telemetry.gauges import PREFIX, Gauges
from publisher.wolkvox.responses import Verdict

PASSES: Final = (LIVE, "reread", REPAIR, "backfill")
NO_PASS: Final = ""
"""An empty label is an absent label: the signals of failures do not name the pass."""
VERDICTS: Final = (*Verdict, "failed")
TRANSACTION_RESULTS: Final = ("committed", "failed", "fenced")

_KAFKA: Final = tuple(reason for reason in Reason if reason.startswith("kafka_"))
_STATE: Final = (*(reason for reason in Reason if reason.startswith("state_")), Reason.ZONE_CHANGED)
_STOP: Final = (Reason.FENCED, Reason.OUTCOME_UNKNOWN)
_PARSE: Final = (Reason.FORMAT_CHANGED,)
_OURS: Final = (Reason.UNEXPECTED,)
_READ: Final = sorted(set(Reason) - {*_KAFKA, *_STATE, *_STOP, *_PARSE, *_OURS})
WINDOW_STAGES: Final = (Stage.READ, Stage.PARSE, Stage.COMMIT)
ERRORS: Final = (
    *product((Stage.READ,), _READ),
    *product((Stage.PARSE,), _PARSE),
    *product((Stage.COMMIT,), (*_KAFKA, *_STOP, Reason.TOO_LARGE)),
    *product((Stage.RESTORE,), (*_KAFKA, *_STOP, *_STATE)),
    *product((Stage.LOOP,), _OURS),
)
"""The pairs of stage and reason that are expected; any other pair gets its series when it first
happens."""

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
REQUEST_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60)
TRANSACTION_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
DELAY_BUCKETS: Final = (
    5, 15, 30, _MINUTE, 2 * _MINUTE, 3 * _MINUTE, 4 * _MINUTE, 5 * _MINUTE, 6 * _MINUTE,
    7.5 * _MINUTE, 10 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE, _HOUR, 6 * _HOUR, _DAY,
)  # fmt: skip
"""Dense around `PUBLISHER_POLL_EVERY` (5 min): a healthy delay is shorter than that."""
LATENESS_BUCKETS: Final = (
    15 * _MINUTE, 30 * _MINUTE, _HOUR, 2 * _HOUR, 4 * _HOUR, 8 * _HOUR, 12 * _HOUR,
    _DAY, 1.5 * _DAY, 2 * _DAY, 3 * _DAY, 4 * _DAY, 7 * _DAY, 31 * _DAY,
)  # fmt: skip
"""Dense around the ages of `PUBLISHER_REREADS`, to show which re-reads are worth their requests."""


class BulkHistogram(Collector):
    """A histogram by operation that counts any number of equal values at once.

    The histogram of the library takes a single value at a time: that would be a call per message.
    """

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        self._name = f"{PREFIX}_{name}"
        self._documentation = documentation
        self._bounds = tuple(map(float, bounds))
        self._counts = defaultdict[str, list[int]](lambda: [0] * (len(self._bounds) + 1))
        self._sums = defaultdict[str, float](float)

    def observe(self, operation: str, seconds: float, count: int = 1) -> None:
        """Count the value `count` times; a negative value (clocks differ) counts as zero."""
        seconds = max(seconds, 0.0)
        self._counts[operation][bisect_left(self._bounds, seconds)] += count
        self._sums[operation] += seconds * count

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The buckets as Prometheus wants them: a bucket includes all lower buckets."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=["operation"])
        bounds = [*map(str, self._bounds), "+Inf"]
        for operation, counts in self._counts.items():
            buckets = list(zip(bounds, map(float, accumulate(counts)), strict=True))
            family.add_metric([operation], buckets, self._sums[operation])
        yield family


class Metrics:
    """All metrics, in `registry`; call it with every signal."""

    def __init__(self, status: Status) -> None:
        # They would double the series, and say what Prometheus sees by itself.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, documentation: str, *labels: str) -> Counter:
            names = ("operation", *labels)
            return Counter(f"{PREFIX}_{name}", documentation, names, registry=self.registry)

        self._delay = BulkHistogram(
            "message_delay_seconds",
            "From a message's date to the commit that published it; live pass.",
            DELAY_BUCKETS,
        )
        self._lateness = BulkHistogram(
            "message_lateness_seconds",
            "Age of the messages that the report showed only to a re-read.",
            LATENESS_BUCKETS,
        )
        self._request_seconds = BulkHistogram(
            "request_duration_seconds", "From sending to the last byte.", REQUEST_BUCKETS
        )
        self._transaction_seconds = BulkHistogram(
            "transaction_duration_seconds", "From begin to the end of commit.", TRANSACTION_BUCKETS
        )
        timed = (self._request_seconds, self._transaction_seconds)
        self._histograms = (self._delay, self._lateness, *timed)
        for collector in (Gauges(status), *self._histograms):
            self.registry.register(collector)
        self._published = counter("messages_published_total", "Events committed.", "pass")
        self._duplicate = counter(
            "messages_duplicate_total", "Rows read again whose events were published before."
        )
        self._revised = counter(
            "messages_revised_total", "Revisions committed: published messages that have changed."
        )
        self._rejected = counter(
            "records_rejected_total", "Rows or answers written to the dead letters.", "reason"
        )
        self._requests = counter("requests_total", "Requests by what the answer meant.", "verdict")
        self._windows = counter("windows_total", "Windows by how they ended.", "pass", "result")
        self._transactions = counter("transactions_total", "Kafka transactions.", "result")
        self._errors = counter("errors_total", "Steps that failed.", "stage", "reason")
        self._unstable = Gauge(
            f"{PREFIX}_unstable_offsets",
            "High watermark minus last stable offset, over a topic's partitions.",
            ("topic",),
            registry=self.registry,
        )
        build = Info(f"{PREFIX}_build", "What is running.", registry=self.registry)
        build.info({"version": status.version})
        for operation in status.operations:
            self._add(operation)

    def _add(self, operation: str) -> None:
        """Create every series of the operation, at zero."""
        for histogram in self._histograms:
            histogram.observe(operation, 0.0, count=0)
        self._duplicate.labels(operation)
        self._revised.labels(operation)
        for label in PASSES:
            self._published.labels(operation, label)
            for result in ("published", "possibly_cut", "parked"):
                self._windows.labels(operation, label, result)
        for result in ("failed", "narrowed"):
            self._windows.labels(operation, NO_PASS, result)
        for reject_reason in RejectReason:
            self._rejected.labels(operation, reject_reason)
        for verdict in VERDICTS:
            self._requests.labels(operation, verdict)
        for result in TRANSACTION_RESULTS:
            self._transactions.labels(operation, result)
        for stage, reason in ERRORS:
            self._errors.labels(operation, stage, reason)

    def __call__(self, signal: Signal) -> None:
        """Count what happened."""
        match signal:
            case RequestAnswered(operation=operation):
                self._requests.labels(operation, signal.verdict).inc()
                if signal.verdict != "failed":
                    self._request_seconds.observe(operation, signal.took_seconds)
            case TransactionEnded(operation=operation):
                self._transactions.labels(operation, signal.result).inc()
                self._transaction_seconds.observe(operation, signal.took_seconds)
            case WindowPublished():
                self._window_published(signal)
            case StepFailed(operation=operation) | RepairFailed(operation=operation):
                self._errors.labels(operation, signal.stage, signal.reason).inc()
                if signal.stage in WINDOW_STAGES:
                    self._windows.labels(operation, NO_PASS, "failed").inc()
            case WindowParked(operation=operation):
                self._windows.labels(operation, signal.pass_label, "parked").inc()
            case WindowNarrowed(operation=operation):
                self._windows.labels(operation, NO_PASS, "narrowed").inc()
            case DatesOff(operation=operation):
                self._errors.labels(operation, Stage.READ, Reason.DATES_OFF).inc()
            case NothingFound(operation=operation):
                self._errors.labels(operation, Stage.READ, Reason.ONLY_NOT_FOUND).inc()
            case DateMissing(operation=operation):
                self._errors.labels(operation, Stage.READ, Reason.DATE_MISSING).inc()
            case OffsetsCompared():
                for topic, count in signal.unstable.items():
                    self._unstable.labels(topic).set(count)
            case _:
                pass  # not a number, or a gauge of `Status`

    def _window_published(self, signal: WindowPublished) -> None:
        operation = signal.operation
        self._published.labels(operation, signal.pass_label).inc(signal.new)
        self._duplicate.labels(operation).inc(signal.duplicate)
        self._revised.labels(operation).inc(signal.revised)
        for reason, count in signal.rejected.items():
            self._rejected.labels(operation, reason).inc(count)
        result = "possibly_cut" if signal.possibly_cut else "published"
        self._windows.labels(operation, signal.pass_label, result).inc()
        ages = {LIVE: self._delay, "reread": self._lateness}.get(signal.pass_label)
        if ages:
            for second, count in signal.occurred.items():
                age = signal.committed_at - datetime.fromisoformat(second)
                ages.observe(operation, age.total_seconds(), count)

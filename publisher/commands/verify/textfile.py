"""Writes the results of `verify` as metrics.

The file is for the textfile collector of Prometheus' node_exporter.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import write_to_textfile
from prometheus_client.registry import Collector, CollectorRegistry

from publisher.commands.verify.verdict import KINDS, Unjudged
from publisher.model import Instant
from publisher.telemetry.gauges import PREFIX


def write(path: Path, operations: Iterable[Mapping[str, Any]], now: Instant) -> None:
    """Replace the file atomically by the metrics of these results of `verify`. Raises OSError."""
    registry = CollectorRegistry()
    registry.register(_Gauges(families(operations, now)))
    write_to_textfile(str(path), registry)


def families(operations: Iterable[Mapping[str, Any]], now: Instant) -> list[GaugeMetricFamily]:
    """The gauges. Every operation gets all series, also those with the value 0."""

    def gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(
            f"{PREFIX}_verify_{name}", documentation, labels=["operation", *labels]
        )

    complete = gauge("complete", "Whether all of the range was judged, and nothing is wrong.")
    findings = gauge("findings", "Differences that the last verify has left.", "kind")
    unjudged = gauge("not_judged_seconds", "Time that it could not judge.", "reason")
    ended = gauge("timestamp_seconds", "When the last verify ended, Unix time.")
    for operation in operations:
        name = operation["operation"]
        complete.add_metric([name], operation["complete"])
        ended.add_metric([name], now.timestamp())
        for kind in KINDS:
            repaired = operation["repaired"] if kind == "missing" else 0
            findings.add_metric([name, kind], operation[kind] - repaired)
        for reason in Unjudged:
            parts = [part for part in operation["not_judged"] if part["reason"] == reason]
            unjudged.add_metric([name, reason], sum(_seconds(part) for part in parts))
    return [complete, findings, unjudged, ended]


def _seconds(part: Mapping[str, str]) -> float:
    """The length of a part that was not judged."""
    begin, end = (datetime.fromisoformat(part[name]) for name in ("from", "to"))
    return (end - begin).total_seconds()


class _Gauges(Collector):
    """The gauges in the form that the registry of the library requires."""

    def __init__(self, gauges: Iterable[GaugeMetricFamily]) -> None:
        self._gauges = list(gauges)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from self._gauges

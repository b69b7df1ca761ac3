"""What is true at the moment, in numbers: the gauges of `/metrics`.

Every scrape computes the gauges anew from `Status`, so the lag grows even while the service hangs.
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from publisher.telemetry.current_status import Status

PREFIX: Final = "wolkvox_publisher"
BACKFILL_STANDINGS: Final = ("running", "paused")


class Gauges(Collector):
    """The gauges of a `Status`, computed at every scrape."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges; a value that is not known yet, or no longer known, is left out."""

        def gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(
                f"{PREFIX}_{name}", documentation, labels=["operation", *labels]
            )

        lag = gauge(
            "lag_seconds",
            "Now, by the later of both clocks, minus the end of what is read and committed.",
        )
        pass_lag = gauge(
            "pass_lag_seconds",
            "How far a pass is behind the distance that it keeps; repair, by its oldest gap.",
            "pass",
        )
        cadence = gauge(
            "pass_cadence_seconds", "How far a pass falls behind between two rounds.", "pass"
        )
        skew = gauge("clock_skew_seconds", "The server's clock minus ours.")
        used = gauge(
            "quota_used", "Requests of the day that all tokens of the operation have made."
        )
        limit = gauge("quota_limit", "Requests that the operation may make in a day.")
        hour = gauge(
            "quota_hour_left",
            "Requests that the hour may still cost beside the polls; 0 = all others wait.",
        )
        seen = gauge("row_seen", "Whether a row of the operation was ever read; 0 = never.")
        ids = gauge("ledger_ids", "Ids remembered against publishing twice.")
        success = gauge(
            "last_success_timestamp_seconds", "When a window was last committed, Unix time."
        )
        parked = gauge("parked_windows", "Recorded gaps: windows that failed and were set aside.")
        missing = gauge("gap_seconds", "Time that lies in parked windows.")
        history = gauge(
            "backfill_remaining_seconds", "Time that backfills have still to read.", "standing"
        )
        now = self._status.now()
        for name, operation in self._status.operations.items():
            skew_seconds = operation.skew_told(now)
            if skew_seconds is not None:
                skew.add_metric([name], skew_seconds)
            quota = operation.quota_told(now)
            if quota is not None:
                used.add_metric([name], quota.used)
                limit.add_metric([name], quota.limit)
            left = operation.requests_left(now)
            if left is not None:
                hour.add_metric([name], left)
            behind = operation.lag_seconds(now)
            if behind is None:
                continue
            lag.add_metric([name], behind)
            for pass_name, seconds in operation.pass_lags(now).items():
                pass_lag.add_metric([name, pass_name], seconds)
            for pass_name, rhythm in operation.rhythms.items():
                cadence.add_metric([name, pass_name], rhythm.cadence.total_seconds())
            ids.add_metric([name], operation.ledger_ids)
            seen.add_metric([name], operation.row_seen)
            if operation.window:
                success.add_metric([name], operation.window.committed_at.timestamp())
            parked.add_metric([name], len(operation.gaps))
            missing.add_metric([name], operation.gap_seconds)
            for standing in BACKFILL_STANDINGS:
                history.add_metric([name, standing], operation.backfill_seconds(standing))
        yield from (lag, pass_lag, cadence, ids, seen, success, parked, missing, history)
        yield from (skew, used, limit, hour)

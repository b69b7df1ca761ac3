"""Computes where an operation stands and what is missing of it, in numbers and in words.

Rules of this file:
- An unknown value is None, never 0. Everything is unknown before the state is restored.
- "Now" is the later of our clock and the server's, so no wrong `Date` makes a lag smaller. If our
  clock is fast, the lag is too large by the skew.
- Facts age: a fact that no signal has confirmed for a long time is not reported any more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final

from publisher.model import (
    DAY,
    Backfill,
    HourShare,
    Instant,
    Progress,
    Rhythm,
    Unconfirmed,
    Window,
    iso,
)
from publisher.schedule.punctuality import NEVER_POLLS
from publisher.schedule.second_reading import LATE
from publisher.signals import DatesOff, NothingFound, QuotaTold, StepFailed, WindowPublished
from publisher.state.checkpoint import LIVE, REPAIR

SLACK: Final = timedelta(seconds=10)
"""Tolerance of lags: a `Date` has whole seconds, and a step takes some seconds."""
CLOCK_AGES: Final = timedelta(hours=1)
"""A skew is reported for so long after it was measured, or for three polls if that is longer."""


class Standing(StrEnum):
    """What an operation does at the moment, in a word."""

    HANGING = "hanging"
    STOPPING = "stopping"
    NEEDS_PERSON = "needs_person"
    RETRYING = "retrying"
    RESTORING = "restoring"
    STARTING = "starting"
    INCOMPLETE = "incomplete"
    """It publishes, but something is missing or may be missing."""
    PUBLISHING = "publishing"


@dataclass(slots=True)
class OperationStatus:
    """What the signals have reported about an operation."""

    name: str
    restored: bool = False
    kafka_problem: str = ""
    """Why Kafka accepts nothing from us; empty while it does."""
    cursor: Instant | None = None
    covered_until: Instant | None = None
    """Of the live pass, like `cursor`."""
    passes: Mapping[str, Progress] = field(default_factory=dict)
    rhythms: Mapping[str, Rhythm] = field(default_factory=dict)
    gaps: tuple[Window, ...] = ()
    unconfirmed: tuple[Unconfirmed, ...] = ()
    """Time that was read once, and late: it is read again when it is due."""
    backfills: tuple[Backfill, ...] = ()
    """Includes backfills that have ended, as long as the checkpoint holds them."""
    ledger_ids: int = 0
    clock_skew_seconds: float = 0.0
    """The server's clock minus ours, by its last answer with a date."""
    clock_at: Instant | None = None
    """When that answer came, by our clock."""
    ahead_seconds: float = 0.0
    """How far the server's clock is ahead of ours, by its last credible date; never negative."""
    undated_since: Instant | None = None
    """Since then, no answer has had a usable date."""
    quota: QuotaTold | None = None
    quota_at: Instant | None = None
    hour_share: HourShare | None = None
    """The share of the quota that is left after the last request."""
    requested_at: Instant | None = None
    row_seen: bool = False
    """A row of the operation was read at some time, or is remembered."""
    restored_at: Instant | None = None
    silent: NothingFound | None = None
    """No rows have come for a long time: every answer was 404."""
    dates_off: DatesOff | None = None
    dates_off_at: Instant | None = None
    published: int = 0
    """Count of events since the start of the process."""
    window: WindowPublished | None = None
    """The last published window, of any pass."""
    failure: StepFailed | None = None
    """The last failure; it stays as long as the process runs."""
    failed_at: Instant | None = None
    failing: bool = False
    """No step has succeeded since the last failure."""

    def lag_seconds(self, now: Instant) -> float | None:
        """How far now is ahead of what is read and committed.

        `now` is by our clock, here and below.
        """
        if self.covered_until is None:
            return None
        return max((now - self.covered_until).total_seconds() + self.ahead_seconds, 0.0)

    def pass_lags(self, now: Instant) -> dict[str, float]:
        """How far every pass is behind the distance that it keeps.

        Repair is measured by its oldest gap, and time that was read late by when it was due.
        """
        if self.covered_until is None:
            return {}
        behind = {
            name: now - rhythm.delay - self.passes[name].covered_until
            for name, rhythm in self.rhythms.items()
            if name in self.passes
        }
        behind[REPAIR] = now - min((gap.start for gap in self.gaps), default=now)
        behind[LATE.name] = now - min((stretch.due for stretch in self.unconfirmed), default=now)
        idle = {REPAIR: not self.gaps, LATE.name: not self.unconfirmed}
        ahead = {name: self.ahead_seconds for name in behind if not idle.get(name)}
        return {
            name: max(distance.total_seconds() + ahead.get(name, 0.0), 0.0)
            for name, distance in behind.items()
        }

    def skew_told(self, now: Instant) -> float | None:
        """The server's clock minus ours, unless it was measured too long ago."""
        reported_for = max(CLOCK_AGES, 3 * self.poll)
        recent = self.clock_at is not None and abs(now - self.clock_at) <= reported_for
        return self.clock_skew_seconds if recent else None

    def requests_left(self, now: Instant) -> int | None:
        """How many requests the hour may still cost, besides the polls of live.

        None = no request was made yet.
        """
        if self.hour_share is None or self.requested_at is None:
            return None
        return self.hour_share.left_after((now - self.requested_at).total_seconds())

    def quota_told(self, now: Instant) -> QuotaTold | None:
        """The quota, unless the server reported it more than a day ago."""
        recent = self.quota_at is not None and abs(now - self.quota_at) <= DAY
        return self.quota if recent else None

    def missing(self, now: Instant) -> list[str]:
        """What is missing or may be missing, in lines; empty = everything due is published."""
        return _what_is_missing(self, now)

    def never_seen(self, now: Instant) -> bool:
        """Whether no row has ever come, for longer than a pause in the talk explains."""
        if self.row_seen or self.restored_at is None:
            return False
        return now - self.restored_at > NEVER_POLLS * self.poll

    @property
    def poll(self) -> timedelta:
        """The time between two polls; zero while it is unknown."""
        rhythm = self.rhythms.get(LIVE)
        return rhythm.cadence if rhythm else timedelta()

    @property
    def gap_seconds(self) -> float:
        """Length of time in parked windows, in seconds."""
        return sum(gap.width.total_seconds() for gap in self.gaps)

    def backfill_seconds(self, standing: str) -> float:
        """Length of time that the backfills with this standing still have to read, in seconds."""
        durations = (
            backfill.remaining for backfill in self.backfills if backfill.standing == standing
        )
        return sum(duration.total_seconds() for duration in durations)

    def retry_in_seconds(self, now: Instant) -> float:
        """Seconds until the failing step is tried again; 0 = the service does not wait."""
        if not (self.failing and self.failure and self.failed_at):
            return 0.0
        waited_seconds = (now - self.failed_at).total_seconds()
        return max(self.failure.retry_in_seconds - waited_seconds, 0.0)

    def standing(self, now: Instant, *, hangs: bool, stopping: bool) -> Standing:
        """The standing that matters most.

        Signals of the operation do not report `hangs` (the loop is overdue) and `stopping` (the
        service is stopping).
        """
        if hangs:
            return Standing.HANGING
        if stopping:
            return Standing.STOPPING
        if self.failing and self.failure:
            return Standing.NEEDS_PERSON if self.failure.needs_person else Standing.RETRYING
        if not self.restored:
            return Standing.RESTORING
        if not self.window:
            return Standing.STARTING
        return Standing.INCOMPLETE if self.missing(now) else Standing.PUBLISHING


def _what_is_missing(operation: OperationStatus, now: Instant) -> list[str]:
    """What is missing or may be missing, in lines; empty = everything due is published."""
    lag = operation.lag_seconds(now)
    if lag is None:
        return ["how far it is, and what is missing, is not known yet"]
    lines = []
    if operation.poll and lag > (2 * operation.poll + SLACK).total_seconds():
        lines.append("live is more than two polls behind")
    if operation.gaps:
        lines.append(f"parked windows that could not be read yet: {len(operation.gaps)}")
    if operation.unconfirmed:
        hours = sum(stretch.window.width / timedelta(hours=1) for stretch in operation.unconfirmed)
        lines.append(f"{hours:.1f} h of time were read once, and late: they are read again")
    for name, seconds in operation.pass_lags(now).items():
        rhythm = operation.rhythms.get(name)
        if name != LIVE and rhythm and seconds > (2 * rhythm.cadence + SLACK).total_seconds():
            lines.append(f"the pass {name} is behind: rows that appear late are missing")
    return lines + _doubtful(operation, now)


def _doubtful(operation: OperationStatus, now: Instant) -> list[str]:
    """Lines about what may be missing, because something else looks wrong."""
    lines = []
    if operation.undated_since:
        lines.append(
            f"no answer since {iso(operation.undated_since)} has a usable Date header: the server's"
            " clock is not known"
        )
    if operation.never_seen(now):
        lines.append(
            "no row was ever read: either nobody writes, or the zone or the server is wrong;"
            " wolkvox-publisher check compares"
        )
    elif operation.silent:
        lines.append(f"nothing but 404 since {iso(operation.silent.since)}")
    if operation.dates_off and operation.dates_off_at and now - operation.dates_off_at <= 2 * DAY:
        hours = operation.dates_off.off_seconds / 3600
        lines.append(
            f"new messages are dated {hours:+.1f} h off the server's clock: either the zone is"
            " wrong, or the report is late"
        )
    return lines

"""Where one operation stands, and what is missing of it, in numbers and in words.

Rules of this file:
- What is not known is None, never 0: nothing is known before the state is restored.
- "Now" is the later of our clock and the server's, so no wrong `Date` makes a lag smaller. With
  a fast clock of ours the lag is too large by the skew.
- What was told once ages: it is not told on when nobody has confirmed it for long.
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
"""A `Date` has whole seconds, and a step takes some."""
CLOCK_AGES: Final = timedelta(hours=1)
"""A skew is told for so long after it was measured, or for three polls."""


class Standing(StrEnum):
    """What an operation does at the moment, in one word."""

    HANGING = "hanging"
    STOPPING = "stopping"
    NEEDS_PERSON = "needs_person"
    RETRYING = "retrying"
    RESTORING = "restoring"
    STARTING = "starting"
    INCOMPLETE = "incomplete"
    """It publishes, and something is missing or may be."""
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
    rhythms: Mapping[str, Rhythm] = field(default_factory=dict)
    gaps: tuple[Window, ...] = ()
    unconfirmed: tuple[Unconfirmed, ...] = ()
    """What was read once, and late: it is read again when it is due."""
    backfills: tuple[Backfill, ...] = ()
    """Those that have ended, too, for as long as the checkpoint holds them."""
    ledger_ids: int = 0
    clock_skew_seconds: float = 0.0
    """The server's clock minus ours, as its last answer with a date said."""
    clock_at: Instant | None = None
    """When it said so, by our clock."""
    ahead_seconds: float = 0.0
    """How far the server's clock is ahead of ours, as far as that is believed; never negative."""
    undated_since: Instant | None = None
    """Answer after answer has had no usable date."""
    quota: QuotaTold | None = None
    quota_at: Instant | None = None
    hour_share: HourShare | None = None
    """Of the quota, after the last request."""
    requested_at: Instant | None = None
    row_seen: bool = False
    """A row of it was read at some time, or is remembered."""
    restored_at: Instant | None = None
    silent: NothingFound | None = None
    """No rows for a long time: every answer was 404."""
    dates_off: DatesOff | None = None
    dates_off_at: Instant | None = None
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
        """How far now is ahead of what is read and committed. `now` is ours, here and below."""
        if self.covered_until is None:
            return None
        return max((now - self.covered_until).total_seconds() + self.ahead_seconds, 0.0)

    def pass_lags(self, now: Instant) -> dict[str, float]:
        """How far each pass is behind the distance that it keeps.

        Repair, by its oldest gap; what was read once and late, by when it was due.
        """
        if self.covered_until is None:
            return {}
        behind = {
            name: now - rhythm.delay - self.passes[name].covered_until
            for name, rhythm in self.rhythms.items()
            if name in self.passes
        }
        behind[REPAIR] = now - min((gap.start for gap in self.gaps), default=now)
        behind[LATE.name] = now - min((each.due for each in self.unconfirmed), default=now)
        idle = {REPAIR: not self.gaps, LATE.name: not self.unconfirmed}
        ahead = {name: self.ahead_seconds for name in behind if not idle.get(name)}
        return {
            name: max(each.total_seconds() + ahead.get(name, 0.0), 0.0)
            for name, each in behind.items()
        }

    def skew_told(self, now: Instant) -> float | None:
        """The server's clock minus ours, unless it was measured too long ago."""
        ages = max(CLOCK_AGES, 3 * self.poll)
        told = self.clock_at is not None and abs(now - self.clock_at) <= ages
        return self.clock_skew_seconds if told else None

    def requests_left(self, now: Instant) -> int | None:
        """How many the hour may cost now, beside the polls of live; None before the first one."""
        if self.hour_share is None or self.requested_at is None:
            return None
        return self.hour_share.left_after((now - self.requested_at).total_seconds())

    def quota_told(self, now: Instant) -> QuotaTold | None:
        """The quota, unless it was told more than a day ago."""
        told = self.quota_at is not None and abs(now - self.quota_at) <= DAY
        return self.quota if told else None

    def missing(self, now: Instant) -> list[str]:
        """Tell what is missing, or may be, a line each; empty = all that is due is published."""
        return _what_is_missing(self, now)

    def never_seen(self, now: Instant) -> bool:
        """Whether no row has come for longer than a pause in the talk explains, and none before."""
        if self.row_seen or self.restored_at is None:
            return False
        return now - self.restored_at > NEVER_POLLS * self.poll

    @property
    def poll(self) -> timedelta:
        """How much time passes between two polls; none while that is not known."""
        rhythm = self.rhythms.get(LIVE)
        return rhythm.cadence if rhythm else timedelta()

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

    def standing(self, now: Instant, *, hangs: bool, stopping: bool) -> Standing:
        """Tell what matters most: `hangs` and `stopping` are known to others."""
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
    """A line each; empty = all that is due is published."""
    lag = operation.lag_seconds(now)
    if lag is None:
        return ["how far it is, and what is missing, is not known yet"]
    lines = []
    if operation.poll and lag > (2 * operation.poll + SLACK).total_seconds():
        lines.append("live is more than two polls behind")
    if operation.gaps:
        lines.append(f"parked windows that could not be read yet: {len(operation.gaps)}")
    if operation.unconfirmed:
        hours = sum(each.window.width / timedelta(hours=1) for each in operation.unconfirmed)
        lines.append(f"{hours:.1f} h of time were read once, and late: they are read again")
    for name, seconds in operation.pass_lags(now).items():
        rhythm = operation.rhythms.get(name)
        if name != LIVE and rhythm and seconds > (2 * rhythm.cadence + SLACK).total_seconds():
            lines.append(f"the pass {name} is behind: rows that appear late are missing")
    return lines + _doubtful(operation, now)


def _doubtful(operation: OperationStatus, now: Instant) -> list[str]:
    """What may be missing because something else looks wrong."""
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

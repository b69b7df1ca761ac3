"""Measures how late the report shows its rows, and proposes the overlap and the re-reads.

Rules of this file:
- The age of a message is the time from its occurrence to its first read. The report showed it at
  most that late. The interval between the polls limits how exact this is.
- While live catches up, it reads messages that are old already. Their age says nothing about the
  report.
- Memory does not grow with the messages: ages are counted in buckets that are 9 % wide.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from math import ceil, log2
from typing import Final

from publisher.model import DAY, Instant
from publisher.schedule.passes import REREAD, rereads_of
from publisher.schedule.quota import EVERY_POLLS
from publisher.settings import PublisherSettings
from publisher.state.checkpoint import LIVE

CATCHING_UP: Final = "live, catching up"
"""Stands in place of the pass for messages that live read while it was catching up."""
ENOUGH: Final = 1_000
"""The messages that a proposal needs. With fewer, the share `TAIL` of them is mere chance."""
TAIL: Final = 0.001
"""The share of the messages that live may leave to the re-reads."""
STEPS: Final = 8
"""How many buckets a doubling of the age spans."""
FIRST_LOOK: Final = DAY
"""The age of the first re-read, if there is none: without re-reads nothing can be measured."""
_MINUTES: Final = (1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 720, 1440)
"""The proposed durations below a day."""


@dataclass(slots=True)
class Ages:
    """Counts ages, from a second up."""

    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, age: timedelta) -> None:
        """Count an age. An age below a second, or a negative one, counts as a second."""
        self.buckets[ceil(STEPS * log2(max(age.total_seconds(), 1.0)))] += 1

    @property
    def total(self) -> int:
        return self.buckets.total()

    def quantile(self, share: float) -> timedelta | None:
        """The age that this share of the messages did not exceed; None = nothing was counted.

        The result is at most 9 % too large.
        """
        left = max(ceil(self.total * share), 1)
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return timedelta(seconds=2 ** (bucket / STEPS))
        return None


@dataclass(slots=True)
class Measured:
    """What the headers of the messages say, counted."""

    settings: PublisherSettings
    passes: dict[str, Ages] = field(default_factory=dict)
    """The ages of the messages, by the pass that read them first."""
    found_by_rereads: Counter[timedelta] = field(default_factory=Counter)
    """How many messages a re-read was the first to show, by the age of the re-read."""
    first: Instant | None = None
    last: Instant | None = None
    """When the first and the last of the messages were read."""

    def add(self, label: str, occurred_at: Instant, read_at: Instant) -> None:
        """Count a message. `label` is the pass that read it first."""
        settings, age = self.settings, read_at - occurred_at
        if label == LIVE and age > settings.overlap + 2 * settings.poll_every:
            label = CATCHING_UP
        self.passes.setdefault(label, Ages()).add(age)
        if label == REREAD:
            # A re-read that was removed from the settings counts as the next younger one.
            younger = [reread for reread in rereads_of(settings) if reread <= age]
            self.found_by_rereads[max(younger, default=timedelta())] += 1
        self.first = min(self.first or read_at, read_at)
        self.last = max(self.last or read_at, read_at)

    @property
    def messages(self) -> int:
        return sum(ages.total for ages in self.passes.values())

    @property
    def telling(self) -> int:
        """How many messages have a meaningful age: live read them in time, or a re-read did."""
        return sum(self.passes[label].total for label in (LIVE, REREAD) if label in self.passes)

    @property
    def span(self) -> timedelta:
        """The time over which the messages were read."""
        return self.last - self.first if self.first and self.last else timedelta()


@dataclass(frozen=True, slots=True)
class Proposal:
    """The proposed settings."""

    overlap: timedelta
    rereads: tuple[timedelta, ...]
    requests: float
    """The requests a day, including `token_info`, if no window must be halved."""
    horizon: timedelta
    """The least value for `PUBLISHER_HORIZON`."""


def span_needed(settings: PublisherSettings) -> timedelta:
    """How long messages must have been read: in that time the longest re-read comes around."""
    return max(settings.rereads, default=DAY) * 1.5


def proposal(measured: Measured) -> Proposal | None:
    """The settings that fit the measured ages; None = too little was measured.

    - Overlap: the age within which live finds all messages but one in a thousand, rounded up. If
      re-reads find more than one in a thousand, it is twice the current overlap. Only after that
      can the next measurement show how much is enough.
    - Re-reads: those that found messages. The longest re-read always stays: it proves that nothing
      comes later. If it found messages itself, a re-read at twice its age is added to watch it.
    """
    settings = measured.settings
    if measured.telling < ENOUGH or measured.span < span_needed(settings):
        return None
    live_ages, reread_ages = (measured.passes.get(label, Ages()) for label in (LIVE, REREAD))
    late_share = reread_ages.total / measured.telling
    enough = (
        live_ages.quantile((1 - TAIL - late_share) / (1 - late_share))
        if late_share < TAIL
        else None
    )
    overlap = _rounded_up(settings.overlap * 2 if enough is None else enough)
    current = rereads_of(settings)
    kept = {reread for reread in current if measured.found_by_rereads[reread]} | set(
        current[-1:] or [FIRST_LOOK]
    )
    if current and measured.found_by_rereads[current[-1]]:
        kept.add(current[-1] * 2)
    rereads = tuple(sorted(reread for reread in kept if reread > overlap)) or (
        max(FIRST_LOOK, overlap * 2),
    )
    horizon = rereads[-1] * 1.5 + settings.max_window
    return Proposal(overlap, rereads, requests_a_day(settings, rereads), horizon)


def requests_a_day(settings: PublisherSettings, rereads: Iterable[timedelta]) -> float:
    """The requests a day of live, of these re-reads and of `token_info`."""
    polls = DAY / settings.poll_every
    rounds = sum(DAY / (age / 2) * ceil(age / 2 / settings.max_window) for age in rereads)
    return polls + rounds + polls / EVERY_POLLS


def _rounded_up(age: timedelta) -> timedelta:
    """The next larger duration that people would write into a setting."""
    durations = (timedelta(minutes=minutes) for minutes in _MINUTES)
    return next((duration for duration in durations if age <= duration), ceil(age / DAY) * DAY)

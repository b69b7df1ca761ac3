"""How late the report shows its rows, and which overlap and re-reads that calls for.

Rules of this file:
- A message's age is when it was first read minus when it happened: at most that late did the
  report show it. Finer than the rhythm of the polls nobody can know it.
- What live reads while it catches up was old already: its age tells nothing of the report.
- Memory does not grow with the messages: ages are counted in buckets, each 9 % wide.
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
ENOUGH: Final = 1_000
"""Messages without which the tail of one in a thousand is mere chance."""
TAIL: Final = 0.001
"""The share of messages that may be left to the re-reads."""
STEPS: Final = 8
"""Buckets for each doubling of the age."""
FIRST_LOOK: Final = DAY
"""The re-read to begin with where there is none, so that something can be measured."""
_MINUTES: Final = (1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 720, 1440)


@dataclass(slots=True)
class Ages:
    """Counted ages, from a second up."""

    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, age: timedelta) -> None:
        """Count one; what is younger than a second, or of the future, counts as a second."""
        self.buckets[ceil(STEPS * log2(max(age.total_seconds(), 1.0)))] += 1

    @property
    def total(self) -> int:
        return self.buckets.total()

    def quantile(self, share: float) -> timedelta | None:
        """An age that this share did not exceed, at most 9 % too large; None of nothing."""
        left = max(ceil(self.total * share), 1)
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return timedelta(seconds=2 ** (bucket / STEPS))
        return None


@dataclass(slots=True)
class Measured:
    """What the headers of the messages tell."""

    settings: PublisherSettings
    passes: dict[str, Ages] = field(default_factory=dict)
    """By the pass that found them first."""
    found_by_rereads: Counter[timedelta] = field(default_factory=Counter)
    """How many each re-read found, by its age."""
    first: Instant | None = None
    last: Instant | None = None
    """When the first and the last of them were read."""

    def add(self, label: str, occurred_at: Instant, read_at: Instant) -> None:
        """Count one message."""
        settings, age = self.settings, read_at - occurred_at
        if label == LIVE and age > settings.overlap + 2 * settings.poll_every:
            label = CATCHING_UP
        self.passes.setdefault(label, Ages()).add(age)
        if label == REREAD:
            # Those that are not set any more count for the next younger one that is.
            younger = [reread for reread in rereads_of(settings) if reread <= age]
            self.found_by_rereads[max(younger, default=timedelta())] += 1
        self.first = min(self.first or read_at, read_at)
        self.last = max(self.last or read_at, read_at)

    @property
    def messages(self) -> int:
        return sum(ages.total for ages in self.passes.values())

    @property
    def telling(self) -> int:
        """Messages whose age tells of the report: read in rhythm, or by a re-read."""
        return sum(self.passes[ages].total for ages in (LIVE, REREAD) if ages in self.passes)

    @property
    def span(self) -> timedelta:
        return self.last - self.first if self.first and self.last else timedelta()


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the settings should be."""

    overlap: timedelta
    rereads: tuple[timedelta, ...]
    requests: float
    """A day, `token_info` included, while no window must be halved."""
    horizon: timedelta
    """`PUBLISHER_HORIZON` must be at least this."""


def span_needed(settings: PublisherSettings) -> timedelta:
    """So long must have been watched: the longest re-read comes by within it."""
    return max(settings.rereads, default=DAY) * 1.5


def proposal(measured: Measured) -> Proposal | None:
    """The settings that what was measured calls for; None where that is too little.

    - Overlap: what live found in time but for one in a thousand, rounded up. Where re-reads
      find more than that, twice the overlap of now: how much is enough shows only then.
    - Re-reads: those that found something. The longest stays as the proof that nothing
      comes later; if it found something, one of twice its age is to watch over it.
    """
    settings = measured.settings
    if measured.telling < ENOUGH or measured.span < span_needed(settings):
        return None
    live, late = (measured.passes.get(reread, Ages()) for reread in (LIVE, REREAD))
    share = late.total / measured.telling
    enough = live.quantile((1 - TAIL - share) / (1 - share)) if share < TAIL else None
    overlap = _rounded_up(settings.overlap * 2 if enough is None else enough)
    now = rereads_of(settings)
    kept = {reread for reread in now if measured.found_by_rereads[reread]} | set(
        now[-1:] or [FIRST_LOOK]
    )
    if now and measured.found_by_rereads[now[-1]]:
        kept.add(now[-1] * 2)
    rereads = tuple(sorted(reread for reread in kept if reread > overlap)) or (
        max(FIRST_LOOK, overlap * 2),
    )
    horizon = rereads[-1] * 1.5 + settings.max_window
    return Proposal(overlap, rereads, requests_a_day(settings, rereads), horizon)


def requests_a_day(settings: PublisherSettings, rereads: Iterable[timedelta]) -> float:
    """What live and these re-reads ask for, and `token_info`."""
    polls = DAY / settings.poll_every
    rounds = sum(DAY / (age / 2) * ceil(age / 2 / settings.max_window) for age in rereads)
    return polls + rounds + polls / EVERY_POLLS


def _rounded_up(age: timedelta) -> timedelta:
    """The next length that people would write into a setting."""
    fits = (timedelta(minutes=minutes) for minutes in _MINUTES)
    return next((minutes for minutes in fits if age <= minutes), ceil(age / DAY) * DAY)

"""Tracks the daily quota of requests: how much is left, and who may still spend it.

Rules of this file:
- Live is never held back. Re-reads, repairs and backfills are held back while less is
  left than live may need for a day.
- The server's number and our own requests since then add up. After a day the number is
  out of date: the vendor does not document when its day ends.
- Besides one request of live per poll, at most a quarter of the day's quota is spent in an
  hour. This holds whatever goes wrong, in any part of the service.
- All of it is in memory only. After a restart the server is asked again.

The quota is 1000 calls a day for a licence, and all tokens of the operation share it. The
question itself costs a call (the vendor's page of `token_info`).
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import takewhile
from typing import Any, Final

import orjson

from publisher.model import DAY, Answer, HourShare, Instant
from publisher.state.checkpoint import Entry

HOUR: Final = timedelta(hours=1)
_NUMBER: Final = re.compile(r"\s*[0-9]{1,9}\s*")
FIRST_POLLS: Final = 3
"""The first question comes so many polls after the start: a restart loop must not spend it."""
EVERY_POLLS: Final = 72
"""The next question comes after so many polls (6 h at 5 minutes): 4 requests a day."""
SCARCE_POLLS: Final = 12
"""It comes sooner while somebody is held back, because the day may have ended."""


USUAL_LIMIT: Final = 1000
"""Requests a day for one licence. It is assumed until the server reports its limit."""
HOURLY_SHARE: Final = 1 / 4
"""The part of the day's quota that may be spent in any hour, besides the polls."""
POLLS: Final = 3
"""An unreported quota counts as at least so many times what the polls of a day need."""


@dataclass(slots=True)
class Bucket:
    """An allowance of requests that refills at a steady rate (a token bucket)."""

    size: float
    fill: float
    """Seconds until one request comes back."""
    left: float
    """How many requests may be made at once, including a fraction that is still refilling."""
    updated_at: float | None = None
    """When `left` was computed, in seconds on the caller's clock."""

    @classmethod
    def of(cls, size: float, fill: float) -> "Bucket":
        """A full bucket."""
        return cls(size, fill, size)

    def wait(self, now: float, kept: float = 0) -> float:
        """Seconds until a request may be made that leaves `kept` others; 0 = at once."""
        if self.updated_at is not None:
            self.left = min(self.size, self.left + max(0.0, now - self.updated_at) / self.fill)
        self.updated_at = now
        missing = 1 + kept - self.left
        return missing * self.fill if missing > 1e-6 else 0.0

    def spend(self, now: float) -> None:
        """A request was made."""
        self.wait(now)
        self.left = max(self.left - 1, 0.0)


@dataclass(slots=True)
class Budget:
    """A reader's share of the quota: at most `daily_limit` requests within any 24 hours."""

    daily_limit: int
    spent: deque[Instant] = field(default_factory=deque)
    """The requests of the last day."""

    def spend(self, now: Instant) -> None:
        """A request was made."""
        self.spent.append(now)

    def is_spent(self, now: Instant) -> bool:
        """Whether no request is left."""
        while self.spent and self.spent[0] <= now - DAY:
            self.spent.popleft()
        while self.spent and self.spent[-1] > now:
            self.spent.pop()  # the clock has gone back
        return len(self.spent) >= self.daily_limit


@dataclass(slots=True)
class Quota:
    """What we know about the quota of one operation."""

    poll_every: timedelta
    limit: int | None = None
    """Requests a day; None = the server has never reported it."""
    used: int = 0
    """Requests that the last answer counted, of all tokens."""
    answered_at: Instant | None = None
    """When the server reported these numbers."""
    own_count: int = 0
    """Our own requests since then."""
    spent: bool = False
    """The last answer of the report said that nothing is left."""
    next_at: Instant | None = None
    """When to ask for the quota again."""
    hour: Bucket = field(init=False)
    """The hour's share: the requests that may be made besides the polls of live."""
    poll_at: float | None = None
    """When live polled last, on the monotonic clock."""
    was_asked: bool = False
    """The server was asked for the quota since the start."""
    short: bool = False
    """The hour's share was used up, and has not been half full again since then."""

    def __post_init__(self) -> None:
        self.hour = Bucket.of(0, 1)
        self._measure()

    def _measure(self) -> None:
        """Size the hour's bucket: half of the share at once, and half over the hour.

        So no hour gets more than the share.
        """
        assumed_limit = max(USUAL_LIMIT, POLLS * (DAY / self.poll_every))
        share = max(1.0, (assumed_limit if self.limit is None else self.limit) * HOURLY_SHARE)
        size = max(1.0, share / 2 - 1)  # less the question about the limit, at the start
        self.hour.left = max(0.0, self.hour.left + size - self.hour.size)
        self.hour.size, self.hour.fill = size, HOUR.total_seconds() * 2 / share

    def restored(self, newest_first: Iterable[Entry], now: Instant, elapsed: float) -> None:
        """Count what an earlier process has read in the last hour; only once, at the start.

        `newest_first` is the journal. `elapsed` is the present on the monotonic clock.
        """
        if self.hour.updated_at is None:
            request_count = sum(
                1 for _ in takewhile(lambda entry: entry.read_at > now - HOUR, newest_first)
            )
            self.hour.left = max(0.0, self.hour.size - request_count)
            self.hour.updated_at = elapsed

    def asking(self, now: float, *, live: bool) -> None:
        """Count a request that is being made; `now` in seconds on the monotonic clock."""
        if live and self._polls_in(now) <= 0:
            self.poll_at = now
        else:
            self.hour.spend(now)

    def wait(self, now: float, *, live: bool = False) -> float:
        """Seconds until the next request may be made. Live may make one per poll in any case."""
        seconds = self.hour.wait(now)
        return max(0.0, min(seconds, self._polls_in(now))) if live else seconds

    @property
    def share(self) -> HourShare:
        """The hour's share as of the last request."""
        return HourShare(self.hour.left, self.hour.size, self.hour.fill)

    def runs_short(self, now: float) -> bool:
        """Whether the hour's share has just been used up. True only once until it is half full."""
        empty = self.hour.wait(now) > 0
        was_short, self.short = (
            self.short,
            empty or (self.short and self.hour.left < self.hour.size / 2),
        )
        return empty and not was_short

    def _polls_in(self, now: float) -> float:
        """Seconds until live may poll outside the hour's share; 0 or less = now."""
        seconds = self.poll_every.total_seconds()
        # A poll may come a little early, because the `Date` of an answer has whole seconds.
        return 0.0 if self.poll_at is None else self.poll_at + seconds * 0.99 - now

    @property
    def used_now(self) -> int:
        """The requests used by now, as far as we know."""
        return self.used + self.own_count

    def due(self, now: Instant) -> bool:
        """Whether it is time to ask for the quota. The first call sets the time."""
        if self.next_at is None:
            self.next_at = now + self.poll_every * FIRST_POLLS
        return now >= self.next_at

    def asked(self, now: Instant, numbers: tuple[int, int] | None) -> None:
        """Remember an answer: `numbers` are used and limit, or None where no usable answer came."""
        self.was_asked = True
        if numbers is not None:
            self.used, self.limit = numbers
            self.answered_at, self.own_count = now, 0
            self._measure()
        polls = SCARCE_POLLS if self.holds_back(now) else EVERY_POLLS
        self.next_at = now + self.poll_every * polls

    def counted(self, *, spent: bool) -> None:
        """Count a request that the report has answered. `spent`: it said that nothing is left."""
        self.own_count += 1
        self.spent = spent

    def holds_back(self, now: Instant) -> bool:
        """Whether only live may ask, because less is left than it may need for a day."""
        if self.spent:
            return True
        if self.limit is None or self.answered_at is None or now - self.answered_at > DAY:
            return False
        # Where live alone would spend a small quota, the others still get half of it.
        reserve = min(DAY / self.poll_every, self.limit / 2)
        return self.limit - self.used_now < reserve


def told_by(answer: Answer) -> tuple[int, int] | None:
    """Read an answer of `token_info`: the calls that all tokens used today, and the limit.

    None where the answer does not hold both. Only the names of the fields are documented,
    not the structure around them.
    """
    if answer.status != 200 or answer.oversized:
        return None
    try:
        numbers = dict(_numbers(orjson.loads(answer.body)))
    except orjson.JSONDecodeError:
        return None
    limit = numbers.get("token_limit")
    used = numbers.get("all_token_today", numbers.get("token_use_today"))
    return None if limit is None or used is None else (used, limit)


def _numbers(value: Any) -> Iterator[tuple[str, int]]:
    """Every whole number that is not negative, with its name, at any depth of objects and lists."""
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, dict | list):
                yield from _numbers(item)
            elif type(item) in (int, str) and _NUMBER.fullmatch(str(item)):
                yield name, int(item)

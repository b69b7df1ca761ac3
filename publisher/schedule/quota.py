"""The daily quota of requests: what is left, and who may still spend it.

Rules of this file:
- Live is never held back; re-reads, repairs and backfills are, while less is left
  than live may need for a day.
- What the server told is added up with our own requests since. Older than a day
  it is not known any more: when the vendor's day ends is told nowhere.
- Nothing spends more than a quarter of the day's quota in an hour, beside one request
  of live for each poll: whatever goes wrong, for whatever reason, in whatever part.
- All of it is in memory only: a restart asks again.

The quota is 1000 calls a day for each licence, shared by all tokens of the operation;
asking for it costs one (the vendor's page of `token_info`).
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
"""Asked for so many polls after the start: whoever restarts in a loop must not spend it."""
EVERY_POLLS: Final = 72
"""Asked for again after so many (6 h at 5 minutes): 4 requests a day."""
SCARCE_POLLS: Final = 12
"""Sooner while somebody is held back: the day may have ended."""


USUAL_LIMIT: Final = 1000
"""Requests a day for one licence: what is assumed until the server has told."""
HOURLY_SHARE: Final = 1 / 4
"""Of the day's quota: what may be asked for in any hour beside the polls."""
POLLS: Final = 3
"""Times what the polls of a day need: so large is a quota at least that nobody has told."""


@dataclass(slots=True)
class Bucket:
    """An allowance that is used up one by one, and comes back one by one."""

    size: float
    fill: float
    """Seconds until one comes back."""
    left: float
    at: float | None = None
    """When it was looked at last, in seconds on whatever clock."""

    @classmethod
    def of(cls, size: float, fill: float) -> "Bucket":
        """A full one."""
        return cls(size, fill, size)

    def wait(self, now: float, kept: float = 0) -> float:
        """Seconds until one may be used while so many stay; 0 = at once."""
        if self.at is not None:
            self.left = min(self.size, self.left + max(0.0, now - self.at) / self.fill)
        self.at = now
        missing = 1 + kept - self.left
        return missing * self.fill if missing > 1e-6 else 0.0

    def spend(self, now: float) -> None:
        """One was used."""
        self.wait(now)
        self.left = max(self.left - 1, 0.0)


@dataclass(slots=True)
class Budget:
    """Somebody's share of it: so many requests within any 24 hours."""

    most: int
    spent: deque[Instant] = field(default_factory=deque)
    """The requests of the last day."""

    def spend(self, now: Instant) -> None:
        """A request was made."""
        self.spent.append(now)

    def is_spent(self, now: Instant) -> bool:
        """Whether none is left."""
        while self.spent and self.spent[0] <= now - DAY:
            self.spent.popleft()
        while self.spent and self.spent[-1] > now:
            self.spent.pop()  # the clock has gone back
        return len(self.spent) >= self.most


@dataclass(slots=True)
class Quota:
    """What is known of one operation's quota."""

    poll_every: timedelta
    limit: int | None = None
    """Requests a day; None = never told."""
    used: int = 0
    """Of them, by the last answer, whoever made them."""
    told_at: Instant | None = None
    since: int = 0
    """Our own requests since then."""
    spent: bool = False
    """The last answer of the report was that nothing is left."""
    next_at: Instant | None = None
    hour: Bucket = field(init=False)
    """What may be asked for beside the polls of live."""
    poll_at: float | None = None
    """The last request that was a poll of live, on the clock that never goes back."""
    was_asked: bool = False
    """The server was asked for its limit since the start."""
    short: bool = False
    """The hour's share is used up, and was not half full again since."""

    def __post_init__(self) -> None:
        self.hour = Bucket.of(0, 1)
        self._measure()

    def _measure(self) -> None:
        """Half of the share at once, the other half over the hour: never more in any hour."""
        unknown = max(USUAL_LIMIT, POLLS * (DAY / self.poll_every))
        share = max(1.0, (unknown if self.limit is None else self.limit) * HOURLY_SHARE)
        size = max(1.0, share / 2 - 1)  # one for the question about the limit, at the start
        self.hour.left = max(0.0, self.hour.left + size - self.hour.size)
        self.hour.size, self.hour.fill = size, HOUR.total_seconds() * 2 / share

    def restored(self, newest_first: Iterable[Entry], now: Instant, elapsed: float) -> None:
        """Count what a process before this one has read in the last hour; once, at the start."""
        if self.hour.at is None:
            requests = sum(
                1 for _ in takewhile(lambda entry: entry.read_at > now - HOUR, newest_first)
            )
            self.hour.left, self.hour.at = max(0.0, self.hour.size - requests), elapsed

    def asking(self, now: float, *, live: bool) -> None:
        """A request is made; `now` in seconds on the clock that never goes back."""
        if live and self._polls_in(now) <= 0:
            self.poll_at = now
        else:
            self.hour.spend(now)

    def wait(self, now: float, *, live: bool = False) -> float:
        """Seconds until the next request may be made; live always may, once a poll."""
        seconds = self.hour.wait(now)
        return max(0.0, min(seconds, self._polls_in(now))) if live else seconds

    @property
    def share(self) -> HourShare:
        """The hour's share as of the last request."""
        return HourShare(self.hour.left, self.hour.size, self.hour.fill)

    def runs_short(self, now: float) -> bool:
        """Whether the hour's share has just been used up: true once until it is half full."""
        empty = self.hour.wait(now) > 0
        before, self.short = (
            self.short,
            empty or (self.short and self.hour.left < self.hour.size / 2),
        )
        return empty and not before

    def _polls_in(self, now: float) -> float:
        seconds = self.poll_every.total_seconds()
        # A poll may come a little early: answers tell the time in whole seconds.
        return 0.0 if self.poll_at is None else self.poll_at + seconds * 0.99 - now

    @property
    def used_now(self) -> int:
        """What is used by now, as far as we know."""
        return self.used + self.since

    def due(self, now: Instant) -> bool:
        """Whether it is time to ask; the first call sets when."""
        if self.next_at is None:
            self.next_at = now + self.poll_every * FIRST_POLLS
        return now >= self.next_at

    def asked(self, now: Instant, numbers: tuple[int, int] | None) -> None:
        """Remember an answer: used and limit, or None where it could not be had."""
        self.was_asked = True
        if numbers is not None:
            self.used, self.limit = numbers
            self.told_at, self.since = now, 0
            self._measure()
        polls = SCARCE_POLLS if self.holds_back(now) else EVERY_POLLS
        self.next_at = now + self.poll_every * polls

    def counted(self, *, spent: bool) -> None:
        """One request of ours was answered by the report, or refused because nothing is left."""
        self.since += 1
        self.spent = spent

    def holds_back(self, now: Instant) -> bool:
        """Whether only live may ask: less is left than it may need for a day."""
        if self.spent:
            return True
        if self.limit is None or self.told_at is None or now - self.told_at > DAY:
            return False
        # A quota so small that live alone would spend it leaves half to the others.
        reserve = min(DAY / self.poll_every, self.limit / 2)
        return self.limit - self.used_now < reserve


def told_by(answer: Answer) -> tuple[int, int] | None:
    """Used today by all tokens, and the limit, as `token_info` answers them; None if it does not.

    Only the names of the fields are documented, not what is around them.
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
    """Every whole number that is not negative, by its name, in whatever objects and lists."""
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, dict | list):
                yield from _numbers(item)
            elif type(item) in (int, str) and _NUMBER.fullmatch(str(item)):
                yield name, int(item)

"""The daily quota of requests: what is left, and who may still spend it. Pure.

Rules of this file:
- Live is never held back; re-reads, repairs and backfills are, while less is left
  than live may need for a day.
- What the server told is added up with our own requests since. Older than a day
  it is not known any more: when the vendor's day ends is told nowhere.
- All of it is in memory only: a restart asks again.

The quota is 1000 calls a day for each licence, shared by all tokens of the operation;
asking for it costs one (the vendor's page of `token_info`).
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import orjson

from publisher.model import DAY, Answer, Instant

_NUMBER: Final = re.compile(r"\s*[0-9]{1,9}\s*")
FIRST_POLLS: Final = 3
"""Asked for so many polls after the start: whoever restarts in a loop must not spend it."""
EVERY_POLLS: Final = 72
"""Asked for again after so many (6 h at 5 minutes): 4 requests a day."""
SCARCE_POLLS: Final = 12
"""Sooner while somebody is held back: the day may have ended."""


@dataclass(slots=True)
class Budget:
    """Somebody's share of it: so many requests within any 24 hours."""

    most: int
    spent: deque[Instant] = field(default_factory=deque)
    """The requests of the last day."""

    def spend(self, now: Instant) -> None:
        """A request was made."""
        self.spent.append(now)

    def free_at(self, now: Instant) -> Instant | None:
        """When the next one may be made; None = at once."""
        while self.spent and self.spent[0] <= now - DAY:
            self.spent.popleft()
        return self.spent[0] + DAY if len(self.spent) >= self.most else None


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

    @property
    def used_now(self) -> int:
        """What is used by now, as far as we know."""
        return self.used + self.since

    def due(self, now: Instant) -> bool:
        """Whether it is time to ask; the first call sets when."""
        if self.next_at is None:
            self.next_at = now + self.poll_every * FIRST_POLLS
        return now >= self.next_at

    def asked(self, now: Instant, told: tuple[int, int] | None) -> None:
        """Remember an answer: used and limit, or None where it could not be had."""
        if told is not None:
            self.used, self.limit = told
            self.told_at, self.since = now, 0
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
        told = dict(_numbers(orjson.loads(answer.body)))
    except orjson.JSONDecodeError:
        return None
    limit = told.get("token_limit")
    used = told.get("all_token_today", told.get("token_use_today"))
    return None if limit is None or used is None else (used, limit)


def _numbers(value: Any) -> Iterator[tuple[str, int]]:
    """Every whole number that is not negative, by its name, in whatever objects and lists."""
    if isinstance(value, list):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            if isinstance(each, dict | list):
                yield from _numbers(each)
            elif type(each) in (int, str) and _NUMBER.fullmatch(str(each)):
                yield name, int(each)

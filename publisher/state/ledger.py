"""Remembers which messages have been published: the deduplication ledger in memory.

Rules of this file:
- An id lies in the bucket of the hour of its message's `date` text. So a single
  bucket answers for a message, whichever window brought it.
- A bucket is a few sorted arrays of 8-byte ids, which are searched by bisection: 8 to 9
  bytes an id. A bucket with many look-ups is a set as well, as long as the sets stay few.
- A bucket is forgotten as a whole, when every journal record that put an id
  into it may be forgotten. It may remember longer than the journal, never shorter.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias

from publisher.model import Instant

Id: TypeAlias = int
"""The first 8 bytes of the identity's SHA-1, as an unsigned integer."""

Ids: TypeAlias = Mapping[str, "array[Id]"]
"""Ids in any order, by bucket. The bucket's name is the hour `YYYY-MM-DD HH`, or `REJECTED` and
the window's day."""

REJECTED: Final = "rejected "
"""Begins the names of the buckets of rejected rows. These rows have no usable date, so all their
buckets are searched. There are few."""

_RUNS: Final = 4
_SMALL: Final = 50_000
"""A bucket of more ids than `_SMALL` collects up to `_RUNS` runs before it merges them, because a
merge walks over all ids."""

_RUNS_INDEXED: Final = 64
"""The limit of runs in a bucket that has a set. Nobody searches its runs, so only the size of the
arrays counts."""

_BISECTION_COST: Final = 16
"""A bisection costs about as much as putting so many ids into a set (measured)."""

INDEXED: Final = 250_000
"""The most ids in the sets of all buckets of a ledger. A window may add its ids on top. In a set
an id takes about 65 bytes more."""


@dataclass(slots=True)
class _Bucket:
    runs: "list[array[Id]]"
    """Every run is sorted if there is no `index`. The first run holds most ids."""
    since: Instant
    """The earliest start of a window that put an id into the bucket."""
    keep_until: Instant
    """The latest end of such a window."""
    asked: int = 0
    """Ids looked up by bisection."""
    index: set[Id] | None = None
    """The ids of all `runs`, if the look-ups are so many that a set is worth it."""

    def __len__(self) -> int:
        return sum(map(len, self.runs))

    def merge(self) -> None:
        """Merge all runs into one sorted run. If they are sorted, Timsort takes linear time."""
        self.runs = [_sorted(chain.from_iterable(self.runs))]


class Ledger:
    """The ids of everything that an operation has published within the horizon."""

    def __init__(self, indexed: int = INDEXED) -> None:
        self._most_indexed = indexed
        self._buckets: dict[str, _Bucket] = {}
        self._rejected: list[str] = []
        self._indexed: dict[str, _Bucket] = {}
        """The buckets with a set. The bucket that was used last stands at the end."""
        self._held = 0
        """The number of ids in all sets."""

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    @property
    def size_bytes(self) -> int:
        """Bytes held by the arrays of ids, room for growth included."""
        return sum(run.__sizeof__() for bucket in self._buckets.values() for run in bucket.runs)

    def holds(self, bucket: str) -> bool:
        """Whether the ledger remembers anything in that bucket."""
        return bucket in self._buckets

    def knows(self, hour: str, id_: Id) -> bool:
        """Whether the message of that hour has been published."""
        return bool(self.published_ids(hour, {id_}))

    def published_ids(self, hour: str, ids: AbstractSet[Id]) -> set[Id]:
        """Which of these messages of that hour have been published."""
        bucket = self._buckets.get(hour)
        if bucket is None:
            return set()
        if bucket.index is None:
            bucket.asked += len(ids)
            if bucket.asked * _BISECTION_COST < len(bucket) or len(bucket) > self._most_indexed:
                return {
                    id_
                    for run in bucket.runs
                    for id_ in ids
                    if (place := bisect_left(run, id_)) < len(run) and run[place] == id_
                }
        return self._index(hour, bucket).intersection(ids)

    def _index(self, hour: str, bucket: _Bucket) -> set[Id]:
        """The bucket's set. The sets that were not used for longest make room for it."""
        if bucket.index is None:
            bucket.index = set(chain.from_iterable(bucket.runs))
            self._held += len(bucket.index)
        self._indexed.pop(hour, None)
        self._indexed[hour] = bucket
        while self._held > self._most_indexed and len(self._indexed) > 1:
            self._drop_index(next(iter(self._indexed)))
        return bucket.index

    def _drop_index(self, hour: str) -> None:
        bucket = self._indexed.pop(hour, None)
        if bucket is not None and bucket.index is not None:
            self._held -= len(bucket.index)
            bucket.index, bucket.asked = None, 0
            bucket.merge()

    def knows_rejected(self, id_: Id) -> bool:
        """Whether a dead letter with this id has been written."""
        return any(self.knows(bucket, id_) for bucket in self._rejected)

    def add(self, ids: Ids, window_start: Instant, window_end: Instant) -> None:
        """Remember what a committed window has published."""
        for hour, new in ids.items():
            if not new:
                continue
            bucket = self._buckets.get(hour)
            if bucket is None:
                self._buckets[hour] = _Bucket([_sorted(new)], window_start, window_end)
                if hour.startswith(REJECTED):
                    self._rejected.append(hour)
                continue
            bucket.since = min(bucket.since, window_start)
            bucket.keep_until = max(bucket.keep_until, window_end)
            if bucket.index is not None:
                bucket.runs.append(new)
                self._held -= len(bucket.index)
                bucket.index.update(new)
                self._held += len(bucket.index)
                if len(bucket) > self._most_indexed:
                    self._drop_index(hour)
                elif len(bucket.runs) > _RUNS_INDEXED:
                    bucket.merge()
            elif len(bucket.runs) < _RUNS and len(bucket) + len(new) > _SMALL:
                bucket.runs.append(_sorted(new))
            else:
                bucket.runs.append(new)
                bucket.merge()

    def forget(
        self, before: Instant, spared: Callable[[Instant, Instant], bool] = lambda *_: False
    ) -> None:
        """Drop the buckets whose every window ended before that instant.

        `spared` gets the stretch of time in which the windows of a bucket lie. It says whether the
        bucket must stay nevertheless.
        """
        gone = [
            hour
            for hour, bucket in self._buckets.items()
            if bucket.keep_until < before and not spared(bucket.since, bucket.keep_until)
        ]
        for hour in gone:
            bucket = self._buckets.pop(hour)
            if self._indexed.pop(hour, None) and bucket.index is not None:
                self._held -= len(bucket.index)
        if gone:
            self._rejected = [hour for hour in self._rejected if hour in self._buckets]


def _sorted(ids: Iterable[Id]) -> "array[Id]":
    return array("Q", sorted(ids))


def id_of(digest: bytes) -> Id:
    """The id of the message or dead letter with this SHA-1."""
    return int.from_bytes(digest[:8])

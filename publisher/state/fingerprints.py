"""Remembers the last version of every published message: its fingerprint and revision number.

Rules of this file:
- Versions lie in the ledger's buckets and are forgotten with them.
- A version takes 14 bytes in sorted arrays, which are searched by bisection. A younger
  run counts before an older run, so nothing is changed in place.
- A journal record carries the versions in its line. An older release ignores them there.
"""

import sys
from array import array
from base64 import b64decode, b64encode
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from itertools import pairwise
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias

from publisher.errors import NeedsOperator, Reason, Stage
from publisher.state.checkpoint import known_format
from publisher.state.ledger import Id

Version: TypeAlias = int
"""Fingerprint of a message's content (32 bits), and below it how often it was revised (16 bits)."""

Versions: TypeAlias = Mapping[str, Mapping[Id, Version]]
"""By bucket of the ledger."""

MOST_REVISIONS: Final = 0xFFFF
NO_FINGERPRINT: Final = 0
"""The content is not remembered, only how often it was revised."""

_RUNS: Final = 4
_BYTES: Final = 8 + 4 + 2
"""The bytes of an id, its fingerprint and its number of revisions."""


def version(fingerprint: int, revisions: int) -> Version:
    return fingerprint << 16 | revisions


def fingerprint_of(version_: Version) -> int:
    return version_ >> 16


def revisions_of(version_: Version) -> int:
    return version_ & MOST_REVISIONS


class Run(NamedTuple):
    """Versions of a bucket. `ids` is sorted, and the other arrays have the same order."""

    ids: "array[Id]"
    fingerprints: "array[int]"
    revisions: "array[int]"

    @classmethod
    def of(cls, versions: Mapping[Id, Version]) -> "Run":
        ids = sorted(versions)
        return cls(
            array("Q", ids),
            array("I", [fingerprint_of(versions[id_]) for id_ in ids]),
            array("H", [revisions_of(versions[id_]) for id_ in ids]),
        )


class Fingerprints:
    """The versions of all messages of an operation that were published within the horizon."""

    def __init__(self) -> None:
        self._buckets: dict[str, list[Run]] = {}
        """The oldest first."""

    @classmethod
    def restored(cls, runs_by_bucket: MutableMapping[str, list[tuple[int, Run]]]) -> "Fingerprints":
        """Build from the runs of journal records and the sequence numbers of these records.

        Empties `runs_by_bucket`.
        """
        fingerprints = cls()
        for bucket in list(runs_by_bucket):
            runs = sorted(runs_by_bucket.pop(bucket), key=itemgetter(0))
            fingerprints._buckets[bucket] = [_merged([run for _, run in runs])]
        return fingerprints

    def __len__(self) -> int:
        """The number of versions held. An overtaken version counts until it is merged away."""
        return sum(len(run.ids) for runs in self._buckets.values() for run in runs)

    @property
    def size_bytes(self) -> int:
        """Bytes held by the arrays."""
        return sum(
            part.__sizeof__() for runs in self._buckets.values() for run in runs for part in run
        )

    def versions_of(self, bucket: str, ids: Iterable[Id]) -> dict[Id, Version]:
        """The versions of these messages of the bucket, as far as they are remembered."""
        runs = self._buckets.get(bucket)
        if runs is None:
            return {}
        wanted = sorted(ids)
        versions: dict[Id, Version] = {}
        for run_ids, fingerprints, revisions in runs:
            place = 0
            for id_ in wanted:
                place = bisect_left(run_ids, id_, place)
                if place == len(run_ids):
                    break
                if run_ids[place] == id_:
                    versions[id_] = version(fingerprints[place], revisions[place])
        return versions

    def remember(self, by_bucket: Versions) -> None:
        """Add versions that were committed now. They overtake what is remembered."""
        for bucket, versions in by_bucket.items():
            if not versions:
                continue
            runs = self._buckets.setdefault(bucket, [])
            runs.append(Run.of(versions))
            if len(runs) > _RUNS:
                self._buckets[bucket] = [_merged(runs)]

    def forget(self, remembered: Callable[[str], bool]) -> None:
        """Drop the buckets that the ledger has dropped. `remembered` says whether it has one."""
        for bucket in [bucket for bucket in self._buckets if not remembered(bucket)]:
            del self._buckets[bucket]


def _merged(runs: list[Run]) -> Run:
    """Merge the runs into one. Of equal ids the youngest counts."""
    ids, fingerprints, revisions = array("Q"), array("I"), array("H")
    for run in runs:
        ids += run.ids
        fingerprints += run.fingerprints
        revisions += run.revisions
    # The sort is stable, so of equal ids the last is the youngest. For sorted runs it is linear.
    order = sorted(range(len(ids)), key=ids.__getitem__)
    order = [
        *(place for place, following in pairwise(order) if ids[place] != ids[following]),
        *order[-1:],
    ]
    return Run(
        array("Q", [ids[place] for place in order]),
        array("I", [fingerprints[place] for place in order]),
        array("H", [revisions[place] for place in order]),
    )


# --- in the journal -------------------------------------------------------------------------------


def packed(by_bucket: Versions, room: int) -> Iterator[dict[str, str]]:
    """Pack versions as a journal record carries them, in pieces of at most `room` bytes.

    No versions give no piece. By bucket: Base64 of the ids, then the fingerprints, then the
    revision numbers, big-endian.
    """
    piece: dict[str, str] = {}
    left = room
    for bucket, versions in by_bucket.items():
        ids = sorted(versions)
        while ids:
            left -= len(bucket) + 8  # `"NAME":"",` and the padding of Base64
            count = max(left, 0) // 4 * 3 // _BYTES
            if not count:
                yield piece
                piece, left = {}, room
                continue
            taken, ids = ids[:count], ids[count:]
            piece[bucket] = _text(Run.of({id_: versions[id_] for id_ in taken}))
            left -= len(piece[bucket])
    if piece:
        yield piece


def unpacked(value: bytes) -> list[tuple[str, Run]]:
    """The runs that a journal record carries, by bucket. Raises NeedsOperator if it is damaged."""
    texts = known_format(value.partition(b"\n")[0]).get("fingerprints", {})
    return [(bucket, _run(text)) for bucket, text in texts.items()]


def _text(run: Run) -> str:
    return b64encode(b"".join(_big_endian(part).tobytes() for part in run)).decode()


def _run(text: str) -> Run:
    content = b64decode(text)
    count, rest = divmod(len(content), _BYTES)
    if rest:
        raise NeedsOperator(
            Stage.RESTORE,
            Reason.STATE_LOST,
            "a journal record of the state topic is damaged: restore the topic from a backup",
        )
    parts = content[: 8 * count], content[8 * count : 12 * count], content[12 * count :]
    arrays = [array(kind, part) for kind, part in zip("QIH", parts, strict=True)]
    return Run(*map(_big_endian, arrays))


def _big_endian(numbers: "array[int]") -> "array[int]":
    """Convert to big-endian, or back, in place."""
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers

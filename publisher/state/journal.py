"""Writes and reads the journal's records: a line of JSON for every committed window, and its ids.

Rules of this file:
- A record stays below 256 KiB, whatever a window held. A larger one is split into parts.

A value is a JSON object on one line, a newline, and the ids as 8-byte big-endian
numbers, by bucket in the order in which the object lists the buckets. Fingerprints,
where revisions are on, stand in the line (`state/fingerprints.py`).
"""

import sys
from array import array
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Final

import orjson

from publisher.errors import NeedsOperator, Reason, Stage
from publisher.model import Instant, StateRecord, iso
from publisher.state.checkpoint import FORMAT, LIVE, Entry, instant, journal_key, known_format
from publisher.state.fingerprints import Versions, packed
from publisher.state.ledger import Id, Ids

PART_BYTES: Final = 250_000
"""The most bytes of ids and bucket names in a record. The rest takes less than 1,000 bytes."""
_IDS_SHARE: Final = 75_000
"""The part of these bytes for the ids, if the record carries fingerprints too. A message takes 8
bytes for its id, and 19 more for its version."""


def decode_journal(value: bytes) -> tuple[Entry, list[tuple[str, "array[int]"]]]:
    """Decode a journal record: its line as an entry, and its ids by bucket."""
    line, _, packed = value.partition(b"\n")
    fields = known_format(line)
    if len(packed) != 8 * sum(count for _, count in fields["ids"]):
        raise NeedsOperator(
            Stage.RESTORE,
            Reason.STATE_LOST,
            "a journal record of the state topic is damaged: restore the topic from a backup",
        )
    ids = array("Q", packed)
    if sys.byteorder == "little":
        ids.byteswap()
    buckets, at = [], 0
    for bucket, count in fields["ids"]:
        buckets.append((bucket, ids[at : at + count]))
        at += count
    entry = Entry(
        sequence=fields["sequence"],
        pass_name=fields["pass"],
        start=instant(fields["from"]),
        end=instant(fields["to"]),
        read_at=instant(fields["read_at"]),
        rows=fields["rows"],
        new=fields["new"],
        duplicate=fields["duplicate"],
        rejected=fields["rejected"],
        possibly_cut=fields["possibly_cut"],
    )
    return entry, buckets


def placeholder(operation: str, sequence: int, at: Instant) -> StateRecord:
    """A journal record without ids. Alone, with no checkpoint, it keeps every service waiting."""
    entry = Entry(sequence, LIVE, at, at, at, rows=0, new=0, duplicate=0, rejected=0)
    return next(journal_parts(operation, entry, {}))


def journal_parts(
    operation: str, entry: Entry, ids: Ids, versions: Versions | None = None
) -> Iterator[StateRecord]:
    """The journal records of a committed window: one, or more if it published much."""
    room = _IDS_SHARE if versions else PART_BYTES
    pieces = packed(versions or {}, PART_BYTES - room)
    for part, (chunk, piece) in enumerate(zip_longest(_chunks(ids, room), pieces)):
        counts, ids_of_hour = chunk or ({}, array("Q"))
        yield StateRecord(
            journal_key(operation, entry.sequence, part),
            _journal_value(operation, entry, part, counts, ids_of_hour, piece),
        )


def _chunks(ids: Ids, max_bytes: int) -> Iterator[tuple[dict[str, int], "array[Id]"]]:
    """Split the ids into parts of at most `max_bytes`: the counts by bucket, and the ids.

    There is at least one part.
    """
    counts: dict[str, int] = {}
    chunk = array("Q")
    room = max_bytes
    for bucket, ids_of_hour in ids.items():
        at = 0
        while at < len(ids_of_hour):
            room -= len(bucket) + 16  # `["NAME",COUNT],`
            if room < 8:
                yield counts, chunk
                counts, chunk, room = {}, array("Q"), max_bytes
                continue
            taken = ids_of_hour[at : at + room // 8]
            counts[bucket] = len(taken)
            chunk += taken
            at += len(taken)
            room -= 8 * len(taken)
    yield counts, chunk


def _journal_value(
    operation: str,
    entry: Entry,
    part: int,
    counts: Mapping[str, int],
    ids: "array[Id]",
    fingerprints: Mapping[str, str] | None,
) -> bytes:
    line = {
        "format": FORMAT,
        "operation": operation,
        "sequence": entry.sequence,
        "part": part,
        "pass": entry.pass_name,
        "from": iso(entry.start),
        "to": iso(entry.end),
        "read_at": iso(entry.read_at),
        "rows": entry.rows,
        "new": entry.new,
        "duplicate": entry.duplicate,
        "rejected": entry.rejected,
        "possibly_cut": entry.possibly_cut,
        "ids": list(counts.items()),
    }
    if fingerprints:
        line["fingerprints"] = fingerprints
    if sys.byteorder == "little":
        ids.byteswap()
    return orjson.dumps(line) + b"\n" + ids.tobytes()

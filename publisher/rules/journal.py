"""The journal's records: one line of JSON for each committed window, and its ids. Pure.

Rules of this file:
- A record stays below 256 KiB, whatever a window held: more comes in parts.

A value is a JSON object on one line, a newline, and the ids as 8-byte big-endian
numbers, by bucket in the order in which the object lists the buckets.
"""

import sys
from array import array
from collections.abc import Iterator, Mapping
from typing import Final

import orjson

from publisher.errors import Held, Reason, Stage
from publisher.model import StateRecord, iso
from publisher.rules.ledger import Id, Ids
from publisher.rules.records import FORMAT, Entry, instant, journal_key, known_format

PART_BYTES: Final = 250_000
"""Ids and names of buckets in one journal record; the rest of it takes less than 1,000 bytes."""


def decode_journal(value: bytes) -> tuple[Entry, list[tuple[str, "array[int]"]]]:
    """A journal record: its line, and its ids by bucket."""
    line, _, packed = value.partition(b"\n")
    told = known_format(line)
    if len(packed) != 8 * sum(count for _, count in told["ids"]):
        raise Held(
            Stage.RESTORE,
            Reason.STATE_LOST,
            "a journal record of the state topic is damaged: restore the topic from a backup",
        )
    ids = array("Q", packed)
    if sys.byteorder == "little":
        ids.byteswap()
    buckets, at = [], 0
    for bucket, count in told["ids"]:
        buckets.append((bucket, ids[at : at + count]))
        at += count
    entry = Entry(
        sequence=told["sequence"],
        pass_name=told["pass"],
        start=instant(told["from"]),
        end=instant(told["to"]),
        read_at=instant(told["read_at"]),
        rows=told["rows"],
        new=told["new"],
        duplicate=told["duplicate"],
        rejected=told["rejected"],
        possibly_cut=told["possibly_cut"],
    )
    return entry, buckets


def journal_parts(operation: str, entry: Entry, ids: Ids) -> Iterator[StateRecord]:
    """The journal records of one committed window: one, or more where it published much."""
    for part, (counts, chunk) in enumerate(_chunks(ids)):
        yield StateRecord(
            journal_key(operation, entry.sequence, part),
            _journal_value(operation, entry, part, counts, chunk),
        )


def _chunks(ids: Ids) -> Iterator[tuple[dict[str, int], "array[Id]"]]:
    """Count by bucket, and the ids, of each part; at least one part."""
    counts: dict[str, int] = {}
    chunk = array("Q")
    room = PART_BYTES
    for bucket, those in ids.items():
        at = 0
        while at < len(those):
            room -= len(bucket) + 16  # `["NAME",COUNT],`
            if room < 8:
                yield counts, chunk
                counts, chunk, room = {}, array("Q"), PART_BYTES
                continue
            taken = those[at : at + room // 8]
            counts[bucket] = len(taken)
            chunk += taken
            at += len(taken)
            room -= 8 * len(taken)
    yield counts, chunk


def _journal_value(
    operation: str, entry: Entry, part: int, counts: Mapping[str, int], ids: "array[Id]"
) -> bytes:
    line = orjson.dumps(
        {
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
    )
    if sys.byteorder == "little":
        ids.byteswap()
    return line + b"\n" + ids.tobytes()

"""How the state of an operation is written down: the records of the state topic. Pure.

Rules of this file:
- What is written today must be readable for ever; a format that this version
  does not know is refused, never taken for empty.
- A record stays below 256 KiB, whatever a window held.

Formats (described in `schemas/`): keys are `checkpoint/OPERATION` and
`journal/OPERATION/SEQUENCE/PART`; a checkpoint is a JSON object; a journal
record is a JSON object on one line, a newline, and its ids as 8-byte big-endian
numbers, by bucket in the order in which the object lists the buckets.
"""

import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from publisher.errors import Held, Reason, Stage
from publisher.model import Backfill, Instant, Progress, Standing, StateRecord, Window, iso
from publisher.rules.ledger import Id, Ids

FORMAT: Final = 1
PART_BYTES: Final = 250_000
"""Ids and names of buckets in one journal record; the rest of it takes less than 1,000 bytes."""
LIVE: Final = "live"
REPAIR: Final = "repair"
BACKFILL: Final = "backfill"
REPLAY: Final = "replay"
"""Pass of what a replay publishes: its name in the journal, its label in headers."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where an operation stands; public as "complete up to" (schemas/checkpoint.v1)."""

    operation: str
    timezone: str
    start: Instant
    """Nothing before was ever asked for."""
    start_setting: str
    """`PUBLISHER_START` as it stood at the first start."""
    sequence: int
    """Number of transactions committed for the operation so far."""
    journal_records: int
    """Journal records alive in the state topic; a restore that finds fewer refuses."""
    passes: Mapping[str, Progress]
    gaps: tuple[Window, ...] = ()
    """Parked windows: stretches of time that could not be read and were set aside."""
    backfills: tuple[Backfill, ...] = ()
    """In the order in which they were taken up; those that ended stay while their order stands."""

    @property
    def live(self) -> Progress:
        return self.passes[LIVE]


@dataclass(frozen=True, slots=True)
class Entry:
    """One committed window, without its ids: a line of the journal."""

    sequence: int
    pass_name: str
    start: Instant
    end: Instant
    """What was covered; not later than the server's clock at the time of the answer."""
    read_at: Instant
    """The server's time when the request was sent."""
    rows: int
    new: int
    duplicate: int
    rejected: int
    possibly_cut: bool = False
    """The answer reached the row cap in the narrowest window."""
    parts: int = 1


def checkpoint_key(operation: str) -> bytes:
    return f"checkpoint/{operation}".encode()


def journal_key(operation: str, sequence: int, part: int) -> bytes:
    return f"journal/{operation}/{sequence}/{part}".encode()


def operation_of(key: bytes) -> str | None:
    """The operation that a record of the state topic belongs to."""
    kind, _, rest = key.decode("utf-8", "replace").partition("/")
    return rest.split("/")[0] if kind in ("checkpoint", "journal") else None


def encode_checkpoint(checkpoint: Checkpoint) -> StateRecord:
    value = {
        "format": FORMAT,
        "operation": checkpoint.operation,
        "timezone": checkpoint.timezone,
        "start": iso(checkpoint.start),
        "start_setting": checkpoint.start_setting,
        "sequence": checkpoint.sequence,
        "journal_records": checkpoint.journal_records,
        "passes": {
            name: {"cursor": iso(p.cursor), "covered_until": iso(p.covered_until)}
            for name, p in checkpoint.passes.items()
        },
        "gaps": [{"start": iso(gap.start), "end": iso(gap.end)} for gap in checkpoint.gaps],
    }
    if checkpoint.backfills:  # left out otherwise: a checkpoint is written with every window
        value["backfills"] = [
            {
                "id": one.id,
                "from": iso(one.start),
                "to": iso(one.end),
                "again": one.again,
                "cursor": iso(one.cursor),
                "standing": one.standing.value,
                "since": one.since,
                "rows": one.rows,
                "new": one.new,
            }
            for one in checkpoint.backfills
        ]
    return StateRecord(checkpoint_key(checkpoint.operation), orjson.dumps(value))


def decode_checkpoint(value: bytes) -> Checkpoint:
    told = _known_format(value)
    return Checkpoint(
        operation=told["operation"],
        timezone=told["timezone"],
        start=_instant(told["start"]),
        start_setting=told["start_setting"],
        sequence=told["sequence"],
        journal_records=told["journal_records"],
        passes={
            name: Progress(_instant(p["cursor"]), _instant(p["covered_until"]))
            for name, p in told["passes"].items()
        },
        gaps=tuple(Window(_instant(gap["start"]), _instant(gap["end"])) for gap in told["gaps"]),
        backfills=tuple(
            Backfill(
                one["id"],
                _instant(one["from"]),
                _instant(one["to"]),
                one["again"],
                _instant(one["cursor"]),
                Standing(one["standing"]),
                one["since"],
                one["rows"],
                one["new"],
            )
            for one in told.get("backfills", ())
        ),
    )


def decode_journal(value: bytes) -> tuple[Entry, list[tuple[str, "array[int]"]]]:
    """A journal record: its line, and its ids by bucket."""
    line, _, packed = value.partition(b"\n")
    told = _known_format(line)
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
        start=_instant(told["from"]),
        end=_instant(told["to"]),
        read_at=_instant(told["read_at"]),
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


def _known_format(value: bytes) -> dict[str, Any]:
    try:
        told = orjson.loads(value)
    except orjson.JSONDecodeError:
        told = None
    found = told.get("format") if isinstance(told, dict) else None
    if not isinstance(told, dict) or found != FORMAT:
        raise Held(
            Stage.RESTORE,
            Reason.STATE_FORMAT,
            f"the state topic is written in format {found!r}, this version reads"
            f" format {FORMAT}: run the version that wrote it, or a newer one",
        )
    return told


def _instant(text: str) -> Instant:
    return datetime.fromisoformat(text)

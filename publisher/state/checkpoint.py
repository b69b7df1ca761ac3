"""Defines how the state of an operation is written down: the records of the state topic.

Rules of this file:
- What is written today must stay readable for ever. A format that this version
  does not know is refused, and never taken for an empty state.

Formats (described in `schemas/`): keys are `checkpoint/OPERATION` and
`journal/OPERATION/SEQUENCE/PART`. A checkpoint is a JSON object. Journal records
are written in `state/journal.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from publisher.errors import NeedsOperator, Reason, Stage
from publisher.model import (
    Backfill,
    Instant,
    Progress,
    Standing,
    StateRecord,
    Unconfirmed,
    Window,
    iso,
)

FORMAT: Final = 1
LIVE: Final = "live"
REPAIR: Final = "repair"
BACKFILL: Final = "backfill"
REPLAY: Final = "replay"
"""The pass of what a replay publishes: its name in the journal and its label in headers."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where an operation stands. Public as "complete up to" (schemas/checkpoint.v1)."""

    operation: str
    timezone: str
    start: Instant
    """Nothing before this instant was ever asked for."""
    start_setting: str
    """`PUBLISHER_START` as it stood at the first start."""
    sequence: int
    """Number of transactions committed for the operation so far."""
    journal_records: int
    """Journal records alive in the state topic. A restore that finds fewer refuses."""
    passes: Mapping[str, Progress]
    gaps: tuple[Window, ...] = ()
    """Parked windows: stretches of time that could not be read and were set aside."""
    backfills: tuple[Backfill, ...] = ()
    """In the order in which they were accepted. An ended backfill stays until its order is
    removed."""
    forgotten: tuple[Window, ...] = ()
    """Stretches of time whose journal entries were removed. The state does not say any more what
    was published of them, so no pass publishes from within `gaps.NEAR` of them."""
    unconfirmed: tuple[Unconfirmed, ...] = ()
    """Sorted: what was read only once, and too late for every re-read."""

    @property
    def live(self) -> Progress:
        return self.passes[LIVE]


@dataclass(frozen=True, slots=True)
class Entry:
    """A committed window without its ids: a line of the journal."""

    sequence: int
    pass_name: str
    start: Instant
    end: Instant
    """The end of what was covered. Not later than the server's clock at the time of the answer."""
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
    """The operation that a record of the state topic belongs to; None for an unknown key."""
    kind, _, rest = key.decode("utf-8", "replace").partition("/")
    return rest.split("/")[0] if kind in ("checkpoint", "journal") else None


def encode_checkpoint(checkpoint: Checkpoint) -> StateRecord:
    value: dict[str, Any] = {
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
        "gaps": _stretches(checkpoint.gaps),
    }
    if checkpoint.forgotten:
        value["forgotten"] = _stretches(checkpoint.forgotten)
    if checkpoint.unconfirmed:
        value["unconfirmed"] = [
            {
                "start": iso(stretch.window.start),
                "end": iso(stretch.window.end),
                "due": iso(stretch.due),
            }
            for stretch in checkpoint.unconfirmed
        ]
    if checkpoint.backfills:  # left out if empty: a checkpoint is written with every window
        value["backfills"] = [
            {
                "id": backfill.id,
                "from": iso(backfill.start),
                "to": iso(backfill.end),
                "again": backfill.again,
                "cursor": iso(backfill.cursor),
                "standing": backfill.standing.value,
                "since": backfill.since,
                "rows": backfill.rows,
                "new": backfill.new,
                **(
                    {"skipped_seconds": backfill.skipped_seconds}
                    if backfill.skipped_seconds
                    else {}
                ),
            }
            for backfill in checkpoint.backfills
        ]
    return StateRecord(checkpoint_key(checkpoint.operation), orjson.dumps(value))


def checkpoint_of(operation: str, records: Mapping[bytes, bytes]) -> Checkpoint | None:
    """The operation's checkpoint among the live records of its state."""
    written = records.get(checkpoint_key(operation))
    return None if written is None else decode_checkpoint(written)


def decode_checkpoint(value: bytes) -> Checkpoint:
    fields = known_format(value)
    return Checkpoint(
        operation=fields["operation"],
        timezone=fields["timezone"],
        start=instant(fields["start"]),
        start_setting=fields["start_setting"],
        sequence=fields["sequence"],
        journal_records=fields["journal_records"],
        passes={
            name: Progress(instant(p["cursor"]), instant(p["covered_until"]))
            for name, p in fields["passes"].items()
        },
        gaps=_windows(fields["gaps"]),
        forgotten=_windows(fields.get("forgotten", ())),
        unconfirmed=tuple(
            Unconfirmed(
                Window(instant(stretch["start"]), instant(stretch["end"])), instant(stretch["due"])
            )
            for stretch in fields.get("unconfirmed", ())
        ),
        backfills=tuple(
            Backfill(
                backfill["id"],
                instant(backfill["from"]),
                instant(backfill["to"]),
                backfill["again"],
                instant(backfill["cursor"]),
                Standing(backfill["standing"]),
                backfill["since"],
                backfill["rows"],
                backfill["new"],
                backfill.get("skipped_seconds", 0),
            )
            for backfill in fields.get("backfills", ())
        ),
    )


def _stretches(windows: Iterable[Window]) -> list[dict[str, str]]:
    return [{"start": iso(window.start), "end": iso(window.end)} for window in windows]


def _windows(stretches: Iterable[Mapping[str, str]]) -> tuple[Window, ...]:
    return tuple(
        Window(instant(stretch["start"]), instant(stretch["end"])) for stretch in stretches
    )


def known_format(value: bytes) -> dict[str, Any]:
    """The JSON object of a record. Raises NeedsOperator for a format that is not ours."""
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        fields = None
    format_ = fields.get("format") if isinstance(fields, dict) else None
    if not isinstance(fields, dict) or format_ != FORMAT:
        raise NeedsOperator(
            Stage.RESTORE,
            Reason.STATE_FORMAT,
            f"the state topic is written in format {format_!r}, this version reads"
            f" format {FORMAT}: run the version that wrote it, or a newer one",
        )
    return fields


def instant(text: str) -> Instant:
    return datetime.fromisoformat(text)

"""From a usable answer to the one batch that publishes it. Pure.

Rules of this file:
- What is published, remembered and journalled is computed here together, so
  that it is committed together.
- Only rows that neither the ledger knows nor the answer itself has shown before
  are published, ordered by date, equal seconds in the answer's order.
- Nothing that was computed from the state changes it: `successor` does, later.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from struct import Struct
from typing import Final

from publisher.errors import Held, Reason, Stage
from publisher.model import Answer, Batch, Instant, Record
from publisher.rules import backfill, dead_letters
from publisher.rules.dead_letters import DeadLetter
from publisher.rules.events import Encoder
from publisher.rules.gaps import removed
from publisher.rules.ledger import REJECTED, Id, Ledger
from publisher.rules.records import Entry
from publisher.rules.revisions import Revised, revise
from publisher.rules.rows import Reading, RejectReason, Row, read_rows
from publisher.rules.schedule import Read, advanced
from publisher.rules.silence import doubted, implausible, silent_run
from publisher.rules.state import State, Successor
from publisher.rules.upstream import Judgement
from publisher.rules.zone import Zone
from publisher.settings import PublisherSettings

_IDS: Final = Struct(">Q12x")
"""A ledger id at the beginning of a digest."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that a publication depends on."""

    horizon: timedelta
    max_event_bytes: int
    silence: timedelta = timedelta.max
    """So long without a row is implausible: what was read meanwhile is read once more."""
    revisions: bool = False
    """Whether changed messages are told of."""

    @classmethod
    def of(cls, told: PublisherSettings) -> "Limits":
        silence, revisions = implausible(told.poll_every), bool(told.revisions_topic)
        return cls(told.horizon, told.max_event_bytes, silence, revisions)


@dataclass(frozen=True, slots=True)
class Publication:
    """A batch, what the state becomes with it, and what to tell about it."""

    batch: Batch
    successor: Successor
    rows: int
    new: int
    duplicate: int
    rejected: Counter[str]
    occurred: Counter[str]
    """New messages by the second at which they occurred (RFC 3339, UTC)."""
    silent_since: Instant | None
    """Rows have come back after implausibly long without any: since when there were none."""
    revised: int = 0


def prepare(
    state: State,
    step: Read,
    answer: Answer,
    judgement: Judgement,
    zone: Zone,
    limits: Limits,
    *,
    now: Instant,
    covered_until: Instant,
    possibly_cut: bool,
) -> Publication:
    """What the answer adds to what the state knows.

    `now` is the server's time when the request was sent, `covered_until` how
    far the answer covers the window. Raises Held when the format has changed.
    """
    operation = state.checkpoint.operation
    reading = read_rows(judgement.data, operation, zone)
    if reading.format_changed:
        raise Held(
            Stage.PARSE,
            Reason.FORMAT_CHANGED,
            f"{len(reading.rejects)} of {len(reading.rows) + len(reading.rejects)} rows cannot be"
            " understood: the report's format has changed; nothing is published until this"
            " version is replaced by one that knows the new format",
        )
    fresh, ids = _fresh(reading.rows, _published(state, step))
    encoder = Encoder(
        operation,
        pass_label=step.pass_.label,
        read_at=answer.received_at,
        lenient=judgement.lenient,
        max_event_bytes=limits.max_event_bytes,
    )
    letters = _dead_letters(reading, answer, judgement, state.ledger)
    if letters:
        bucket = f"{REJECTED}{step.window.start:%Y-%m-%d}"
        ids[bucket] = array("Q", sorted(letter.id for letter in letters))
    told = Revised()
    if limits.revisions:
        told = revise(
            operation, reading.rows, fresh, state.ledger, state.fingerprints,
            lenient=judgement.lenient,
        )  # fmt: skip
    occurred = Counter([row[2][1] for row in fresh])
    rejected = Counter(letter.reason.value for letter in letters)
    total = len(reading.rows) + len(reading.rejects)
    entry = Entry(
        sequence=state.checkpoint.sequence + 1,
        pass_name=step.pass_.name,
        start=step.window.start,
        end=max(step.window.start, covered_until),
        read_at=now,
        rows=total,
        new=len(fresh),
        duplicate=len(reading.rows) - len(fresh),
        rejected=len(reading.rejects),
        possibly_cut=possibly_cut,
    )
    run = silent_run(reversed(state.journal), limits.silence) if total else []
    remembered = state.checkpoint.live.cursor - limits.horizon
    gaps, silent_since = doubted(state.checkpoint.gaps, run, remembered)
    gaps = removed(gaps, entry.start, entry.end)
    passes = advanced(state.checkpoint.passes, step, covered_until, now, gaps)
    backfills = backfill.advanced(
        state.checkpoint.backfills, step, covered_until, entry.rows, entry.new
    )
    successor = state.successor(entry, passes, ids, limits.horizon, gaps, backfills, told.versions)
    origin = dead_letters.Origin(operation, step.pass_.label, step.window, answer.received_at)
    batch = Batch(
        operation=operation,
        follows=state.checkpoint.sequence,
        sequence=entry.sequence,
        events=encoder.encode(fresh),
        dead_letters=_letter_records(letters, encoder, told, answer.body, origin, limits, rejected),
        state=successor.records,
        revisions=told.encode(
            operation,
            pass_label=step.pass_.label,
            read_at=answer.received_at,
            lenient=judgement.lenient,
            max_event_bytes=limits.max_event_bytes,
        ),
    )
    return Publication(
        batch, successor, total, len(fresh), entry.duplicate, rejected, occurred, silent_since,
        len(told.rows),
    )  # fmt: skip


def _published(state: State, step: Read) -> Ledger:
    """What the step must not publish: for a backfill "again", what came out since it began."""
    running = backfill.current(state.checkpoint.backfills)
    mine = step.pass_ is backfill.BACKFILLING and running is not None and running.again
    return state.again if mine and state.again is not None else state.ledger


def _fresh(rows: list[Row], ledger: Ledger) -> tuple[list[Row], dict[str, "array[Id]"]]:
    """The rows never published, each once, in the answer's order, and their ids by hour, sorted."""
    ids = [*chain.from_iterable(_IDS.iter_unpack(b"".join([row[1] for row in rows])))]
    found = dict(zip(ids, rows, strict=True))
    if len(found) < len(rows):  # of equal rows the first
        found = {}
        for id_, row in zip(ids, rows, strict=True):
            found.setdefault(id_, row)
    hours = {row[2][0] for row in rows}
    for hour in hours:
        for id_ in ledger.known(hour, found.keys()):
            del found[id_]
    if len(hours) == 1 and found:
        return [*found.values()], {hours.pop(): array("Q", sorted(found))}
    by_hour: defaultdict[str, list[Id]] = defaultdict(list)
    for id_, row in found.items():
        by_hour[row[2][0]].append(id_)
    return [*found.values()], {hour: array("Q", sorted(new)) for hour, new in by_hour.items()}


def _dead_letters(
    reading: Reading, answer: Answer, judgement: Judgement, ledger: Ledger
) -> list[DeadLetter]:
    found = dead_letters.cut_out(answer.body, reading.rejects)
    if judgement.lenient:
        found = [dead_letters.of_answer(answer.body), *found]
    return dead_letters.unknown_to(ledger, found)


def _letter_records(
    letters: list[DeadLetter],
    encoder: Encoder,
    revised: Revised,
    body: bytes,
    origin: dead_letters.Origin,
    limits: Limits,
    rejected: Counter[str],
) -> Iterator[Record]:
    """Consumed after events and revisions: only then it is known which were too large."""
    yield from dead_letters.records(letters, origin, limits.max_event_bytes)
    reason = RejectReason.EVENT_TOO_LARGE
    late = dead_letters.of_rows(body, reason, encoder.oversized, encoder.unpublished)
    late += dead_letters.of_revisions(body, reason, revised.unpublished)
    rejected.update(letter.reason.value for letter in late)
    yield from dead_letters.records(late, origin, limits.max_event_bytes)

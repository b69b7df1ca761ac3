"""Turns a usable answer into the one batch that publishes it.

Rules of this file:
- What is published, remembered and journalled is computed here together, so
  that it is committed together.
- A row is published only if the ledger does not know it and the answer has not
  shown it before. Events are ordered by date; equal seconds keep the answer's order.
- Nothing here changes the state. The state becomes its `successor` later.
"""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

from publisher.errors import NeedsOperator, Reason, Stage
from publisher.events import dead_letter
from publisher.events.dead_letter import DeadLetter
from publisher.events.deduplicate import Screen
from publisher.events.encode import Encoder, Provenance
from publisher.events.format_change import format_changed
from publisher.events.revisions import Revised, Reviser
from publisher.events.rows import Reject, RejectReason, chunks
from publisher.model import Answer, Batch, Instant
from publisher.schedule import backfill_pass
from publisher.schedule.passes import Read, advanced
from publisher.schedule.second_reading import Confirming, confirmed
from publisher.schedule.silence import doubted, implausible, silent_run
from publisher.settings import PublisherSettings
from publisher.state.checkpoint import Entry
from publisher.state.gaps import removed
from publisher.state.ledger import REJECTED, Ledger
from publisher.state.state import State, Successor
from publisher.wolkvox.responses import Classification, server_time
from publisher.wolkvox.timezone import Zone


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that a publication depends on."""

    horizon: timedelta
    max_event_bytes: int
    silence: timedelta = timedelta.max
    """So long a time without a row is implausible. What was read meanwhile is read once more."""
    revisions: bool = False
    """Whether revisions of changed messages are published."""
    confirming: Confirming = field(default_factory=Confirming)
    label: str = ""
    """The operation's label, which events carry as `source`; empty = its name."""

    @classmethod
    def of(cls, settings: PublisherSettings, label: str = "") -> "Limits":
        silence, revisions = implausible(settings.poll_every), bool(settings.revisions_topic)
        return cls(
            settings.horizon, settings.max_event_bytes, silence, revisions,
            Confirming.of(settings), label,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Publication:
    """A batch, what the state becomes with it, and what to report about it."""

    batch: Batch
    successor: Successor
    rows: int
    new: int
    duplicate: int
    rejected: Counter[str]
    occurred: Counter[str]
    """Events by the second at which they occurred (RFC 3339, UTC)."""
    silent_since: Instant | None
    """When the silence began, if rows have come back after an implausibly long one."""
    revised: int = 0


def prepare(
    state: State,
    step: Read,
    answer: Answer,
    classification: Classification,
    zone: Zone,
    limits: Limits,
    *,
    now: Instant,
    covered_until: Instant,
    possibly_cut: bool,
) -> Publication:
    """Compute what the answer adds to the state.

    `now` is the server's time when the request was sent. `covered_until` says how far the
    answer covers the window. `possibly_cut` says that it reached the row cap in the narrowest
    window. Raises NeedsOperator when the format has changed.
    """
    operation = state.checkpoint.operation
    provenance = Provenance(
        operation,
        step.pass_.label,
        answer.received_at,
        classification.lenient,
        state.checkpoint.sequence + 1,
        limits.label,
    )
    content = _content(state, step, classification, zone, provenance, limits)
    revisions = content.revised.encode(provenance, max_event_bytes=limits.max_event_bytes)
    ids = content.screen.ids()
    letters = _of_rejects(content.rejects, answer, classification, state.ledger)
    if letters:
        ids[_bucket(step)] = array("Q", [letter.id for letter in letters])
    rejected = len(letters)
    letters += _of_too_large(content, answer)
    origin = dead_letter.Origin(operation, step.pass_.label, step.window, answer.received_at)
    entry = Entry(
        sequence=state.checkpoint.sequence + 1,
        pass_name=step.pass_.name,
        start=step.window.start,
        end=max(step.window.start, covered_until),
        read_at=now,
        rows=content.rows + len(content.rejects),
        new=content.screen.count,
        duplicate=content.rows - content.screen.count,
        rejected=rejected,
        possibly_cut=possibly_cut,
    )
    run = silent_run(reversed(state.journal), limits.silence) if entry.rows else []
    gaps, silent_since = doubted(state.checkpoint.gaps, run, state.checkpoint.forgotten)
    gaps = removed(gaps, entry.start, entry.end)
    passes = advanced(state.checkpoint.passes, step, covered_until, now, gaps)
    backfills = backfill_pass.advanced(
        state.checkpoint.backfills, step, covered_until, entry.rows, entry.new,
        state.checkpoint.forgotten,
    )  # fmt: skip
    successor = state.successor(
        entry, passes, ids, limits.horizon, gaps, backfills, content.revised.versions,
        confirmed(
            state.checkpoint.unconfirmed, entry, limits.confirming, server_time(answer)
        ),
    )  # fmt: skip
    batch = Batch(
        operation=operation,
        follows=state.checkpoint.sequence,
        sequence=entry.sequence,
        events=content.encoder.records(),
        dead_letters=dead_letter.records(letters, origin, limits.max_event_bytes),
        state=successor.records,
        revisions=iter(revisions),
    )
    return Publication(
        batch=batch,
        successor=successor,
        rows=entry.rows,
        new=entry.new,
        duplicate=entry.duplicate,
        rejected=Counter(letter.reason.value for letter in letters),
        occurred=content.encoder.occurred(),
        silent_since=silent_since,
        revised=len(content.revised.rows),
    )


def kept(
    state: State, step: Read, answer: Answer, limits: Limits, now: Instant
) -> tuple[Batch, Successor] | None:
    """Keep an answer that no decoder reads as a dead letter; None if it was written before.

    The journal entry covers nothing, because the window is still to be read.
    """
    letters = dead_letter.unknown_to(state.ledger, [dead_letter.of_answer(answer.body)])
    if not letters:
        return None
    start, checkpoint = step.window.start, state.checkpoint
    entry = Entry(
        checkpoint.sequence + 1, step.pass_.name, start, start, now,
        rows=0, new=0, duplicate=0, rejected=len(letters),
    )  # fmt: skip
    ids = {_bucket(step): array("Q", [letter.id for letter in letters])}
    successor = state.successor(entry, checkpoint.passes, ids, limits.horizon)
    origin = dead_letter.Origin(
        checkpoint.operation, step.pass_.label, step.window, answer.received_at
    )
    batch = Batch(
        operation=checkpoint.operation,
        follows=checkpoint.sequence,
        sequence=entry.sequence,
        events=iter(()),
        dead_letters=dead_letter.records(letters, origin, limits.max_event_bytes),
        state=successor.records,
    )
    return batch, successor


def _bucket(step: Read) -> str:
    """The ledger's bucket for the ids of the window's dead letters."""
    return f"{REJECTED}{step.window.start:%Y-%m-%d}"


@dataclass(frozen=True, slots=True)
class _Content:
    """What became of an answer's rows."""

    rows: int
    """The number of rows that were understood, new or not."""
    rejects: list[Reject]
    screen: Screen
    encoder: Encoder
    revised: Revised


def _content(
    state: State,
    step: Read,
    classification: Classification,
    zone: Zone,
    provenance: Provenance,
    limits: Limits,
) -> _Content:
    """Look at every row once: identify it, decide whether it is new, and encode it if it is."""
    identity = state.checkpoint.operation
    encoder = Encoder(provenance, max_event_bytes=limits.max_event_bytes)
    screen = Screen(_published(state, step))
    reviser = Reviser(identity, state.ledger, state.fingerprints, lenient=classification.lenient)
    rejects: list[Reject] = []
    rows = 0
    for reading in chunks(classification.data, identity, zone):
        rows += len(reading.rows)
        rejects += reading.rejects
        fresh = screen.fresh(reading)
        encoder.add(fresh)
        if limits.revisions:
            otherwise = screen.known_otherwise
            reviser.add([row for row in reading.rows if row[1] not in otherwise], fresh)
        del reading, fresh  # free the memory before the next portion is read
    if changed := format_changed(rows, len(rejects), reversed(state.journal)):
        bad, total = changed
        raise NeedsOperator(
            Stage.PARSE,
            Reason.FORMAT_CHANGED,
            f"{bad} of {total} rows cannot be"
            " understood: the report's format has changed; nothing is published until this"
            " version is replaced by one that knows the new format",
        )
    return _Content(rows, rejects, screen, encoder, reviser.revised())


def _published(state: State, step: Read) -> Ledger:
    """The ledger of what the step must not publish.

    For a backfill that publishes again, this is only what was published since it was accepted.
    """
    running = backfill_pass.current(state.checkpoint.backfills)
    own_backfill = step.pass_ is backfill_pass.BACKFILLING and running is not None and running.again
    return state.again if own_backfill and state.again is not None else state.ledger


def _of_rejects(
    rejects: list[Reject], answer: Answer, classification: Classification, ledger: Ledger
) -> list[DeadLetter]:
    """Letters of what cannot be an event, without those that were written before."""
    letters = dead_letter.cut_out(answer.body, rejects)
    if classification.lenient:
        letters = [dead_letter.of_answer(answer.body), *letters]
    return dead_letter.unknown_to(ledger, letters)


def _of_too_large(content: _Content, answer: Answer) -> list[DeadLetter]:
    """Letters of the rows that were too large. Call it only when all rows are encoded."""
    reason, encoder = RejectReason.EVENT_TOO_LARGE, content.encoder
    return [
        *dead_letter.of_rows(answer.body, reason, encoder.oversized, encoder.unpublished),
        *dead_letter.of_revisions(answer.body, reason, content.revised.unpublished),
    ]

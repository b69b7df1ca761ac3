"""Makes from dead letters the batch that publishes what can be read of them now.

Rules of this file:
- A letter becomes an answer again: the answer that it was cut out of, as far as the letter holds
  it. This answer is handled like every other: the same classification, rows, ledger and encoder.
- A row gets the id that it would have had in its answer.
- A letter that still cannot be read stays the dead letter that it is. If a conversation or an
  answer can be read now, but some of its rows cannot, these rows become letters of their own.
- The transaction that publishes a letter also holds the record that says that the letter is done.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from publisher.commands.dead_letters.stored_letter import Letter, replayed
from publisher.commands.republish import Addition
from publisher.events import dead_letter
from publisher.events.dead_letter import DeadLetter, Event, Origin
from publisher.events.encode import Encoder, Provenance
from publisher.events.identity import Stranger
from publisher.events.publication import Limits
from publisher.events.rows import RejectReason, Row, read_rows
from publisher.model import Answer, Batch, Instant
from publisher.state.checkpoint import REPLAY, Checkpoint
from publisher.state.forgetting import not_remembered
from publisher.state.gaps import near
from publisher.state.ledger import REJECTED, id_of
from publisher.state.state import State, Successor
from publisher.wolkvox.responses import classify
from publisher.wolkvox.timezone import Zone


class Outcome(StrEnum):
    """The result of a replay. Only the first two members mean that the letter is done."""

    PUBLISHED = "published"
    DUPLICATE = "duplicate"
    """Its messages were published before."""
    STILL_BAD = "still_bad"
    INCOMPLETE = "incomplete"
    """Parts of the letter are missing, or the fields of the row's conversation."""
    TOO_OLD = "too_old"
    """The state no longer remembers whether its messages were published."""


DONE: Final = frozenset({Outcome.PUBLISHED, Outcome.DUPLICATE})
"""The outcomes after which a letter needs no other replay."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a letter."""

    letter: Letter
    outcome: Outcome
    events: int = 0
    """How many events it published."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The results of some letters, the batch that publishes them, and the state after it."""

    results: Sequence[Result]
    batch: Batch | None
    """None = nothing to commit."""
    successor: Successor | None


class _LetterAddition(Addition):
    """Collects the contents of the batch, letter by letter."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.out: set[bytes] = set()
        """The digests of the rows that this batch has handled."""

    def knows(self, row: Row) -> bool:
        """Whether the ledger remembers the row as published."""
        return self.state.ledger.knows(row[2].hour, id_of(row[1]))

    def knows_otherwise(self, row: Row, stranger: Stranger | None) -> bool:
        """Whether the row was published with other fields of its customer.

        An answer may say more or less of a customer than another answer did.
        """
        return stranger is not None and stranger.is_known(self.state.ledger, row[2].hour)

    def dealt_with(self, row: Row, stranger: Stranger | None, *, revisions: bool) -> None:
        """Note that the row is handled. Remember its event as published, if the ledger does not."""
        self.out.add(row[1])
        if stranger is not None and stranger.tells_more_than:
            self.ids[row[2].hour] |= stranger.tells_more_than
        if not self.knows(row):
            self.remember(row, revisions=revisions)


def prepare(
    state: State, letters: Iterable[Letter], zone: Zone, limits: Limits, now: Instant
) -> Replay:
    """Prepare the batch for these letters, which all have the same window.

    Nothing is committed here. `now` becomes the time of the replay.
    """
    collected = _LetterAddition(state)
    results: list[Result] = []
    forgotten = not_remembered(state.checkpoint, limits.horizon)
    for letter in letters:
        if near(forgotten, letter.window.start, letter.window.end):
            result = Result(letter, Outcome.TOO_OLD)
        else:
            result = _replay(letter, state.checkpoint, collected, zone, limits)
        if result.outcome in DONE:
            collected.letters.append(replayed(letter, result.outcome, now))
        results.append(result)
    done = [result.letter for result in results if result.outcome in DONE]
    if not done:
        return Replay(results, None, None)
    return Replay(results, *collected.prepared(done[0].window, now, limits.horizon))


def _replay(
    letter: Letter, checkpoint: Checkpoint, collected: _LetterAddition, zone: Zone, limits: Limits
) -> Result:
    """Add to `collected` what can be read of the letter."""
    event = letter.headers.get("event")
    if event in _PUBLISHED or (event is None and letter.reason == _TOO_LARGE):
        # An older version did not write `event`. Then rather publish nothing than an event twice.
        return Result(letter, Outcome.DUPLICATE)
    body = _answer(letter)
    if body is None:
        return Result(letter, Outcome.INCOMPLETE)
    classification = classify(
        Answer(200, {}, body, letter.read_at, letter.read_at, 0.0), lenient=True
    )
    reading = read_rows(classification.data, checkpoint.operation, zone)
    lone = _is_row(letter)
    rows = reading.rows[letter.number - 1 :] if lone else reading.rows
    if lone and event:
        rows = [(row[0], bytes.fromhex(letter.id), *row[2:]) for row in rows]
    if not rows:
        return Result(letter, Outcome.STILL_BAD)
    provenance = Provenance(
        checkpoint.operation, REPLAY, letter.read_at, classification.lenient,
        checkpoint.sequence + 1, limits.label,
    )  # fmt: skip
    encoder = Encoder(provenance, max_event_bytes=limits.max_event_bytes)
    before = len(collected.events)
    for row in rows:
        stranger = reading.strangers.get(row[1])
        published = collected.knows(row) or collected.knows_otherwise(row, stranger)
        if row[1] in collected.out or (published and event != Event.NONE):
            continue
        records = [*encoder.encode([row])]
        if not records and lone:
            return Result(letter, Outcome.STILL_BAD)
        collected.dealt_with(row, stranger, revisions=limits.revisions)
        collected.events += [(row[0], record) for record in records]
    if not lone:
        late = dead_letter.of_rows(body, _TOO_LARGE, encoder.oversized, encoder.unpublished)
        _write([*dead_letter.cut_out(body, reading.rejects), *late], letter, collected, limits)
    collected.counts["rows"] += len(rows)
    events = len(collected.events) - before
    return Result(letter, Outcome.PUBLISHED if events else Outcome.DUPLICATE, events)


_TOO_LARGE: Final = RejectReason.EVENT_TOO_LARGE
_PUBLISHED: Final = (Event.WITHOUT_MESSAGE, Event.REVISION)


def _is_row(letter: Letter) -> bool:
    """Whether the letter is a single row, and not a conversation or an answer."""
    return ".conversation[" in letter.position


def _answer(letter: Letter) -> bytes | None:
    """An answer that shows what the letter holds; None = the letter is not complete."""
    raw = letter.raw
    if raw is None or letter.position == "answer":
        return raw
    if _is_row(letter):
        if not letter.context:
            return None
        # Equal rows are numbered. Repeat the row, so that the last copy gets its old number.
        rows = b",".join([raw] * letter.number)
        others = b"" if letter.context == b"{}" else letter.context[1:-1] + b","
        raw = b'{%b"conversation":[%b]}' % (others, rows)
    return b'{"code":200,"data":[%b]}' % raw


def _write(
    letters: Sequence[DeadLetter], of: Letter, collected: _LetterAddition, limits: Limits
) -> None:
    """Add the parts that still cannot be read, as letters of their own.

    `of` is the letter of the conversation or the answer that they were in.
    """
    bucket = f"{REJECTED}{of.window.start:%Y-%m-%d}"
    origin = Origin(of.operation, REPLAY, of.window, of.read_at)
    for letter in dead_letter.unknown_to(collected.state.ledger, letters):
        if letter.id in collected.ids[bucket]:
            continue
        collected.ids[bucket].add(letter.id)
        collected.counts["rejected"] += 1
        place = letter.position
        if of.position != "answer":
            place = place.replace("data[0]", of.position, 1)
        moved = replace(letter, position=place)
        collected.letters += dead_letter.records([moved], origin, limits.max_event_bytes)

"""From an operation's state to the same one under another name, step by step.

Rules of this file (decision 0027):
- At no moment can both names go on: the new one is kept waiting before the old one is given
  up, and has its checkpoint last.
- Whatever was committed before a crash, the same call goes on from there.
- Ids are made of the operation's first name for ever, so what was published is still known.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from publisher.model import Batch, StateRecord
from publisher.state.checkpoint import (
    checkpoint_key,
    checkpoint_of,
    encode_checkpoint,
    formerly_of,
    journal_key,
)
from publisher.state.journal import interrupted, reserved, reserved_for, retold

PIECE_BYTES: Final = 4_000_000
"""Keys and values of one transaction."""


class RenamingError(Exception):
    """It must not be; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Renaming:
    """What is to be committed, in this order; orders of backfills move before `moving`."""

    beginning: Sequence[Batch]
    """The new name is kept waiting, then the old one is given up."""
    moving: Sequence[Batch]
    """The journal under its new name, with the last piece the checkpoint. Empty = that is done."""
    cleaning: Sequence[Batch]
    """The old journal goes; the old checkpoint stays, and says what became of the operation."""


def renaming(
    old: str, new: str, records: Mapping[bytes, bytes], others: Mapping[bytes, bytes]
) -> Renaming:
    """What is left to do, by the live records of both names. Raises RenamingError."""
    before, after = checkpoint_of(old, records), checkpoint_of(new, others)
    if before is None:
        raise RenamingError(f"the state topic tells nothing of an operation {old}")
    if before.renamed_to and (back := reserved_for(old, records)):
        raise RenamingError(interrupted(back, old))
    if before.renamed_to not in ("", new):
        raise RenamingError(f"operation {old} was renamed to {before.renamed_to} already")
    journal = {key: value for key, value in records.items() if key != checkpoint_key(old)}
    given_up = before
    if not before.renamed_to:
        # Beyond both: of two checkpoints that name each other the larger number counts.
        latest = max(checkpoint.sequence for checkpoint in (before, after) if checkpoint)
        given_up = replace(before, sequence=latest + 1, renamed_to=new)
    cleaning = [
        Batch(old, given_up.sequence, given_up.sequence, piece)
        for piece in _pieces([StateRecord(key, None) for key in journal])
    ]
    moved_on = after and old in after.names and after.sequence > before.sequence
    if after and before.renamed_to and moved_on:
        if after.renamed_to:
            raise RenamingError(f"operation {new} was renamed to {after.renamed_to} already")
        return Renaming((), (), cleaning)
    if len(journal) < before.journal_records:
        raise RenamingError(f"the state of {old} is not whole: see wolkvox-publisher state show")
    former = reserved_for(new, others)
    if former and former not in before.names:
        # It may have been given up for this name: its journal would be without a checkpoint.
        raise RenamingError(interrupted(former, new))
    waiting = reserved(new, before.live.cursor, old)
    begun = waiting.key in others and not after
    returns = after and after.renamed_to and new in before.names
    if others and not begun and not returns:
        raise RenamingError(
            f"{new} has a state of its own: choose another name, or forget it first (state forget"
            f" {new}), when what it has published may come once more"
        )
    moved = replace(
        given_up,
        operation=new,
        sequence=given_up.sequence + 1,
        formerly=formerly_of(before.names, new),
        renamed_to="",
    )
    copies = [_copied(old, new, key, value) for key, value in journal.items()]
    stale = others.keys() - {key for key, _ in copies} - {checkpoint_key(new), waiting.key}
    kept_waiting = [waiting, *(StateRecord(key, None) for key in stale)]
    beginning = [Batch(new, after.sequence if after else None, moved.sequence, kept_waiting)]
    if not before.renamed_to:
        signpost = [encode_checkpoint(given_up)]
        beginning.append(Batch(old, before.sequence, given_up.sequence, signpost))
    last = [StateRecord(waiting.key, None), encode_checkpoint(moved)]
    moving = [
        Batch(new, moved.sequence, moved.sequence, piece) for piece in (*_pieces(copies), last)
    ]
    return Renaming(beginning, moving, cleaning)


def _copied(old: str, new: str, key: bytes, value: bytes) -> StateRecord:
    """A journal record under its new name; its ids are what they were."""
    sequence, part = key.removeprefix(f"journal/{old}/".encode()).split(b"/")
    return StateRecord(
        journal_key(new, int(sequence), int(part)), retold(value, {"operation": new})
    )


def _pieces(records: Sequence[StateRecord]) -> Iterator[list[StateRecord]]:
    """The records in pieces of bounded size."""
    piece: list[StateRecord] = []
    size = 0
    for record in records:
        size += len(record.key) + len(record.value or b"")
        if piece and size > PIECE_BYTES:
            yield piece
            piece, size = [], len(record.key) + len(record.value or b"")
        piece.append(record)
    if piece:
        yield piece

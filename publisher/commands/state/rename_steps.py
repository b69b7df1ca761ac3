"""Computes the transactions that move an operation's state to another name.

Rules of this file (decision 0027):
- The service can never continue under both names. First a placeholder keeps the new name waiting,
  then the old name is given up. The checkpoint of the new name comes last.
- After a crash, the same call continues from whatever was committed.
- Ids are always made of the first name of the operation, so the ledger still knows what was
  published.
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
"""The most bytes of keys and values in a transaction; a single record may be larger."""


class RenamingError(Exception):
    """The renaming is not allowed. The text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Renaming:
    """The transactions to commit, in this order. The ordered backfills move before `moving`."""

    beginning: Sequence[Batch]
    """Keep the new name waiting, then give the old name up."""
    moving: Sequence[Batch]
    """Write the journal under the new name, and its checkpoint last. Empty = that is done."""
    cleaning: Sequence[Batch]
    """Delete the old journal. The old checkpoint stays and says what became of the operation."""


def renaming(
    old: str, new: str, records: Mapping[bytes, bytes], others: Mapping[bytes, bytes]
) -> Renaming:
    """What is left to do. Raises RenamingError.

    `records` are the current records of the old name, and `others` those of the new name.
    """
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
        # Larger than both: of two checkpoints that name each other the larger number counts.
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
        # `former` may have been given up for this name: then its journal would lose its checkpoint.
        raise RenamingError(interrupted(former, new))
    placeholder = reserved(new, before.live.cursor, old)
    placeholder_is_there = placeholder.key in others and not after
    returns = after and after.renamed_to and new in before.names
    if others and not placeholder_is_there and not returns:
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
    stale = others.keys() - {key for key, _ in copies} - {checkpoint_key(new), placeholder.key}
    kept_waiting = [placeholder, *(StateRecord(key, None) for key in stale)]
    beginning = [Batch(new, after.sequence if after else None, moved.sequence, kept_waiting)]
    if not before.renamed_to:
        signpost = [encode_checkpoint(given_up)]
        beginning.append(Batch(old, before.sequence, given_up.sequence, signpost))
    last = [StateRecord(placeholder.key, None), encode_checkpoint(moved)]
    moving = [
        Batch(new, moved.sequence, moved.sequence, piece) for piece in (*_pieces(copies), last)
    ]
    return Renaming(beginning, moving, cleaning)


def _copied(old: str, new: str, key: bytes, value: bytes) -> StateRecord:
    """The journal record under the new name. Its ids stay the same."""
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

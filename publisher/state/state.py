"""Holds what is durable of an operation: checkpoint, journal and ledger.

Rules of this file:
- A committed window turns a state into its successor, in memory exactly as in the
  state topic. `Successor` holds both forms.
- The state topic is the truth. Restoring it twice gives the same state twice.
- Memory may know more ids than the state topic, never fewer.

`state/checkpoint.py` and `state/journal.py` define how it is written down.
"""

from array import array
from collections import deque
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from publisher.errors import NeedsOperator, Reason, Stage
from publisher.model import Backfill, Instant, Progress, StateRecord, Unconfirmed
from publisher.state.checkpoint import (
    Checkpoint,
    Entry,
    checkpoint_key,
    checkpoint_of,
    encode_checkpoint,
    journal_key,
)
from publisher.state.fingerprints import Fingerprints, Run, Versions, unpacked
from publisher.state.forgetting import forget_before, forgotten_with, outlived, spared
from publisher.state.gaps import FAR, Gaps, beyond, near
from publisher.state.journal import decode_journal, journal_parts
from publisher.state.ledger import Ids, Ledger
from publisher.wolkvox.server_clock import RESOLUTION


@dataclass(frozen=True, slots=True)
class Successor:
    """A state's successor: what to write, and what memory becomes once it is written."""

    checkpoint: Checkpoint
    entry: Entry | None
    ids: Ids
    forgotten: Sequence[Entry]
    """The journal entries that get tombstones, oldest first."""
    records: Sequence[StateRecord]
    versions: Versions = field(default_factory=dict)
    """If revisions are on: the versions of the messages that the window published or revised."""


@dataclass(slots=True)
class State:
    """The state of one operation in memory."""

    checkpoint: Checkpoint
    journal: deque[Entry] = field(default_factory=deque)
    """Oldest first."""
    ledger: Ledger = field(default_factory=Ledger)
    again: Ledger | None = None
    """While a backfill publishes again: what was published since it was accepted."""
    fingerprints: Fingerprints = field(default_factory=Fingerprints)
    """Empty while revisions are off."""

    def successor(
        self,
        entry: Entry,
        passes: Mapping[str, Progress],
        ids: Ids,
        horizon: timedelta,
        gaps: Gaps | None = None,
        backfills: tuple[Backfill, ...] | None = None,
        versions: Versions | None = None,
        unconfirmed: tuple[Unconfirmed, ...] | None = None,
    ) -> Successor:
        """The state after a window: a new journal entry, and tombstones for old entries.

        An entry goes when its window lies more than `horizon` behind the live
        cursor (not the clock: an outage must not forget), behind every cursor, and
        not near a gap, a backfill or unconfirmed time. Its window is then forgotten time.
        `gaps`, `backfills` and `unconfirmed` stay as they are where they are None.
        """
        backfills = self.checkpoint.backfills if backfills is None else backfills
        gaps = self.checkpoint.gaps if gaps is None else tuple(gaps)
        unconfirmed = self.checkpoint.unconfirmed if unconfirmed is None else unconfirmed
        parts = list(journal_parts(self.checkpoint.operation, entry, ids, versions))
        entry = replace(entry, parts=len(parts))
        old = outlived(self.journal, passes, horizon, spared(gaps, backfills, unconfirmed))
        tombstones = [
            StateRecord(journal_key(self.checkpoint.operation, gone.sequence, part), None)
            for gone in old
            for part in range(gone.parts)
        ]
        checkpoint = replace(
            self.checkpoint,
            sequence=entry.sequence,
            forgotten=forgotten_with(self.checkpoint.forgotten, old),
            journal_records=self.checkpoint.journal_records + len(parts) - len(tombstones),
            passes=passes,
            gaps=gaps,
            backfills=backfills,
            unconfirmed=unconfirmed,
        )
        records = [*parts, *tombstones, encode_checkpoint(checkpoint)]
        return Successor(checkpoint, entry, ids, old, records, versions or {})

    def apply(self, successor: Successor, horizon: timedelta) -> None:
        """Become the successor. Call it only after the successor's records are committed."""
        before, after = republishing(self.checkpoint), republishing(successor.checkpoint)
        self.checkpoint = successor.checkpoint
        if after is None:
            self.again = None
        elif before is None or before.id != after.id:  # the next may begin in the same commit
            self.again = Ledger()
        kept = []
        for gone in successor.forgotten:
            while (entry := self.journal.popleft()) is not gone:
                kept.append(entry)
        self.journal.extendleft(reversed(kept))
        if successor.entry is not None:
            self.journal.append(successor.entry)
            self.ledger.add(successor.ids, successor.entry.start, successor.entry.end)
            if self.again is not None:
                self.again.add(successor.ids, successor.entry.start, successor.entry.end)
            self.fingerprints.remember(successor.versions)
        if successor.forgotten:
            # An old entry behind a younger entry stays in the journal, so its ids stay here too.
            checkpoint = self.checkpoint
            gaps = spared(checkpoint.gaps, checkpoint.backfills, checkpoint.unconfirmed)
            ends = [
                entry.end for entry in self.journal if not near(gaps, entry.start, entry.end, FAR)
            ]
            bound = forget_before(self.checkpoint.passes, horizon)
            self.ledger.forget(
                min(ends, default=bound), lambda start, end: near(gaps, start, end, FAR)
            )
            self.fingerprints.forget(self.ledger.holds)

    def with_backfills(self, backfills: tuple[Backfill, ...]) -> Successor:
        """The state with other backfills: a new checkpoint and nothing else."""
        checkpoint = replace(
            self.checkpoint, sequence=self.checkpoint.sequence + 1, backfills=backfills
        )
        return Successor(checkpoint, None, {}, (), [encode_checkpoint(checkpoint)])

    def read_until(self, instant: Instant, age: timedelta) -> Instant:
        """The instant up to which everything was read at an age of at least `age`.

        It counts from `instant` on. Gaps are skipped, because they are left to `repair`.
        """
        moved = True
        while moved:
            beyond_gap = beyond(self.checkpoint.gaps, instant)
            moved, instant = beyond_gap > instant, beyond_gap
            for entry in self.journal:
                until = min(entry.end, entry.read_at - age)
                if entry.start <= instant < until:
                    instant, moved = until, True
        return instant


def first(
    operation: str,
    timezone: str,
    start: Instant,
    start_setting: str,
    passes: Iterable[str],
    sequence: int = 0,
) -> tuple[State, StateRecord]:
    """The state of an operation that was never read, and the record that makes it durable."""
    begin = Progress(start, start)
    checkpoint = Checkpoint(
        operation, timezone, start, start_setting, sequence, 0, dict.fromkeys(passes, begin)
    )
    return State(checkpoint), encode_checkpoint(checkpoint)


def earlier_start(
    checkpoint: Checkpoint, skew: timedelta, newest_published: int = -1
) -> Instant | None:
    """The start to use instead, if our clock runs ahead of the server's; otherwise None.

    Our clock resolves a start that is relative to now. The stretch between the two clocks would
    then never be asked for. `skew` is the server's clock minus ours. The start moves only before
    anything else is committed. `newest_published` is the newest transaction number in the topic at
    the start: an operation that begins anew continues after it.
    """
    relative = checkpoint.start_setting == "now" or checkpoint.start_setting.startswith("-")
    untouched = not checkpoint.journal_records and checkpoint.sequence == newest_published + 1
    if untouched and relative and skew < -RESOLUTION:
        return checkpoint.start + skew
    return None


def restore(
    operation: str, records: MutableMapping[bytes, bytes], *, revisions: bool = False
) -> State | None:
    """Restore the state from the live records of its operation; None if there is no state.

    It empties `records` on the way, because two copies of ten million ids would hurt. Without
    `revisions` it leaves the fingerprints out. Raises NeedsOperator for an unknown format, and if
    journal records or the checkpoint have been lost.
    """
    checkpoint = checkpoint_of(operation, records)
    records.pop(checkpoint_key(operation), None)
    if checkpoint is None:
        if records:
            raise NeedsOperator(
                Stage.RESTORE,
                Reason.STATE_LOST,
                f"the state topic holds a journal of operation {operation} but no checkpoint:"
                " it has been tampered with or lost data; restore it from a backup",
            )
        return None
    if len(records) < checkpoint.journal_records:
        raise NeedsOperator(
            Stage.RESTORE,
            Reason.STATE_LOST,
            f"the state topic has lost journal records of operation {operation}"
            f" ({len(records)} of {checkpoint.journal_records} are left): going on would publish"
            " messages twice; restore the topic from a backup",
        )
    republished = republishing(checkpoint)
    again = None if republished is None else Ledger()
    entries: dict[int, Entry] = {}
    ids: dict[str, tuple[array[int], Instant, Instant]] = {}
    versions: dict[str, list[tuple[int, Run]]] = {}
    for key in list(records):
        value = records.pop(key)
        entry, buckets = decode_journal(value)
        for bucket, run in unpacked(value) if revisions else ():
            versions.setdefault(bucket, []).append((entry.sequence, run))
        part = entries.get(entry.sequence)
        parts = part.parts + 1 if part else 1
        entries[entry.sequence] = replace(entry, parts=parts)
        if again is not None and republished is not None and entry.sequence > republished.since:
            again.add(dict(buckets), entry.start, entry.end)
        for bucket, bucket_ids in buckets:
            collected, since, until = ids.get(bucket, (array("Q"), entry.start, entry.end))
            collected.extend(bucket_ids)
            ids[bucket] = collected, min(since, entry.start), max(until, entry.end)
    state = State(checkpoint, deque(entries[sequence] for sequence in sorted(entries)), again=again)
    for bucket in list(ids):
        collected, since, until = ids.pop(bucket)
        state.ledger.add({bucket: collected}, since, until)
    if versions:
        state.fingerprints = Fingerprints.restored(versions)
        # A revision may outlive the message that it revised in the ledger.
        state.fingerprints.forget(state.ledger.holds)
    return state


def republishing(checkpoint: Checkpoint) -> Backfill | None:
    """The backfill that publishes again. There is at most one at a time."""
    return next(
        (backfill for backfill in checkpoint.backfills if backfill.again and backfill.active), None
    )

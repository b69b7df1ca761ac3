"""Prepares the transactions that publish events outside of the passes.

Commands that own an operation's log use this module. A transaction holds exactly the events that
the command asks for, and nothing else.

Rules of this file:
- The transaction moves no cursor, closes no gap and covers no time: a pass that has to read that
  time still reads it.
- The ids of its events are remembered as long as a pass might read its window again. An id that is
  in the journal twice counts once.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import timedelta
from operator import itemgetter

from publisher.events import dead_letter
from publisher.events.dead_letter import Origin
from publisher.events.encode import Encoder, Provenance, event_ids
from publisher.events.publication import Limits
from publisher.events.revisions import fingerprints_of
from publisher.events.rows import RejectReason, Row, chunks
from publisher.model import Answer, Batch, Instant, Record, Window
from publisher.schedule.passes import REPAIRING
from publisher.state.checkpoint import REPLAY, Entry
from publisher.state.fingerprints import Version, revisions_of, version
from publisher.state.gaps import near
from publisher.state.ledger import Id, id_of
from publisher.state.state import State, Successor
from publisher.wolkvox.responses import Classification
from publisher.wolkvox.timezone import Zone


@dataclass(slots=True)
class Addition:
    """Collects the contents of a transaction."""

    state: State
    events: list[tuple[str, Record]] = field(default_factory=list)
    """The events, with the dates that they are sorted by."""
    ids: defaultdict[str, set[Id]] = field(default_factory=lambda: defaultdict(set))
    """The ids to remember, by bucket."""
    versions: dict[str, dict[Id, Version]] = field(default_factory=dict)
    """The published versions of the messages, by bucket; empty while revisions are off."""
    letters: list[Record] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """Counts under the keys `rows` and `rejected`."""

    def remember(self, row: Row, *, revisions: bool) -> None:
        """Remember that the event of the row is published.

        With `revisions`, the numbers of its revisions continue from the last version.
        """
        hour, id_ = row[2].hour, id_of(row[1])
        self.ids[hour].add(id_)
        if revisions:
            last_version = self.state.fingerprints.versions_of(hour, [id_]).get(id_, version(0, 0))
            [fingerprint] = fingerprints_of([row])
            self.versions.setdefault(hour, {})[id_] = version(
                fingerprint, revisions_of(last_version)
            )

    def prepared(self, window: Window, now: Instant, horizon: timedelta) -> tuple[Batch, Successor]:
        """The transaction for this window, and the state after it.

        `horizon` is how far behind the live cursor ids stay remembered.
        """
        state, checkpoint = self.state, self.state.checkpoint
        kept_by_gap = near(checkpoint.gaps, window.start, window.start)
        at = window.start if kept_by_gap else window.end
        rows, new = self.counts["rows"], len(self.events)
        entry = Entry(
            checkpoint.sequence + 1, REPLAY, at, at, now,
            rows=rows, new=new, duplicate=rows - new, rejected=self.counts["rejected"],
        )  # fmt: skip
        ids = {
            bucket: array("Q", bucket_ids) for bucket, bucket_ids in self.ids.items() if bucket_ids
        }
        successor = state.successor(entry, checkpoint.passes, ids, horizon, versions=self.versions)
        batch = Batch(
            operation=checkpoint.operation,
            follows=checkpoint.sequence,
            sequence=entry.sequence,
            events=iter([record for _, record in sorted(self.events, key=itemgetter(0))]),
            dead_letters=iter(self.letters),
            state=successor.records,
        )
        return batch, successor


@dataclass(frozen=True, slots=True)
class Republication:
    """The missing events that an answer shows, as a transaction."""

    event_ids: frozenset[bytes]
    batch: Batch
    successor: Successor


def prepare(
    state: State,
    missing: AbstractSet[bytes],
    window: Window,
    answer: Answer,
    classification: Classification,
    zone: Zone,
    limits: Limits,
    now: Instant,
) -> Republication | None:
    """The transaction for the missing events that the answer shows; None = it shows none of them.

    `missing` holds the ids of the events, as text. `window` and `classification` belong to
    `answer`. Other rows of the answer are left out: the pass that reads the window publishes new
    ones.
    """
    checkpoint = state.checkpoint
    provenance = Provenance(
        checkpoint.operation,
        REPAIRING.label,
        answer.received_at,
        classification.lenient,
        label=limits.label,
    )
    encoder = Encoder(provenance, max_event_bytes=limits.max_event_bytes)
    addition = Addition(state)
    published: set[bytes] = set()
    for reading in chunks(classification.data, checkpoint.operation, zone):
        for row, event_id in zip(reading.rows, event_ids(reading.rows), strict=True):
            if event_id not in missing or event_id in published:
                continue
            stranger = reading.strangers.get(row[1])
            if stranger is not None and stranger.is_known(state.ledger, row[2].hour):
                continue  # published when the report showed more or less of the customer
            records = [*encoder.encode([row])]
            if records:
                published.add(event_id)
                addition.remember(row, revisions=limits.revisions)
                if stranger is not None:
                    addition.ids[row[2].hour] |= stranger.tells_more_than
                addition.events += [(row[0], record) for record in records]
    if not published:
        return None
    addition.counts["rows"] = len(published)
    too_large = dead_letter.of_rows(
        answer.body, RejectReason.EVENT_TOO_LARGE, encoder.oversized, encoder.unpublished
    )
    origin = Origin(checkpoint.operation, REPAIRING.label, window, answer.received_at)
    addition.letters += dead_letter.records(too_large, origin, limits.max_event_bytes)
    return Republication(frozenset(published), *addition.prepared(window, now, limits.horizon))

"""What is durable of an operation, made again from the events it has published.

Rules of this file:
- An id is what the rules make of the fields that the event says. Half a byte of it cannot be
  read from `event_id`: where the fields do not lead there (a message that was too large stands
  in no event) all sixteen readings are remembered.
- What is rebuilt remembers longer than what was lost, never shorter; it covers no time.
- Going on reads too much rather than too little: the ledger tells what is known.
"""

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any, Final

from publisher.events.encode import event_ids
from publisher.events.published_event import PublishedEvent
from publisher.events.rows import read_rows
from publisher.model import Backfill, Instant, Progress, StateRecord, Window
from publisher.schedule.passes import passes_of, with_passes
from publisher.settings import PublisherSettings
from publisher.state.checkpoint import LIVE, Checkpoint, Entry, encode_checkpoint, formerly_of
from publisher.state.fingerprints import NO_FINGERPRINT, Version, version
from publisher.state.forgetting import BEGINNING
from publisher.state.gaps import NEAR
from publisher.state.journal import journal_parts
from publisher.state.ledger import Id, id_of
from publisher.wolkvox.timezone import Zone

RECENT: Final = timedelta(hours=1)
MOST_TWINS: Final = 1024
"""So many equal rows of one conversation and second are told apart; beyond: sixteen readings."""
PARTS_PER_TRANSACTION: Final = 16
"""Journal records of at most 256 KiB in one transaction."""


@dataclass(slots=True)
class Rebuilt:
    """What the events tell so far."""

    operation: str
    zone: Zone
    formerly: tuple[str, ...] = ()
    """As the event says that was read last of those that know the present name."""
    events: int = 0
    unrecoverable: int = 0
    """Events remembered by all sixteen readings of their id."""
    oldest_read: Instant | None = None
    newest_read: Instant | None = None
    """Of those."""
    recent: dict[Instant, Counter[Instant]] = field(default_factory=dict)
    """What live has read in its last hour: by minute, how many messages of which hour."""
    newest_sequence: int = -1
    """The last transaction that published one."""
    revisions: dict[str, dict[Id, Version]] = field(default_factory=dict)
    """How often messages were revised, by bucket; what is in them now is not known."""
    days: dict[str, dict[str, "array[Id]"]] = field(default_factory=dict)
    """Ids by the day on which they were read, and by bucket."""
    begins: dict[str, str] = field(default_factory=dict)
    """When the oldest message of a day's ids occurred."""
    ends: dict[str, Instant] = field(default_factory=dict)

    def add(self, published: Iterable[PublishedEvent]) -> None:
        """Remember what was published; any number at a time."""
        events = list(published)
        for event, ids in self._with_ids(events):
            day, read_at = f"{event.read_at:%Y-%m-%d}", event.read_at
            buckets = self.days.setdefault(day, {})
            buckets.setdefault(event.value["date"][:13], array("Q")).extend(ids)
            occurred_at: str = event.value["occurred_at"]
            self.begins[day] = min(self.begins.get(day, occurred_at), occurred_at)
            self.ends[day] = max(self.ends.get(day, read_at), read_at)
            self.newest_sequence = max(self.newest_sequence, event.sequence)
            self.oldest_read = min(self.oldest_read or read_at, read_at)
            self.unrecoverable += len(ids) == READINGS
            if event.pass_label == LIVE:
                self._note(read_at, _instant(occurred_at))
        self.events += len(events)

    def named(self, published: Iterable[PublishedEvent]) -> None:
        """Learn the names that the operation has borne.

        Of one that was renamed back, and has published nothing since, only events of the name
        between tell; they say that it had the present one before.
        """
        for event in published:
            if self.newest_read is None or event.read_at >= self.newest_read:
                back = event.value["source"] != self.operation
                formerly = formerly_of(event.names, self.operation) if back else event.formerly
                self.newest_read, self.formerly = event.read_at, formerly

    def revised(self, published: Iterable[PublishedEvent]) -> None:
        """Remember the numbers of revisions, so that none is given twice."""
        for event, ids in self._with_ids(list(published)):
            numbers = self.revisions.setdefault(event.value["date"][:13], {})
            for id_ in ids:
                version_ = version(NO_FINGERPRINT, event.value["revision"])
                numbers[id_] = max(numbers.get(id_, version_), version_)

    def _with_ids(self, events: list[PublishedEvent]) -> Iterator[tuple[PublishedEvent, list[Id]]]:
        by_identity: defaultdict[str, list[PublishedEvent]] = defaultdict(list)
        for event in events:
            by_identity[event.identity].append(event)
        for identity, same in by_identity.items():
            ids = ids_of(identity, self.zone, [event.value for event in same])
            yield from zip(same, ids, strict=True)

    def _note(self, read_at: Instant, occurred: Instant) -> None:
        minute = read_at.replace(second=0, microsecond=0)
        if minute not in self.recent:
            since = max([minute, *self.recent]) - RECENT
            if minute < since:
                return
            self.recent = {moment: ids for moment, ids in self.recent.items() if moment >= since}
            self.recent[minute] = Counter()
        self.recent[minute][occurred.replace(minute=0, second=0, microsecond=0)] += 1

    def _live(self) -> Instant | None:
        """An hour that live had come to: half of what it read last is older.

        The median, because single rows may be dated tomorrow, or decades ago.
        """
        if not self.recent:
            return None
        hours: Counter[Instant] = sum(self.recent.values(), Counter())
        older = [*accumulate(hours[hour] for hour in sorted(hours))]
        median: Instant = sorted(hours)[bisect_left(older, (hours.total() + 1) // 2)]
        return min(median, max(self.recent))

    def cursor(
        self, settings: PublisherSettings, kept_since: Instant | None = None
    ) -> Instant | None:
        """Where live goes on, or None where no event tells.

        By dates and not by when they were read: whoever catches up reads old time now. As far
        back as the longest re-read reaches, so that gaps and late rows of it are read again;
        but not near time of which the topic has deleted events: those would come twice.
        """
        newest = self._live() or self.oldest_read
        if newest is None:
            return None
        longest = max([settings.overlap, *(age * 1.5 for age in settings.rereads)])
        # A window shows no order: what stands before its messages may not have been read.
        back = newest - settings.max_window - longest
        return back if kept_since is None else max(back, min(kept_since + NEAR, newest))

    def transactions(
        self,
        settings: PublisherSettings,
        cursor: Instant,
        backfills: tuple[Backfill, ...] = (),
        kept_since: Instant | None = None,
        *,
        follows: int = 0,
    ) -> Iterator[tuple[int, list[StateRecord]]]:
        """Sequence number and records of each transaction; the checkpoint stands in the last.

        They go on behind `follows`.

        A journal without its checkpoint is refused: half a rebuild is never taken for a whole.
        An entry reaches over all that it remembers, so that this is forgotten when it goes, and
        was read at its begin, so that it covers nothing. What the topic deleted is forgotten.
        """
        records: list[StateRecord] = []
        total, sequence = 0, follows
        for sequence, day in enumerate(sorted(self.days), start=follows + 1):
            end = self.ends[day]
            begin = min(_instant(self.begins[day]), end)
            buckets = {
                hour: array("Q", sorted(set(ids))) for hour, ids in sorted(self.days[day].items())
            }
            new = sum(map(len, buckets.values()))
            entry = Entry(
                sequence, LIVE, begin, end, begin, rows=new, new=new, duplicate=0, rejected=0
            )
            # In the entry that is kept longest.
            revisions = self.revisions if sequence == follows + len(self.days) else None
            for part in journal_parts(self.operation, entry, buckets, revisions):
                records.append(part)
                total += 1
                if len(records) == PARTS_PER_TRANSACTION:
                    yield sequence, records
                    records = []
        start = min([cursor, *([self.oldest_read] if self.oldest_read else [])])
        forgotten = (Window(BEGINNING, kept_since),) if kept_since else ()
        live = {LIVE: Progress(cursor, cursor)}
        passes = with_passes(live, passes_of(settings), start, forgotten)
        sequence += 1
        checkpoint = Checkpoint(
            self.operation, self.zone.name, start, settings.start, sequence, total, passes,
            backfills=backfills, forgotten=forgotten, formerly=self.formerly,
        )  # fmt: skip
        yield sequence, [*records, encode_checkpoint(checkpoint)]


def _instant(text: str) -> Instant:
    return datetime.fromisoformat(text).astimezone(UTC)


READINGS: Final = 16
"""Ids that an event may have had whose fields do not lead to it."""


def ids_of(identity: str, zone: Zone, values: list[dict[str, Any]]) -> list[list[Id]]:
    """The ledger's ids of events: of each the first is its own, others may be remembered with it.

    Where the fields do not lead to it: as many as READINGS.
    """
    ids_by_place: dict[int, list[Id]] = {}
    unknown = list(range(len(values)))
    copies = 1
    while unknown and copies <= MOST_TWINS:
        data = [_element(values[place], copies) for place in unknown]
        digests: defaultdict[int, dict[bytes, bytes]] = defaultdict(dict)
        reading = read_rows(data, identity, zone)
        rows = reading.rows
        for row, id_ in zip(rows, event_ids(rows), strict=True):
            digests[row[4].position][id_] = row[1]
        for position, place in enumerate(unknown):
            digest = digests[position].get(values[place]["event_id"].encode())
            if digest is not None:
                stranger = reading.strangers.get(digest)
                ids_by_place[place] = [
                    id_of(digest),
                    *(stranger.tells_more_than if stranger else ()),
                ]
        # Whose message is not there is found by no number.
        unknown = [
            place
            for place in unknown
            if place not in ids_by_place and "message_sha256" not in values[place]
        ]
        copies *= 32
    return [
        ids_by_place.get(place) or _readings(value["event_id"])
        for place, value in enumerate(values)
    ]


def _element(value: dict[str, Any], copies: int) -> dict[str, Any]:
    """The event as the report would show it, so many times."""
    row = {name: field for name, field in value.items() if name not in ("conn_id", "extra")}
    chat = {"conversation": [row.copy() for _ in range(copies)]}
    return chat | ({"conn_id": value["conn_id"]} if "conn_id" in value else {})


def _readings(event_id: str) -> list[Id]:
    """Every id that the event may have had before the version took the place of four bits."""
    digits = event_id.replace("-", "")
    return [int(f"{digits[:12]}{reading:x}{digits[13:16]}", 16) for reading in range(READINGS)]

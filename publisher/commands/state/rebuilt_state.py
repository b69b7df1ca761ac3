"""Makes the state of an operation again from the events that it has published.

Rules of this file:
- The id of an event is computed from its fields. `event_id` shows this id except for half a byte.
  If the fields do not lead to `event_id` (an event leaves out a message that is too large), all
  sixteen possible ids are remembered.
- The rebuilt state remembers as long as the lost one, or longer. It covers no time.
- The service continues too early rather than too late: it reads some time twice, and the ledger
  says what was published.
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
from publisher.state.checkpoint import LIVE, Checkpoint, Entry, encode_checkpoint
from publisher.state.fingerprints import NO_FINGERPRINT, Version, version
from publisher.state.forgetting import BEGINNING
from publisher.state.gaps import NEAR
from publisher.state.journal import journal_parts
from publisher.state.ledger import Id, id_of
from publisher.wolkvox.timezone import Zone

RECENT: Final = timedelta(hours=1)
"""How far back reads of live count for the question how far live had come."""
MOST_TWINS: Final = 1024
"""Most equal rows of a conversation and second that are distinguished. Others: see READINGS."""
PARTS_PER_TRANSACTION: Final = 16
"""How many journal records, of at most 256 KiB, a transaction holds."""


@dataclass(slots=True)
class Rebuilt:
    """What the events read so far say about the state."""

    operation: str
    zone: Zone
    events: int = 0
    """How many events were added."""
    unrecoverable: int = 0
    """How many of the events are remembered by all sixteen readings of their id."""
    oldest_read: Instant | None = None
    """When the service read the oldest of the events."""
    recent: dict[Instant, Counter[Instant]] = field(default_factory=dict)
    """How many messages live read in its last hour: by minute of the read, and by their hour."""
    newest_sequence: int = -1
    """The sequence number of the last transaction that published an event."""
    revisions: dict[str, dict[Id, Version]] = field(default_factory=dict)
    """The numbers of the last revisions, by bucket. The content of the messages is not known."""
    days: dict[str, dict[str, "array[Id]"]] = field(default_factory=dict)
    """The ids by the day of the read, and by bucket."""
    begins: dict[str, str] = field(default_factory=dict)
    """When the oldest message of a day occurred, by the day of the read."""
    ends: dict[str, Instant] = field(default_factory=dict)
    """When the last message of a day was read, by that day."""

    def add(self, published: Iterable[PublishedEvent]) -> None:
        """Remember these events as published. Call it as often as needed."""
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

    def revised(self, published: Iterable[PublishedEvent]) -> None:
        """Remember the numbers of these revisions, so that no number is used twice."""
        for event, ids in self._with_ids(list(published)):
            numbers = self.revisions.setdefault(event.value["date"][:13], {})
            for id_ in ids:
                version_ = version(NO_FINGERPRINT, event.value["revision"])
                numbers[id_] = max(numbers.get(id_, version_), version_)

    def _with_ids(self, events: list[PublishedEvent]) -> Iterator[tuple[PublishedEvent, list[Id]]]:
        """The events with the ids to remember for them."""
        ids = ids_of(self.operation, self.zone, [event.value for event in events])
        return zip(events, ids, strict=True)

    def _note(self, read_at: Instant, occurred: Instant) -> None:
        """Count a message that live read in `recent`, and drop what is no longer recent."""
        minute = read_at.replace(second=0, microsecond=0)
        if minute not in self.recent:
            since = max([minute, *self.recent]) - RECENT
            if minute < since:
                return
            self.recent = {moment: ids for moment, ids in self.recent.items() if moment >= since}
            self.recent[minute] = Counter()
        self.recent[minute][occurred.replace(minute=0, second=0, microsecond=0)] += 1

    def _live(self) -> Instant | None:
        """How far live had come: the median hour of the messages that it read last.

        It is the median, because single rows may be dated tomorrow, or decades ago.
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
        """Where live continues; None = no event says it.

        The dates of the messages decide, and not when they were read, because a service that
        catches up reads old time. The cursor goes back as far as the longest re-read reaches, so
        that gaps and late rows of that time are read again. But it stays away from time whose
        events the topic has deleted: they would be published twice. `kept_since` is the end of
        that time.
        """
        newest = self._live() or self.oldest_read
        if newest is None:
            return None
        longest = max([settings.overlap, *(age * 1.5 for age in settings.rereads)])
        # Rows of a window have no order: up to a window before them may not have been read.
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
        """The sequence numbers and the records of the transactions that write the state.

        The numbers continue after `follows`. The last transaction holds the checkpoint. A service
        refuses a journal without its checkpoint, so half a rebuild never counts as a whole one.

        The window of a journal entry spans all messages that the entry remembers, so that they
        are forgotten together with it. Its time of reading is the start of the window, so that it
        covers nothing. Time whose events the topic has deleted counts as forgotten.
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
            # The last entry is kept longest, so it gets the revisions.
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
            backfills=backfills, forgotten=forgotten,
        )  # fmt: skip
        yield sequence, [*records, encode_checkpoint(checkpoint)]


def _instant(text: str) -> Instant:
    return datetime.fromisoformat(text).astimezone(UTC)


READINGS: Final = 16
"""How many ids an event may have if its fields do not lead to its `event_id`."""


def ids_of(operation: str, zone: Zone, values: list[dict[str, Any]]) -> list[list[Id]]:
    """The ids for the ledger, for every event in `values`.

    The first id of an event is its own; the others are remembered with it. An event whose fields
    do not lead to its `event_id` has as many ids as READINGS.
    """
    ids_by_place: dict[int, list[Id]] = {}
    unknown = list(range(len(values)))
    copies = 1
    while unknown and copies <= MOST_TWINS:
        data = [_element(values[place], copies) for place in unknown]
        digests: defaultdict[int, dict[bytes, bytes]] = defaultdict(dict)
        reading = read_rows(data, operation, zone)
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
        # An event without its message has a hash instead: no number of copies leads to its id.
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
    """The conversation that shows the event as a row, `copies` times."""
    row = {name: field for name, field in value.items() if name not in ("conn_id", "extra")}
    chat = {"conversation": [row.copy() for _ in range(copies)]}
    return chat | ({"conn_id": value["conn_id"]} if "conn_id" in value else {})


def _readings(event_id: str) -> list[Id]:
    """All ids that fit `event_id`, in which the UUID version replaces four bits of the id."""
    digits = event_id.replace("-", "")
    return [int(f"{digits[:12]}{reading:x}{digits[13:16]}", 16) for reading in range(READINGS)]

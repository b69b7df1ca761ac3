"""What is restored from the state topic is what was in memory when it was written."""

import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.errors import NeedsOperator, Reason, Stage
from publisher.model import Progress, StateRecord, Unconfirmed, Window
from publisher.state import checkpoint as records
from publisher.state.checkpoint import (
    Checkpoint,
    Entry,
    decode_checkpoint,
    encode_checkpoint,
    operation_of,
)
from publisher.state.forgetting import BEHIND, TOMBSTONES_PER_COMMIT
from publisher.state.gaps import NEAR
from publisher.state.journal import decode_journal, journal_parts
from publisher.state.ledger import REJECTED
from publisher.state.state import State, first, restore
from tests.fakes import ids_of

GOLDEN = Path(__file__).parent / "golden" / "state.v1.json"
START = datetime(2026, 11, 1, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
HORIZON = 2 * DAY
PASSES = ("live", "reread-1h")


def begun() -> tuple[State, dict[bytes, bytes]]:
    """A state at its first start, and the state topic that holds it."""
    state, record = first("wv0010", "America/Bogota", START, "now", PASSES)
    topic: dict[bytes, bytes] = {}
    fold(topic, [record])
    return state, topic


def fold(topic: dict[bytes, bytes], those: Sequence[StateRecord]) -> None:
    """Append records to a compacted topic: the last of a key counts, a tombstone removes it."""
    for record in those:
        if record.value is None:
            del topic[record.key]  # a tombstone of what is not there would be a mistake
        else:
            topic[record.key] = record.value


def restored(topic: Mapping[bytes, bytes]) -> State:
    state = restore("wv0010", dict(topic))
    assert state is not None
    return state


def entry(sequence: int, start: datetime, end: datetime, **told: Any) -> Entry:
    counts = {"rows": 5, "new": 4, "duplicate": 1, "rejected": 0, **told}
    return Entry(sequence, "live", start, end, read_at=end, **counts)


def hour_of(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H}"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_a_restore_equals_the_state_in_memory(seed: int) -> None:
    """After any windows, forgetting and tombstones included: checkpoint, journal and every id."""
    random = Random(seed)
    state, topic = begun()
    ever: dict[int, tuple[str, set[int]]] = {}
    cursors = dict.fromkeys(PASSES, START)
    for sequence in range(1, random.choice([3, 20, 40])):
        name = random.choice(PASSES)
        begin = cursors[name]
        end = begin + random.choice([MINUTE, HOUR, DAY / 4, DAY, 3 * DAY]) * random.random()
        if name == "reread-1h":
            end = max(begin, min(end, cursors["live"] - HOUR))
        cursors[name] = end
        hours = [hour_of(begin - random.randrange(3) * HOUR) for _ in range(random.randrange(4))]
        if random.random() < 0.2:
            hours.append(f"{REJECTED}{begin:%Y-%m-%d}")
        ids = ids_of(
            {h: [random.getrandbits(64) for _ in range(random.randrange(70))] for h in hours}
        )
        ever |= {id_: (hour, set()) for hour, those in ids.items() for id_ in those}
        cut = random.random() < 0.1
        one = Entry(sequence, name, begin, end, end, random.randrange(9), 1, 2, 3, possibly_cut=cut)
        progress = {n: Progress(at, at + random.random() * HOUR) for n, at in cursors.items()}
        successor = state.successor(one, progress, ids, HORIZON)
        for those in ids.values():
            for id_ in those:
                ever[id_][1].add(sequence)
        fold(topic, successor.records)
        state.apply(successor, HORIZON)

        found = restored(topic)
        assert found.checkpoint == state.checkpoint
        assert found.journal == state.journal
        alive = {one.sequence for one in state.journal}
        for id_, (hour, sequences) in ever.items():
            in_topic = bool(sequences & alive)
            assert found.ledger.knows(hour, id_) == in_topic
            # Whole hours are forgotten: memory may know more, never less.
            assert state.ledger.knows(hour, id_) or not in_topic
            assert not state.ledger.knows("2026-11-01 99", id_)
        bound = min(cursors["live"] - HORIZON, min(cursors.values()) - BEHIND) - NEAR
        assert state.journal[0].end >= bound
    assert state.checkpoint.journal_records == len(topic) - 1


def walk(
    state: State, topic: dict[bytes, bytes], count: int, width: timedelta, ids: int = 1
) -> None:
    """Both passes read `count` windows, one behind the other."""
    for _ in range(count):
        sequence = state.checkpoint.sequence + 1
        begin = state.checkpoint.live.cursor
        progress = dict.fromkeys(PASSES, Progress(begin + width, begin + width))
        new = ids_of({hour_of(begin): [sequence * 1000 + number for number in range(ids)]})
        successor = state.successor(entry(sequence, begin, begin + width), progress, new, HORIZON)
        fold(topic, successor.records)
        state.apply(successor, HORIZON)


def test_an_entry_goes_when_it_lies_a_horizon_behind_the_live_cursor() -> None:
    """And three hours more: one that ends exactly then is still there, an older one is not."""
    state, topic = begun()
    walk(state, topic, 48 + 3 + 1, HOUR)
    assert state.journal[0].sequence == 1  # its end lies exactly a horizon and `NEAR` behind
    walk(state, topic, 1, HOUR)
    assert state.journal[0].sequence == 2
    assert not state.ledger.knows(hour_of(START), 1000)
    assert state.ledger.knows(hour_of(START + HOUR), 2000)
    walk(state, topic, 100, HOUR)
    assert len(state.journal) == len(topic) - 1 == 52
    assert state.checkpoint.forgotten == (Window(START, START + 101 * HOUR),)
    assert restored(topic).journal == state.journal


def test_no_entry_goes_that_a_slow_pass_may_still_ask_for() -> None:
    """A re-read that is far behind keeps what lies ahead of it."""
    state, topic = begun()
    for sequence in range(1, 20):
        begin = START + (sequence - 1) * DAY
        progress = {
            "live": Progress(begin + DAY, begin + DAY),
            "reread-1h": Progress(START + DAY, START + DAY),
        }
        successor = state.successor(entry(sequence, begin, begin + DAY), progress, {}, HORIZON)
        fold(topic, successor.records)
        state.apply(successor, HORIZON)
    assert [one.sequence for one in state.journal] == list(range(1, 20))


def test_forgetting_counts_from_the_live_cursor_not_from_a_clock() -> None:
    """An outage of a month forgets nothing by itself."""
    state, topic = begun()
    walk(state, topic, 3, HOUR)
    cursors = state.checkpoint.passes
    late = replace(entry(4, START, START + HOUR), read_at=START + 400 * DAY)
    assert state.successor(late, cursors, {}, HORIZON).forgotten == []


def test_many_old_entries_go_a_few_at_a_time() -> None:
    """A jump of the cursor makes no giant transaction: the rest goes with the next ones."""
    state, topic = begun()
    walk(state, topic, TOMBSTONES_PER_COMMIT + 200, MINUTE)
    walk(state, topic, 1, 10 * DAY)
    assert len(state.journal) == 201
    assert restored(topic).journal == state.journal
    assert all(state.ledger.knows(hour_of(one.start), one.sequence * 1000) for one in state.journal)
    walk(state, topic, 1, MINUTE)
    assert len(state.journal) == 2


def test_memory_is_not_ahead_of_the_journal_when_an_old_entry_stands_behind_a_young_one() -> None:
    """Entries go from the oldest on; what is not tombstoned yet is not forgotten either."""
    state, topic = begun()
    far = START + 30 * DAY
    steps = [(START, START + HOUR), (far, far + HOUR), (START + HOUR, START + 2 * HOUR)]
    for sequence, (begin, end) in enumerate(steps, start=1):
        passes = dict.fromkeys(PASSES, Progress(START, START))
        new = ids_of({hour_of(begin): [sequence]})
        successor = state.successor(entry(sequence, begin, end), passes, new, HORIZON)
        fold(topic, successor.records)
        state.apply(successor, HORIZON)
    passes = dict.fromkeys(PASSES, Progress(START + 20 * DAY, START + 20 * DAY))
    successor = state.successor(entry(4, far, far + HOUR), passes, {}, HORIZON)
    assert successor.forgotten == [state.journal[0]]
    state.apply(successor, HORIZON)
    assert [one.sequence for one in state.journal] == [2, 3, 4]
    assert state.ledger.knows(hour_of(START + HOUR), 3)
    assert not state.ledger.knows(hour_of(START), 1)


def test_a_successor_changes_nothing_until_it_is_applied() -> None:
    """Before the commit the state is what it was: a failed commit needs no undoing."""
    state, topic = begun()
    walk(state, topic, 60, HOUR)
    before = (state.checkpoint, list(state.journal), len(state.ledger))
    passes = dict.fromkeys(PASSES, Progress(START + 90 * DAY, START + 90 * DAY))
    one = entry(61, START, START + HOUR)
    assert state.successor(one, passes, ids_of({hour_of(START): [5]}), HORIZON).forgotten
    assert (state.checkpoint, list(state.journal), len(state.ledger)) == before


def test_restoring_twice_gives_the_same_state_in_whatever_order_records_come() -> None:
    """Compaction and part numbers may shuffle records: the state does not depend on it."""
    state, topic = begun()
    walk(state, topic, 2, HOUR, ids=70_000)
    walk(state, topic, 3, HOUR)
    keys = list(topic)
    Random(1).shuffle(keys)
    found, other = restored(topic), restored({key: topic[key] for key in keys})
    assert found.checkpoint == other.checkpoint == state.checkpoint
    assert found.journal == other.journal == state.journal
    assert [one.parts for one in found.journal] == [3, 3, 1, 1, 1]
    assert len(found.ledger) == len(other.ledger) == len(state.ledger) == 140_003


def test_all_parts_of_an_entry_are_tombstoned() -> None:
    """A window that took several records leaves none behind."""
    state, topic = begun()
    walk(state, topic, 1, HOUR, ids=70_000)
    assert len(topic) == 1 + 3
    walk(state, topic, 1, 20 * DAY)
    walk(state, topic, 1, HOUR)
    assert state.checkpoint.journal_records == len(topic) - 1 == 2


@pytest.mark.parametrize("per_bucket", [40_000, 700, 1])
def test_a_journal_record_stays_below_256_kib(per_bucket: int) -> None:
    """Whatever a window held: also rows of forty thousand different hours."""
    total = 40_000
    ids = ids_of(
        {
            hour_of(START - number * HOUR): range(number * per_bucket, (number + 1) * per_bucket)
            for number in range(total // per_bucket)
        }
    )
    one = entry(7, START, START + DAY)
    parts = list(journal_parts("o" * 100, one, ids))
    assert all(len(part.value or b"") <= 256 * 1024 for part in parts)
    assert sum(len(part.value or b"") for part in parts) >= 200_000 * (len(parts) - 1)
    found: dict[str, list[int]] = {}
    for part in parts:
        again, buckets = decode_journal(part.value or b"")
        assert again == one
        for bucket, those in buckets:
            found.setdefault(bucket, []).extend(those)
    assert found == {bucket: list(those) for bucket, those in ids.items()}


INSTANTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
COUNTS = st.integers(0, 2**40)
PROGRESS = st.builds(Progress, INSTANTS, INSTANTS)
GAPS = st.builds(
    lambda start, width: Window(start, start + width),
    INSTANTS,
    st.timedeltas(timedelta(microseconds=1), timedelta(days=400)),
)
CHECKPOINTS = st.builds(
    Checkpoint,
    operation=st.from_regex(r"[A-Za-z0-9._-]{1,100}", fullmatch=True),
    timezone=st.text(st.characters(exclude_categories=["Cs"])),
    start=INSTANTS,
    start_setting=st.text(st.characters(exclude_categories=["Cs"])),
    sequence=COUNTS,
    journal_records=COUNTS,
    passes=st.dictionaries(st.sampled_from(["live", "reread-1h", "reread-3d"]), PROGRESS),
    gaps=st.lists(GAPS).map(tuple),
    forgotten=st.lists(GAPS).map(tuple),
    unconfirmed=st.lists(st.builds(Unconfirmed, GAPS, INSTANTS)).map(tuple),
)
ENTRIES = st.builds(
    Entry,
    sequence=COUNTS,
    pass_name=st.text(st.characters(exclude_categories=["Cs"])),
    start=INSTANTS,
    end=INSTANTS,
    read_at=INSTANTS,
    rows=COUNTS,
    new=COUNTS,
    duplicate=COUNTS,
    rejected=COUNTS,
    possibly_cut=st.booleans(),
    parts=st.just(1),
)


@settings(max_examples=60, deadline=None)
@given(CHECKPOINTS)
def test_a_checkpoint_is_read_as_it_was_written(checkpoint: Checkpoint) -> None:
    """Every field comes back, instants to the microsecond."""
    record = encode_checkpoint(checkpoint)
    assert record.value is not None
    assert decode_checkpoint(record.value) == checkpoint
    assert operation_of(record.key) == checkpoint.operation


@settings(max_examples=60, deadline=None)
@given(
    ENTRIES,
    st.dictionaries(
        st.text("0123 -:x\n", min_size=1), st.sets(st.integers(0, 2**64 - 1), min_size=1)
    ),
)
def test_a_journal_record_is_read_as_it_was_written(one: Entry, ids: dict[str, set[int]]) -> None:
    """Every field and every id comes back, also ids whose bytes look like a line break."""
    told = ids_of(ids)
    (record,) = journal_parts("wv0010", one, told)
    assert record.value is not None
    found, buckets = decode_journal(record.value)
    assert found == one
    assert dict(buckets) == told
    assert operation_of(record.key) == "wv0010"


@pytest.mark.parametrize("key", [b"", b"x", b"other/wv0010", b"\xff\xfe", b"wv0010"])
def test_foreign_keys_belong_to_nobody(key: bytes) -> None:
    """Records that we did not write are not taken for anybody's state."""
    assert operation_of(key) is None


def test_no_records_are_no_state() -> None:
    """An operation that was never started has none; it is not an error."""
    assert restore("wv0010", {}) is None


def held(topic: Mapping[bytes, bytes]) -> NeedsOperator:
    with pytest.raises(NeedsOperator) as raised:
        restore("wv0010", dict(topic))
    assert raised.value.stage is Stage.RESTORE
    return raised.value


def test_a_lost_journal_record_is_held() -> None:
    """Going on without it would publish its messages twice."""
    state, topic = begun()
    walk(state, topic, 5, HOUR)
    journal = [key for key in topic if key.startswith(b"journal/")]
    for lost in journal:
        left = {key: value for key, value in topic.items() if key != lost}
        assert held(left).reason == Reason.STATE_LOST
        assert "4 of 5" in str(held(left))


def test_a_journal_without_a_checkpoint_is_held() -> None:
    """It is never taken for a first start."""
    state, topic = begun()
    walk(state, topic, 2, HOUR)
    del topic[records.checkpoint_key("wv0010")]
    assert held(topic).reason == Reason.STATE_LOST


def test_a_cut_journal_record_is_held() -> None:
    """A record with fewer ids than it lists has been damaged."""
    state, topic = begun()
    walk(state, topic, 1, HOUR, ids=3)
    key = records.journal_key("wv0010", 1, 0)
    for cut in (1, 8):
        assert held({**topic, key: topic[key][:-cut]}).reason == Reason.STATE_LOST


@pytest.mark.parametrize("written", [3, 0, "1", None, "absent", "binary", "list"])
@pytest.mark.parametrize("which", ["checkpoint", "journal"])
def test_an_unknown_format_is_held(written: object, which: str) -> None:
    """A newer version's state is refused and named, never taken for empty."""
    state, topic = begun()
    walk(state, topic, 1, HOUR)
    key = next(key for key in topic if key.startswith(which.encode()))
    line, newline, rest = topic[key].partition(b"\n")
    told = orjson.loads(line)
    told["format"] = written
    if written == "absent":
        del told["format"]
    topic[key] = orjson.dumps(told) + newline + rest
    if written in ("binary", "list"):
        topic[key] = b"\x00\x02\xff" if written == "binary" else b"[1]"
    assert held(topic).reason == Reason.STATE_FORMAT


def test_the_state_topic_of_the_first_release_restores_for_ever() -> None:
    """Written once by format 1: whatever changes here, this file must still be read."""
    golden = json.loads(GOLDEN.read_text())
    topic = {key.encode(): b64decode(value) for key, value in golden["topic"].items()}
    state = restored(topic)
    told = golden["means"]
    checkpoint = state.checkpoint
    assert checkpoint.operation == told["operation"]
    assert checkpoint.timezone == told["timezone"]
    assert checkpoint.start_setting == told["start_setting"]
    assert checkpoint.start == datetime.fromisoformat(told["start"])
    assert checkpoint.sequence == told["sequence"]
    assert checkpoint.journal_records == told["journal_records"]
    assert {
        name: [progress.cursor.isoformat(), progress.covered_until.isoformat()]
        for name, progress in checkpoint.passes.items()
    } == told["passes"]
    assert [[gap.start.isoformat(), gap.end.isoformat()] for gap in checkpoint.gaps] == told["gaps"]
    assert [
        [one.sequence, one.pass_name, one.start.isoformat(), one.end.isoformat(),
         one.read_at.isoformat(), one.rows, one.new, one.duplicate, one.rejected,
         one.possibly_cut, one.parts]
        for one in state.journal
    ] == told["journal"]  # fmt: skip
    for bucket, those in told["ids"].items():
        assert all(state.ledger.knows(bucket, int(id_)) for id_ in those)
    assert len(state.ledger) == sum(map(len, told["ids"].values()))


def test_read_until_joins_windows_that_were_read_late_enough() -> None:
    """Time counts as read at an age only as far as it was that old when it was read."""
    state, _ = begun()
    read_at = START + DAY
    for number, (begin, end) in enumerate([(2, 4), (0, 2), (4, 24), (30, 31)]):
        one = replace(entry(number, START + begin * HOUR, START + end * HOUR), read_at=read_at)
        state.journal.append(one)
    assert state.read_until(START, HOUR) == START + 23 * HOUR
    assert state.read_until(START, 6 * HOUR) == START + 18 * HOUR
    assert state.read_until(START, 25 * HOUR) == START
    assert state.read_until(START + 20 * HOUR, 6 * HOUR) == START + 20 * HOUR
    assert state.read_until(START - HOUR, HOUR) == START - HOUR

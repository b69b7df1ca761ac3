"""What was last told of a message is what is found, in memory and out of the journal."""

from array import array
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.errors import NeedsOperator, Reason
from publisher.model import Progress
from publisher.state import state
from publisher.state.checkpoint import Entry
from publisher.state.fingerprints import (
    MOST_REVISIONS,
    Fingerprints,
    Run,
    fingerprint_of,
    packed,
    revisions_of,
    unpacked,
    version,
)
from publisher.state.journal import PART_BYTES, decode_journal, journal_parts
from tests.fakes import NOON, ids_of

HOURS = ("2026-11-20 10", "2026-11-20 11")
IDS = st.one_of(st.integers(0, 9), st.integers(0, 2**64 - 1))
VERSIONS = st.builds(version, st.integers(0, 2**32 - 1), st.integers(0, MOST_REVISIONS))
TOLD = st.dictionaries(st.sampled_from(HOURS), st.dictionaries(IDS, VERSIONS, max_size=6))
ENTRY = Entry(7, "live", NOON, NOON, NOON, rows=0, new=0, duplicate=0, rejected=0)


def many(count: int, seed: int = 1) -> dict[int, int]:
    rng = Random(seed)
    return {rng.getrandbits(64): rng.getrandbits(48) for _ in range(count)}


@given(st.integers(0, 2**32 - 1), st.integers(0, MOST_REVISIONS))
def test_a_version_is_two_numbers(fingerprint: int, revisions: int) -> None:
    told = version(fingerprint, revisions)
    assert (fingerprint_of(told), revisions_of(told)) == (fingerprint, revisions)


@settings(max_examples=200, deadline=None)
@given(st.lists(TOLD, max_size=14))
def test_the_last_that_was_told_counts(windows: list[dict[str, dict[int, int]]]) -> None:
    """Through any number of windows, and out of their journal records in any order."""
    model: dict[str, dict[int, int]] = {hour: {} for hour in HOURS}
    loop_state, written = Fingerprints(), []
    for number, told in enumerate(windows):
        loop_state.remember(told)
        for hour, those in told.items():
            model[hour].update(those)
        [record] = journal_parts("wv0010", ENTRY, {}, told)
        written.append((number, record.value or b""))
    Random(len(windows)).shuffle(written)
    runs: dict[str, list[tuple[int, Run]]] = {}
    for number, value in written:
        for hour, run in unpacked(value):
            runs.setdefault(hour, []).append((number, run))
    restored = Fingerprints.restored(runs)
    for hour, those in model.items():
        asked = [*those, 3, 2**63]
        assert loop_state.versions_of(hour, asked) == restored.versions_of(hour, asked)
        assert loop_state.versions_of(hour, those) == those
        assert loop_state.versions_of(hour, []) == {}
    assert len(restored) == sum(map(len, model.values()))


def test_they_are_forgotten_with_their_bucket() -> None:
    one = Fingerprints()
    one.remember({HOURS[0]: {1: 5}, HOURS[1]: {1: 6}})
    one.forget(lambda hour: hour == HOURS[1])
    assert one.versions_of(HOURS[0], [1]) == {}
    assert one.versions_of(HOURS[1], [1]) == {1: 6}


def test_an_id_takes_fourteen_bytes() -> None:
    """Beside the ledger's eight: less than twenty-four together."""
    one = Fingerprints()
    for window in range(12):
        one.remember({HOURS[0]: many(1000, window)})
    assert len(one) == 12_000
    assert one.size_bytes / len(one) < 14.2
    assert len(one._buckets[HOURS[0]]) <= 5, "a look-up searches them all"


HORIZON = timedelta(days=5)
PASSES = ("live", "reread-3d")


@pytest.mark.parametrize("seed", range(12))
def test_a_number_is_remembered_as_long_as_its_message(seed: int) -> None:
    """By a restart at any moment, and after the horizon neither is: windows of any width."""
    rng = Random(seed)
    last: dict[tuple[str, int], int] = {}
    known, record = state.first("wv0010", "America/Bogota", NOON, "now", PASSES)
    topic: dict[bytes, bytes | None] = {record.key: record.value}
    ids: list[tuple[int, datetime]] = []
    sequence = 0
    for _ in range(100):
        begin = known.checkpoint.live.cursor
        live = begin, begin + timedelta(hours=rng.choice([1, 1, 5, 24]))
        at = rng.choice([begin, *(each for _, each in ids if each > begin - HORIZON / 2)])
        again = at, at + timedelta(hours=1)
        for (start, end), fresh in ((live, rng.randrange(9)), (again, 0)):
            sequence += 1
            told: dict[str, dict[int, int]] = {}
            for number in range(fresh):
                id_, moment = sequence * 1000 + number, start + rng.random() * (end - start)
                ids.append((id_, moment))
                told.setdefault(f"{moment:%Y-%m-%d %H}", {})[id_] = version(1, 0)
            published = ids_of(told)
            for id_, moment in ids if not fresh else ():
                if start <= moment < end:
                    hour = f"{moment:%Y-%m-%d %H}"
                    told.setdefault(hour, {})[id_] = version(rng.getrandbits(32), sequence)
            for hour, those in told.items():
                last |= {(hour, id_): one for id_, one in those.items()}
            progress = known.checkpoint.passes
            if (start, end) == live:
                progress = dict.fromkeys(PASSES, Progress(end, end))
            one = replace(ENTRY, sequence=sequence, start=start, end=end)
            successor = known.successor(one, progress, published, HORIZON, versions=told)
            topic |= dict(successor.records)
            known.apply(successor, HORIZON)
            live_records = {key: value for key, value in topic.items() if value is not None}
            found = state.restore("wv0010", live_records, revisions=True)
            assert found is not None
            for reader in (known, found):
                for hour, bucket in reader.ledger._buckets.items():
                    held = [id_ for run in bucket.runs for id_ in run]
                    expected = {id_: last[hour, id_] for id_ in held}
                    assert reader.fingerprints.versions_of(hour, held) == expected
                assert reader.fingerprints._buckets.keys() <= reader.ledger._buckets.keys()
    assert len(known.journal) < sequence
    assert len(known.ledger) < len(ids)


@pytest.mark.parametrize("count", [1, 9_000, 30_000])
def test_a_window_of_any_size_comes_in_parts_that_fit(count: int) -> None:
    told = {HOURS[0]: many(count), HOURS[1]: many(3, 2)}
    ids = ids_of(told)
    found: dict[str, dict[int, int]] = {hour: {} for hour in HOURS}
    published: dict[str, array[int]] = {hour: array("Q") for hour in HOURS}
    for part in journal_parts("o" * 100, ENTRY, ids, told):
        value = part.value or b""
        assert len(value) <= PART_BYTES + 1_000
        for hour, run in unpacked(value):
            found[hour] |= {id_: version(*rest) for id_, *rest in zip(*run, strict=True)}
        for hour, those in decode_journal(value)[1]:
            published[hour] += those
    assert found == told
    assert published == ids


def test_more_fingerprints_than_ids_fit() -> None:
    """A window that revises and publishes nothing."""
    told = {HOURS[0]: many(40_000)}
    parts = [part.value or b"" for part in journal_parts("wv0010", ENTRY, {}, told)]
    assert len(parts) > 3
    assert max(map(len, parts)) <= PART_BYTES + 1_000
    assert sum(len(run.ids) for value in parts for _, run in unpacked(value)) == 40_000


def test_without_fingerprints_a_record_is_what_it_was() -> None:
    """Not a byte more while revisions are off; and nothing is read out of such a record."""
    ids = ids_of({HOURS[0]: [1, 2]})
    assert [*journal_parts("wv0010", ENTRY, ids)] == [*journal_parts("wv0010", ENTRY, ids, {})]
    [record] = journal_parts("wv0010", ENTRY, ids)
    assert b"fingerprints" not in (record.value or b"")
    assert unpacked(record.value or b"") == []
    assert [*packed({HOURS[0]: {}}, 1000)] == []


def test_damaged_fingerprints_are_held() -> None:
    [record] = journal_parts("wv0010", ENTRY, {}, {HOURS[0]: {1: 5}})
    whole = record.value or b""
    [text] = next(iter(packed({HOURS[0]: {1: 5}}, 1000))).values()
    with pytest.raises(NeedsOperator) as held:
        unpacked(whole.replace(text.encode(), text[:-4].encode()))
    assert held.value.reason is Reason.STATE_LOST

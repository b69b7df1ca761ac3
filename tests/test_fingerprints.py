"""What was last told of a message is what is found, in memory and out of the journal."""

from array import array
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.errors import Held, Reason
from publisher.rules.fingerprints import (
    MOST_REVISIONS,
    Fingerprints,
    Run,
    fingerprint_of,
    packed,
    revisions_of,
    unpacked,
    version,
)
from publisher.rules.journal import PART_BYTES, decode_journal, journal_parts
from publisher.rules.records import Entry
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
    memory, written = Fingerprints(), []
    for number, told in enumerate(windows):
        memory.remember(told)
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
        assert memory.known(hour, asked) == restored.known(hour, asked)
        assert memory.known(hour, those) == those
        assert memory.known(hour, []) == {}
    assert len(restored) == sum(map(len, model.values()))


def test_they_are_forgotten_with_their_bucket() -> None:
    one = Fingerprints()
    one.remember({HOURS[0]: {1: 5}, HOURS[1]: {1: 6}})
    one.forget(lambda hour: hour == HOURS[1])
    assert one.known(HOURS[0], [1]) == {}
    assert one.known(HOURS[1], [1]) == {1: 6}


def test_an_id_takes_fourteen_bytes() -> None:
    """Beside the ledger's eight: less than twenty-four together."""
    one = Fingerprints()
    for window in range(12):
        one.remember({HOURS[0]: many(1000, window)})
    assert len(one) == 12_000
    assert one.size_bytes / len(one) < 14.2


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
    with pytest.raises(Held) as held:
        unpacked(whole.replace(text.encode(), text[:-4].encode()))
    assert held.value.reason is Reason.STATE_LOST

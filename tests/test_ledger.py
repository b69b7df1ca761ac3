"""The ledger knows what was added until it may forget it, and nothing else."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from publisher.state.ledger import REJECTED, Ledger
from tests.fakes import ids_of

START = datetime(2026, 11, 20, tzinfo=UTC)
HOURS = [f"2026-11-20 {hour:02}" for hour in range(4)]
BUCKETS = [*HOURS, f"{REJECTED}2026-11-20", f"{REJECTED}2026-11-21"]
ID = st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1))
IDS = st.one_of(st.lists(ID, max_size=8), st.lists(ID, min_size=70, max_size=120))
ENDS = st.integers(0, 20).map(lambda hours: START + timedelta(hours=hours))


@dataclass
class Model:
    """Sets: the same promise without a thought for memory."""

    ids: dict[str, set[int]] = field(default_factory=dict)
    keep_until: dict[str, datetime] = field(default_factory=dict)

    def add(self, ids: Mapping[str, Collection[int]], end: datetime) -> None:
        for bucket, those in ids.items():
            if those:
                self.ids.setdefault(bucket, set()).update(those)
                self.keep_until[bucket] = max(end, self.keep_until.get(bucket, end))

    def forget(self, before: datetime) -> None:
        for bucket in [b for b, until in self.keep_until.items() if until < before]:
            del self.ids[bucket], self.keep_until[bucket]


class LedgerMachine(RuleBasedStateMachine):
    """Any sequence of windows and forgetting, beside the model."""

    @initialize(room=st.sampled_from([250_000, 60, 1]))
    def begin(self, room: int) -> None:
        # Which buckets are sets as well, and which are not any more, is never noticed.
        self.ledger, self.model, self.room = Ledger(room), Model(), room
        self.ever: set[int] = {0, 1, 2**63, 2**64 - 1}

    @rule(told=st.dictionaries(st.sampled_from(BUCKETS), IDS, max_size=4), end=ENDS)
    def add(self, told: dict[str, list[int]], end: datetime) -> None:
        fresh = {
            bucket: {id_ for id_ in those if not self.ledger.knows(bucket, id_)}
            for bucket, those in told.items()
        }
        self.ledger.add(ids_of(fresh), end, end)
        self.model.add(fresh, end)
        self.ever.update(*told.values())

    @rule(before=ENDS)
    def forget(self, before: datetime) -> None:
        self.ledger.forget(before)
        self.model.forget(before)

    @invariant()
    def knows_exactly_what_the_model_knows(self) -> None:
        for bucket in [*BUCKETS, "2026-11-20 23"]:
            there = self.model.ids.get(bucket, set())
            assert {id_ for id_ in self.ever if self.ledger.knows(bucket, id_)} == there
            few = set(sorted(self.ever)[:3])
            assert self.ledger.published_ids(bucket, few) == there.intersection(few)
            assert self.ledger.published_ids(bucket, self.ever) == there
        rejected = set().union(*(s for b, s in self.model.ids.items() if b.startswith(REJECTED)))
        assert {id_ for id_ in self.ever if self.ledger.knows_rejected(id_)} == rejected
        assert len(self.ledger) == sum(map(len, self.model.ids.values()))
        sets = [bucket.index for bucket in self.ledger._buckets.values() if bucket.index]
        assert self.ledger._held == sum(map(len, sets)) <= max(self.room, *map(len, sets), 0)


LedgerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=10, deadline=None)


# Adding and forgetting in any order: the ledger equals a set per bucket.
TestModel = LedgerMachine.TestCase


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 2**64 - 1), max_size=300), st.randoms())
def test_the_order_of_adding_does_not_matter(ids: set[int], random: object) -> None:
    """However ids are split over windows, afterwards all of them are known."""
    ledger = Ledger()
    rest = sorted(ids, key=lambda id_: hash((id_, str(random))))
    while rest:
        some, rest = rest[: max(1, len(rest) // 3)], rest[max(1, len(rest) // 3) :]
        ledger.add(ids_of({HOURS[0]: some}), START, START)
    assert all(ledger.knows(HOURS[0], id_) for id_ in ids)
    assert not any(ledger.knows(HOURS[1], id_) for id_ in ids)
    assert len(ledger) == len(ids)


def test_a_bucket_is_kept_as_long_as_its_latest_window() -> None:
    """One late window keeps the hour: forgetting begins only behind the last one's end."""
    ledger = Ledger()
    day = timedelta(days=1)
    ledger.add(ids_of({HOURS[0]: [1]}), START, START)
    ledger.add(ids_of({HOURS[0]: [2]}), START + day, START + day)
    ledger.add(ids_of({HOURS[0]: [3]}), START, START)
    ledger.forget(START + day)
    assert [ledger.knows(HOURS[0], id_) for id_ in (1, 2, 3)] == [True] * 3
    ledger.forget(START + day + timedelta(microseconds=1))
    assert [ledger.knows(HOURS[0], id_) for id_ in (1, 2, 3)] == [False] * 3
    assert len(ledger) == 0
    assert ledger.size_bytes == 0


@pytest.mark.parametrize(("total", "per_window"), [(20_000, 50), (20_000, 500), (90_000, 4_000)])
def test_an_id_takes_eight_to_nine_bytes(total: int, per_window: int) -> None:
    """Memory grows by the ids alone, whether they come few or many at a time."""
    ledger = Ledger()
    for begin in range(0, total, per_window):
        ledger.add(ids_of({HOURS[0]: range(begin, min(total, begin + per_window))}), START, START)
    assert len(ledger) == total
    assert 8 * total <= ledger.size_bytes <= 9.2 * total
    assert ledger.published_ids(HOURS[0], set(range(-1, total + 1))) == set(range(total))
    assert ledger.published_ids(HOURS[0], {0, total - 1, total}) == {0, total - 1}

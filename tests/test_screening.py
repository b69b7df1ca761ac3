"""A message is new once, however the answer that shows it is divided."""

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.rules import rows
from publisher.rules.ledger import Ledger
from publisher.rules.rows import Reject, portions, read_rows
from publisher.rules.screening import Screen
from publisher.rules.zone import Zone
from tests.fakes import ids_of
from tests.test_rows import ANSWERS, chat, row

ZONE = Zone("America/Bogota")
START = datetime(2026, 11, 20, tzinfo=UTC)


def screened(
    data: list[Any], ledger: Ledger, portion: int
) -> tuple[list[bytes], list[Reject], dict[str, list[int]]]:
    """Digests of the new rows and all rejects in order, and the ids to remember."""
    fresh: list[bytes] = []
    rejects: list[Reject] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rows, "PORTION", portion)
        screen = Screen(ledger)
        for reading in portions(deepcopy(data), "wv0010", ZONE):
            rejects += reading.rejects
            fresh += [each[1] for each in screen.fresh(reading)]
    assert screen.count == len(fresh)
    return fresh, rejects, {hour: sorted(ids) for hour, ids in screen.ids().items()}


@settings(max_examples=150, deadline=None)
@given(ANSWERS, ANSWERS, st.integers(1, 5))
def test_portions_change_nothing(before: list[Any], data: list[Any], portion: int) -> None:
    """New rows, rejects and ids are those of the answer as a whole, also beside what is known."""
    ledger = Ledger()
    known = screened(before, ledger, 10_000)[2]
    ledger.add(ids_of(known), START, START)
    data = [*data, *before[:1], *data[:1]]  # chats that are known, and one that is listed twice
    whole, divided = screened(data, ledger, 10_000), screened(data, ledger, portion)
    assert divided == whole
    assert len({*whole[0]}) == len(whole[0])
    assert not any(ledger.knows(hour, id_) for hour, ids in whole[2].items() for id_ in ids)
    seen = {each[1] for each in read_rows(data, "wv0010", ZONE).rows}
    old = {each[1] for each in read_rows(before, "wv0010", ZONE).rows}
    assert {*whole[0]} == seen - old


def test_the_next_portion_knows_what_the_last_one_showed() -> None:
    """A chat that is listed twice, far apart, is published once; its twins stay two."""
    twice = chat(row("a"), row("a"), row("b"))
    fresh, rejects, ids = screened([twice, chat(row("c"), conn_id="2"), twice], Ledger(), 1)
    assert len({*fresh}) == len(fresh) == 4
    assert rejects == []
    assert [len(each) for each in ids.values()] == [4]


def test_rows_are_let_go_as_they_are_read() -> None:
    """What was read is not held by the answer any more: memory does not grow with it."""
    data: list[Any] = [chat(row("a")), chat(row("b"), conn_id="2")]
    kept = [*data]
    for _ in portions(data, "wv0010", ZONE):
        pass
    assert data == [None, None]
    assert [len(read_rows(kept, "wv0010", ZONE).rows), len(kept)] == [2, 2]

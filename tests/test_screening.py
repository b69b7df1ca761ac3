"""A message is new once, however the answer that shows it is divided."""

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.events import rows
from publisher.events.deduplicate import Screen
from publisher.events.rows import Reject, chunks, read_rows
from publisher.state.ledger import Ledger, id_of
from publisher.wolkvox.timezone import Zone
from tests.fakes import ids_of
from tests.test_rows import ANSWERS, chat, row

ZONE = Zone("America/Bogota")
START = datetime(2026, 11, 20, tzinfo=UTC)


def screened(
    data: list[Any], ledger: Ledger, chunk: int
) -> tuple[list[bytes], list[Reject], dict[str, list[int]]]:
    """Digests of the new rows and all rejects in order, and the ids to remember."""
    fresh: list[bytes] = []
    rejects: list[Reject] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rows, "CHUNK", chunk)
        screen = Screen(ledger)
        for reading in chunks(deepcopy(data), "wv0010", ZONE):
            rejects += reading.rejects
            fresh += [each[1] for each in screen.fresh(reading)]
    assert screen.count == len(fresh)
    return fresh, rejects, {hour: sorted(ids) for hour, ids in screen.ids().items()}


@settings(max_examples=150, deadline=None)
@given(ANSWERS, ANSWERS, st.integers(1, 5))
def test_portions_change_nothing(before: list[Any], data: list[Any], chunk: int) -> None:
    """New rows, rejects and ids are those of the answer as a whole, also beside what is known."""
    ledger = Ledger()
    known = screened(before, ledger, 10_000)[2]
    ledger.add(ids_of(known), START, START)
    data = [*data, *before[:1], *data[:1]]  # chats that are known, and one that is listed twice
    whole, divided = screened(data, ledger, 10_000), screened(data, ledger, chunk)
    assert divided == whole
    assert len({*whole[0]}) == len(whole[0])
    # Strangers leave names behind that others leave, too: only what is published must be unknown.
    published = [id_of(digest) for digest in whole[0]]
    assert not any(ledger.knows(hour, id_) for hour in whole[2] for id_ in published)
    seen = {each[1] for each in read_rows(data, "wv0010", ZONE).rows}
    old = {each[1] for each in read_rows(before, "wv0010", ZONE).rows}
    named = {each[1] for each in read_rows(data, "wv0010", ZONE).rows if not each[4].placeholder}
    assert {*whole[0]} & named == (seen - old) & named
    assert {*whole[0]} <= seen - old


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
    for _ in chunks(data, "wv0010", ZONE):
        pass
    assert data == [None, None]
    assert [len(read_rows(kept, "wv0010", ZONE).rows), len(kept)] == [2, 2]


def publish(ledger: Ledger, *chats: Any) -> list[tuple[Any, Any]]:
    """What an answer adds: customer and phone of each new row, as told."""
    screen = Screen(ledger)
    fresh = []
    for reading in chunks(deepcopy([*chats]), "wv0010", ZONE):
        fresh += screen.fresh(reading)
    ledger.add(screen.ids(), START, START)
    assert screen.count == len(fresh)
    return [(row[3].customer_id or None, row[3].customer_phone or None) for row in fresh]


def stranger(**who: Any) -> Any:
    return chat(row(**who), conn_id="0")


A = {"customer_id": "1", "customer_phone": "573001112233"}
B = {"customer_id": "2", "customer_phone": "573004445566"}
LESS: list[dict[str, Any]] = [
    {}, {"customer_id": "1"}, {"customer_phone": "573001112233"},
    {"customer_id": None, "customer_phone": ""}, {"customer_id": "1", "customer_phone": None},
]  # fmt: skip


@pytest.mark.parametrize("less", LESS)
def test_a_column_that_comes_or_goes_makes_no_new_message(less: dict[str, Any]) -> None:
    """A phone that a new column tells, a customer who is found out: the same row all along."""
    for first, second in ((less, A), (A, less)):
        ledger = Ledger()
        twins = [chat(row(**who), row(**who), conn_id="0") for who in (first, second)]
        assert len(publish(ledger, twins[0])) == 2
        assert publish(ledger, twins[1]) == []
        assert publish(ledger, twins[0]) == publish(ledger, twins[1]) == []


def test_customers_whom_only_their_phone_tells_apart_are_two() -> None:
    """In one answer or in two, in whatever order."""
    one, other = ({**A, "customer_phone": phone} for phone in ("571", "572"))
    for order in ([one, other], [other, one]):
        assert len(publish(Ledger(), *(stranger(**who) for who in order))) == 2
        ledger = Ledger()
        assert [len(publish(ledger, stranger(**who))) for who in order] == [1, 1]


def test_how_a_phone_is_written_tells_nothing() -> None:
    ledger = Ledger()
    assert publish(ledger, stranger(customer_phone="+57 (300) 111-2233")) != []
    assert publish(ledger, stranger(customer_phone="573001112233")) == []
    assert publish(ledger, stranger(customer_phone=573001112233)) == []


def test_who_stands_beside_a_known_stranger_is_another_one() -> None:
    """As long as the answer still shows the one that was published, it explains nobody else."""
    for first, second in (({}, A), (A, {}), ({"customer_id": "1"}, {"customer_phone": "572"})):
        ledger = Ledger()
        assert len(publish(ledger, stranger(**first))) == 1
        assert len(publish(ledger, stranger(**first), stranger(**second))) == 1
        assert publish(ledger, stranger(**second), stranger(**first)) == []


def test_a_customer_of_whom_other_things_are_told_is_another_one() -> None:
    ledger = Ledger()
    for who in (A, B, {**A, "customer_id": "3"}, {**A, "customer_phone": "5"}):
        assert len(publish(ledger, stranger(**who))) == 1


def test_outside_of_placeholders_nothing_of_the_customer_counts() -> None:
    ledger = Ledger()
    assert len(publish(ledger, chat(row(**A)))) == 1
    assert publish(ledger, chat(row(**B)), chat(row())) == []

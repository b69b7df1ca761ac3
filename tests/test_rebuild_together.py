"""`state rebuild` of operations that share a messages topic, and of odd dates."""

from datetime import timedelta
from typing import Final

import pytest

from publisher.model import Instant
from publisher.rules.rebuild import Published, Rebuilt
from publisher.settings import load
from tests.test_rebuild import ZONE, published
from tests.test_signals import NOON

SETTINGS: Final = load({"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": "t"}).publisher
DAY: Final = timedelta(days=1)


def cursor(*read: tuple[Instant, Instant, str]) -> Instant | None:
    """Where live goes on after messages of these times, read at those, by that pass."""
    rebuilt = Rebuilt("wv0010", ZONE)
    for number, (occurred, read_at, label) in enumerate(read):
        date = f"{occurred - timedelta(hours=5):%Y-%m-%d %H:%M:%S}"
        row = {"date": date, "message": str(number)}
        _, [value] = published([{"conn_id": "7", "conversation": [row]}])
        rebuilt.add([Published(value, read_at, label)])
    return rebuilt.cursor(SETTINGS)


BACK: Final = max(SETTINGS.rereads) * 1.5 + SETTINGS.max_window


@pytest.mark.parametrize("odd", [NOON + DAY, NOON - 9999 * DAY])
def test_a_row_of_tomorrow_or_of_decades_ago_moves_no_cursor(odd: Instant) -> None:
    """While live catches up, what it reads now happened long ago; re-reads tell nothing of it."""
    old = NOON - 20 * DAY
    found = cursor(
        (old, NOON, "live"), (odd, NOON, "live"), (old, NOON, "live"),
        (NOON - 5 * DAY, NOON - timedelta(hours=2), "live"), (NOON, NOON + DAY, "reread"),
    )  # fmt: skip
    assert found == old - BACK


def test_the_oldest_that_was_read_where_no_event_is_of_live() -> None:
    assert cursor((NOON - DAY, NOON, "reread"), (NOON, NOON, "reread")) == NOON - BACK

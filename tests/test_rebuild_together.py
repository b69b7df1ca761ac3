"""`state rebuild` of operations that share a messages topic, and of odd dates."""

from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from publisher.commands.state.rebuilt_state import Rebuilt
from publisher.events.published_event import PublishedEvent
from publisher.kafka.cluster import partition_of
from publisher.model import Instant
from publisher.settings import load
from publisher.state.checkpoint import checkpoint_key
from sandbox.kafka import Broker
from tests.harness import rig
from tests.kafka_tools import delete, producing
from tests.test_check import command
from tests.test_rebuild import ZONE, published
from tests.test_signals import NOON

SETTINGS: Final = load({"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": "t"}).publisher
DAY: Final = timedelta(days=1)


async def test_operations_that_share_a_topic(kafka: Broker, tmp_path: Path) -> None:
    """One with a state would let the others begin anew beside their own events."""
    async with rig(kafka.bootstrap, tmp_path, {"history": "1m", "late": 0.0}) as one:
        file = tmp_path / "publisher.toml"
        file.write_text(
            f'[[operations]]\nname = "one"\nurl = "{one.api.url}"\ntoken = "{one.api.token}"\n'
            f'[[operations]]\nname = "two"\nurl = "{one.api.url}"\ntoken = "other"\n',
            encoding="utf-8",
        )
        single = {"WOLKVOX_TOKEN": one.api.token, "WOLKVOX_URL": one.api.url}
        for name in ("WOLKVOX_SERVER", *single):
            one.settings.pop(name)
        state = one.settings["PUBLISHER_STATE_TOPIC"]

        async def rebuild(*arguments: str) -> tuple[int, str]:
            env = {**one.settings, "PUBLISHER_CONFIG": str(file)}
            told = await command(env, "rebuild", *arguments, name="state", bare=True)
            return told.code, told.err

        for name in ("one", "two"):
            publisher = one.start(**single, WOLKVOX_NAME=name, PUBLISHER_START="-2m")
            assert (await one.settled(20, source=name)).none
            assert await publisher.stop() == 0
        await delete(kafka.bootstrap, state)
        code, err = await rebuild("--yes", "--operation=one")
        assert code == 1
        assert "two lost its state, too, and shares the messages topic" in err
        assert (await rebuild("--yes"))[0] == 0
        code, err = await rebuild("--yes")
        assert code == 1
        assert "its state is whole" in err

        # Whoever was whole before keeps nobody from being rebuilt.
        publisher = one.start(**single, WOLKVOX_NAME="two", PUBLISHER_START="-2m")
        assert (await one.settled(20, source="two")).none
        assert await publisher.stop() == 0
        await _forget_checkpoint(one.bootstrap, state, "two")
        code, err = await rebuild("--yes")
        assert code == 0, err
        assert "two: rebuilt from" in err


async def _forget_checkpoint(bootstrap: str, topic: str, operation: str) -> None:
    """As a rebuild that was broken off leaves it."""
    async with producing(bootstrap) as producer:
        await producer.send_and_wait(
            topic, None, key=checkpoint_key(operation), partition=partition_of(operation)
        )


def cursor(*read: tuple[Instant, Instant, str]) -> Instant | None:
    """Where live goes on after messages of these times, read at those, by that pass."""
    rebuilt = Rebuilt("wv0010", ZONE)
    for number, (occurred, read_at, label) in enumerate(read):
        date = f"{occurred - timedelta(hours=5):%Y-%m-%d %H:%M:%S}"
        row = {"date": date, "message": str(number)}
        _, [value] = published([{"conn_id": "7", "conversation": [row]}])
        rebuilt.add([PublishedEvent(value, read_at, label)])
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

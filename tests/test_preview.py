"""`preview`: the events as they would be published, without a Kafka and without anybody's words."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from publisher.commands.preview import MASK, MASKED
from sandbox.kafka import Broker
from sandbox.wolkvox import Simulator, World
from tests.harness import read_raw, rig
from tests.test_check import NOBODY, TOKEN, Outcome, command

SPOKEN: Final = {"message": "Mi clave es 4711", "from_name": "Zoë Quiñones", "to_name": "bot-77",
                 "customer_id": "52998877", "customer_phone": "573001112233"}  # fmt: skip


@pytest.fixture
async def api() -> AsyncIterator[Simulator]:
    async with Simulator(World(history=7200.0, rate=600.0), token=TOKEN) as api:
        yield api


async def preview(api: Simulator | str, *arguments: str, **settings: str) -> Outcome:
    url = api if isinstance(api, str) else api.url
    # Nobody listens there: a preview must not care.
    env = {"WOLKVOX_URL": url, "KAFKA_BOOTSTRAP_SERVERS": NOBODY.removeprefix("http://")}
    return await command({**env, **settings}, *arguments, name="preview")


def events(told: Outcome) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in told.out.splitlines()]


def say(api: Simulator, minutes_ago: float = 5, **fields: Any) -> None:
    """One row of a world that is otherwise empty."""
    api.change(rate=0.0)
    date = api.time.text(api.time.local(api.now() - minutes_ago * 60))
    row = {"channel": "web", "from": "CUSTOMER", "date": date, **SPOKEN, **fields}
    names = {"agent_name": "Luis Ángel", "customer_name": "Zoë Quiñones"}
    api.add([{"conn_id": "186067512", **names, "conversation": [row]}])


async def test_the_bytes_are_those_of_the_topic(kafka: Broker, tmp_path: Path) -> None:
    """With --show-text every line is the value of the event that the service publishes."""
    calm = {"history": "20m", "rate": 120, "late": 0.0, "corrected": 0.0, "hypothesis": "H2"}
    async with rig(kafka.bootstrap, tmp_path, calm, {"PUBLISHER_START": "-30m"}) as one:
        publisher = one.start()
        assert (await one.settled(60)).none
        await publisher.stop()
        published = {record.value for record in await read_raw(kafka.bootstrap, one.topic)}
        env = {**one.settings, "KAFKA_BOOTSTRAP_SERVERS": NOBODY.removeprefix("http://")}
        told = await command(env, "--last=30m", "--show-text", name="preview")
        assert told.code == 0, told.err
    shown = set(told.out.encode().splitlines())
    assert len(shown) == len(told.out.splitlines()), "one of them was printed twice"
    assert len(published) > 100
    # What was said since the service stopped is shown, too.
    assert published <= shown


async def test_nobodys_words(api: Simulator) -> None:
    """Texts, names and numbers of people are masked, and it is said which; ids and dates stay."""
    say(api, note="se llama Zoë")
    told = await preview(api)
    assert told.code == 0
    [found] = events(told)
    assert {name for name, value in found.items() if value == MASK} == set(MASKED)
    assert found["conn_id"] == "186067512"
    assert found["event_id"]
    assert found["occurred_at"]
    assert all(name in told.err for name in MASKED)
    for words in (*SPOKEN.values(), "Luis", "Zoë"):
        assert words not in told.out + told.err
    [shown] = events(await preview(api, "--show-text"))
    assert SPOKEN.items() <= shown.items()
    assert shown["extra"] == {"message": {"note": "se llama Zoë"}}


async def test_how_far_back(api: Simulator) -> None:
    say(api, 5)
    say(api, 45, message="earlier")
    assert len(events(await preview(api, "--last", "10m"))) == 1
    assert len(events(await preview(api, "--last", "1h"))) == 2


async def test_a_limit(api: Simulator) -> None:
    """Neither more is printed nor asked for."""
    told = await preview(api, "--limit", "7")
    assert told.code == 0
    assert len(events(told)) == 7
    assert "--limit 7" in told.err
    assert len(api.stats.requests) <= 2


async def test_windows_that_hold_too_much(api: Simulator) -> None:
    """They are narrowed, and nothing is lost by it."""
    whole = {event["event_id"] for event in events(await preview(api, "--last=30m"))}
    asked = len(api.stats.requests)
    # From earlier on: time goes by between the two.
    small = await preview(api, "--last=40m", PUBLISHER_MAX_RESPONSE_BYTES="60000")
    assert small.code == 0
    assert len(api.stats.requests) > 2 * asked
    assert whole <= {event["event_id"] for event in events(small)}


async def test_a_failure(api: Simulator) -> None:
    """One line that says what to do, exit code 1; what came before was printed."""
    api.fault("wrong_token")
    told = await preview(api)
    assert told.code == 1
    assert not told.out
    assert "put a valid one into WOLKVOX_TOKEN" in told.err
    told = await preview(NOBODY)
    assert told.code == 1
    assert "cannot reach" in told.err


async def test_a_token_in_use_for_a_moment(api: Simulator) -> None:
    say(api)
    api.fault("simultaneous", count=1)
    told = await preview(api)
    assert told.code == 0
    assert len(events(told)) == 1


@pytest.mark.parametrize(
    ("arguments", "settings", "cure"),
    [
        (["--last", "5"], {}, "number with a unit"),
        (["--last", "0s"], {}, "greater than zero"),
        (["--operation", "sales"], {}, "--operation: there is no sales; there are: wv0010"),
        ([], {"WOLKVOX_TOKEN": ""}, "WOLKVOX_TOKEN is missing"),
    ],
)
async def test_what_cannot_be_meant(
    api: Simulator, arguments: list[str], settings: dict[str, str], cure: str
) -> None:
    told = await preview(api, *arguments, **settings)
    assert told.code == 2
    assert cure in told.err
    assert not api.stats.requests


async def test_one_of_several_operations(api: Simulator, tmp_path: Path) -> None:
    """All of them when none is named."""
    say(api)
    file = tmp_path / "publisher.toml"
    async with Simulator(World(history=60.0, rate=0.0), token="other") as other:
        say(other)
        file.write_text(
            f'[[operations]]\nname = "sales"\nurl = "{api.url}"\ntoken = "{TOKEN}"\n'
            f'[[operations]]\nname = "help"\nurl = "{other.url}"\ntoken = "other"\n',
            encoding="utf-8",
        )
        env = {"PATH": os.environ["PATH"], "PUBLISHER_CONFIG": str(file)}
        both = await command(env, name="preview", bare=True)
        one = await command(env, "--operation=help", name="preview", bare=True)
    assert [event["source"] for event in events(both)] == ["sales", "help"]
    assert [event["source"] for event in events(one)] == ["help"]

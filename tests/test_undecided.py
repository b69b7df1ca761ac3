"""Commands behind somebody's undecided transaction: they refuse what they cannot know."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete

from publisher.commands.event_reader import first_kept
from publisher.errors import NeedsOperator
from publisher.kafka.cluster import partition_of
from publisher.kafka.commands_topic import KafkaCommands
from publisher.model import Standing
from publisher.schedule.backfill_pass import BackfillRequest
from sandbox.kafka import Broker
from tests import kafka_tools
from tests.fakes import NOON, settings_of
from tests.harness import Rig, read_raw, rig
from tests.test_check import Outcome, command
from tests.test_kafka_security import Env
from tests.test_rebuild import CALM, FAST


@asynccontextmanager
async def undecided(bootstrap: str, topic: str, *partitions: int) -> AsyncIterator[Any]:
    """An open transaction of somebody else, as a killed process of another shard leaves it."""
    settings = {"transactional_id": f"{topic}-foreign", "transaction_timeout_ms": 600_000}
    async with kafka_tools.producing(bootstrap, **settings) as producer:
        await producer.begin_transaction()
        for partition in partitions:
            await producer.send_and_wait(topic, b"{}", b"foreign", partition=partition)
        try:
            yield producer
        finally:
            await producer.abort_transaction()


@pytest.fixture(scope="module")
async def hidden(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """A service that has published behind an undecided transaction, and stopped."""
    async with rig(kafka.bootstrap, tmp_path_factory.mktemp("hidden"), CALM, FAST) as one:
        publisher = one.start()
        assert (await one.settled(60)).none
        async with undecided(one.bootstrap, one.topic, *range(6)):
            async with asyncio.timeout(60):
                while await kafka_tools.open_transactions(one.bootstrap, one.topic) < 20:
                    pass
            await publisher.stop()
            yield one


def refused(told: Outcome, topic: str) -> None:
    assert told.code == 1
    assert told.err.count("\n") == 1, told.err
    assert f"an undecided transaction hides the end of {topic}-0: what was published" in told.err
    assert "end it with its abort" in told.err


async def test_verify_refuses(hidden: Rig) -> None:
    """It says so to programs, too, asks the report for nothing, and repairs nothing."""
    before = await read_raw(hidden.bootstrap, hidden.settings["PUBLISHER_STATE_TOPIC"])
    asked = len(await hidden.api.requests())
    told = await command(
        hidden.settings, "--repair", "--json", "--take-over", "--", "-18m", "now",
        name="verify", bare=True,
    )  # fmt: skip
    refused(told, hidden.topic)
    found = orjson.loads(told.out)
    [one] = found["operations"]
    assert not found["complete"]
    assert not one["complete"]
    assert [part["reason"] for part in one["not_judged"]] == ["undecided"]
    assert one["problem"] in told.err
    assert not one["repaired"]
    assert len(await hidden.api.requests()) == asked
    assert before == await read_raw(hidden.bootstrap, hidden.settings["PUBLISHER_STATE_TOPIC"])


async def test_what_only_looks_says_that_it_does_not_see_all(hidden: Rig) -> None:
    told = await command(hidden.settings, "--json", name="lateness", bare=True)
    assert told.code == 0
    [hint, *_] = orjson.loads(told.out)["hints"]
    assert f"hides the end of {hidden.topic}-0: this answer is as old as its begin" in hint
    assert hint in told.err


async def test_a_rebuild_refuses(hidden: Rig) -> None:
    """It comes last: it deletes the state."""
    await kafka_tools.delete(hidden.bootstrap, hidden.settings["PUBLISHER_STATE_TOPIC"])
    told = await command(hidden.settings, "rebuild", "--yes", name="state", bare=True)
    refused(told, hidden.topic)
    assert not await read_raw(hidden.bootstrap, hidden.settings["PUBLISHER_STATE_TOPIC"])


async def test_hidden_dead_letters_and_state(kafka: Broker, tmp_path: Path) -> None:
    """They are listed as far as they are decided, and not replayed; nothing is forgotten."""
    async with rig(kafka.bootstrap, tmp_path, {"history": "1m", "late": 0.0}, FAST) as one:
        publisher = one.start(PUBLISHER_START="-2m")
        assert (await one.settled(20)).none
        await publisher.stop()
        letters = f"{one.settings['PUBLISHER_DEAD_LETTERS_TOPIC']}"
        async with undecided(one.bootstrap, letters, 0):
            told = await command(one.settings, "list", "--json", name="dead-letters", bare=True)
            assert told.code == 0
            assert f"hides the end of {letters}-0" in orjson.loads(told.out)["hints"][0]
            told = await command(
                one.settings, "replay", "--all", "--publish", "--take-over",
                name="dead-letters", bare=True,
            )  # fmt: skip
            refused(told, letters)
        state = one.settings["PUBLISHER_STATE_TOPIC"]
        async with undecided(one.bootstrap, state, partition_of("wv0010")):
            told = await command(one.settings, "show", name="state", bare=True)
            assert told.code == 0
            assert "this answer is as old as its begin" in told.err
            other = {**one.settings, "WOLKVOX_NAME": "other"}
            told = await command(
                other, "forget", "wv0010", "--yes", "--take-over", name="state", bare=True
            )
            assert told.code == 1
            assert f"hides the end of {state}-{partition_of('wv0010')}: what" in told.err


async def test_hidden_orders_are_not_taken_for_all(kafka: Broker, topics: Env) -> None:
    """Whoever asks is told at once: live must not wait, and an old order is not the last."""
    topic = topics["PUBLISHER_STATE_TOPIC"] + ".commands"
    backfill_requests = KafkaCommands(
        settings_of({**topics, "PUBLISHER_COMMANDS_TOPIC": topic}), "wv0010"
    )
    backfill_request = BackfillRequest(
        "1", NOON, NOON + timedelta(hours=1), again=False, wanted=Standing.RUNNING
    )
    await backfill_requests.write(backfill_request)
    paused = replace(backfill_request, wanted=Standing.PAUSED)
    async with undecided(kafka.bootstrap, topic, partition_of("wv0010")):
        await backfill_requests.write(paused)
        with pytest.raises(
            NeedsOperator, match=f"hides the end of {topic}-{partition_of('wv0010')}"
        ):
            await backfill_requests.read()
    assert await backfill_requests.read() == [paused]


async def test_the_first_event_that_is_kept_stands_behind_aborted_ones(
    kafka: Broker, topics: Env
) -> None:
    """They are records that no consumer sees; a look that finds nothing is not the end."""
    topic = topics["PUBLISHER_MESSAGES_TOPIC"]
    await kafka_tools.create(kafka.bootstrap, topic)
    async with kafka_tools.producing(kafka.bootstrap, transactional_id=topic) as producer:
        for _ in range(3):
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"aborted", partition=0, timestamp_ms=1)
            await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait(topic, b"kept", partition=0, timestamp_ms=5_000)
    async with kafka_tools.administering(kafka.bootstrap) as admin:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=1)})
    kept = await first_kept(settings_of(topics), "wv0010")
    assert kept == datetime.fromtimestamp(5, UTC)

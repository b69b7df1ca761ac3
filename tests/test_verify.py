"""`verify`: what is missing, extra or changed in the topic is found without words, and repaired."""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from publisher.model import Window
from publisher.rules.comparison import Comparison
from sandbox.kafka import Broker
from tests import kafka_tools
from tests.harness import Rig, read_raw, rig
from tests.test_check import Outcome, command
from tests.test_rebuild import CALM, FAST
from tests.test_signals import NOON


@pytest.fixture
async def published(kafka: Broker, tmp_path: Path) -> AsyncIterator[Rig]:
    """A service that has published, and stopped."""
    async with rig(kafka.bootstrap, tmp_path, CALM, FAST) as one:
        publisher = one.start()
        assert (await one.settled(60)).none
        await publisher.stop()
        yield one


async def verify(one: Rig, *arguments: str, **settings: str) -> tuple[Outcome, Any]:
    environment = {**one.settings, **settings}
    told = await command(
        environment, *arguments, "--json", "--", "-18m", "now", name="verify", bare=True
    )
    return told, orjson.loads(told.out)["operations"][0] if told.out else None


Alter = Callable[[list[Any]], Sequence[tuple[Any, bytes]]]
"""All records of a topic, as those that are to be in the copy, with their values."""


async def copied(one: Rig, alter: Alter, suffix: str = "copy") -> str:
    """A topic with the same events, altered."""
    name = f"{one.topic}.{suffix}"
    await kafka_tools.create(one.bootstrap, name, 6)
    async with kafka_tools.producing(one.bootstrap) as producer:
        for record, value in alter(await read_raw(one.bootstrap, one.topic)):
            await producer.send(
                name, value, key=record.key, partition=record.partition, headers=[*record.headers]
            )
    return name


def in_range(records: Sequence[Any]) -> list[Any]:
    """By date; neither of the first minutes nor of the last."""
    found = sorted(records, key=lambda record: str(orjson.loads(record.value)["occurred_at"]))
    return found[len(found) // 3 : -len(found) // 3]


def deleted(event_id: str) -> Alter:
    """All but one."""

    def alter(records: list[Any]) -> list[tuple[Any, bytes]]:
        kept = [r for r in records if orjson.loads(r.value)["event_id"] != event_id]
        assert len(kept) == len(records) - 1
        return [(record, record.value) for record in kept]

    return alter


async def test_a_clean_range(published: Rig) -> None:
    told, found = await verify(published)
    assert told.code == 0, told.out + told.err
    assert found["complete"]
    assert found["rows"] == found["events"] > 50
    assert not found["findings"]
    assert any("not settled" in note for note in found["notes"])
    words = await command(published.settings, "--", "-18m", "now", name="verify", bare=True)
    assert words.code == 0
    assert "wv0010: complete" in words.out


async def test_what_differs_is_found_and_what_is_missing_repaired(published: Rig) -> None:
    """A deleted event, a missing minute, a changed row, an event of nobody."""
    state_before = await read_raw(published.bootstrap, published.settings["PUBLISHER_STATE_TOPIC"])
    altered: dict[str, Any] = {}

    def alter(records: list[Any]) -> list[tuple[Any, bytes]]:
        inside = in_range(records)
        minute = orjson.loads(inside[0].value)["occurred_at"][:16]
        events = [(record, orjson.loads(record.value)) for record in records]
        gone = {e["event_id"] for _, e in events if e["occurred_at"].startswith(minute)}
        deleted, changed, foreign = (orjson.loads(record.value) for record in inside[-3:])
        gone |= {deleted["event_id"]}
        altered.update(gone=gone, changed=changed["event_id"])
        kept = []
        for record, event in events:
            if event["event_id"] in gone:
                continue
            if event["event_id"] == changed["event_id"]:
                kept.append((record, orjson.dumps({**event, "message": "Otra cosa", "feeling": 1})))
            else:
                kept.append((record, record.value))
        altered["extra"] = "00000000-0000-5000-8000-000000000000"
        kept.append((inside[-1], orjson.dumps({**foreign, "event_id": altered["extra"]})))
        return kept

    topic = await copied(published, alter)
    told, found = await verify(published, PUBLISHER_MESSAGES_TOPIC=topic)
    assert told.code == 1, told.out + told.err

    def of(kind: str) -> set[str]:
        return {each["event_id"] for each in found["findings"] if each["kind"] == kind}

    assert of("missing") == altered["gone"]
    assert len(altered["gone"]) > 2
    assert of("extra") == {altered["extra"]}
    assert of("changed") == {altered["changed"]}
    [fields] = [each["fields"] for each in found["findings"] if each["kind"] == "changed"]
    assert fields == ["message", "feeling"]
    assert "Otra cosa" not in told.out + told.err
    # It has changed nothing.
    assert state_before == await read_raw(
        published.bootstrap, published.settings["PUBLISHER_STATE_TOPIC"]
    )

    told, found = await verify(published, "--repair", "--take-over", PUBLISHER_MESSAGES_TOPIC=topic)
    assert told.code == 1, "what is extra and changed is still so"
    assert found["repaired"] == len(altered["gone"])
    told, found = await verify(published, PUBLISHER_MESSAGES_TOPIC=topic)
    assert not found["missing"]
    assert len(found["findings"]) == 2
    ids = [orjson.loads(r.value)["event_id"] for r in await read_raw(published.bootstrap, topic)]
    assert len(ids) == len(set(ids)), "something was published twice"
    # The service goes on from there.
    publisher = published.start(PUBLISHER_MESSAGES_TOPIC=topic)
    await publisher.logged(event="Window published")
    await publisher.stop()
    ids = [orjson.loads(r.value)["event_id"] for r in await read_raw(published.bootstrap, topic)]
    assert len(ids) == len(set(ids))


async def test_a_repair_makes_it_complete(published: Rig) -> None:
    """One event is deleted: it is found, comes back under its id, and nothing else comes."""
    records = await read_raw(published.bootstrap, published.topic)
    lost = orjson.loads(in_range(records)[0].value)
    topic = await copied(published, deleted(lost["event_id"]))
    told, found = await verify(published, PUBLISHER_MESSAGES_TOPIC=topic)
    assert told.code == 1
    assert [(each["kind"], each["event_id"]) for each in found["findings"]] == [
        ("missing", lost["event_id"])
    ]
    asked = len(await published.api.requests())
    told, found = await verify(published, PUBLISHER_MESSAGES_TOPIC=topic)
    compared = len(await published.api.requests()) - asked
    told, found = await verify(published, "--repair", "--take-over", PUBLISHER_MESSAGES_TOPIC=topic)
    assert (told.code, found["repaired"], found["complete"]) == (0, 1, True)
    # The window that shows it, once more: requests are quota.
    assert len(await published.api.requests()) - asked - 2 * compared < 3
    told, found = await verify(published, PUBLISHER_MESSAGES_TOPIC=topic)
    assert (told.code, found["missing"], found["complete"]) == (0, 0, True)
    repaired = await read_raw(published.bootstrap, topic)
    assert sorted(ids_of(repaired)) == sorted(ids_of(records))
    [back] = [r for r in repaired if orjson.loads(r.value)["event_id"] == lost["event_id"]]
    assert orjson.loads(back.value) == lost


def ids_of(records: Sequence[Any]) -> list[str]:
    return [orjson.loads(record.value)["event_id"] for record in records]


async def test_what_cannot_be_meant(published: Rig) -> None:
    for bounds, words in (
        (("now", "-1h"), "FROM must lie before TO"),
        (("yesterday", "now"), "is no instant: write"),
        (("2026-11-20T10:00:00", "now"), "is no instant: write"),
    ):
        told = await command(published.settings, *bounds, name="verify", bare=True)
        assert told.code == 2
        assert words in told.err


async def test_before_anything_was_published(published: Rig) -> None:
    told, _ = await verify(published, PUBLISHER_STATE_TOPIC=f"{published.topic}.none")
    assert told.code == 1
    assert "nothing was published yet, or its state is lost" in told.err


def test_only_what_live_has_come_to_can_be_missing() -> None:
    """A later window explains what the topic holds, and accuses nobody."""
    minute = timedelta(minutes=1)
    compared = Comparison(NOON - 10 * minute, NOON, settled=NOON)
    value = {
        "event_id": "00000000-0000-5000-8000-000000000001",
        "conn_id": "1",
        "date": "2026-11-20 06:55:00",
        "occurred_at": "2026-11-20T11:55:00Z",
    }
    other = value | {"event_id": "00000000-0000-5000-8000-000000000002"}
    compared.published(value, later=False)
    assert [each.kind for each in compared.findings] == ["extra"]
    for event in (value, other):
        compared.shown(orjson.dumps(event), Window(NOON, NOON + minute))
    assert not compared.findings
    compared.shown(orjson.dumps(other), Window(NOON - 10 * minute, NOON))
    assert [each.kind for each in compared.findings] == ["missing"]

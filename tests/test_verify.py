"""`verify`: what is missing, extra or changed in the topic is found without words, and repaired."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from publisher.commands.verify import textfile
from publisher.commands.verify.comparison import Comparison
from publisher.commands.verify.verdict import KINDS, Unjudged
from publisher.model import Window
from sandbox.kafka import Broker
from tests import kafka_tools
from tests.harness import Rig, read_raw, rig
from tests.test_check import Outcome, command
from tests.test_rebuild import CALM, FAST
from tests.test_signals import NOON

WORLD: dict[str, Any] = {**CALM, "placeholders": 0.5, "phone": 0.3}
"""Customers whom only the phone of one of them tells apart."""


@pytest.fixture
async def published(kafka: Broker, tmp_path: Path) -> AsyncIterator[Rig]:
    """A service that has published, and stopped."""
    async with rig(kafka.bootstrap, tmp_path, WORLD, FAST) as one:
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


def with_less_told(records: Sequence[Any]) -> Any:
    """An event in the range, of a customer of whom another event of that text tells a phone."""

    def told(event: Any) -> tuple[Any, ...]:
        return tuple(event.get(name) for name in ("date", "from", "message", "customer_id"))

    events = [orjson.loads(record.value) for record in in_range(records)]
    more = {told(event) for event in events if event.get("customer_phone")}
    return next(one for one in events if not one.get("customer_phone") and told(one) in more)


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


async def test_what_stands_there_twice_is_found(published: Rig) -> None:
    """Each copy too many; no repair hides it."""
    doubled: list[str] = []

    def alter(records: list[Any]) -> list[tuple[Any, bytes]]:
        more = [*in_range(records)[:2], in_range(records)[0]]
        doubled.extend(ids_of(more))
        return [(record, record.value) for record in [*records, *more]]

    topic = await copied(published, alter)
    for arguments in ((), ("--repair", "--take-over")):
        told, found = await verify(published, *arguments, PUBLISHER_MESSAGES_TOPIC=topic)
        assert (told.code, found["complete"], found["doubled"]) == (1, False, 3)
        assert {each["kind"] for each in found["findings"]} == {"doubled"}
        assert sorted(each["event_id"] for each in found["findings"]) == sorted(doubled)
        assert found["rows"] == found["events"]
    words = await command(
        {**published.settings, "PUBLISHER_MESSAGES_TOPIC": topic}, "--", "-18m", "now",
        name="verify", bare=True,
    )  # fmt: skip
    assert "wv0010: NOT COMPLETE" in words.out
    assert "3 doubled" in words.out


async def test_the_result_is_written_as_metrics(published: Rig, tmp_path: Path) -> None:
    """Doubles, and what was not judged; a file that cannot be written is told before all else."""
    topic = await copied(
        published,
        lambda records: [(each, each.value) for each in [*records, in_range(records)[0]]],
        "metrics",
    )
    file = tmp_path / "wolkvox.prom"
    told = await command(
        {**published.settings, "PUBLISHER_MESSAGES_TOPIC": topic},
        "--metrics-file", str(file), "--", "-18m", "-1s", name="verify", bare=True,
    )  # fmt: skip
    assert told.code == 1
    lines = dict(
        line.rsplit(" ", 1) for line in file.read_text().splitlines() if not line.startswith("#")
    )
    prefix = "wolkvox_publisher_verify"
    assert float(lines[f'{prefix}_complete{{operation="wv0010"}}']) == 0
    found = f'{prefix}_findings{{kind="KIND",operation="wv0010"}}'
    assert [float(lines[found.replace("KIND", kind)]) for kind in KINDS] == [0, 1, 0, 0]
    hidden = f'{prefix}_not_judged_seconds{{operation="wv0010",reason="unsettled"}}'
    assert float(lines[hidden]) > 0
    assert time.time() - 60 < float(lines[f'{prefix}_timestamp_seconds{{operation="wv0010"}}'])
    refused = await command(
        {**published.settings, "WOLKVOX_URL": "http://127.0.0.1:1"},
        "--metrics-file", str(tmp_path / "none" / "x.prom"), "--", "-18m", "now",
        name="verify", bare=True,
    )  # fmt: skip
    assert refused.code == 1
    assert "--metrics-file: " in refused.err
    assert "x.prom cannot be written: there is no such directory" in refused.err


def test_what_a_repair_has_published_is_no_finding_any_more() -> None:
    """And all series are there, at zero."""
    part = {"reason": "deleted", "from": "2026-11-20T10:00:00Z", "to": "2026-11-20T11:30:00Z"}
    counts = dict.fromkeys(KINDS, 0) | {"missing": 5}
    operation = {"operation": "a", "complete": False, "repaired": 5, "not_judged": [part], **counts}
    told = {
        (family.name.rpartition("verify_")[2], *sample.labels.values()): sample.value
        for family in textfile.families([operation], NOON)
        for sample in family.samples
    }
    assert [told["findings", "a", kind] for kind in KINDS] == [0, 0, 0, 0]
    assert told["not_judged_seconds", "a", "deleted"] == 5400
    assert [told["not_judged_seconds", "a", each] for each in Unjudged] == [5400, 0, 0, 0]
    assert told["timestamp_seconds", "a"] == NOON.timestamp()


async def test_a_range_that_live_has_not_settled_is_not_complete(published: Rig) -> None:
    """With an end of its own it is asked for in whole; `now` is as far as live has come."""
    for until, complete in (("-1s", False), ("now", True)):
        told = await command(
            published.settings, "--json", "--", "-18m", until, name="verify", bare=True
        )
        [found] = orjson.loads(told.out)["operations"]
        assert not found["findings"]
        assert found["complete"] is complete
        assert [part["reason"] for part in found["not_judged"]] == ["unsettled"] * (not complete)
        assert told.code == int(not complete)
    words = await command(published.settings, "--", "-1s", "now", name="verify", bare=True)
    assert "wv0010: NOT JUDGED in whole, nothing could be compared" in words.out


async def test_with_a_horizon_of_minutes(kafka: Broker, tmp_path: Path) -> None:
    """Exactly what is missing comes back; older than the state remembers nothing is complete."""
    short = {"PUBLISHER_REREADS": "", "PUBLISHER_MAX_WINDOW": "1m", "PUBLISHER_HORIZON": "2m"}
    async with rig(kafka.bootstrap, tmp_path, WORLD, {**FAST, **short}) as one:
        publisher = one.start()
        assert (await one.settled(60)).none
        await publisher.stop()
        records = await read_raw(one.bootstrap, one.topic)
        topic = await copied(one, deleted(orjson.loads(in_range(records)[0].value)["event_id"]))
        told, found = await verify(one, "--repair", "--take-over", PUBLISHER_MESSAGES_TOPIC=topic)
        assert (told.code, found["complete"], found["repaired"]) == (0, True, 1), told.out
        assert sorted(ids_of(await read_raw(one.bootstrap, topic))) == sorted(ids_of(records))
        told = await command(one.settings, "--json", "--", "-6h", "now", name="verify", bare=True)
        [found] = orjson.loads(told.out)["operations"]
        assert (told.code, found["complete"], found["findings"]) == (1, False, [])
        assert [part["reason"] for part in found["not_judged"]] == ["forgotten"]
        assert any("not repaired" in note for note in found["notes"])


async def test_a_repair_makes_it_complete(published: Rig) -> None:
    """One event is deleted: it is found, comes back under its id, and nothing else comes."""
    records = await read_raw(published.bootstrap, published.topic)
    lost = with_less_told(records)
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
        (("yesterday", "now"), "is not a date with offset: write"),
        (("2026-11-20T10:00:00", "now"), "is not a date with offset: write"),
    ):
        told = await command(published.settings, *bounds, name="verify", bare=True)
        assert told.code == 2
        assert words in told.err


async def test_before_anything_was_published(published: Rig) -> None:
    told, _ = await verify(published, PUBLISHER_STATE_TOPIC=f"{published.topic}.none")
    assert told.code == 1
    assert "nothing was published yet, or its state is lost" in told.err
    gone = f"{published.topic}.none"
    told, _ = await verify(published, PUBLISHER_MESSAGES_TOPIC=gone)
    assert told.code == 1
    assert f"wv0010: its messages topic {gone} is not there: check" in told.err


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

"""Revisions over a real Kafka: each change once, whatever is killed when."""

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final

from publisher.kafka.cluster import Cluster
from publisher.model import Record
from sandbox.consume import Event, Reader
from sandbox.kafka import Broker
from sandbox.processes import until
from sandbox.wolkvox.report import identity
from tests import kafka_tools
from tests.fakes import Author, event, settings_of
from tests.harness import Rig, _can_be_an_event, flat, rig, tell
from tests.test_check import command

SEED: Final = time.time_ns() % 1_000_000
WORLD: Final = {"rate": 10_800, "history": "1m", "corrected": 0.5, "corrected_after": "6s"}
SETTINGS: Final = {
    "PUBLISHER_POLL_EVERY": "500ms",
    "PUBLISHER_OVERLAP": "2s",
    "PUBLISHER_REREADS": "5s,25s",
    "PUBLISHER_START": "-2m",
}

Contents = dict[bytes, Counter[str]]
"""How often which content, by what makes a message."""


async def test_who_applies_revisions_knows_what_the_report_shows(
    kafka: Broker, tmp_path: Path
) -> None:
    """Numbers count up by one, each says something new, and in the end all of it is true."""
    draw = Random(SEED)
    async with rig(kafka.bootstrap, tmp_path, WORLD, SETTINGS) as one:
        topic = f"{one.topic}.revisions"
        one.settings["PUBLISHER_REVISIONS_TOPIC"] = topic
        for _ in range(4):
            publisher = one.start()
            await asyncio.sleep(draw.uniform(1.5, 5.0))
            assert publisher.alive, publisher.child.output[-3000:]
            publisher.kill()
        publisher = one.start()
        before = time.time()
        settled = await one.settled(60)
        assert settled.none, f"seed {SEED}: {settled}"
        reader = Reader(kafka.bootstrap, topic)
        revisions: list[Event] = []
        try:

            async def known() -> bool:
                revisions.extend(await reader.to_end())
                found = applied(await one.read_patiently(), revisions)
                wanted = await shown(one, before)
                return all(found.get(name) == contents for name, contents in wanted.items())

            # A chat of `before` has closed 12 s later, is corrected by 18 s, and read at 25 s.
            await asyncio.sleep(before + 20 - time.time())
            await until(known, 60, f"seed {SEED}: the truth", every=0.5)
            assert not await kafka_tools.open_transactions(kafka.bootstrap, one.topic, topic)
            counted = await until(lambda: publisher.metric("messages_revised_total"), 60)
            revisions.extend(await reader.to_end())
            tell(f"seed {SEED}: {len(revisions)} revisions of {len(one.events)} events")
            assert len(revisions) > 40
            assert counted <= len(revisions)
            events = await one.read_patiently()  # revisions were read before
            homes = {event.key: event.partition for event in events if event.key}
            assert all(homes[each.key] == each.partition for each in revisions if each.key)
            await publisher.stop()
            await told_by_verify(one, before)
            await kafka_tools.delete(kafka.bootstrap, one.settings["PUBLISHER_STATE_TOPIC"])
            rebuilt = await command(one.settings, "rebuild", "--yes", name="state", bare=True)
            assert rebuilt.code == 0, rebuilt.err
            publisher = one.start()
            await until(lambda: publisher.metric("messages_revised_total"), 60)
            revisions.extend(await reader.to_end())
            applied(await one.read_patiently(), revisions)  # no number is given twice
        finally:
            await reader.__aexit__()


async def told_by_verify(one: Rig, before: float) -> None:
    """With the revisions the topics say what the report shows, without them they do not."""
    bounds = [datetime.fromtimestamp(at, UTC).isoformat() for at in (before - 30, before)]
    for topic, complete in ((one.settings["PUBLISHER_REVISIONS_TOPIC"], True), ("", False)):
        settings = one.settings | {"PUBLISHER_REVISIONS_TOPIC": topic}
        told = await command(settings, "--json", "--", *bounds, name="verify", bare=True)
        [found] = json.loads(told.out)["operations"]
        assert found["rows"] > 20
        assert found["missing"] == found["extra"] == 0
        assert (found["changed"] == 0) == complete, told.out


def applied(events: list[Event], revisions: list[Event]) -> Contents:
    """What a consumer knows who keeps the highest revision of each message."""
    table = {event.value["event_id"]: event.value for event in events}
    assert len(table) == len(events)
    numbers: Counter[str] = Counter()
    for each in sorted(revisions, key=lambda each: (each.partition, each.offset)):
        told = dict(each.value)
        id_ = told["event_id"]
        numbers[id_] += 1
        assert told.pop("revision") == numbers[id_], f"seed {SEED}: lost or twice"
        assert each.headers["ce_id"].decode() == f"{id_}/{numbers[id_]}"
        assert told != table[id_], f"seed {SEED}: nothing has changed"
        table[id_] = told
    found: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
    for told in table.values():
        row = flat(told, {})
        found[identity(row, row)][_json(row)] += 1
    return found


async def shown(one: Rig, before: float) -> Contents:
    """What the report shows by now of what was said before."""
    found: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
    rows = [row for row in await one.api.truth() if _can_be_an_event(row)]
    late = {identity(row, row) for row in rows if row["_visible_at"] > before}
    for row in rows:
        if (name := identity(row, row)) not in late and row["_at"] > before - 40:
            found[name][_json(row)] += 1
    return found


def _json(row: Mapping[str, Any]) -> str:
    own = {name: value for name, value in row.items() if not name.startswith("_")}
    return json.dumps(own, sort_keys=True)


async def test_each_goes_to_its_topic(kafka: Broker, topics: dict[str, str]) -> None:
    """Events, revisions and dead letters of one transaction."""
    topic = topics["PUBLISHER_MESSAGES_TOPIC"] + ".revisions"
    cluster = Cluster(settings_of({**topics, "PUBLISHER_REVISIONS_TOPIC": topic}), lambda _: None)
    try:
        author, log = Author(), cluster.log("wv0010")
        await log.restore()
        await log.commit(author.first())
        await log.commit(
            replace(
                author.window(),
                revisions=one(b"revisions"),
                dead_letters=one(b"dead_letters"),
                events=one(b"events"),
            )
        )
    finally:
        await cluster.close()
    for name, value in (
        (topics["PUBLISHER_MESSAGES_TOPIC"], b"events"),
        (topic, b"revisions"),
        (topics["PUBLISHER_DEAD_LETTERS_TOPIC"], b"dead_letters"),
    ):
        [record] = await kafka_tools.read(kafka.bootstrap, name)
        assert record.value == value


def one(value: bytes) -> Iterator[Record]:
    return iter([event("186067512", value)])


async def test_without_a_topic_nothing_of_it_is_there(kafka: Broker, tmp_path: Path) -> None:
    """No topic, no field in the journal, no revision counted."""
    async with rig(kafka.bootstrap, tmp_path, WORLD, SETTINGS) as one:
        publisher = one.start()
        assert (await one.settled(60)).none
        await publisher.logged(30, event="Window published", **{"pass": "reread"})
        assert await publisher.metric("messages_revised_total") == 0
        state = await kafka_tools.read(kafka.bootstrap, one.settings["PUBLISHER_STATE_TOPIC"])
        assert not any(b"fingerprints" in (record.value or b"") for record in state)
        async with kafka_tools.administering(kafka.bootstrap) as admin:
            prefix = one.topic.partition(".")[0]
            names = [name for name in await admin.list_topics() if name.startswith(prefix)]
        assert len(names) == 3

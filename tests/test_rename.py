"""`state rename`, a real service and a real Kafka: another name, nothing twice, nothing lost."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from unittest.mock import AsyncMock

import orjson
import pytest
from aiokafka.admin.records_to_delete import RecordsToDelete

from publisher.commands.event_reader import first_kept
from publisher.commands.state import rename
from publisher.commands.state.rename_steps import renaming
from publisher.commands.takeover import owned
from publisher.events.encode import Encoder, Provenance
from publisher.events.rows import read_rows
from publisher.kafka.cluster import Cluster
from publisher.kafka.commands_topic import KafkaCommands
from publisher.model import Record, Standing
from publisher.schedule.backfill_pass import BackfillRequest
from publisher.settings import load
from publisher.wolkvox.timezone import Zone
from sandbox.kafka import Broker
from sandbox.processes import until
from tests import kafka_tools
from tests.commands import Ended, command
from tests.fakes import Author
from tests.harness import Rig, read_raw, rig
from tests.test_replayed_letters import LARGE, SECRET, SMALL, conversation
from tests.test_signals import NOON

SALES: Final = {"WOLKVOX_NAME": "sales"}
FAST: Final = {
    "PUBLISHER_POLL_EVERY": "500ms",
    "PUBLISHER_OVERLAP": "2s",
    "PUBLISHER_REREADS": "5s",
    "PUBLISHER_START": "-15m",
}
WORLD: Final = {"rate": 1200, "history": "10m", "corrected": 0.0, "long_texts": 0.0}


async def state_(one: Rig, *words: str, **settings: str) -> Ended:
    return await command({**one.settings, **settings}, "state", *words)


async def shown(one: Rig, **settings: str) -> dict[str, Any]:
    told = orjson.loads((await state_(one, "show", "--json", **settings)).out)["operations"]
    return {each["operation"]: each for each in told}


async def renamed(one: Rig, old: str, new: str) -> None:
    """As soon as nobody is taken for running any more."""

    async def allowed() -> bool:
        done = await state_(one, "rename", old, new, "--yes")
        assert done.code == 0 or "a service seems to run" in done.problems, done
        return done.code == 0

    await until(allowed, 20, "the renaming to be allowed")


async def test_an_operation_goes_on_under_another_name(kafka: Broker, tmp_path: Path) -> None:
    """With its dead letters, its orders and its past; also when the state is lost later."""
    async with rig(kafka.bootstrap, tmp_path, WORLD, {**FAST, **SMALL}) as one:
        await one.api.say([conversation(1, SECRET + "x" * 3000)])
        service = one.start()
        await until(one.dead_letters, 30, "a dead letter")
        now = datetime.now(UTC)
        words = [f"{now - timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}" for hours in (8, 4)]
        ordered = await command(one.settings, "backfill", *words)
        assert ordered.code == 0, ordered
        await service.logged(30, event="Backfill requests applied")
        polls = {"PUBLISHER_POLL_EVERY": "1m"}  # it is taken for running for three of them
        refused = await state_(one, "rename", "wv0010", "sales", "--yes", **polls)
        assert "a service seems to run" in refused.problems
        await one.kill()
        before = (await shown(one))["wv0010"]
        dry = await state_(one, "rename", "wv0010", "sales")
        assert (dry.code, "would be renamed (add --yes) to sales" in dry.problems) == (0, True)
        assert (await shown(one))["wv0010"] == before, "a dry run has written"
        await renamed(one, "wv0010", "sales")
        service = one.start(**SALES)
        restored = await service.logged(20, event="State restored", operation="sales")
        assert restored["ledger_ids"] == before["ids"]
        assert restored["backfills"], "its orders are forgotten"
        await service.published()
        await _nothing_else_came(one, but_letter=True)
        assert await service.stop() == 0
        await _is_complete(one)
        await _letters_come_back(one)

        await kafka_tools.delete(one.bootstrap, one.settings["PUBLISHER_STATE_TOPIC"])
        rebuilt = await state_(one, "rebuild", "--yes", **SALES)
        assert rebuilt.code == 0, rebuilt
        told = (await shown(one, **SALES))["sales"]
        assert told["formerly"] == ["wv0010"]
        service = one.start()
        held = await service.logged(20, reason="state_renamed")
        assert "operation wv0010 goes on as sales, whose ids are made of its" in held["problem"]
        assert await service.stop() == 0
        service = one.start(**SALES, **LARGE)
        await _nothing_else_came(one)
        assert await service.stop() == 0
        await renamed(one, "sales", "wv0010")
        service = one.start(**LARGE)
        await service.published()
        await _nothing_else_came(one)
        assert await service.stop() == 0
        _tells_of_former_names(one)


async def _nothing_else_came(one: Rig, *, but_letter: bool = False) -> None:
    """All that was shown, once; the row of a dead letter stands where it was replayed."""
    found = await one.settled(30, later=["sales"], missing_rows=int(but_letter))
    assert len(found.lost) == but_letter, found
    assert (found.duplicated, found.altered, found.foreign) == ([], [], []), found
    assert all("replay" in each for each in found.disordered), found


async def _is_complete(one: Rig) -> None:
    """By `verify`, which knows events of both names."""
    ended = await command({**one.settings, **SALES}, "verify", "--json", "--", "-9m", "now")
    [told] = orjson.loads(ended.out)["operations"]
    assert ended.code == 0, told
    sources = {event.value["source"] for event in one.events}
    assert sources == {"wv0010", "sales"}
    assert told["events"] > 20


async def _letters_come_back(one: Rig) -> None:
    """Written under the old name, replayed under the new one, once."""
    settings = {**one.settings, **SALES, **LARGE}
    listed = await command(settings, "dead-letters", "list", "--json")
    [letter] = orjson.loads(listed.out)["dead_letters"]
    assert letter["operation"] == "sales"
    ended = await command(settings, "dead-letters", "replay", "--all", "--publish", "--take-over")
    assert "1 events; 1 published" in ended.out, ended
    ended = await command(settings, "dead-letters", "replay", "--all", "--publish", "--take-over")
    assert "0 events: nothing to replay" in ended.out, ended


def _tells_of_former_names(one: Rig) -> None:
    """An event says of which names its id may be made, and nothing where there is but one."""
    told = [(event.value["source"], event.headers.get("wolkvox_formerly")) for event in one.events]
    assert set(told) == {("wv0010", None), ("sales", b"wv0010"), ("wv0010", b"wv0010,sales")}


async def test_topics_of_their_own(kafka: Broker, tmp_path: Path) -> None:
    """With {operation} in the names a new topic begins; what lies in the old one is known."""
    async with rig(kafka.bootstrap, tmp_path, WORLD, FAST) as one:
        base = one.topic.partition(".")[0]
        one.settings["PUBLISHER_MESSAGES_TOPIC"] = f"{base}.{{operation}}.messages"
        one.settings["PUBLISHER_DEAD_LETTERS_TOPIC"] = f"{base}.{{operation}}.letters"
        service = one.start()
        await service.logged(30, event="Window published", **{"pass": "reread"})
        await one.kill()
        await renamed(one, "wv0010", "sales")
        service = one.start(**SALES)
        await service.published()
        assert await service.stop() == 0
        old, new = [
            [orjson.loads(record.value) for record in await read_raw(one.bootstrap, topic)]
            for topic in (f"{base}.wv0010.messages", f"{base}.sales.messages")
        ]
        assert {event["source"] for event in old} == {"wv0010"}
        assert {event["source"] for event in new} == {"sales"}
        ids = [event["event_id"] for event in (*old, *new)]
        assert len(ids) == len(set(ids))
        ended = await command({**one.settings, **SALES}, "verify", "--json", "--", "-9m", "now")
        [told] = orjson.loads(ended.out)["operations"]
        assert ended.code == 0, told


async def test_the_old_name_is_nobody_elses(kafka: Broker, tmp_path: Path) -> None:
    """A service that still has it is held and asks for nothing; nobody can be given it."""
    async with rig(kafka.bootstrap, tmp_path, WORLD, FAST) as one:
        service = one.start()
        await service.logged(30, event="Window published")
        await one.kill()
        await renamed(one, "wv0010", "sales")
        service = one.start()
        held = await service.logged(20, reason="state_renamed")
        assert "operation wv0010 was renamed to sales: give it that name in the" in held["problem"]
        requests = len(await one.api.requests())
        assert await service.stop() == 0
        assert len(await one.api.requests()) == requests
        again = await state_(one, "rename", "wv0010", "sales", "--yes")
        assert (again.code, "nothing is left to do" in again.problems) == (0, True)
        kept = await state_(one, "forget", "wv0010", "--yes", **SALES)
        assert kept.code == 1
        assert "wv0010 is a former name of sales" in kept.problems
        assert "wv0010: renamed to sales" in (await state_(one, "show")).out
        assert (
            "formerly wv0010, not in the settings: set its name" in (await state_(one, "show")).out
        )
        assert "formerly wv0010\n" in (await state_(one, "show", **SALES)).out


async def test_killed_on_the_way(kafka: Broker, tmp_path: Path) -> None:
    """However far it came, never two names can go on; run again it ends."""
    async with rig(kafka.bootstrap, tmp_path, WORLD, FAST) as one:
        service = one.start()
        assert (await one.settled(40)).none
        await one.kill()
        settings = one.settings | {"PUBLISHER_HTTP_PORT": "0"}
        names = ["wv0010", "sales", "north", "south", "east", "west"]
        began = time.monotonic()
        words = ("state", "rename", *names[:2], "--yes", "--take-over")
        assert (await command(settings, *words)).code == 0
        took = time.monotonic() - began
        for share, (old, new) in zip((0.5, 0.65, 0.8, 0.95), pairwise(names[1:]), strict=True):
            words = ("state", "rename", old, new, "--yes", "--take-over")
            await command(settings, *words, kill_after=took * share)
            await one.end_transactions()
            told = await shown(one)
            going_on = [name for name, each in told.items() if "cursor" in each]
            assert going_on in ([], [old], [new])
            assert (await command(settings, *words)).code == 0
            told = await shown(one)
            assert [name for name, each in told.items() if "cursor" in each] == [new]
        service = one.start(WOLKVOX_NAME=names[-1])
        differences = await one.settled(40, later=names[1:])
        assert differences.none, differences
        assert await service.stop() == 0


async def test_the_name_was_changed_in_the_settings_alone(kafka: Broker, tmp_path: Path) -> None:
    """The service says what that means; what was begun there is not renamed over."""
    async with rig(kafka.bootstrap, tmp_path, WORLD, FAST) as one:
        service = one.start()
        await service.logged(30, event="Window published")
        assert await service.stop() == 0
        service = one.start(**SALES)
        hint = await service.logged(20, event="Something looks wrong", operation="sales")
        assert "sales begins anew, and" in hint["hint"]
        assert "knows wv0010, too, of which the settings say nothing" in hint["hint"]
        await service.logged(30, event="Window published")
        await one.kill()
        refused = await state_(one, "rename", "wv0010", "sales")
        assert refused.code == 1
        assert "sales has a state of its own: choose another name, or forget it" in refused.problems
        assert (await state_(one, "forget", "sales", "--yes", "--take-over")).code == 0
        assert (await state_(one, "rename", "wv0010", "sales")).code == 0


async def test_what_is_being_renamed_is_not_forgotten(topics: dict[str, str]) -> None:
    """Before the last step all that is known lies under the one name, or under the other."""
    env = {"WOLKVOX_SERVER": "0030", "WOLKVOX_TOKEN": "the-token", **topics}
    async with owned(load(env)) as cluster:
        await begun(cluster, "one")
        logs = {name: cluster.log(name) for name in ("one", "two")}
        records = {name: (await log.restore()).records for name, log in logs.items()}
        for batch in renaming("one", "two", records["one"], records["two"]).beginning:
            await logs[batch.operation].commit(batch)
    for name in ("one", "two"):
        kept = await command(env, "state", "forget", name, "--yes")
        assert kept.code == 1
        assert "the renaming of one to two was interrupted: run it again (wolkvox-" in kept.problems
        assert "state rename one two --yes)" in kept.problems
    assert "the renaming of one to two was" in (await command(env, "state", "show")).out
    assert (await command(env, "state", "rename", "one", "two", "--yes")).code == 0
    assert "two: 4 records" in (await command(env, "state", "show")).out


@pytest.mark.parametrize("windows", [0, 3])
@pytest.mark.parametrize("failing", ["write", "forget"])
async def test_orders_move_whole(
    topics: dict[str, str], windows: int, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed beside them and run again, none is left where it would be obeyed a second time."""
    env = {"WOLKVOX_SERVER": "0030", "WOLKVOX_TOKEN": "the-token", **topics}
    settings = load({**env, "PUBLISHER_COMMANDS_TOPIC": f"{topics['PUBLISHER_STATE_TOPIC']}.c"})
    backfill_requests = [
        BackfillRequest(str(number), NOON, NOON + timedelta(hours=1), again=True, wanted=wanted)
        for number, wanted in enumerate(Standing)
    ]
    async with owned(settings) as cluster:
        await begun(cluster, "one", windows)
    for backfill_request in backfill_requests:
        await KafkaCommands(settings, "one").write(backfill_request)
    with monkeypatch.context() as killed:
        killed.setattr(KafkaCommands, failing, AsyncMock(side_effect=ConnectionError))
        with pytest.raises(ConnectionError):
            await rename._rename(settings, "one", "two")
    env["PUBLISHER_COMMANDS_TOPIC"] = settings.publisher.commands_topic
    assert (await command(env, "state", "rename", "one", "two", "--yes")).code == 0
    assert await KafkaCommands(settings, "two").read() == backfill_requests
    assert await KafkaCommands(settings, "one").read() == []


async def test_lost_after_it_was_renamed_back(topics: dict[str, str]) -> None:
    """Nothing was published under the name since; what was under the one between is known."""
    env = {"WOLKVOX_URL": "http://nobody", "WOLKVOX_NAME": "one", "WOLKVOX_TOKEN": "t", **topics}
    settings = load(env)
    async with owned(settings) as cluster:
        await begun(cluster, "one", events=said("one", "2026-11-20 06:00:00"))
        await begun(cluster, "two", events=said("two", "2026-11-20 07:00:00", "one"))
        await begun(cluster, "six", events=said("six", "2026-11-20 08:00:00"))
    await kafka_tools.delete(settings.kafka.bootstrap_servers, settings.publisher.state_topic)
    done = await command(env, "state", "rebuild", "--yes", "--json")
    assert done.code == 0, done
    [told] = orjson.loads(done.out)["operations"]
    assert told["events"] == 2
    shown = await command(env, "state", "show", "--json")
    [told] = orjson.loads(shown.out)["operations"]
    assert (told["ids"], told["formerly"]) == (2, ["one", "two"])
    async with owned(settings) as cluster:
        await begun(cluster, "six")
    taken = await command(env, "state", "rename", "six", "two", "--yes")
    assert "two is a former name of one, whose ids are made of such names" in taken.problems


async def test_the_old_topic_has_deleted_all(topics: dict[str, str]) -> None:
    """That is no reason to judge nothing: what came later stands in the new one."""
    topic = topics["PUBLISHER_MESSAGES_TOPIC"] + ".{operation}"
    env = {"WOLKVOX_URL": "http://nobody", "WOLKVOX_NAME": "two", "WOLKVOX_TOKEN": "t", **topics}
    settings = load({**env, "PUBLISHER_MESSAGES_TOPIC": topic})
    bootstrap = settings.kafka.bootstrap_servers
    async with owned(settings) as cluster:
        await begun(cluster, "one", events=said("one", "2026-11-20 06:00:00"))
        began = datetime.now(UTC) - timedelta(milliseconds=2)
        await begun(cluster, "two", events=said("two", "2026-11-20 07:00:00", "one"))
    ended = datetime.now(UTC)
    assert await first_kept(settings, "two", ["one"]) is None
    async with kafka_tools.administering(bootstrap) as admin:
        ends = await kafka_tools.end_offsets(bootstrap, settings.messages_topic("one"))
        wanted = {at: RecordsToDelete(before_offset=end) for at, end in ends.items() if end}
        await admin.delete_records(wanted)
    kept = await first_kept(settings, "two", ["one"])
    assert kept is not None
    assert began <= kept <= ended
    for name, formerly in (("one", []), ("one", ["one", "two"]), ("six", ["one"])):
        kept = await first_kept(settings, name, formerly)
        assert kept is not None
        assert kept > ended, "whatever stands there may be older"


def said(source: str, date: str, *formerly: str) -> list[Record]:
    """An event of an operation that has borne these names."""
    data = [{"conn_id": "1", "conversation": [{"date": date}]}]
    rows = read_rows(data, (*formerly, source)[0], Zone("America/Bogota")).rows
    at = datetime.fromisoformat(date).replace(tzinfo=UTC) + timedelta(hours=6)
    provenance = Provenance(source, "live", at, formerly=formerly)
    return [*Encoder(provenance, max_event_bytes=100_000).encode(rows)]


async def begun(
    cluster: Cluster, name: str, windows: int = 3, events: Iterable[Record] = ()
) -> None:
    """The state of an operation that has published some windows long ago."""
    author, log = Author(name), cluster.log(name)
    await log.restore()
    await log.commit(author.first())
    for _ in range(windows):
        await log.commit(author.window(events))
        author.committed()
        events = ()


@pytest.mark.parametrize(
    ("old", "new", "code", "problem"),
    [
        ("wv0010", "no name", 2, "NEW must be letters, digits, '.', '_' and '-' only"),
        ("wv0010", "wv0010", 2, "NEW must be another name than OLD"),
        ("wv0011", "sales", 1, "the state topic tells nothing of an operation wv0011"),
    ],
)
async def test_what_cannot_be_meant(
    topics: dict[str, str], old: str, new: str, code: int, problem: str
) -> None:
    settings = {"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": "the-token", **topics}
    ended = await command(settings, "state", "rename", old, new)
    assert (ended.code, ended.problems) == (code, f"wolkvox-publisher: {problem}\n")

"""`state rebuild`: a lost state comes back from what was published; nothing lost, nothing twice."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka.admin.records_to_delete import RecordsToDelete
from hypothesis import given
from hypothesis import strategies as st

from publisher.commands.state.rebuilt_state import MOST_TWINS, Rebuilt, ids_of
from publisher.events.deduplicate import Screen
from publisher.events.encode import Encoder, Provenance
from publisher.events.kafka_record import value_of
from publisher.events.published_event import PublishedEvent
from publisher.events.rows import chunks, read_rows
from publisher.kafka.commands_topic import KafkaCommands
from publisher.model import Standing, Window
from publisher.schedule.backfill_pass import BackfillRequest
from publisher.settings import load
from publisher.state import state
from publisher.state.forgetting import forgotten_with
from publisher.state.gaps import NEAR, near
from publisher.state.ledger import Ledger
from publisher.wolkvox.timezone import Zone
from sandbox.kafka import Broker
from tests import kafka_tools
from tests.harness import Rig, rig
from tests.test_check import command
from tests.test_signals import NOON

ZONE = Zone("America/Bogota")
CALM = {"rate": 600, "history": "20m", "late": 0.0, "corrected": 0.0}
FAST = {"PUBLISHER_START": "-30m", "PUBLISHER_POLL_EVERY": "500ms", "PUBLISHER_OVERLAP": "2s"}

texts = st.one_of(st.none(), st.text(max_size=3), st.integers(-9, 9), st.sampled_from(["a\0b"]))
rows = st.fixed_dictionaries(
    {"date": st.sampled_from(["2026-11-20 10:00:00", "2026-11-20 10:00:01"])},
    optional={"from": texts, "message": texts, "channel": texts, "customer_id": texts},
)
chats = st.fixed_dictionaries(
    {"conversation": st.lists(rows, max_size=8)},
    optional={"conn_id": st.sampled_from(["0", "", None, "17", 17]), "agent_name": texts},
)


def published(data: list[Any], largest: int = 1_000_000) -> tuple[list[int], list[dict[str, Any]]]:
    """The ids of the ledger, and the values of the events, in the events' order."""
    found = list({row[1]: row for row in read_rows(data, "wv0010", ZONE).rows}.values())
    found.sort(key=lambda row: row[0])
    encoder = Encoder(Provenance("wv0010", "live", NOON), max_event_bytes=largest)
    values = [orjson.loads(value_of(record)) for record in encoder.encode(found)]
    return [int.from_bytes(row[1][:8]) for row in found], values


@given(st.lists(chats, max_size=4))
def test_the_id_is_found_by_the_fields(data: list[Any]) -> None:
    """Twins, placeholders, odd fields: what the event says leads to what the ledger knew."""
    ids, values = published(data)
    rebuilt = ids_of("wv0010", ZONE, values)
    assert [first for first, *_ in rebuilt] == ids
    screen = Screen(Ledger())
    for reading in chunks([*data], "wv0010", ZONE):
        screen.fresh(reading)
    # What else is remembered of customers under a placeholder included.
    remembered = {id_ for bucket in screen.ids().values() for id_ in bucket}
    assert {id_ for told in rebuilt for id_ in told} == remembered


@pytest.mark.parametrize("field", ["message", "note"])
def test_an_event_whose_message_is_not_there(field: str) -> None:
    """Sixteen readings of its id, the right one among them."""
    row = {"date": "2026-11-20 10:00:00", "from": "AGENT", "message": "x" * 3_000}
    [id_], [value] = published([{"conn_id": "1", "conversation": [row]}], largest=2_000)
    assert value["message"] is None, field
    [found] = ids_of("wv0010", ZONE, [value])
    assert len(set(found)) == 16
    assert id_ in found


def test_more_twins_than_are_tried() -> None:
    row = {"date": "2026-11-20 10:00:00", "from": "AGENT", "message": "ok"}
    ids, values = published([{"conn_id": "1", "conversation": [dict(row) for _ in range(1_100)]}])
    found = ids_of("wv0010", ZONE, values)
    assert all(id_ in those for id_, those in zip(ids, found, strict=True))
    assert sum(len(those) == 1 for those in found) == MOST_TWINS


def test_half_a_rebuild_is_refused() -> None:
    """Transactions are bounded; before the last of them the state counts as lost."""
    settings = load({"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": "t"}).publisher
    rebuilt = Rebuilt("wv0010", ZONE)
    _, [value] = published([{"conn_id": "1", "conversation": [{"date": "2026-11-20 06:00:00"}]}])
    rebuilt.add([PublishedEvent(value, NOON, "live")])
    many = rebuilt.days["2026-11-20"]["2026-11-20 06"]
    many.extend(range(600_000))
    cursor = rebuilt.cursor(settings)
    assert cursor is not None
    log: dict[bytes, bytes] = {}
    steps = [*rebuilt.transactions(settings, cursor)]
    assert len(steps) == 2
    for number, (_, records) in enumerate(steps):
        assert sum(len(record.value or b"") for record in records) < 4_200_000
        log |= {record.key: record.value or b"" for record in records}
        if number == 0:
            with pytest.raises(Exception, match="no checkpoint"):
                state.restore("wv0010", log.copy())
    restored = state.restore("wv0010", log.copy())
    assert restored is not None
    assert len(restored.ledger) == 600_001
    assert restored.read_until(cursor, NOON - NOON) == cursor, "it claims that time was read"
    [entry] = restored.journal
    assert restored.read_until(entry.start, NOON - NOON) == entry.start


DAY = timedelta(days=1)


def rebuilt_of(*dates: str) -> Rebuilt:
    """From events of these local dates, all read by live at noon."""
    rebuilt = Rebuilt("wv0010", ZONE)
    for date in dates:
        _, values = published([{"conn_id": "1", "conversation": [{"date": date}]}])
        rebuilt.add([PublishedEvent(value, NOON, "live") for value in values])
    return rebuilt


def made(rebuilt: Rebuilt, kept: Any = None) -> Any:
    settings = load({"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": "t"}).publisher
    cursor = rebuilt.cursor(settings, kept)
    assert cursor is not None
    log: dict[bytes, bytes] = {}
    for _, records in rebuilt.transactions(settings, cursor, kept_since=kept):
        log |= {record.key: record.value or b"" for record in records}
    return state.restore("wv0010", log)


def test_what_a_rebuilt_state_forgets_is_all_that_it_remembered() -> None:
    """Its entries lie where they were read; their messages are of any time before."""
    known = made(rebuilt_of("2026-10-20 06:00:00", "2026-11-20 06:00:00"))
    assert known.checkpoint.forgotten == ()
    old = datetime(2026, 10, 20, 11, tzinfo=UTC)
    assert near(forgotten_with((), known.journal), old, old + timedelta(seconds=1))
    assert near(forgotten_with((), known.journal), NOON - DAY, NOON)


@pytest.mark.parametrize("kept", [NOON - 20 * DAY, NOON - DAY, NOON - timedelta(hours=2), NOON])
def test_what_the_topic_has_deleted_is_forgotten(kept: datetime) -> None:
    """Neither live nor a re-read asks for it; live never goes on later than it was."""
    known = made(rebuilt_of("2026-11-20 06:59:00"), kept)
    assert near(known.checkpoint.forgotten, kept - 900 * DAY, kept - 899 * DAY)
    plain = made(rebuilt_of("2026-11-20 06:59:00")).checkpoint.live.cursor
    newest = datetime(2026, 11, 20, 11, tzinfo=UTC)
    cursor = known.checkpoint.live.cursor
    assert cursor == max(plain, min(kept + NEAR, newest))
    for name, progress in known.checkpoint.passes.items():
        assert name == "live" or progress.cursor >= kept + NEAR


@pytest.fixture
async def lost(kafka: Broker, tmp_path: Path) -> AsyncIterator[Rig]:
    """A service that has published, killed; its state topic is gone."""
    async with rig(kafka.bootstrap, tmp_path, CALM, FAST) as one:
        one.start()
        assert (await one.settled(60)).none
        await one.kill()
        await kafka_tools.delete(kafka.bootstrap, one.settings["PUBLISHER_STATE_TOPIC"])
        yield one


async def rebuild(one: Rig, *arguments: str) -> Any:
    return await command(one.settings, "rebuild", *arguments, name="state", bare=True)


async def test_a_lost_state_is_rebuilt(lost: Rig) -> None:
    """Refused with the cure; a dry run, the rebuild, and then 0 lost and 0 duplicated.

    What was ordered to be published again is not obeyed anew.
    """
    lost.settings["PUBLISHER_COMMANDS_TOPIC"] = f"{lost.topic}.commands"
    settings = load(lost.settings)
    begin = datetime.now(UTC) - timedelta(minutes=15)
    backfill_request = BackfillRequest(
        "1", begin, begin + timedelta(minutes=5), again=True, wanted=Standing.RUNNING
    )
    await KafkaCommands(settings, "wv0010").write(backfill_request)
    publisher = lost.start()
    refused = await publisher.logged(reason="state_lost")
    assert "wolkvox-publisher state rebuild" in refused["problem"]
    await lost.kill()
    before = len(await lost.read())
    dry = await rebuild(lost, "--json")
    assert dry.code == 0, dry.err
    assert not orjson.loads(dry.out)["done"]
    assert "would be rebuilt (add --yes)" in dry.err
    assert "backfills that were ordered before are ended: order them anew if wanted" in dry.err
    publisher = lost.start()
    assert await publisher.logged(reason="state_lost"), "the dry run has written something"
    await lost.kill()
    done = await rebuild(lost, "--yes", "--json")
    assert done.code == 0, done.err
    [told] = orjson.loads(done.out)["operations"]
    assert told["events"] == before
    assert told["unrecoverable"] == 0
    again = await rebuild(lost, "--yes")
    assert again.code == 1
    assert "its state is whole, there is nothing to rebuild" in again.err
    publisher = lost.start()
    restored = await publisher.logged(event="State restored")
    assert restored["ledger_ids"] >= before  # more where customers are told under a placeholder
    assert restored["backfills"] == [
        f"1 cancelled {Window(backfill_request.start, backfill_request.end)}"
    ]
    found = await lost.settled(60)
    assert found.none, found
    assert found.events >= before
    await publisher.stop()


async def test_not_beside_a_running_service(lost: Rig) -> None:
    publisher = lost.start()
    port = (await publisher.url()).rpartition(":")[2]
    told = await command(
        {**lost.settings, "PUBLISHER_HTTP_PORT": port}, "rebuild", "--yes", name="state", bare=True
    )
    assert told.code == 1
    assert "a service seems to run (one answers at" in told.err


async def test_a_topic_that_has_deleted_events(lost: Rig) -> None:
    """What comes again is told, whatever the dry run is for."""
    await delete_records(lost.bootstrap, lost.topic)
    told = await rebuild(lost)
    assert told.code == 0, told.err
    assert "the topic keeps events since" in told.err
    assert "only: earlier ones may come again" in told.err


async def test_an_event_of_somebody_else(lost: Rig) -> None:
    async with kafka_tools.producing(lost.bootstrap) as producer:
        await producer.send_and_wait(lost.topic, b"?", headers=[("ce_source", b"wv0010")])
    told = await rebuild(lost)
    assert told.code == 1
    assert (
        "the messages topic holds an event that this version did not write: its headers or its"
        " value cannot be read" in told.err
    )


async def delete_records(bootstrap: str, topic: str) -> None:
    """The oldest of each partition, as retention would."""
    async with kafka_tools.administering(bootstrap) as admin:
        ends = await kafka_tools.end_offsets(bootstrap, topic)
        wanted = {tp: RecordsToDelete(before_offset=1) for tp, end in ends.items() if end > 1}
        await admin.delete_records(wanted)

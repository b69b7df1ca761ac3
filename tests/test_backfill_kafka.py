"""History ordered by the command, before the real process and a real Kafka, killed in between."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from publisher.errors import NeedsOperator, StepError
from publisher.kafka.cluster import partition_of
from publisher.kafka.commands_topic import KafkaCommands
from publisher.model import Backfill, Standing
from publisher.schedule.backfill_pass import BackfillRequest
from publisher.state import state
from publisher.state.checkpoint import encode_checkpoint
from sandbox.kafka import Broker
from sandbox.processes import until
from tests import kafka_tools
from tests.commands import Ended, command
from tests.fakes import NOON, settings_of
from tests.harness import rig, tell


async def backfill(settings: Mapping[str, str], *words: str) -> Ended:
    return await command(settings, "backfill", *words)


async def only(settings: Mapping[str, str]) -> dict[str, Any]:
    code, out, problems = await backfill(settings, "list", "--json")
    assert code == 0, problems
    (told,) = orjson.loads(out)["backfills"]
    assert isinstance(told, dict)
    return told


async def test_history_beside_live_over_a_kill(kafka: Broker, tmp_path: Path) -> None:
    """Ordered, killed in the middle, paused, resumed: 0 lost, 0 twice, live on time."""
    settings = {
        "PUBLISHER_START": "now",
        "PUBLISHER_MAX_WINDOW": "1m",
        "PUBLISHER_REREADS": "5s,20s",
    }
    async with rig(kafka.bootstrap, tmp_path, {"rate": 7200}, settings) as one:
        mine = one.settings
        mine["PUBLISHER_COMMANDS_TOPIC"] = mine["PUBLISHER_STATE_TOPIC"] + ".commands"
        publisher = one.start()
        await publisher.logged(30, event="Window published")
        now = datetime.now(UTC)
        begin = (now - timedelta(minutes=65)).isoformat()
        code, out, problems = await backfill(mine, begin, now.isoformat())
        assert code == 0, problems
        id_ = out.split()[0]
        await publisher.logged(30, **{"event": "Window published", "pass": "backfill"})

        async def some() -> bool:
            return await publisher.metric("messages_published_total", **{"pass": "backfill"}) > 200

        await until(some, 30, "some of the history")
        publisher.kill()
        code, out, problems = await backfill(mine, "pause", id_)
        assert code == 0, problems
        again = one.start()

        async def paused() -> bool:
            return bool((await only(mine))["standing"] == "paused")

        await until(paused, 30, "paused")
        told = await only(mine)
        assert told["from"] < told["cursor"] < told["to"]
        assert (await backfill(mine, "resume", id_)).code == 0

        async def done() -> bool:
            assert await again.metric("lag_seconds") < 10
            return bool((await only(mine))["standing"] == "done")

        await until(done, 60, "done")
        tell(str(await only(mine)))
        found = await one.settled(30)
        tell(str(found))
        assert not found.lost, found
        assert not found.duplicated, found
        assert not found.foreign, found
        code, _, problems = await backfill(mine, "cancel", id_)
        assert (code, "has ended (done): order its range anew" in problems) == (2, True), problems
        code, _, problems = await backfill(mine, "cancel", "nothing")
        assert (code, "has no backfill of this id" in problems) == (2, True), problems
        assert await again.stop() == 0


async def test_one_that_publishes_again_is_paused_killed_and_cancelled(
    kafka: Broker, tmp_path: Path
) -> None:
    """What it has read by then came twice, everything else once; and so it stays."""
    world = {"rate": 3600, "history": "15m", "latency": 0.1, "late": 0.0, "twins": 0.0}
    settings = {
        "PUBLISHER_START": "-17m",
        "PUBLISHER_MAX_WINDOW": "30s",
        "PUBLISHER_REREADS": "",  # they, and what is read a second time, come before history,
    }
    async with rig(kafka.bootstrap, tmp_path, world, settings) as one:
        mine = one.settings
        mine["PUBLISHER_COMMANDS_TOPIC"] = mine["PUBLISHER_STATE_TOPIC"] + ".commands"
        publisher = one.start()

        async def caught_up() -> bool:
            return await publisher.metric("lag_seconds") < 3

        await publisher.logged(30, event="Window published")
        await until(caught_up, 90, "live has read the past")
        await one.api.change(latency=1.0)  # the orders below come in the middle of the range
        end = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
        begin = end - timedelta(minutes=13)
        code, out, problems = await backfill(mine, begin.isoformat(), end.isoformat(), "--again")
        assert code == 0, problems
        id_ = out.split()[0]
        await publisher.logged(30, **{"event": "Window published", "pass": "backfill"})

        async def want(what: str, standing: str) -> dict[str, Any]:
            assert (await backfill(mine, what, id_)).code == 0

            async def with_requests() -> bool:
                return bool((await only(mine))["standing"] == standing)

            await until(with_requests, 30, f"{what} is obeyed")
            return await only(mine)

        paused = await want("pause", "paused")
        assert paused["from"] < paused["cursor"] < paused["to"]
        remaining = await publisher.metric("backfill_remaining_seconds", standing="paused")
        left = datetime.fromisoformat(paused["to"]) - datetime.fromisoformat(paused["cursor"])
        assert remaining == left.total_seconds()
        publisher.kill()
        publisher = one.start()
        await publisher.logged(30, event="State restored")
        assert await only(mine) == paused
        await want("resume", "running")
        await publisher.logged(30, **{"event": "Window published", "pass": "backfill"})
        publisher.kill()
        publisher = one.start()
        await publisher.logged(30, event="State restored")
        cancelled = await want("cancel", "cancelled")
        assert paused["cursor"] < cancelled["cursor"] < cancelled["to"]
        await one.api.change(latency=0.1)
        publisher.kill()  # nothing of it may depend on what memory knew
        publisher = one.start(PUBLISHER_REREADS="20s")
        await publisher.logged(30, **{"event": "Window published", "pass": "reread"})
        code, out, problems = await backfill(mine, begin.isoformat(), end.isoformat(), "--wait")
        assert code == 0, problems
        assert " 0 new" in out.splitlines()[-1], "the ledger knows all of it"
        found = await one.settled(30)
        assert not found.lost, found
        assert not found.foreign, found
        assert await publisher.stop() == 0
        times = Counter(event.value["event_id"] for event in await one.read())
        pad = timedelta(seconds=6)  # how far a window reaches beyond its bounds
        cursor = datetime.fromisoformat(cancelled["cursor"])
        seen = {True: Counter[int](), False: Counter[int]()}
        closed = {_row(row): row["_closed"] for row in await one.api.truth()}
        for event in one.events:
            at = datetime.fromtimestamp(closed[_row(event.value)], UTC)
            if begin <= at < cursor:
                seen[True][times[event.value["event_id"]]] += 1
            elif not begin - pad <= at < cursor + pad:
                seen[False][times[event.value["event_id"]]] += 1
        tell(f"cancelled at {cancelled['cursor']}: {seen}")
        assert set(seen[True]) == {2}
        assert set(seen[False]) == {1}


def _row(fields: Mapping[str, Any]) -> tuple[Any, ...]:
    """Enough to know a row of this world by."""
    return tuple(fields.get(name) for name in ("conn_id", "date", "from", "message"))


async def test_a_record_that_is_no_order_and_a_topic_that_forgets(
    kafka: Broker, topics: dict[str, str]
) -> None:
    """Refused: an order must neither be guessed nor get lost."""
    topic = topics["PUBLISHER_STATE_TOPIC"] + ".commands"
    settings = settings_of({**topics, "PUBLISHER_COMMANDS_TOPIC": topic})
    await kafka_tools.create(kafka.bootstrap, topic, 12, cleanup_policy="delete")
    backfill_requests = KafkaCommands(settings, "wv0010")
    backfill_request = BackfillRequest(
        "1", NOON, NOON + timedelta(hours=1), again=False, wanted=Standing.RUNNING
    )
    with pytest.raises(NeedsOperator, match="Kafka would forget what was ordered"):
        await backfill_requests.write(backfill_request)
    assert await backfill_requests.read() == []
    async with kafka_tools.producing(kafka.bootstrap) as producer:
        await producer.send_and_wait(
            topic, b"{}", key=b"wv0010/1", partition=partition_of("wv0010")
        )
    with pytest.raises(NeedsOperator, match="that this version cannot read"):
        await backfill_requests.read()


async def test_whoever_orders_removes_what_ended_long_ago(
    kafka: Broker, topics: dict[str, str]
) -> None:
    """The last ten that ended are told, besides those that have not, in any number."""
    told = {**topics, "PUBLISHER_COMMANDS_TOPIC": topics["PUBLISHER_STATE_TOPIC"] + ".commands"}
    backfill_requests = KafkaCommands(settings_of(told), "wv0010")
    assert await backfill_requests.read() is None, "no topic: nothing can be told of it"
    hour = timedelta(hours=1)
    names = [f"20261101T0000{number:02}-ab" for number in range(15)]
    backfills = []
    for number, name in enumerate(names):
        standing = Standing.PAUSED if number == 3 else Standing.DONE
        await backfill_requests.write(
            BackfillRequest(name, NOON, NOON + hour, again=False, wanted=Standing.RUNNING)
        )
        backfills.append(
            Backfill(name, NOON, NOON + hour, again=False, cursor=NOON, standing=standing, since=1)
        )
    first, _ = state.first("wv0010", "America/Bogota", NOON, "now", ["live"])
    record = encode_checkpoint(replace(first.checkpoint, backfills=tuple(backfills)))
    await kafka_tools.create(
        kafka.bootstrap, told["PUBLISHER_STATE_TOPIC"], 12, cleanup_policy="compact"
    )
    async with kafka_tools.producing(kafka.bootstrap) as producer:
        await producer.send_and_wait(
            told["PUBLISHER_STATE_TOPIC"], record.value, key=record.key,
            partition=partition_of("wv0010"),
        )  # fmt: skip
    settings = {"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": "a-token", **told}
    code, out, problems = await backfill(settings, NOON.isoformat(), (NOON + hour).isoformat())
    assert code == 0, problems
    left = await backfill_requests.read()
    assert left is not None
    assert [one.id for one in left] == [names[3], *names[5:], out.split()[0]]


async def test_a_topic_that_is_deleted_is_looked_for_again(
    kafka: Broker, topics: dict[str, str]
) -> None:
    """Told once; from then on there is nothing to be seen, until it is there again."""
    topic = topics["PUBLISHER_STATE_TOPIC"] + ".commands"
    backfill_requests = KafkaCommands(
        settings_of({**topics, "PUBLISHER_COMMANDS_TOPIC": topic}), "wv0010"
    )
    backfill_request = BackfillRequest(
        "1", NOON, NOON + timedelta(hours=1), again=False, wanted=Standing.RUNNING
    )
    await backfill_requests.write(backfill_request)
    assert await backfill_requests.read() == [backfill_request]
    await kafka_tools.delete(kafka.bootstrap, topic)
    with pytest.raises(StepError):
        await backfill_requests.read()
    assert await backfill_requests.read() is None
    await backfill_requests.write(backfill_request)
    assert await backfill_requests.read() == [backfill_request]


async def test_what_cannot_be_ordered() -> None:
    """Each mistake is told with its cure, and costs no connection."""
    settings = {"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": "a-token"}
    early, late = "2026-11-01T00:00:00-05:00", "2026-11-02T00:00:00-05:00"
    for words, problem in [
        (("2026-11-01", late), "FROM must be an instant with its offset"),
        ((late, early), "FROM must lie before TO"),
        ((early, "2999-01-01T00:00:00Z"), "TO lies in the future"),
        ((early, late, "--operation", "wv9"), "--operation: there is no wv9; there are: wv0010"),
    ]:
        code, _, problems = await backfill(settings, *words)
        assert (code, problem in problems) == (2, True), problems

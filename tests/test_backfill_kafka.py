"""History ordered by the command, before the real process and a real Kafka, killed in between."""

import asyncio
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from publisher.edges.kafka import partition_of
from publisher.edges.kafka_orders import KafkaOrders
from publisher.errors import Held
from publisher.model import Standing
from publisher.rules.backfill import Order
from sandbox.kafka import Broker
from sandbox.processes import until
from tests import kafka_tools
from tests.fakes import NOON, settings_of
from tests.harness import rig, tell


async def command(settings: Mapping[str, str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `wolkvox-publisher backfill`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "publisher", "backfill", *words,
        env={"PATH": os.environ["PATH"], **settings},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, problems = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), problems.decode()


async def only(settings: Mapping[str, str]) -> dict[str, Any]:
    code, out, problems = await command(settings, "list", "--json")
    assert code == 0, problems
    (told,) = orjson.loads(out)["backfills"]
    assert isinstance(told, dict)
    return told


async def test_history_beside_live_over_a_kill(kafka: Broker, tmp_path: Path) -> None:
    """Ordered, killed in the middle, paused, resumed: 0 lost, 0 twice, live on time."""
    settings = {
        "PUBLISHER_START": "now",
        "PUBLISHER_MAX_WINDOW": "20s",
        "PUBLISHER_REREADS": "5s,20s",
    }
    async with rig(kafka.bootstrap, tmp_path, {"rate": 7200}, settings) as one:
        mine = one.settings
        mine["PUBLISHER_COMMANDS_TOPIC"] = mine["PUBLISHER_STATE_TOPIC"] + ".commands"
        publisher = one.start()
        await publisher.logged(30, event="Window published")
        now = datetime.now(UTC)
        begin = (now - timedelta(minutes=65)).isoformat()
        code, out, problems = await command(mine, begin, now.isoformat())
        assert code == 0, problems
        id_ = out.split()[0]
        await publisher.logged(30, **{"event": "Window published", "pass": "backfill"})

        async def some() -> bool:
            return await publisher.metric("messages_published_total", **{"pass": "backfill"}) > 200

        await until(some, 30, "some of the history")
        publisher.kill()
        code, out, problems = await command(mine, "pause", id_)
        assert code == 0, problems
        again = one.start()

        async def paused() -> bool:
            return bool((await only(mine))["standing"] == "paused")

        await until(paused, 30, "paused")
        told = await only(mine)
        assert told["from"] < told["cursor"] < told["to"]
        assert (await command(mine, "resume", id_))[0] == 0

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
        code, _, problems = await command(mine, "cancel", id_)
        assert (code, "has ended (done): order its range anew" in problems) == (2, True), problems
        code, _, problems = await command(mine, "cancel", "nothing")
        assert (code, "has no backfill of this id" in problems) == (2, True), problems
        assert await again.stop() == 0


async def test_a_record_that_is_no_order_and_a_topic_that_forgets(
    kafka: Broker, topics: dict[str, str]
) -> None:
    """Refused: an order must neither be guessed nor get lost."""
    topic = topics["PUBLISHER_STATE_TOPIC"] + ".commands"
    settings = settings_of({**topics, "PUBLISHER_COMMANDS_TOPIC": topic})
    await kafka_tools.create(kafka.bootstrap, topic, 12, cleanup_policy="delete")
    orders = KafkaOrders(settings, "wv0010")
    order = Order("1", NOON, NOON + timedelta(hours=1), again=False, wanted=Standing.RUNNING)
    with pytest.raises(Held, match="Kafka would forget what was ordered"):
        await orders.write(order)
    assert list(await orders.read()) == []
    async with kafka_tools.producing(kafka.bootstrap) as producer:
        await producer.send_and_wait(
            topic, b"{}", key=b"wv0010/1", partition=partition_of("wv0010")
        )
    with pytest.raises(Held, match="that this version cannot read"):
        await orders.read()


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
        code, _, problems = await command(settings, *words)
        assert (code, problem in problems) == (2, True), problems

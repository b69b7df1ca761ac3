"""The whole service from outside: a real process between a simulated API and a real Kafka."""

import asyncio
import io
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from sandbox.consume import Event
from sandbox.kafka import Broker
from sandbox.processes import Child, until
from sandbox.screen import Numbers, Part, Pretty
from sandbox.wolkvox.report import PLACEHOLDER_IDS
from tests.harness import (
    LIVELY,
    TOKEN,
    Fields,
    Publisher,
    Rig,
    api,
    compare,
    create_topic,
    first_offsets,
    gather,
    open_transactions,
    rig,
    tell,
)

STOP_SECS = 8.0
PUBLISHED = "Window published"
PROMPT = {"late": 0.0, "hypothesis": "H2"}
"""A world whose rows are shown at once, where lateness is not the point."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that may be killed and frozen, and that looks for what is too old all the time."""
    eager = {"log.retention.check.interval.ms": "300", "log.initial.task.delay.ms": "300"}
    with Broker(tmp_path_factory.mktemp("own"), overrides=eager) as broker:
        yield broker


@pytest.fixture
def running(own: Broker) -> Iterator[Broker]:
    """The same, running again whatever the test before did to it."""
    own.thaw()
    own.start()
    yield own
    own.thaw()


# --- the judge ------------------------------------------------------------------------------------


def _row(number: int) -> Fields:
    return {
        "conn_id": "186067512",
        "date": f"2026-11-20 10:00:0{number}",
        "from": "CUSTOMER",
        "message": f"text {number}",
        "agent_name": "new",
        "_at": 1_795_186_800 + number,
        "_visible_at": 0,
        "_closed": 0,
        "_earlier": {"agent_name": "old"},
    }


def _published_row(number: int, **changes: str) -> Event:
    row = _row(number)
    told = {name: value for name, value in row.items() if not name.startswith("_")}
    name = "\0".join(["wv0010", *(row[n] for n in ("conn_id", "date", "from", "message")), "1"])
    id_ = str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, "urn:wolkvox:chat_2"), name))
    own = {"event_id": id_, "source": "wv0010", "occurred_at": f"2026-11-20T15:00:0{number}Z"}
    headers = {"ce_id": id_.encode(), "wolkvox_read_at": b"now", "wolkvox_pass": b"live"}
    return Event({**own, **told, **changes}, b"186067512", headers, 0, number, 0)


def test_the_judge() -> None:
    """What the other tests rely on: `compare` finds each kind of fault, and no other."""
    truth = [_row(number) for number in range(3)]
    right = [_published_row(number) for number in range(3)]
    first, second, third = right

    def faults(*events: Event) -> str:
        found = compare(truth, events, "wv0010")
        names = ("lost", "duplicated", "altered", "disordered", "foreign")
        return " ".join(name for name in names if getattr(found, name))

    assert faults(*right) == ""
    assert faults(_published_row(0, agent_name="old"), second, third) == ""
    assert faults(first, second) == "lost"
    assert faults(first, second, third, replace(third, offset=3)) == "duplicated"
    assert faults(first, second, _published_row(2, agent_name="other")) == "altered"
    assert faults(first, second, _published_row(2, occurred_at="2026-11-20T10:00:02Z")) == "altered"
    assert faults(first, second, replace(third, key=b"1")) == "altered"
    assert faults(replace(first, offset=9), second, third) == "disordered"
    assert faults(first, second, third, _published_row(3)) == "foreign"


# --- the promise ----------------------------------------------------------------------------------


async def test_live_and_an_hour_of_history(kafka: Broker, tmp_path: Path) -> None:
    """Whatever column the report filters by: nothing lost, doubled, altered or out of order."""
    found_late: list[float] = []

    async def under(hypothesis: str) -> None:
        world = {"hypothesis": hypothesis, "seed": ord(hypothesis[1])}
        settings = {"PUBLISHER_OVERLAP": "1s", "PUBLISHER_REREADS": "4s,15s"}
        async with rig(kafka.bootstrap, tmp_path / hypothesis, world, settings) as one:
            publisher = one.start()
            await publisher.logged(event=PUBLISHED)
            # What half of the conversations say in these 8 s is shown only afterwards.
            healed = time.time() + 8
            await one.api.fault("silent_gap", seconds=8, start=time.time(), share=0.5)
            await until(lambda: time.time() > healed, 10)
            found = await one.settled(45)
            assert found.none, f"{hypothesis}: {found}"
            truth = await one.api.truth()
            assert found.events >= found.promised > 10_000
            assert any(row["_of"] > 1 for row in truth), "no twins"
            assert any(row["conn_id"] in PLACEHOLDER_IDS for row in truth), "no placeholders"
            assert any(row["_earlier"] for row in truth), "no corrections"
            reread = {"pass": "reread"}
            found_late.append(await publisher.metric("messages_published_total", **reread))
            assert (await one.api.stats())["max_in_flight"] == 1
            assert await publisher.stop(STOP_SECS) == 0

    await gather(under("H1"), under("H2"), under("H3"))
    # Under one of them the few seconds of the gap may have hidden nothing by chance.
    assert sum(found_late) > 0, "no re-read had anything to heal"


async def test_several_operations_in_one_process(kafka: Broker, tmp_path: Path) -> None:
    """Each operation of the TOML file is published under its own name, by one process."""
    async with AsyncExitStack() as stack:
        north = await stack.enter_async_context(rig(kafka.bootstrap, tmp_path / "north"))
        other_world = {**LIVELY, "seed": 8, "zone": "America/Mexico_City"}
        south = await stack.enter_async_context(
            api(tmp_path / "south.log", token="another-token", **other_world)
        )
        (tmp_path / "south.token").write_text("another-token\n")
        config = tmp_path / "publisher.toml"
        config.write_text(
            f"""
            [[operations]]
            name = "north"
            url = "{north.api.url}"
            token = "{TOKEN}"

            [[operations]]
            name = "south"
            url = "{south.url}"
            token_file = "{tmp_path / "south.token"}"
            timezone = "America/Mexico_City"
            """
        )
        for name in ("WOLKVOX_SERVER", "WOLKVOX_URL", "WOLKVOX_TOKEN"):
            del north.settings[name]
        publisher = north.start(PUBLISHER_CONFIG=str(config))
        found = await north.settled(40, source="north")
        assert found.none, found
        promised = await south.truth(end=time.time() - 15)

        async def complete() -> bool:
            return not compare(promised, await north.read(), "south").lost

        await until(complete, 40, every=0.25)
        found = compare(await south.truth(), north.events, "south")
        assert not found.duplicated, found
        assert not found.altered, found
        assert not found.foreign, found
        for one in (north.api, south):
            assert (await one.stats())["max_in_flight"] == 1
        assert await publisher.metric("messages_published_total", operation="south") > 10_000
        assert await publisher.stop(STOP_SECS) == 0


async def test_a_wrong_token_loses_nothing(kafka: Broker, tmp_path: Path) -> None:
    """Wrong at the very first start, over a stop and a kill; once right, all since then comes."""
    world = {**PROMPT, "rate": 14_400}
    async with rig(kafka.bootstrap, tmp_path, world, {"PUBLISHER_START": "now"}) as one:
        wrong = one.start(WOLKVOX_TOKEN="wrong")
        await wrong.logged(reason="token_refused")
        assert await wrong.stop(STOP_SECS) == 0
        wrong = one.start(WOLKVOX_TOKEN="wrong")
        await wrong.logged(reason="token_refused")
        wrong.kill()
        asked = datetime.fromisoformat((await one.api.requests())[0]["at"])
        await until(lambda: time.time() > asked.timestamp() + 5, 10)
        right = one.start()
        found = await one.settled(40, since=asked.timestamp())
        assert found.promised > 10
        assert found.none, found
        assert await right.stop(STOP_SECS) == 0


async def test_history_older_than_retention_stays(running: Broker, tmp_path: Path) -> None:
    """What is published now is kept from now on, however long ago it was written."""
    async with rig(running.bootstrap, tmp_path, {"rate": 600}) as one:
        for topic in (one.topic, "canary"):
            await create_topic(running.bootstrap, topic, retention_ms="20000")
        one.start()
        found = await one.settled(15)
        assert found.none, found
        producer = AIOKafkaProducer(bootstrap_servers=running.bootstrap)
        await producer.start()
        hour_ago = int((time.time() - 3600) * 1000)
        await producer.send_and_wait("canary", b"old", timestamp_ms=hour_ago)
        await producer.stop()

        async def swept() -> bool:
            return await first_offsets(running.bootstrap, "canary") > 0

        await until(swept, 10, "retention takes the canary")
        assert await first_offsets(running.bootstrap, one.topic) == 0
        found = compare(await one.api.truth(), await one.read(), "wv0010")
        assert not found.duplicated
        assert found.events > 1_000


# --- what others may know -------------------------------------------------------------------------


async def test_pages(running: Broker, tmp_path: Path) -> None:
    """Healthy, but not ready, without Kafka; ready once restored; the lag tells of silence."""
    async with rig(running.bootstrap, tmp_path) as one:
        running.kill()
        publisher = one.start()
        await publisher.logged(reason="kafka_unreachable")
        status, told = await publisher.get("/readyz")
        assert status == 503
        assert "Kafka" in told
        assert await publisher.get("/healthz") == (200, "ok\n")

        running.start()
        await until(lambda: _published(publisher, 10_000), 30)
        assert await publisher.get("/readyz") == (200, "ok\n")
        assert await publisher.get("/healthz") == (200, "ok\n")
        status, page = await publisher.get("/")
        assert status == 200
        assert "wv0010" in page
        assert await publisher.metric("requests_total", verdict="use") > 0
        await until(lambda: _lag_below(publisher, 4), 20)

        await one.api.fault("server_error")
        await until(lambda: _lag_above(publisher, 5), 10)
        assert await publisher.metric("requests_total", verdict="wait") > 0
        assert await publisher.get("/readyz") == (200, "ok\n")
        await one.api.clear()
        await until(lambda: _lag_below(publisher, 4), 10)


async def _lag_below(publisher: Publisher, seconds: float) -> bool:
    return await publisher.metric("lag_seconds") < seconds


async def _lag_above(publisher: Publisher, seconds: float) -> bool:
    return await publisher.metric("lag_seconds") > seconds


# --- the end --------------------------------------------------------------------------------------


async def test_a_stop_leaves_nothing_open(kafka: Broker, tmp_path: Path) -> None:
    """SIGTERM in full flow: exit code 0 within 8 s, no open transaction, nothing lost after."""
    async with rig(kafka.bootstrap, tmp_path, PROMPT) as one:
        publisher = one.start()
        await publisher.logged(event=PUBLISHED)
        assert await publisher.stop(STOP_SECS) == 0
        assert await publisher.logged(event="Service stopped")
        topics = (one.topic, one.settings["PUBLISHER_STATE_TOPIC"])
        assert await open_transactions(kafka.bootstrap, *topics) == 0
        one.start()
        found = await one.settled(40)
        assert found.none, found


async def test_a_stop_while_the_api_is_slow(kafka: Broker, tmp_path: Path) -> None:
    """An answer that takes 30 s is not waited for: exit code 0 within 8 s."""
    async with rig(kafka.bootstrap, tmp_path) as one:
        publisher = one.start()
        await publisher.logged(event=PUBLISHED)
        await _into_a_slow_answer(one)
        assert await publisher.stop(STOP_SECS) == 0
        topics = (one.topic, one.settings["PUBLISHER_STATE_TOPIC"])
        assert await open_transactions(kafka.bootstrap, *topics) == 0


async def test_a_second_signal_forces(kafka: Broker, tmp_path: Path) -> None:
    """Whoever signals twice does not want to wait."""
    async with rig(kafka.bootstrap, tmp_path) as one:
        publisher = one.start()
        await publisher.logged(event=PUBLISHED)
        await _into_a_slow_answer(one)
        publisher.child.send(signal.SIGTERM)
        await publisher.logged(event="Stop requested")
        assert await publisher.stop(1.0) == 128 + signal.SIGTERM


async def _into_a_slow_answer(one: Rig) -> None:
    await one.api.fault("slow_headers", delay=30)

    async def waiting() -> bool:
        return bool((await one.api.stats(1))["in_flight"])

    await until(waiting, 10)
    await asyncio.sleep(0.1)
    assert await waiting()


@pytest.mark.parametrize("state", ["gone", "frozen"])
async def test_a_stop_without_a_broker(running: Broker, tmp_path: Path, state: str) -> None:
    """The service ends within 8 s without Kafka too, and the next start settles what is open."""
    async with rig(running.bootstrap, tmp_path, PROMPT) as one:
        publisher = one.start()
        await publisher.logged(event=PUBLISHED)
        if state == "gone":
            running.kill()
        else:
            running.freeze()

        async def in_hand() -> bool:
            published = [line for line in publisher.lines if line.get("event") == PUBLISHED]
            return len(await one.api.requests()) > len(published)

        await until(in_hand, 10, "a step with nowhere to publish")
        code = await publisher.stop(STOP_SECS)
        assert code == 0  # it did as asked; that a transaction may be open is a line in the log
        running.thaw()
        running.start()
        again = one.start()
        found = await one.settled(60)
        assert found.none, found
        assert await again.stop(STOP_SECS) == 0
        topics = (one.topic, one.settings["PUBLISHER_STATE_TOPIC"])
        assert await open_transactions(running.bootstrap, *topics) == 0


# --- figures --------------------------------------------------------------------------------------


async def test_start_is_quick_and_rest_is_small(kafka: Broker, tmp_path: Path) -> None:
    """The first request leaves about a second after the process began; at rest 80 MB suffice."""
    async with rig(kafka.bootstrap, tmp_path, {"rate": 60}) as one:
        publisher = one.start_fresh()
        await publisher.logged(event=PUBLISHED)
        assert await publisher.stop(STOP_SECS) == 0
        asked = len(await one.api.requests())
        publisher = one.start_fresh()

        async def requests() -> list[dict[str, str]]:
            return (await one.api.requests())[asked:]

        first = (await until(requests, 10))[0]
        took = datetime.fromisoformat(first["at"]).timestamp() - publisher.child.began
        own = took - publisher.starved_seconds
        await until(lambda: _windows(publisher, 8), 20)
        tell(f"first request after {took:.2f} s; at rest {publisher.rss_mb:.0f} MB")
        assert own < 2.5
        assert publisher.rss_mb <= 80


async def _windows(publisher: Publisher, count: int) -> bool:
    return await publisher.metric("windows_total", result="published") >= count


async def test_a_restart_in_a_flood(kafka: Broker, tmp_path: Path) -> None:
    """Killed at half of a flood: events flow 3 s after the next start; nothing lost or doubled."""
    async with rig(kafka.bootstrap, tmp_path, {**PROMPT, "rate": 9_000}) as one:
        publisher = one.start_fresh()
        await until(lambda: _published(publisher, 15_000), 60, every=0.05)
        publisher.kill()
        before = len(await one.read())
        began = time.time()
        again = one.start_fresh()

        async def more() -> bool:
            one.events += await one.reader.more(0.05)
            return len(one.events) > before

        await until(more, 10, "the next event", every=0)
        took = time.time() - began
        own = took - again.starved_seconds
        found = await one.settled(60)
        tell(f"next event {took:.2f} s after the start; {found}")
        assert found.promised > 30_000
        assert found.none, found
        assert own < 3


async def _published(publisher: Publisher, count: int) -> bool:
    return await publisher.metric("messages_published_total") >= count


# --- the demo -------------------------------------------------------------------------------------


async def test_the_demo(kafka: Broker, tmp_path: Path) -> None:
    """`make demo`, piped: events as plain lines, and everything has ended with it."""
    env = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "DEMO_SECONDS": "8"}
    with Child([sys.executable, "-m", "sandbox.demo"], tmp_path / "demo.log", env) as demo:
        assert await demo.ended(40) == 0, demo.output
        lines = demo.output.splitlines()
        events = [line for line in lines if " → " in line]
        assert len(events) > 50, demo.output
        assert "Traceback" not in demo.output
        [told] = [line for line in lines if line.startswith("published ")]
        published, _, consumed = re.findall(r"\d+", told)
        assert published == consumed, told
        pids = re.findall(r"pid (\d+)", demo.output)
        assert len(pids) == 2, demo.output
        assert not [pid for pid in pids if _exists(pid)]


async def test_the_demo_where_no_kafka_can_be_had(tmp_path: Path) -> None:
    """No Java, no Maven, no Docker, none given: one line says so, then the preview."""
    env = {"PATH": str(tmp_path)}
    with Child([sys.executable, "-m", "sandbox.demo"], tmp_path / "demo.log", env) as demo:
        assert await demo.ended(60) == 0, demo.output
        lines = demo.output.splitlines()
    assert len([line for line in lines if line.startswith('{"event_id":')]) == 20, demo.output
    assert [line for line in lines if "no Kafka here" in line and "preview" in line], demo.output
    assert "Traceback" not in demo.output


def test_the_demo_on_a_terminal() -> None:
    """Whatever people write, each event is one line of the terminal's width at most."""
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=100, height=20)
    with Pretty(terminal) as shown:
        shown.header([Part("Kafka", "127.0.0.1:9092", "topic")])
        shown.numbers(Numbers(published=3, lag_seconds=0.5))
        shown.problem("Kafka is away")
        texts = ["short", "two\nlines \x1b[31m and [red]markup[/red]", "👍🏽" * 90, None]
        events = [_event(number, told) for number, told in enumerate(texts)]
        with terminal.capture() as capture:
            shown.events(events)
        lines = [Text.from_ansi(line).plain for line in capture.get().splitlines()]
    assert "Kafka is away" in out.getvalue()
    lines = [line for line in lines if " → " in line]
    assert len(lines) == len(texts)
    assert all(cell_len(line) <= 100 for line in lines)
    assert "two lines ·[31m and [red]markup[/red]" in lines[1]


def _event(number: int, message: str | None) -> Event:
    told = {
        "occurred_at": "2026-11-20T15:00:01Z",
        "channel": "whatsapp",
        "from": "CUSTOMER",
        "from_name": "Zoë Quiñones de la Torre y Ávila",
        "to_name": "chat_bot",
        "message": message,
    }
    return Event(told, b"1", {"wolkvox_pass": b"reread"}, 0, number, 0)


def _exists(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()

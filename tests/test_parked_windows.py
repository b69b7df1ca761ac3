"""A second of the report that always fails, before the real process and a real Kafka."""

import time
from pathlib import Path
from typing import Any

import orjson

from sandbox.kafka import Broker
from sandbox.processes import until
from tests.harness import Publisher, rig, tell

HISTORY_SECS = 600


async def status_of(publisher: Publisher) -> dict[str, Any]:
    _, body = await publisher.get("/status")
    told: dict[str, Any] = orjson.loads(body)["operations"][0]
    return told


async def test_one_second_fails_and_the_rest_is_published(kafka: Broker, tmp_path: Path) -> None:
    """Parked, live stays on time, the gap shrinks to seconds; a kill later it closes: once each."""
    world = {"rate": 7200, "history": f"{HISTORY_SECS}s", "late": 0.0, "latest": "2s"}
    settings = {
        "PUBLISHER_POLL_EVERY": "500ms",
        "PUBLISHER_OVERLAP": "2s",
        "PUBLISHER_REREADS": "",
        "PUBLISHER_START": f"-{HISTORY_SECS + 60}s",
    }
    async with rig(kafka.bootstrap, tmp_path, world, settings) as one:
        bad = time.time() - HISTORY_SECS / 2
        await one.api.fault("server_error", touching=bad)
        publisher = one.start()
        parked = await publisher.logged(30, event="Window parked; continuing with the others")
        assert parked["level"] == "warning"

        async def live_again() -> bool:
            return await publisher.metric("lag_seconds") < 5

        await until(live_again, 30, "live is on time")

        async def small() -> bool:
            return 0 < await publisher.metric("gap_seconds") <= 15

        await until(small, 60, "the gap has shrunk")
        assert await publisher.metric("parked_windows") == 1
        assert await publisher.metric("windows_total", **{"pass": "live", "result": "parked"}) >= 1
        (gap,) = (await status_of(publisher))["gaps"]
        page = (await publisher.get("/"))[1]
        assert "could not be read" in page
        assert await publisher.metric("lag_seconds") < 5
        without = await one.settled(2)
        assert not without.duplicated, without
        tell(f"parked {parked['from']} to {parked['to']}, left {gap}; {len(without.lost)} missing")

        publisher.kill()
        await one.api.clear()
        again = one.start()

        async def closed() -> bool:
            return await again.metric("last_success_timestamp_seconds") > 0 and (
                await again.metric("gap_seconds") == 0
            )

        await again.logged(event="State restored")
        await until(closed, 60, "the gap is closed")
        found = await one.settled(30)
        tell(str(found))
        assert not found.lost, found
        assert not found.duplicated, found
        assert not found.foreign, found
        assert await again.stop() == 0

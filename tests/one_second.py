"""A mass closing within one second: far over the row cap, real process, real Kafka.

Takes up to a minute, so it is no part of the suite: `make chaos` runs it, and
`python -m pytest -s tests/one_second.py`.
"""

import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from sandbox.kafka import Broker
from sandbox.processes import promptly, until
from tests.harness import rig, tell

CHATS, EACH = 400, 500
MESSAGES = CHATS * EACH


async def test_200_000_messages_closed_in_one_second(kafka: Broker, tmp_path: Path) -> None:
    """Published once, the window told as possibly cut, live goes on, and memory is given back."""
    world = {"rate": 0, "hypothesis": "H1", "row_cap": 1_000_000, "late": 0.0, "history": "1h"}
    settings = {"PUBLISHER_REREADS": "", "PUBLISHER_START": "-10m"}
    async with rig(kafka.bootstrap, tmp_path, world, settings) as one:
        closed = int(time.time()) - 120
        for chat in range(CHATS):
            rows = [
                {
                    "channel": "web",
                    "from": "AGENT",
                    "message": f"{number} {'x' * 240}",
                    "customer_id": "1",
                    "date": _local(closed - 1_000 + number),
                }
                for number in range(EACH)
            ]
            told = {"conn_id": f"9{chat:08}", "closed": closed, "conversation": rows}
            await one.api.say([told])
        began = time.time()
        publisher = one.start_fresh()
        peak = 0.0

        async def published() -> bool:
            nonlocal peak
            peak = max(peak, publisher.rss_mb)
            return await publisher.metric("messages_published_total") >= MESSAGES

        await until(published, 90, "all of it is published", every=0.1)
        took = time.time() - began
        cut = await publisher.logged(event="Window published, possibly cut by the report")

        async def on_time() -> bool:
            return await publisher.metric("lag_seconds") < 10

        await until(on_time, 30, "live goes on")
        with suppress(TimeoutError):  # then the figures below say by how much
            await promptly(lambda: publisher.rss_mb < peak / 2, 5, "memory to be given back")
        rest = publisher.rss_mb
        tell(f"{took:.1f} s; {cut['rows']} rows; {peak:.0f} MB at most, {rest:.0f} MB afterwards")
        assert await publisher.metric("messages_published_total") == MESSAGES
        assert await publisher.metric("gap_seconds") == 0
        assert rest < peak / 2


def _local(second: int) -> str:
    """In Bogota."""
    return datetime.fromtimestamp(second - 5 * 3600, UTC).strftime("%Y-%m-%d %H:%M:%S")

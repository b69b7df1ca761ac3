"""A million messages of history beside live: killed, paused, resumed, another one cancelled.

Real Kafka, the simulated API over HTTP, the real service as a process. Takes some minutes, so it
is no part of the suite: `make chaos` runs it, and `python -m pytest -s tests/million_backfill.py`.
`BACKFILL_MESSAGES` is the size, from 300000 on; `BACKFILL_SEED` repeats the moments of a run.
"""

import asyncio
import math
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, Final

import aiohttp
import orjson
import pytest
from aiokafka import AIOKafkaConsumer

from publisher.schedule.passes import QUICK
from sandbox.consume import partitions_of
from sandbox.kafka import Broker
from sandbox.processes import until
from sandbox.wolkvox.report import identity
from tests.harness import Fields, Publisher, Rig, flat, rig, tell
from tests.test_backfill_kafka import backfill

MESSAGES: Final = int(os.environ.get("BACKFILL_MESSAGES", "1000000"))
SEED: Final = int(os.environ.get("BACKFILL_SEED", "0")) or time.time_ns() % 1_000_000

RATE: Final = 7_200
"""Conversations an hour, of 4.2 messages and more: 8 a second for live, 10,000 in 20 minutes."""
HISTORY: Final = timedelta(hours=MESSAGES / RATE / 4.2)
POLL: Final = 1.0
LATE: Final = 45.0
"""Seconds until the re-read at 20 s has found all that is shown late."""
SLICE: Final = 1800
"""Seconds of truth to ask for at once."""
TOLERANCE: Final = 1.0
"""Seconds: a `Date` header tells whole ones, so the service knows the server's clock so well."""

KILLS_BEFORE: Final = (0.1, 0.25)
PAUSED_AT: Final = 0.35
KILLS_AFTER: Final = (0.55, 0.75, 0.9)
"""Shares of the range that are read when something happens."""

WORLD: Final = {"latency": 0.2, "rate": RATE, "history": f"{HISTORY.total_seconds() + 300:.0f}s"}
SETTINGS: Final = {
    "PUBLISHER_START": "-1m",
    "PUBLISHER_POLL_EVERY": f"{POLL:.0f}s",
    "PUBLISHER_OVERLAP": "3s",
    "PUBLISHER_REREADS": "20s",
    "PUBLISHER_MAX_WINDOW": "1d",
}

pytestmark = pytest.mark.timeout(600 + MESSAGES // 300)


class Run:
    """The service over its restarts, and somebody who orders history of it."""

    def __init__(self, one: Rig) -> None:
        self.rig = one
        self.settings = one.settings
        self.settings["PUBLISHER_COMMANDS_TOPIC"] = one.topic + ".commands"
        self.draw = Random(SEED)
        self.lives: list[tuple[float, float]] = []
        """From a start that has read its first window to the end."""
        self.peak = 0
        self._ready = 0.0

    async def start(self) -> None:
        self.publisher: Publisher = self.rig.start_fresh()
        await self.publisher.logged(60, event="Window published")
        self._ready = time.time()

    async def kill(self) -> None:
        """-9, at a moment that nobody chose."""
        await asyncio.sleep(self.draw.uniform(0, 2))
        assert self.publisher.alive, self.publisher.child.output[-3000:]
        self.note_end()
        self.publisher.kill()
        await self.start()

    def note_end(self) -> None:
        self.lives.append((self._ready, time.time()))
        status = Path(f"/proc/{self.publisher.pid}/status").read_text(encoding="ascii")
        kilobytes = next(line.split()[1] for line in status.splitlines() if "VmHWM" in line)
        self.peak = max(self.peak, int(kilobytes) * 1024)

    async def order(self, begin: datetime, end: datetime) -> str:
        code, out, problems = await backfill(self.settings, begin.isoformat(), end.isoformat())
        assert code == 0, problems
        return out.split()[0]

    async def want(self, what: str, id_: str) -> None:
        """Change an order, and wait until the service has heard of it."""
        code, _, problems = await backfill(self.settings, what, id_)
        assert code == 0, problems
        standing = {"pause": "paused", "resume": "running", "cancel": None}[what]

        async def heard() -> bool:
            told = await self.told(id_)
            return (told and told["standing"]) == standing

        await until(heard, 60, f"{what} is obeyed", every=0.2)

    async def told(self, id_: str) -> Fields | None:
        """What /status tells of a backfill that has not ended."""
        _, body = await self.publisher.get("/status")
        [operation] = orjson.loads(body)["operations"]
        found = (one for one in operation["backfills"] if one["id"] == id_)
        return next(found, None)

    async def reached(self, id_: str, share: float) -> None:
        """Wait until so much of its range is read."""

        async def there() -> bool:
            assert self.publisher.alive, self.publisher.child.output[-3000:]
            try:
                told = await self.told(id_)
            except (aiohttp.ClientError, TimeoutError):  # busy with a window
                return False
            if told is None:
                return await self.standing(id_) == "done"
            begin, end, at = (datetime.fromisoformat(told[key]) for key in ("from", "to", "cursor"))
            return (at - begin) / (end - begin) >= share

        await until(there, MESSAGES / 300, f"{share:.0%} of the range", every=0.2)

    async def standing(self, id_: str) -> str:
        return str((await self.listed(id_))["standing"])

    async def listed(self, id_: str) -> Mapping[str, Any]:
        code, out, problems = await backfill(self.settings, "list", "--json")
        assert code == 0, problems
        found = {told["id"]: told for told in orjson.loads(out)["backfills"]}
        told: Mapping[str, Any] = found[id_]
        return told

    async def history_asked(self) -> int:
        return sum(not _is_live(request) for request in await self.rig.api.requests())


async def test_a_million_messages_beside_live(kafka: Broker, tmp_path: Path) -> None:
    """0 lost, 0 twice, and whenever live is due no window of history is begun before it."""
    async with rig(kafka.bootstrap, tmp_path, WORLD, SETTINGS) as one:
        run = Run(one)
        await run.start()
        # Live reads the minute before its start itself; the rest of the past is history.
        end = datetime.now(UTC) - timedelta(seconds=30)
        begin = end - HISTORY - timedelta(seconds=400)
        began = time.time()
        whole = await run.order(begin, end)
        for share in KILLS_BEFORE:
            await run.reached(whole, share)
            await run.kill()
        await run.reached(whole, PAUSED_AT)
        await run.want("pause", whole)
        await run.kill()
        before = await run.listed(whole)
        await asyncio.sleep(10)
        assert await run.listed(whole) == before, "it rests while it is paused"
        await _another_one_cancelled(run, end - HISTORY / 2, end)
        assert await run.listed(whole) == before
        rest = time.time()
        await run.want("resume", whole)
        for share in KILLS_AFTER:
            await run.reached(whole, share)
            await run.kill()
        await run.reached(whole, 1.0)
        took = time.time() - began
        done = await run.listed(whole)
        after = time.time() - rest
        assert (done["standing"], done["cursor"]) == ("done", done["to"])
        settled = time.time()
        await asyncio.sleep(LATE)
        run.note_end()
        assert await run.publisher.stop() == 0
        requests = await one.api.requests()
        found = await _judge(one, settled)
        rows = done["rows"] - before["rows"]
        tell(
            f"seed {SEED}: {found}; {done['rows']:,} rows of history in {took:.0f} s with"
            f" {len(run.lives) - 1} kills, a pause and another backfill; from the resume to the end"
            f" {rows:,} rows in {after:.0f} s, {rows / after:,.0f} rows/s;"
            f" {run.peak / 1e6:.0f} MB at most"
        )
        tell(_punctual(requests, run.lives))
        assert found["promised"] >= MESSAGES
        assert (found["lost"], found["twice"], found["ids twice"]) == (0, 0, 0), found


async def _another_one_cancelled(run: Run, begin: datetime, end: datetime) -> None:
    """It takes its turn while the other rests, is killed, and ends in the middle of its range."""
    other = await run.order(begin, end)
    await run.reached(other, 0.01)
    await run.kill()
    await run.reached(other, 0.03)
    await run.want("cancel", other)
    told = await run.listed(other)
    assert told["standing"] == "cancelled"
    assert told["from"] < told["cursor"] < told["to"]
    assert told["new"] > 0
    asked = await run.history_asked()
    await asyncio.sleep(3)
    # The re-reads are no live, either: only they may ask now.
    assert await run.history_asked() <= asked + 2
    assert await run.listed(other) == told


# --- the judges -----------------------------------------------------------------------------------


async def _judge(one: Rig, settled: float) -> dict[str, int]:
    """What the API has shown against what a consumer sees: digests only, for there are so many."""
    seen, ids = Counter[int](), Counter[bytes]()
    async for value in _events(one.bootstrap, one.topic):
        told = flat(value, {})
        seen[_digest(identity(told, told))] += 1
        ids[value["event_id"].encode()] += 1
    shown, promised = Counter[int](), Counter[int]()
    now = time.time()
    at = now - HISTORY.total_seconds() - 1200
    while at < now:
        for row in await one.api.truth(at, at + SLICE):
            digest = _digest(identity(row, row))
            shown[digest] += 1
            promised[digest] += row["_visible_at"] <= settled
        at += SLICE
    return {
        "promised": promised.total(),
        "events": seen.total(),
        "lost": (promised - seen).total(),
        "twice": (seen - shown).total(),
        "ids twice": ids.total() - len(ids),
    }


async def _events(bootstrap: str, topic: str) -> AsyncIterator[Fields]:
    """All committed events, as a read_committed consumer gets them."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=8_388_608,
    )
    await consumer.start()
    try:
        partitions = await partitions_of(bootstrap, topic)
        consumer.assign(partitions)
        for partition, end in (await consumer.end_offsets(partitions)).items():
            while await consumer.position(partition) < end:
                for record in (await consumer.getmany(partition, timeout_ms=100)).get(
                    partition, ()
                ):
                    yield orjson.loads(record.value)
    finally:
        await consumer.stop()


def _digest(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest())


def _is_live(request: Fields) -> bool:
    """Only live asks for the very present, and with padding a little beyond it."""
    return bool(request["end"] and _moment(request["end"]) > _moment(request["at"]))


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _punctual(requests: Sequence[Fields], lives: Sequence[tuple[float, float]]) -> str:
    """How late live asked, outside of restarts, and what stood before it."""
    delays, overtaken, longest = [], 0.0, 0.0
    for begin, end in lives:
        asked = [one for one in requests if begin <= _moment(one["at"]) <= end]
        last, turn = None, False
        for one in asked:
            at = _moment(one["at"])
            if _is_live(one):
                if last is not None:
                    delays.append(at - last - POLL)
                last, turn = at, True
            else:
                longest = max(longest, one["took"] or 0.0)
                if last is not None and not turn:
                    overtaken = max(overtaken, at - last - POLL)
                turn = False  # one comes between two polls, however long live took
    delays.sort()
    assert len(delays) > 20
    # Whenever live is due the step in hand is ended first, and nothing else is begun.
    assert overtaken < TOLERANCE, f"a window of history was begun {overtaken:.2f} s after that"
    # That step is one answer of history at most, and such a window is halved above QUICK.
    assert delays[-1] < QUICK, delays[-5:]
    middle, high = (delays[math.floor(len(delays) * share)] for share in (0.5, 0.99))
    return (
        f"{len(delays)} live polls every {POLL:.0f} s, asked after they were due: {middle:.2f} s in"
        f" the middle, {high:.2f} s for 99 of 100, {delays[-1]:.2f} s at most; the longest answer"
        f" of history took {longest:.1f} s; begun after live was due: {max(overtaken, 0.0):.2f} s"
    )

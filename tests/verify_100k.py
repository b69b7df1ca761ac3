"""`verify` over 100,000 messages: the real command, a real Kafka, real HTTP; time and memory told.

Takes some minutes, so it is no part of the suite: `make chaos` runs it, and
`python -m pytest -s tests/verify_100k.py`. `VERIFY_MESSAGES` takes the place of 100,000
(20,000 at least).
"""

import asyncio
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
import pytest

from publisher.model import iso
from sandbox.kafka import Broker
from tests.harness import Rig, read_raw, rig, tell
from tests.test_rebuild import CALM
from tests.test_verify import Alter, copied, deleted, ids_of, in_range

MESSAGES: Final = int(os.environ.get("VERIFY_MESSAGES", "100000"))
CONVERSATIONS: Final = 10
"""Opened in a second."""
HISTORY: Final = max(timedelta(seconds=MESSAGES / (4 * CONVERSATIONS)), timedelta(minutes=6))
"""A conversation has a little more than four messages."""
SETTINGS: Final = {
    "PUBLISHER_START": f"-{int(HISTORY.total_seconds()) + 120}s",
    "PUBLISHER_POLL_EVERY": "500ms",
    "PUBLISHER_OVERLAP": "2s",
    "PUBLISHER_REREADS": "10s",
}

pytestmark = pytest.mark.timeout(1200)


class Verified(NamedTuple):
    """What one run of the command has said, and what it took."""

    code: int
    found: dict[str, Any]
    seconds: float
    peak_mb: float

    def of(self, kind: str) -> set[str]:
        return {each["event_id"] for each in self.found["findings"] if each["kind"] == kind}

    def tell(self, what: str) -> None:
        told = {name: self.found[name] for name in ("rows", "missing", "extra", "changed")}
        figures = f"{self.seconds:.1f} s, {self.peak_mb:.0f} MB at most"
        tell(f"{what}: exit code {self.code}, {told}, {figures}")


async def verified(one: Rig, topic: str, start: datetime, *options: str) -> Verified:
    began, peak = time.monotonic(), 0.0
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "publisher", "verify", *options, "--json", iso(start), "now"),
        env={"PATH": os.environ["PATH"], **one.settings, "PUBLISHER_MESSAGES_TOPIC": topic},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    ended = asyncio.create_task(process.communicate())
    try:
        while not ended.done():
            peak = max(peak, peak_mb(process.pid))
            await asyncio.wait([ended], timeout=0.1)
    finally:
        if process.returncode is None:
            process.kill()
    out, err = await ended
    assert not err, err.decode()
    assert process.returncode is not None
    [found] = orjson.loads(out)["operations"]
    return Verified(process.returncode, found, time.monotonic() - began, peak)


def peak_mb(pid: int) -> float:
    """The most memory it has held so far, in MB; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) * 1024 / 1e6 if found else 0.0


async def test_100_000_messages(kafka: Broker, tmp_path: Path) -> None:
    """Complete where it is; one event, a minute and a row are found; a repair completes it."""
    now = datetime.now(UTC)
    start = now - HISTORY - timedelta(minutes=1)
    world = {
        **CALM,
        "rate": CONVERSATIONS * 3600,
        "history": f"{int(HISTORY.total_seconds())}s",
        "end": iso(now),
    }
    async with rig(kafka.bootstrap, tmp_path, world, SETTINGS) as one:
        publisher = one.start()
        settled = await one.settled(300)
        assert settled.none, settled
        await asyncio.sleep(15)  # what is said last is settled by now, too
        assert await publisher.stop() == 0
        records = await read_raw(one.bootstrap, one.topic)
        assert len(records) >= MESSAGES
        events = [orjson.loads(record.value) for record in records]

        clean = await verified(one, one.topic, start)
        clean.tell("a clean range")
        assert (clean.code, clean.found["complete"], clean.found["findings"]) == (0, True, [])
        assert clean.found["rows"] == clean.found["events"] == len(records)

        inside = [orjson.loads(record.value) for record in in_range(records)]
        lost = inside[0]["event_id"]
        topic = await copied(one, deleted(lost))
        found = await verified(one, topic, start)
        found.tell("one event deleted")
        assert (found.code, found.of("missing"), len(found.found["findings"])) == (1, {lost}, 1)

        minute = inside[len(inside) // 2]["occurred_at"][:16]
        gone = {e["event_id"] for e in events if e["occurred_at"].startswith(minute)}
        other = inside[-1]["event_id"]
        damaged = await copied(one, _damaged(gone, other), "damaged")
        found = await verified(one, damaged, start)
        found.tell("a minute missing and a row changed")
        assert (found.code, found.of("missing"), found.of("changed")) == (1, gone, {other})
        assert len(gone) > 60
        assert len(found.found["findings"]) == len(gone) + 1

        found = await verified(one, topic, start, "--repair", "--take-over")
        found.tell("repair of the one event")
        assert (found.code, found.found["repaired"], found.of("missing")) == (0, 1, {lost})
        found = await verified(one, topic, start)
        found.tell("after the repair")
        assert (found.code, found.found["complete"], found.found["findings"]) == (0, True, [])
        assert sorted(ids_of(await read_raw(one.bootstrap, topic))) == sorted(ids_of(records))


def _damaged(gone: set[str], other: str) -> Alter:
    """All but those, and one of them with another text."""

    def alter(records: list[Any]) -> list[tuple[Any, bytes]]:
        kept = []
        for record in records:
            event = orjson.loads(record.value)
            if event["event_id"] == other:
                kept.append((record, orjson.dumps({**event, "message": "Otra cosa"})))
            elif event["event_id"] not in gone:
                kept.append((record, record.value))
        return kept

    return alter

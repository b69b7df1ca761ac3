"""Random worlds with real processes and a real Kafka: every message, none twice.

Whatever column the report filters by: rows as late as the longest re-read, silent gaps, daily
maintenance, and kill -9 at random. It takes some ten minutes, so it is no part of the suite:
`make chaos` runs it, and `TRIALS=50 python -m pytest -s tests/random_trials.py`.

Replay a trial that failed with `TRIALS=1 SEED=n python -m pytest -s tests/random_trials.py`: it
draws the same world and the same moments.
"""

import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from sandbox.kafka import Broker
from tests.harness import Differences, Rig, rig, tell

TRIALS: Final = int(os.environ.get("TRIALS", "50"))
SEED: Final = int(os.environ.get("SEED", "0")) or time.time_ns() % 1_000_000
AT_ONCE: Final = int(os.environ.get("AT_ONCE", "2"))
"""Trials wait most of their time."""

LASTS: Final = 2.0
"""Seconds that a conversation takes at most (three messages, see `WORLD`); it closes 2 s later."""
WORLD: Final = {
    "rate": 14_400,
    "history": "10s",
    "min_messages": 1,
    "max_messages": 3,
    "duration": "1s",
    "close_after": "1s",
    "abandoned_after": "1s",
}
ACTIVE: Final = 9.0
"""Seconds in which things go wrong."""

pytestmark = pytest.mark.timeout(120 + 60 * TRIALS)


@dataclass
class Trial:
    """What is drawn of a seed."""

    seed: int
    draw: Random = field(init=False)
    told: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """All draws in one order, so that a seed means the same each time."""
        draw = self.draw = Random(self.seed)
        self.hypothesis = draw.choice(["H1", "H2", "H3"])
        self.longest = draw.choice([5, 6, 8])
        # H3 files a row by the time at which its conversation was opened.
        self.latest = self.longest - 1 - (LASTS if self.hypothesis == "H3" else 0)
        self.settings = {
            "PUBLISHER_POLL_EVERY": draw.choice(["300ms", "700ms"]),
            "PUBLISHER_OVERLAP": draw.choice(["0s", "1s", "2s"]),
            "PUBLISHER_REREADS": draw.choice(["3s,", ""]) + f"{self.longest}s",
            "PUBLISHER_MAX_WINDOW": draw.choice(["3s", "1d"]),
            "PUBLISHER_START": "-3m",
        }
        self.world: dict[str, Any] = {
            **WORLD,
            "seed": self.seed,
            "hypothesis": self.hypothesis,
            "ends": draw.choice(["[]", "[)", "(]", "()"]),
            "late": draw.choice([0.05, 0.3]),
            "latest": f"{self.latest}s",
        }
        self.maintenance = draw.uniform(0.0, 2.0), draw.uniform(3.0, 5.0), draw.uniform(0.3, 1.5)
        """When it begins first, the length of a day, and how long it takes."""
        self.gaps = [
            (draw.uniform(0, ACTIVE), draw.uniform(1, self.latest), draw.choice([0.3, 1.0]))
            for _ in range(draw.randrange(3))
        ]
        """When, for how long, and of how many conversations."""
        self.lives = [
            (draw.uniform(0.5, 5.0), draw.choice([0.0, 0.0, draw.uniform(0, 2)])) for _ in range(20)
        ]
        """How long the publisher lives before it is killed, and how long nobody starts it."""

    def __str__(self) -> str:
        told = {**self.settings, **self.world, "gaps": len(self.gaps)}
        return f"seed {self.seed}: " + " ".join(f"{name}={value}" for name, value in told.items())

    async def run(self, bootstrap: str, folder: Path) -> Differences:
        async with rig(bootstrap, folder, self.world, self.settings) as one:
            async with asyncio.TaskGroup() as group:
                for trouble in (self._maintain(one), self._hide(one), self._kill(one)):
                    group.create_task(trouble)
            publisher = one.start()
            # A re-read comes by every half of its age: all that was troubled is read again.
            await asyncio.sleep(LASTS + 2 + 1.5 * self.longest)
            found = await one.settled(60)
            assert publisher.alive, publisher.child.output[-3000:]
            passes = Counter(event.headers["wolkvox_pass"].decode() for event in one.events)
            self.told["reread"] = passes["reread"]
            self.told["refused"] = (await one.api.stats(1))["kinds"].get("maintenance", 0)
            return found

    async def _maintain(self, one: Rig) -> None:
        first, day, takes = self.maintenance
        await asyncio.sleep(first)
        began = time.time()
        while time.time() < began + ACTIVE - first:
            await one.api.fault("maintenance", seconds=takes)
            self.told["maintenances"] += 1
            await asyncio.sleep(day)

    async def _hide(self, one: Rig) -> None:
        now = 0.0
        for at, lasts, share in sorted(self.gaps):
            await asyncio.sleep(at - now)
            now, begin = at, time.time()
            options = {"start": begin, "end": begin + lasts, "share": share}
            await one.api.fault("silent_gap", seconds=lasts, **options)
            self.told["gaps"] += 1

    async def _kill(self, one: Rig) -> None:
        began = time.time()
        for lives, rests in self.lives:
            if time.time() > began + ACTIVE:
                return
            publisher = one.start()
            await asyncio.sleep(lives)
            assert publisher.alive, publisher.child.output[-3000:]
            publisher.kill()
            self.told["kills"] += 1
            await asyncio.sleep(rests)


async def test_random_trials(kafka: Broker, tmp_path: Path) -> None:
    """100 % of the messages and no duplicate, in each of them."""
    gate = asyncio.Semaphore(AT_ONCE)
    sums: Counter[str] = Counter()
    failed: list[str] = []

    async def one(seed: int) -> None:
        async with gate:
            trial, began = Trial(seed), time.time()
            try:
                found = await trial.run(kafka.bootstrap, tmp_path / str(seed))
                assert found.none, found
                assert found.events >= found.promised > 100, found
            except Exception as failure:
                replay = f"TRIALS=1 SEED={seed} python -m pytest -s tests/random_trials.py"
                failed.append(f"{trial}\n  {failure!r:.3000}\n  replay it: {replay}")
                tell(f"FAILED {failed[-1]}")
                return
            sums.update(trial.told, trials=1, events=found.events, promised=found.promised)
            sums[trial.hypothesis] += 1
            tell(f"{trial}; {dict(trial.told)}; {found}; {time.time() - began:.0f} s")

    async with asyncio.TaskGroup() as group:
        for number in range(TRIALS):
            group.create_task(one(SEED + number))
    tell(f"seeds {SEED} to {SEED + TRIALS - 1}: {dict(sums)}, {len(failed)} failed")
    assert not failed, "\n".join(failed)
    assert sums["trials"] == TRIALS
    if TRIALS >= 10:  # what a single trial need not hold
        for name in ("H1", "H2", "H3", "kills", "gaps", "refused", "reread"):
            assert sums[name] > 0, name

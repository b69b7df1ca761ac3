"""What an epoch of its own, and the state behind the events, cost a transaction (decision 0028).

    python -m benchmarks.commits [--small 500] [--large 30] [--rows 10000] [--pause 0.05]

Three ways to commit take turns, transaction by transaction, on one real broker: as it was before,
with the state behind the events only, and as it is. Each has topics of its own. Small
transactions hold 10 events: one after the other, and with a pause between them as live has.
Large ones hold a window of history.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from publisher.events import kafka_record
from publisher.kafka import shard as kafka_shard
from publisher.kafka import transaction as kafka_transaction
from publisher.kafka.clients import Clients
from publisher.kafka.end_offsets import Ends
from publisher.kafka.epoch import renew
from publisher.kafka.shard import Shard
from publisher.model import Batch, Record, StateRecord
from publisher.settings import load
from publisher.signals import Signal
from sandbox.kafka import ensure

OPERATION = "wv0010"
WAYS = ("before", "state last", "now")

Renew = Callable[[Any], Awaitable[None]]
Send = Callable[[Any, Any, Any], Awaitable[dict[Any, int]]]


def _ignore(_: Signal) -> None:
    """Nobody listens."""


async def _keep_epoch(_: Any) -> None:
    """The epoch of the takeover serves all transactions."""


async def _send_together(producer: Any, batches: Any, _: Any) -> dict[Any, int]:
    await producer.begin_transaction()
    offsets = await kafka_transaction._send_all(producer, batches)  # noqa: SLF001
    await producer.commit_transaction()
    return offsets


class Way:
    """One way to commit, with a shard and topics of its own."""

    def __init__(self, name: str, kafka: str) -> None:
        self._renew: Renew = renew if name == "now" else _keep_epoch
        self._send: Send = _send_together if name == "before" else kafka_transaction.send_and_commit
        environment = {
            "WOLKVOX_SERVER": "0010",
            "WOLKVOX_TOKEN": "commits",
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "PUBLISHER_TRANSACTIONAL_ID": name.replace(" ", "-"),
        }
        for topic in ("MESSAGES", "DEAD_LETTERS", "STATE", "COMMANDS"):
            environment[f"PUBLISHER_{topic}_TOPIC"] = f"{name}.{topic}".replace(" ", "-")
        settings = load(environment)
        self.shard = Shard(0, Clients(settings), settings, Ends(_ignore), _ignore)
        self._sequence = 0

    async def commit(self, events: list[Record]) -> float:
        """Seconds that a transaction took."""
        vars(kafka_shard).update(renew=self._renew, send_and_commit=self._send)
        follows = self._sequence - 1 if self._sequence else None
        state = [StateRecord(b"checkpoint/" + OPERATION.encode(), b"x" * 600)]
        batch = Batch(OPERATION, follows, self._sequence, state, iter(events))
        self._sequence += 1
        began = time.perf_counter()
        await self.shard.commit(batch)
        return time.perf_counter() - began


async def compare(ways: dict[str, Way], count: int, rows: int, pause: float) -> None:
    rng = random.Random(rows)
    headers = kafka_record.headers([("ce_type", b"x" * 250)])
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(count):
        text = rng.randbytes(230).hex().encode()
        events = [
            kafka_record.record(n * 7919, b"%d" % n, b"%d " % n + text, headers)
            for n in range(rows)
        ]
        for name in rng.sample(WAYS, len(WAYS)):
            await asyncio.sleep(pause)
            took[name].append(await ways[name].commit(events))
    print(f"{count} transactions of {rows:,} events, {pause:g} s between them:")
    for name, seconds in took.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, took["before"], strict=True))
        middle = statistics.median(seconds) * 1000
        high = statistics.quantiles(seconds, n=20)[-1] * 1000
        print(f"  {name:<11} {middle:7.1f} ms, p95 {high:7.1f} ms, ratio to before {ratio:.2f}")


async def run(kafka: str, options: argparse.Namespace) -> None:
    ways = {name: Way(name, kafka) for name in WAYS}
    try:
        for way in ways.values():
            await way.shard.restore(OPERATION)
            await way.commit([])
        await compare(ways, options.small, 10, 0)
        await compare(ways, options.small, 10, options.pause)
        await compare(ways, options.large, options.rows, 0)
    finally:
        for way in ways.values():
            await way.shard.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", type=int, default=500)
    parser.add_argument("--large", type=int, default=30)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--pause", type=float, default=0.05)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as data, ensure(Path(data)) as kafka:
        asyncio.run(run(kafka, options))


if __name__ == "__main__":
    main()

"""Kafka as the log of all operations of this process.

Every operation belongs to a partition of the state topic for ever. The operations of a partition
share a shard (`kafka/shard.py`), which has a transactional producer of its own.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable

from publisher.events.murmur2 import murmur2
from publisher.kafka.clients import Clients
from publisher.kafka.end_offsets import Ends
from publisher.kafka.reader import reading
from publisher.kafka.shard import Shard
from publisher.kafka.topics import STATE_PARTITIONS, partitions_of
from publisher.model import Batch, Restored
from publisher.settings import Settings
from publisher.signals import Emit, HintGiven, Signal


class Cluster:
    """The shards of this process: one for each state partition that its operations use."""

    def __init__(self, settings: Settings, emit: Emit) -> None:
        given: set[HintGiven] = set()

        def emit_hints_once(signal: Signal) -> None:
            """Pass signals on, but every hint once: restores repeat the same hints."""
            if isinstance(signal, HintGiven):
                if signal in given:
                    return
                given.add(signal)
            emit(signal)

        self._clients = Clients(settings)
        self._settings = settings
        self._emit = emit_hints_once
        self._shards: dict[int, Shard] = {}
        self._ends = Ends(emit)

    def log(self, operation: str) -> "OperationLog":
        """The log as this operation sees it; implements `flow.Log`."""
        partition = partition_of(operation)
        if partition not in self._shards:
            shard = Shard(partition, self._clients, self._settings, self._ends, self._emit)
            self._shards[partition] = shard
        return OperationLog(operation, self._shards[partition])

    async def close(self) -> bool:
        """End all producers; True = all ended cleanly, with no transaction left open."""
        return all(await asyncio.gather(*(shard.close() for shard in self._shards.values())))

    async def unstable_offsets(self, topics: Iterable[str]) -> dict[str, int]:
        """High watermark minus last stable offset by topic, summed over its partitions."""
        # `partitions_for_topic` of a consumer would list only what it reads (measured).
        partitions = await partitions_of(self._clients, topics)
        before = self._ends.now()
        unstable: Counter[str] = Counter()
        async with reading(self._clients) as reader:
            behind, high = await reader.unstable_offsets(partitions)
        for partition, offsets in behind.items():
            unstable[partition.topic] += offsets
        self._ends.reached(high, before)
        return dict(unstable)


class OperationLog:
    """The view that an operation has of its shard."""

    def __init__(self, operation: str, shard: Shard) -> None:
        self._operation = operation
        self._shard = shard

    async def restore(self) -> Restored:
        return await self._shard.restore(self._operation)

    async def commit(self, batch: Batch) -> None:
        await self._shard.commit(batch)


def partition_of(operation: str) -> int:
    """The state partition of an operation, for ever, even if the topic gets more partitions."""
    return murmur2(operation.encode()) % STATE_PARTITIONS

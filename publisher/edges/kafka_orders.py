"""The commands topic: where people write what they want, and the service reads it.

One record per backfill under the key OPERATION/ID, in the partition of the
operation. Who pauses or cancels writes the record anew; compaction keeps the last.
"""

from collections.abc import Sequence
from datetime import datetime

import orjson
from aiokafka import TopicPartition

from publisher.edges.kafka import partition_of
from publisher.edges.kafka_client import Clients
from publisher.edges.kafka_reader import reading
from publisher.edges.kafka_topics import ensure_commands, partitions_of
from publisher.errors import Held, Reason, Stage
from publisher.model import Standing, iso
from publisher.rules.backfill import Order
from publisher.rules.records import FORMAT
from publisher.settings import Settings


class KafkaOrders:
    """Fits `job.Orders`. Where the topic is missing, nothing was ever ordered."""

    def __init__(self, settings: Settings, operation: str) -> None:
        self._settings = settings
        self._operation = operation
        self._clients: Clients | None = None
        partition = partition_of(operation)
        self._partition = TopicPartition(settings.publisher.commands_topic, partition)
        self._there = False

    async def read(self) -> Sequence[Order]:
        """All that stand, the oldest first."""
        clients = self._ours()
        if not self._there:
            found = await partitions_of(clients, [self._partition.topic])
            self._there = self._partition in found
        if not self._there:
            return ()
        async with reading(clients) as reader:
            live, _ = await reader.decided_records(self._partition)
        prefix = f"{self._operation}/".encode()
        mine = [_decoded(key, live[key]) for key in live if key.startswith(prefix)]
        return sorted(mine, key=lambda order: order.id)  # an id begins with its time

    async def write(self, order: Order) -> None:
        """Order it, in place of what was ordered under its id before."""
        clients = self._ours()
        if not self._there:
            await ensure_commands(clients, self._settings, lambda _: None)
            self._there = True
        producer = clients.plain_producer()
        key = f"{self._operation}/{order.id}".encode()
        async with clients.using(producer):
            topic, number = self._partition
            await producer.send_and_wait(topic, _encoded(order), key=key, partition=number)

    def _ours(self) -> Clients:
        """Made late: a service that starts has other things to do."""
        self._clients = self._clients or Clients(self._settings)
        return self._clients


def _encoded(order: Order) -> bytes:
    return orjson.dumps(
        {
            "format": FORMAT,
            "kind": "backfill",
            "from": iso(order.start),
            "to": iso(order.end),
            "again": order.again,
            "wanted": order.wanted.value,
        }
    )


def _decoded(key: bytes, value: bytes) -> Order:
    try:
        told = orjson.loads(value)
        if told["format"] == FORMAT and told["kind"] == "backfill":
            return Order(
                key.decode().partition("/")[2],
                datetime.fromisoformat(told["from"]),
                datetime.fromisoformat(told["to"]),
                told["again"],
                Standing(told["wanted"]),
            )
    except (ValueError, LookupError, TypeError):
        pass
    raise Held(
        Stage.RESTORE,
        Reason.STATE_FORMAT,
        f"the commands topic holds a record {key!r} that this version cannot read: run the version"
        " that wrote it, or remove the record",
    )

"""The commands topic: where people write what they want, and the service reads it.

One record per backfill under the key OPERATION/ID, in the partition of the
operation. Who pauses or cancels writes the record anew; compaction keeps the last.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import orjson
from aiokafka import TopicPartition

from publisher.errors import NeedsOperator, Reason, Stage, StepError
from publisher.kafka.clients import CALL_SECONDS, Clients
from publisher.kafka.cluster import partition_of
from publisher.kafka.reader import reading
from publisher.kafka.topics import ensure_commands, stands
from publisher.model import Standing, iso
from publisher.schedule.backfill_pass import BackfillRequest
from publisher.settings import Settings
from publisher.state.checkpoint import FORMAT


class KafkaCommands:
    """Fits `context.BackfillRequests`.

    That the topic cannot be seen does not mean that nothing was ordered: a broker that has just
    started does not know all of them, and what has ended must not be forgotten for that.
    """

    def __init__(self, settings: Settings, operation: str) -> None:
        self._settings = settings
        self._operation = operation
        self._clients: Clients | None = None
        partition = partition_of(operation)
        self._partition = TopicPartition(settings.publisher.commands_topic, partition)
        self._there = False

    async def read(self) -> Sequence[BackfillRequest] | None:
        """All that stand, the oldest first; None where there is no topic.

        Raises NeedsOperator while an undecided transaction hides the latest.
        """
        clients = self._ours()
        self._there = self._there or await stands(clients, self._partition)
        if not self._there:
            return None
        try:
            async with reading(clients) as reader:
                # Nobody waits here, live least of all: what is undecided is looked at again.
                live = await reader.live_records(self._partition, blocked_after=0)
        except StepError:
            self._there = False  # it may be gone: looking for it waits less than reading it
            raise
        prefix = f"{self._operation}/".encode()
        mine = [_decoded(key, live[key]) for key in live if key.startswith(prefix)]
        return sorted(
            mine, key=lambda backfill_request: backfill_request.id
        )  # an id begins with its time

    async def read_if_allowed(self) -> Sequence[BackfillRequest]:
        """The same; nothing where there is no topic, or none that we may read."""
        try:
            return await self.read() or ()
        except StepError as error:
            if error.reason is not Reason.KAFKA_AUTHORIZATION:
                raise
            return ()

    async def write(self, backfill_request: BackfillRequest) -> None:
        """Order it, in place of what was ordered under its id before."""
        if not self._there:
            await ensure_commands(self._ours(), self._settings, lambda _: None)
            self._there = True
        await self._send({backfill_request.id: _encoded(backfill_request)})

    async def forget(self, ids: Iterable[str]) -> None:
        """Remove the orders of these ids."""
        await self._send(dict.fromkeys(ids))

    async def _send(self, values: Mapping[str, bytes | None]) -> None:
        clients = self._ours()
        producer = clients.plain_producer()
        topic, number = self._partition
        async with clients.using(producer), asyncio.timeout(CALL_SECONDS):
            for id_, value in values.items():
                key = f"{self._operation}/{id_}".encode()
                await producer.send_and_wait(topic, value, key=key, partition=number)

    def _ours(self) -> Clients:
        """Made late: a service that starts has other things to do."""
        self._clients = self._clients or Clients(self._settings)
        return self._clients


def _encoded(backfill_request: BackfillRequest) -> bytes:
    return orjson.dumps(
        {
            "format": FORMAT,
            "kind": "backfill",
            "from": iso(backfill_request.start),
            "to": iso(backfill_request.end),
            "again": backfill_request.again,
            "wanted": backfill_request.wanted.value,
        }
    )


def _decoded(key: bytes, value: bytes) -> BackfillRequest:
    try:
        told = orjson.loads(value)
        if told["format"] == FORMAT and told["kind"] == "backfill":
            return BackfillRequest(
                key.decode().partition("/")[2],
                datetime.fromisoformat(told["from"]),
                datetime.fromisoformat(told["to"]),
                told["again"],
                Standing(told["wanted"]),
            )
    except (ValueError, LookupError, TypeError):
        pass
    raise NeedsOperator(
        Stage.RESTORE,
        Reason.STATE_FORMAT,
        f"the commands topic holds a record {key!r} that this version cannot read: run the version"
        " that wrote it, or remove the record",
    )

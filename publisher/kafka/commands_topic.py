"""Writes and reads the commands topic: people order backfills there, and the service obeys.

Each backfill is a record under the key OPERATION/ID, in the partition of the operation. To pause
or cancel a backfill is to write its record anew; compaction keeps the last one.
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
    """The backfills ordered for an operation; implements `context.BackfillRequests`.

    A topic that cannot be seen does not mean that nothing was ordered: a broker that has just
    started does not know all topics. That is no reason to forget backfills that have ended.
    """

    def __init__(self, settings: Settings, operation: str) -> None:
        self._settings = settings
        self._operation = operation
        self._clients: Clients | None = None
        partition = partition_of(operation)
        self._partition = TopicPartition(settings.publisher.commands_topic, partition)
        self._there = False

    async def read(self) -> Sequence[BackfillRequest] | None:
        """All backfills that are ordered, the oldest first; None = the topic does not exist.

        Raises NeedsOperator while an undecided transaction hides the latest record.
        """
        clients = self._ours()
        self._there = self._there or await stands(clients, self._partition)
        if not self._there:
            return None
        try:
            async with reading(clients) as reader:
                # Nothing waits here, live least of all: the next read sees what is undecided now.
                live = await reader.live_records(self._partition, blocked_after=0)
        except StepError:
            self._there = False  # it may be gone; looking for it takes less time than reading it
            raise
        prefix = f"{self._operation}/".encode()
        requests = [_decoded(key, live[key]) for key in live if key.startswith(prefix)]
        return sorted(
            requests, key=lambda backfill_request: backfill_request.id
        )  # an id begins with its time

    async def read_if_allowed(self) -> Sequence[BackfillRequest]:
        """As `read`, but empty if the topic does not exist or we may not read it."""
        try:
            return await self.read() or ()
        except StepError as error:
            if error.reason is not Reason.KAFKA_AUTHORIZATION:
                raise
            return ()

    async def write(self, backfill_request: BackfillRequest) -> None:
        """Order the backfill; it replaces an earlier order with the same id."""
        if not self._there:
            await ensure_commands(self._ours(), self._settings, lambda _: None)
            self._there = True
        await self._send({backfill_request.id: _encoded(backfill_request)})

    async def forget(self, ids: Iterable[str]) -> None:
        """Remove the orders with these ids."""
        await self._send(dict.fromkeys(ids))

    async def _send(self, values: Mapping[str, bytes | None]) -> None:
        clients = self._ours()
        producer = clients.plain_producer()
        topic, partition = self._partition
        async with clients.using(producer), asyncio.timeout(CALL_SECONDS):
            for id_, value in values.items():
                key = f"{self._operation}/{id_}".encode()
                await producer.send_and_wait(topic, value, key=key, partition=partition)

    def _ours(self) -> Clients:
        """Our clients, made at the first use: a service that starts has other things to do."""
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
        order = orjson.loads(value)
        if order["format"] == FORMAT and order["kind"] == "backfill":
            return BackfillRequest(
                key.decode().partition("/")[2],
                datetime.fromisoformat(order["from"]),
                datetime.fromisoformat(order["to"]),
                order["again"],
                Standing(order["wanted"]),
            )
    except (ValueError, LookupError, TypeError):
        pass
    raise NeedsOperator(
        Stage.RESTORE,
        Reason.STATE_FORMAT,
        f"the commands topic holds a record {key!r} that this version cannot read: run the version"
        " that wrote it, or remove the record",
    )

"""One shard of the log: the takeover, the restore, the commit. The bytes: `kafka_transaction.py`.

Rules of this file (each one a way in which exactly-once was seen to break):
- Take over first, then read: only the takeover settles our open transaction, and
  only what is read after it is known.
- A producer that saw any error is thrown away: its abort may send nothing, and
  its next commit would publish what was aborted.
- An unknown outcome is never retried; the log tells what happened.
- Every wait is bounded.
"""

import asyncio
from collections.abc import Mapping
from typing import Final
from uuid import uuid4

import orjson
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import ProducerFenced

from publisher.edges.kafka_client import BATCH_BYTES, CALL_SECONDS, Clients, at_once, discard
from publisher.edges.kafka_errors import outcome_unknown
from publisher.edges.kafka_reader import Reader, read_live_records, reading
from publisher.edges.kafka_topics import STATE_PARTITIONS, ensure
from publisher.edges.kafka_transaction import build, send_and_commit
from publisher.errors import Fenced, OutcomeUnknown, PublisherError, Reason, StepError
from publisher.model import Batch, Restored, StateRecord
from publisher.rules.records import (
    FORMAT,
    Checkpoint,
    checkpoint_key,
    decode_checkpoint,
    operation_of,
)
from publisher.settings import Settings
from publisher.signals import Emit, HintGiven

CLOSE_SECONDS: Final = 2.0
"""Longest time for the end of a producer, with what must be settled before."""

RECORDS_PER_PRODUCER: Final = 2**30
"""aiokafka counts sequence numbers over 2**31 wrongly: a fresh producer long before."""


class Shard:
    """One partition of the state topic, one transactional producer, its operations."""

    def __init__(self, partition: int, clients: Clients, settings: Settings, emit: Emit) -> None:
        self._clients = clients
        self._settings = settings
        self._emit = emit
        self._state = TopicPartition(settings.publisher.state_topic, partition)
        self._transactional_id = f"{settings.publisher.transactional_id}-{partition}"
        self._instance = uuid4().hex
        self._producer: AIOKafkaProducer | None = None
        self._lock = asyncio.Lock()
        self._ending: set[asyncio.Task[bool]] = set()
        self._sequences: dict[str, int] = {}
        """The last committed sequence number by operation, as the log tells it."""
        self._known = False
        """The log was read since the takeover, so those numbers are true."""
        self._room: dict[str, int] = {}
        """Largest batch in bytes by topic."""
        self._owner_written = False
        self._unsettled = False
        """A transaction of ours may still be open."""
        self._records = 0

    async def restore(self, operation: str) -> Restored:
        """Take over if need be, and read what the log holds of the operation."""
        async with self._lock:
            # At once, because a service that starts has a second until its first request.
            await at_once(self._ensure_topics(operation), self._ensure_producer())
            async with reading(self._clients) as reader:
                live = await self._read(reader)
                records = {key: live[key] for key in live if operation_of(key) == operation}
                first_start = checkpoint_key(operation) not in records
                lost = first_start and await self._history_lost(reader, operation)
                now = ""
                if first_start and not lost:
                    now = await self._look_for_it_elsewhere(reader, operation)
            return Restored(records, lost, now)

    async def commit(self, batch: Batch) -> None:
        """One transaction. Raises Stop when only the log can tell what happened."""
        async with self._lock:
            if self._producer is None:
                # Another operation of this shard threw it away; our state may still be true.
                await self._take_over()
            if not self._known:
                async with reading(self._clients) as reader:
                    await self._read(reader)
            if self._sequences.get(batch.operation) != batch.follows:
                raise OutcomeUnknown(
                    Reason.OUTCOME_UNKNOWN,
                    "the log has moved on since this window was begun: restoring",
                )
            try:
                await self._transact(self._producer, batch)
            except Exception as error:
                fenced = isinstance(error, ProducerFenced)
                self._throw_away()
                if fenced and await self._somebody_else_writes():
                    self._unsettled = False
                    raise Fenced(
                        f"another process has taken over {self._transactional_id}: only one may"
                        " run; stop it, or give one of the two its own topics and"
                        " PUBLISHER_TRANSACTIONAL_ID"
                    ) from None
                raise outcome_unknown(error) from None
            except BaseException:
                self._throw_away()
                raise
            self._sequences[batch.operation] = batch.sequence
            self._owner_written = True
            if self._records > RECORDS_PER_PRODUCER:
                self._throw_away()

    async def close(self) -> bool:
        """End the producer within bounds; True = no transaction of ours is left open."""
        ending = asyncio.create_task(self._end())
        await asyncio.wait([ending], timeout=CLOSE_SECONDS)
        if not ending.done():
            # Not awaited: whatever it waits for, it is cancelled again when the event loop ends.
            ending.cancel()
            return False
        return ending.result()

    async def _end(self) -> bool:
        """End the producer; where a transaction may be open, settle it first."""
        clean = True
        if self._producer is not None:
            clean = await discard(self._producer, grace=1.0)
            self._producer = None
        if self._unsettled:
            # Whoever takes over has the open transaction aborted: we do it ourselves.
            try:
                producer = await self._take_over()
            except PublisherError:
                return False
            clean = await discard(producer, grace=1.0)
            self._producer = None
        elif self._ending:
            await asyncio.wait(self._ending, timeout=1.0)
        return clean

    async def _ensure_topics(self, operation: str) -> None:
        self._room |= await ensure(self._clients, self._settings, operation, self._emit)

    async def _ensure_producer(self) -> None:
        if self._producer is None:
            await self._take_over()

    async def _take_over(self) -> AIOKafkaProducer:
        """Open a producer with our id: fences any other, aborts its open transaction."""
        if self._ending:
            await asyncio.wait(self._ending)
        producer = self._clients.producer(self._transactional_id)
        await self._clients.start(producer)
        self._producer = producer
        self._owner_written = self._unsettled = self._known = False
        self._records = 0
        return producer

    async def _read(self, reader: Reader) -> dict[bytes, bytes]:
        """All live records; from now on no batch passes that follows anything older."""
        live = await reader.live_records(self._state)
        self._sequences = {told.operation: told.sequence for told in _checkpoints(live)}
        self._known = True
        return live

    async def _transact(self, producer: AIOKafkaProducer, batch: Batch) -> None:
        revisions = self._settings.revisions_topic(batch.operation)
        to = [
            (self._settings.messages_topic(batch.operation), batch.events),
            *([(revisions, batch.revisions)] if revisions else []),
            (self._settings.dead_letters_topic(batch.operation), batch.dead_letters),
        ]
        state = [*batch.state] if self._owner_written else [*batch.state, self._owner()]
        limit = min([BATCH_BYTES, *self._room.values()])
        batches = await build(producer, to, self._state, state, self._clients.compression, limit)
        # Nothing was sent so far. From here on the log may hold something of it.
        self._unsettled = True
        await send_and_commit(producer, batches)
        self._unsettled = False
        self._records += sum(b.record_count() for those in batches.values() for b in those)

    def _owner(self) -> StateRecord:
        """Who writes here: how a fenced process tells a successor from its own slowness."""
        partition = self._state.partition
        value = {"format": FORMAT, "instance": self._instance, "partition": partition}
        return StateRecord(f"owner/{partition}".encode(), orjson.dumps(value))

    async def _somebody_else_writes(self) -> bool:
        try:
            live = await read_live_records(self._clients, self._state)
            owner = orjson.loads(live[f"owner/{self._state.partition}".encode()])
        except (StepError, LookupError, orjson.JSONDecodeError):
            return False
        return bool(owner.get("instance") != self._instance)

    async def _history_lost(self, reader: Reader, operation: str) -> bool:
        """Events without state: of nobody, or in a topic of its own not of this operation."""
        assert self._producer is not None
        told = self._settings.publisher
        topic = self._settings.messages_topic(operation)
        async with asyncio.timeout(CALL_SECONDS):
            numbers = await self._producer.partitions_for(topic)
        if not await reader.with_offsets(TopicPartition(topic, number) for number in numbers):
            return False
        if topic == told.messages_topic:
            states = [TopicPartition(told.state_topic, n) for n in range(STATE_PARTITIONS)]
            # Offsets alone prove nothing: aborted records and markers have some, too.
            for state in await reader.with_offsets(states):
                if await reader.live_records(state):
                    return False
        return True

    async def _look_for_it_elsewhere(self, reader: Reader, operation: str) -> str:
        """The name under which it goes on, or else a hint at who might be it."""
        topic = self._settings.publisher.state_topic
        homes = [TopicPartition(topic, number) for number in range(STATE_PARTITIONS)]
        known: set[str] = set()
        for home in await reader.with_offsets(homes):
            # Not to the true end: what hangs in the partition of others must not keep this one.
            live, _ = await reader.decided_records(home)
            for told in _checkpoints(live):
                if told.renamed_to:
                    continue
                if operation in told.formerly:
                    return told.operation
                known.add(told.operation)
        if strangers := known - {one.name for one in self._settings.operations}:
            names = ", ".join(sorted(strangers))
            self._emit(
                HintGiven(
                    f"{operation} begins anew, and {topic} knows {names}, too, of which the"
                    " settings say nothing: if it is the same under a new name, stop, set the old"
                    " name again, and run wolkvox-publisher state rename; if not, wolkvox-publisher"
                    " state forget ends this hint",
                    operation,
                )
            )
        return ""

    def _throw_away(self) -> None:
        """Never use this producer again; it ends beside us, within bounds."""
        if self._producer is not None:
            task = asyncio.create_task(discard(self._producer))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            self._producer = None


def _checkpoints(live: Mapping[bytes, bytes]) -> list[Checkpoint]:
    return [decode_checkpoint(live[key]) for key in live if key.startswith(b"checkpoint/")]

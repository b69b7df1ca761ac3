"""A shard of the log: its takeover, restores and commits.

Exactly-once rests on two ideas. The events and the state that explains them are written in the
same transaction, and only the owner of the transactional id can write. `kafka/transaction.py`
builds and sends the transaction.

Rules of this file (each prevents a way in which exactly-once was seen to break):
- Take over first, then read. Only the takeover settles our open transaction, so only what is read
  after it is certain.
- A producer that saw any error is thrown away: its abort may send nothing, and
  its next commit would publish what was aborted.
- An unknown outcome is never retried. The log shows what happened.
- Every transaction has an epoch of its own. A request that arrives late has an older epoch, and
  Kafka refuses it (decision 0028).
- Every wait is bounded.
"""

import asyncio
from collections.abc import Mapping
from typing import Final
from uuid import uuid4

import orjson
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import ProducerFenced

from publisher.errors import Fenced, OutcomeUnknown, PublisherError, Reason, StepError
from publisher.kafka.client_errors import outcome_unknown
from publisher.kafka.clients import BATCH_BYTES, CALL_SECONDS, Clients, at_once, discard
from publisher.kafka.end_offsets import Ends
from publisher.kafka.epoch import renew, renewable
from publisher.kafka.first_start import begins_anew_hint, checkpoints, history_lost, operations_in
from publisher.kafka.reader import BLOCKED_SECONDS, Reader, read_live_records, reading
from publisher.kafka.tail import NEVER, Tail
from publisher.kafka.topics import STATE_PARTITIONS, ensure, unseen_events
from publisher.kafka.transaction import build, send_and_commit
from publisher.model import Batch, Restored, StateRecord
from publisher.settings import Settings
from publisher.signals import Emit, HintGiven
from publisher.state.checkpoint import FORMAT, checkpoint_key, operation_of

CLOSE_SECONDS: Final = 2.0
"""Longest time to end a producer, including what must be settled before."""


class Shard:
    """A partition of the state topic, its transactional producer and its operations."""

    def __init__(
        self, partition: int, clients: Clients, settings: Settings, ends: Ends, emit: Emit
    ) -> None:
        self._clients = clients
        self._settings = settings
        self._ends = ends
        self._emit = emit
        self._state = TopicPartition(settings.publisher.state_topic, partition)
        self._transactional_id = f"{settings.publisher.transactional_id}-{partition}"
        self._instance = uuid4().hex
        """Our own name in the owner record."""
        self._producer: AIOKafkaProducer | None = None
        self._lock = asyncio.Lock()
        self._ending: set[asyncio.Task[bool]] = set()
        """Producers that were thrown away and have not ended yet."""
        self._sequences: dict[str, int] = {}
        """The last committed sequence number by operation, as read from the log."""
        self._read_since_takeover = False
        """The log was read since the takeover, so those numbers are true."""
        self._room: dict[str, int] = {}
        """Largest batch in bytes by topic."""
        self._owner_written = False
        """Our owner record was committed since the takeover."""
        self._unsettled = False
        """A transaction of ours may still be open."""
        self._owner_seen = ""
        """The instance that the owner record named when we last read or wrote it."""

    async def restore(self, operation: str) -> Restored:
        """Take over if necessary, and read what the log holds of the operation."""
        async with self._lock:
            # Both together, because a service that starts has a second until its first request.
            await at_once(self._ensure_topics(operation), self._ensure_producer())
            async with reading(self._clients) as reader:
                live = await self._read(reader)
                records = {key: live[key] for key in live if operation_of(key) == operation}
                lost = False
                if checkpoint_key(operation) not in records:
                    lost = await self._first_start(reader, operation)
                tail = await self._tail(reader, operation)
            return Restored(records, lost, tail.newest_published, tail.unused, tail.readable)

    async def _tail(self, reader: Reader, operation: str) -> Tail:
        """The end of the messages topic, which also shows what a state that was set back lacks."""
        topic = self._settings.messages_topic(operation)
        written_at = reader.written_at.get(checkpoint_key(operation), NEVER)
        before = self._ends.now()
        tail = await reader.tail(await self._partitions(topic), operation, written_at)
        if tail.unused:
            self._ends.reset(tail.ends)  # the caller compares with the state, and reports
        else:
            self._ends.reached(tail.ends, before)
        if not tail.readable:
            self._emit(HintGiven(unseen_events(topic)))
        return tail

    async def _partitions(self, topic: str) -> list[TopicPartition]:
        """All partitions of a topic, as our producer sees them."""
        assert self._producer is not None
        async with asyncio.timeout(CALL_SECONDS):
            numbers = await self._producer.partitions_for(topic)
        return [TopicPartition(topic, number) for number in sorted(numbers)]

    async def commit(self, batch: Batch) -> None:
        """Write the batch in a transaction.

        Raises OutcomeUnknown if only the log can show what happened, and if the state has changed
        since the batch was made. Raises Fenced if another process has taken over. Raises StepError
        if the takeover or the read before the transaction fails: then nothing was published.
        """
        async with self._lock:
            thrown_away = self._producer is None
            if thrown_away:
                # Another operation of this shard failed, or this is Kafka 2.4. Our state may still
                # be true.
                await self._take_over()
            if not self._read_since_takeover:
                async with reading(self._clients) as reader:
                    expected = self._owner_seen
                    live = await self._read(reader)
                # A command that never looked before cannot have been replaced since.
                if thrown_away and expected and self._another_wrote(live, expected):
                    self._throw_away()
                    raise self._fenced()
            if self._sequences.get(batch.operation) != batch.follows:
                raise OutcomeUnknown(
                    Reason.OUTCOME_UNKNOWN,
                    "the state changed since this window started; reloading it",
                )
            try:
                await self._transact(self._producer, batch)
            except Exception as error:
                fenced = isinstance(error, ProducerFenced)
                self._throw_away()
                if fenced and await self._another_has_written():
                    self._unsettled = False
                    raise self._fenced() from None
                raise outcome_unknown(error) from None
            except BaseException:
                self._throw_away()
                raise
            self._sequences[batch.operation] = batch.sequence
            self._owner_written, self._owner_seen = True, self._instance
            if not renewable(self._producer):
                # Kafka 2.4: only a takeover gives the next transaction a new epoch.
                self._throw_away()

    async def close(self) -> bool:
        """End the producer within bounds; True = no transaction of ours is left open."""
        ending = asyncio.create_task(self._end())
        await asyncio.wait([ending], timeout=CLOSE_SECONDS)
        if not ending.done():
            # The task is not awaited: the end of the event loop cancels it again.
            ending.cancel()
            return False
        return ending.result()

    async def _end(self) -> bool:
        """End the producer. If a transaction may be open, settle it; True = all ended cleanly."""
        clean = True
        if self._producer is not None:
            clean = await discard(self._producer, grace=1.0)
            self._producer = None
        if self._unsettled:
            # A takeover makes Kafka abort the open transaction, so we take over ourselves.
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
        """Open a producer with our transactional id.

        That fences any other producer with it, and aborts its open transaction.
        """
        if self._ending:
            await asyncio.wait(self._ending)
        producer = self._clients.producer(self._transactional_id)
        await self._clients.start(producer)
        self._producer = producer
        self._owner_written = self._unsettled = self._read_since_takeover = False
        return producer

    async def _read(self, reader: Reader) -> dict[bytes, bytes]:
        """All live records. From now on `commit` refuses a batch that follows an older state."""
        live = await reader.live_records(self._state)
        self._sequences = {
            checkpoint.operation: checkpoint.sequence for checkpoint in checkpoints(live)
        }
        self._owner_seen = self._owner_in(live)
        self._read_since_takeover = True
        return live

    async def _transact(self, producer: AIOKafkaProducer, batch: Batch) -> None:
        revisions = self._settings.revisions_topic(batch.operation)
        records_by_topic = [
            (self._settings.messages_topic(batch.operation), batch.events),
            *([(revisions, batch.revisions)] if revisions else []),
            (self._settings.dead_letters_topic(batch.operation), batch.dead_letters),
        ]
        state = [*batch.state] if self._owner_written else [*batch.state, self._owner()]
        limit_bytes = min([BATCH_BYTES, *self._room.values()])
        compression = self._clients.compression
        batches = await build(
            producer, records_by_topic, self._state, state, compression, limit_bytes
        )
        # Nothing was sent so far. From here on the log may hold parts of the transaction.
        self._unsettled = True
        if renewable(producer):
            await renew(producer)
        before = self._ends.now()
        offsets = await send_and_commit(producer, batches, self._state)
        self._unsettled = False
        self._ends.reached(offsets, before)

    def _owner(self) -> StateRecord:
        """The record that names us as the writer of this shard.

        A fenced process reads it to see whether a successor fenced it, or its own slowness.
        """
        partition = self._state.partition
        value = {"format": FORMAT, "instance": self._instance, "partition": partition}
        return StateRecord(f"owner/{partition}".encode(), orjson.dumps(value))

    async def _another_has_written(self) -> bool:
        """As `_another_wrote`, by reading the log; False if it cannot be read."""
        try:
            live = await read_live_records(self._clients, self._state)
        except StepError:
            return False
        return self._another_wrote(live, self._owner_seen)

    def _another_wrote(self, live: Mapping[bytes, bytes], expected: str) -> bool:
        """Whether another process has taken over and written since we last looked.

        `expected` is the owner that we saw then.
        """
        return self._owner_in(live) not in ("", expected, self._instance)

    def _owner_in(self, live: Mapping[bytes, bytes]) -> str:
        """The instance that the owner record names; "" = there is none."""
        try:
            owner = orjson.loads(live[f"owner/{self._state.partition}".encode()])
        except (LookupError, orjson.JSONDecodeError):
            return ""
        return str(owner.get("instance"))

    def _fenced(self) -> Fenced:
        return Fenced(
            f"another process has taken over {self._transactional_id}: only one may"
            " run; stop it, or give one of the two its own topics and"
            " PUBLISHER_TRANSACTIONAL_ID"
        )

    async def _first_start(self, reader: Reader, operation: str) -> bool:
        """For an operation without a checkpoint: whether its state is lost."""
        topic = self._settings.publisher.state_topic
        states = [TopicPartition(topic, number) for number in range(STATE_PARTITIONS)]
        messages = await self._partitions(self._settings.messages_topic(operation))
        if await history_lost(reader, self._settings, messages, states, BLOCKED_SECONDS):
            return True
        names = await operations_in(reader, states)
        if hint := begins_anew_hint(self._settings, operation, names):
            self._emit(HintGiven(hint, operation))
        return False

    def _throw_away(self) -> None:
        """Never use this producer again. It ends in the background, within bounds."""
        if self._producer is not None:
            task = asyncio.create_task(discard(self._producer))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            self._producer = None

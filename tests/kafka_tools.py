"""What tests do to a Kafka besides using the publisher: read it, empty it, get in the way."""

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import cycle
from typing import Any, ClassVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError

from sandbox.kafka import wire

_PATIENCE = 10.0


@asynccontextmanager
async def administering(bootstrap: str) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def producing(bootstrap: str, **settings: Any) -> AsyncIterator[Any]:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, **settings)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def read(bootstrap: str, topic: str, *, isolation: str = "read_committed") -> list[Any]:
    """All records of a topic as of now, by partition; none behind an open transaction."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level=isolation, fetch_max_wait_ms=50
    )
    await consumer.start()
    found: list[Any] = []
    try:
        ends = await end_offsets(bootstrap, topic)
        if not ends:
            return []
        consumer.assign(list(ends))
        await consumer.seek_to_beginning()
        moved = time.monotonic()
        while time.monotonic() - moved < 2:
            unread = [tp for tp, end in ends.items() if await consumer.position(tp) < end]
            if not unread:
                break
            for records in (await consumer.getmany(timeout_ms=50)).values():
                found += records
                moved = time.monotonic()
    finally:
        await consumer.stop()
    return sorted(found, key=lambda record: (record.partition, record.offset))


async def end_offsets(
    bootstrap: str, topic: str, *, isolation: str = "read_uncommitted"
) -> dict[TopicPartition, int]:
    """The high watermark of each partition, or with read_committed its last stable offset."""
    async with administering(bootstrap) as admin:
        (told,) = await admin.describe_topics([topic])
    partitions = [TopicPartition(topic, p["partition"]) for p in told["partitions"]]
    if not partitions:
        return {}
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level=isolation)
    await consumer.start()
    try:
        found: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
    finally:
        await consumer.stop()
    return found


async def open_transactions(bootstrap: str, *topics: str) -> int:
    """Records behind the last stable offsets; markers get a moment to be written."""
    deadline = time.monotonic() + 2
    while True:
        behind = 0
        for topic in topics:
            high = await end_offsets(bootstrap, topic)
            stable = await end_offsets(bootstrap, topic, isolation="read_committed")
            behind += sum(high[partition] - stable[partition] for partition in high)
        if not behind or time.monotonic() > deadline:
            return behind
        await asyncio.sleep(0.1)


async def create(
    bootstrap: str, topic: str, partitions: int = 1, replicas: Any = 1, **config: str
) -> None:
    """Create a topic; in the names of its settings `_` stands for a dot."""
    dotted = {name.replace("_", "."): value for name, value in config.items()}
    async with administering(bootstrap) as admin:
        new = NewTopic(topic, partitions, replicas, topic_configs=dotted)
        answer = await admin.create_topics([new])
        assert answer.topic_errors[0][1] == 0, answer
        await _until(admin, topic, there=True)


async def configure(bootstrap: str, topic: str, config: Mapping[str, str]) -> None:
    """Replace the settings of a topic."""
    async with administering(bootstrap) as admin:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs=dict(config))
        await admin.alter_configs([resource])


async def config_of(bootstrap: str, topic: str) -> dict[str, str]:
    """The settings of a topic, the brokers' defaults included."""
    async with administering(bootstrap) as admin:
        [told] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    return {entry[0]: entry[1] for entry in told.resources[0][4]}


async def delete(bootstrap: str, topic: str) -> None:
    """Delete a topic, and return once it is gone."""
    async with administering(bootstrap) as admin:
        await admin.delete_topics([topic])
        await _until(admin, topic, there=False)


async def back_up(bootstrap: str, topic: str) -> Callable[[], Awaitable[None]]:
    """Copy a compacted topic; what is returned puts the copy in its place."""
    copy = await read(bootstrap, topic)

    async def put_back() -> None:
        partitions = len(await end_offsets(bootstrap, topic))
        await delete(bootstrap, topic)
        await create(bootstrap, topic, partitions, cleanup_policy="compact")
        async with producing(bootstrap) as producer:
            for record in copy:
                await producer.send_and_wait(
                    topic, record.value, record.key, record.partition, record.timestamp
                )

    return put_back


async def _there(admin: Any, topic: str) -> bool:
    return bool((await admin.describe_topics([topic]))[0]["error_code"] == 0)


async def _until(admin: Any, topic: str, *, there: bool) -> None:
    async with asyncio.timeout(_PATIENCE):
        while await _there(admin, topic) is not there:  # noqa: ASYNC110 - Kafka does not call us
            await asyncio.sleep(0.02)


async def fence(bootstrap: str, transactional_id: str) -> None:
    """Take over a transactional id, and write nothing."""
    call = wire.open_transactional_id
    servers = cycle(bootstrap.split(","))  # one of them coordinates the id
    async with asyncio.timeout(_PATIENCE):
        while not await asyncio.to_thread(call, next(servers), transactional_id, 5.0):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def awake(bootstrap: str) -> None:
    """Return once a thawed broker is let in again by its controller, and stays so."""
    in_a_row = 0
    async with asyncio.timeout(_PATIENCE):
        while in_a_row < 10:
            there = await asyncio.to_thread(wire.brokers, bootstrap, 5.0)
            in_a_row = in_a_row + 1 if there else 0
            await asyncio.sleep(0.05)


class Shaky(AIOKafkaProducer):  # type: ignore[misc]
    """The real producer, whose connection may be lost around a commit."""

    kept: ClassVar[bool | None] = None
    """The next commit is answered by an error: True = it happened, False = it did not."""

    async def commit_transaction(self) -> None:
        kept, Shaky.kept = Shaky.kept, None
        if kept is not False:
            await super().commit_transaction()
        if kept is not None:
            raise KafkaConnectionError


def hooks() -> tuple[Any, ...]:
    """What `logs.configure` changes in the process besides the root logger."""
    levels = {
        name: logger.level
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
    }
    return levels, sys.excepthook, sys.unraisablehook, logging.raiseExceptions


def restore(before: tuple[Any, ...]) -> None:
    levels, sys.excepthook, sys.unraisablehook, logging.raiseExceptions = before
    logging.captureWarnings(capture=False)
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger):
            logger.setLevel(levels.get(name, logging.NOTSET))

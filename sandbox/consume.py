"""How a consumer reads the events: committed records only, from the beginning.

    python -m sandbox.consume [--bootstrap-servers HOST:PORT] [TOPIC]

prints one event per line until Ctrl-C.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

TOPIC: Final = "wolkvox.messages"
_RETRY_SECS: Final = 0.5
_COMBINED: Final = re.compile("[\u200d\ufe0f\U0001f3fb-\U0001f3ff]")
"""What makes one emoji of several: terminals disagree on how wide that is."""


@dataclass(frozen=True, slots=True)
class Event:
    """One record of the topic."""

    value: dict[str, Any]
    key: bytes | None
    headers: dict[str, bytes]
    partition: int
    offset: int
    timestamp: int
    """When it was published, in milliseconds since the epoch."""


class Reader:
    """Reads a topic and keeps its place; the broker may go and come, the topic may come late."""

    def __init__(self, bootstrap: str, topic: str = TOPIC) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._consumer: AIOKafkaConsumer | None = None
        self._places: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._drop()

    async def more(self, wait_secs: float = 0.2) -> list[Event]:
        """What has come since the last call, in the order of each partition."""
        try:
            consumer = await self._ready()
            if consumer is None:
                await asyncio.sleep(min(wait_secs, _RETRY_SECS))
                return []
            return self._taken(await consumer.getmany(timeout_ms=int(wait_secs * 1000)))
        except (KafkaError, OSError):
            await self._drop()
            await asyncio.sleep(_RETRY_SECS)
            return []

    async def to_end(self) -> list[Event]:
        """Everything committed by now that no earlier call has returned; raises KafkaError."""
        consumer = await self._ready()
        if consumer is None:
            return []
        ends = await consumer.end_offsets(list(self._places))
        found = []
        for partition, end in ends.items():
            while await consumer.position(partition) < end:
                found += self._taken(await consumer.getmany(timeout_ms=100))
        return found

    async def follow(self) -> AsyncIterator[Event]:
        """Every event as it comes, for ever."""
        while True:
            for event in await self.more():
                yield event

    async def _ready(self) -> AIOKafkaConsumer | None:
        """The consumer, at its place in every partition; None while there is no topic."""
        if self._consumer is not None:
            return self._consumer
        partitions = await partitions_of(self._bootstrap, self._topic)
        if not partitions:
            return None
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=None,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
            max_partition_fetch_bytes=8_388_608,
        )
        try:
            await consumer.start()
            consumer.assign(partitions)
            for partition in partitions:
                consumer.seek(partition, self._places.setdefault(partition, 0))
        except BaseException:
            await consumer.stop()
            raise
        self._consumer = consumer
        return consumer

    def _taken(self, found: dict[TopicPartition, list[Any]]) -> list[Event]:
        events = []
        for partition, records in found.items():
            for record in records:
                self._places[partition] = record.offset + 1
                events.append(
                    Event(
                        orjson.loads(record.value),
                        record.key,
                        dict(record.headers),
                        record.partition,
                        record.offset,
                        record.timestamp,
                    )
                )
        return events

    async def _drop(self) -> None:
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            with contextlib.suppress(KafkaError, OSError):
                await consumer.stop()


async def partitions_of(bootstrap: str, *topics: str) -> list[TopicPartition]:
    """All partitions of those topics that exist; a consumer knows of those it reads only."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        return [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in await admin.describe_topics(list(topics))
            for partition in topic["partitions"]
        ]
    finally:
        await admin.close()


def line(event: Event) -> str:
    """One event in stable columns: local time, channel, who to whom, text."""
    told = event.value
    channel = _short(told.get("channel"), 9)
    who = f"{_short(told.get('from_name'), 18):18} → {_short(told.get('to_name'), 18):18}"
    return f"{moment(event):%H:%M:%S}  {channel:9}  {who}  {text(event, 60)}"


def moment(event: Event) -> datetime:
    """When it was written, by the clock of whoever looks."""
    return datetime.fromisoformat(event.value["occurred_at"]).astimezone()


def text(event: Event, width: int) -> str:
    """The message on one line of at most `width` characters."""
    message = event.value.get("message")
    if message is None:
        size = event.value.get("message_bytes")
        return f"({size} bytes, see the dead letters)" if size else "(no text)"
    return _short(message, width)


def visible(value: object) -> str:
    """On one line, without what a terminal would take for a command, or for a width of its own."""
    told = "" if value is None else _COMBINED.sub("", " ".join(str(value).split()))
    return "".join(letter if letter.isprintable() else "·" for letter in told)


def _short(value: object, width: int) -> str:
    told = visible(value)
    return told if len(told) <= width else told[: width - 1] + "…"


async def _print(bootstrap: str, topic: str) -> None:
    task = asyncio.current_task()
    assert task
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with Reader(bootstrap, topic) as reader:
        with contextlib.suppress(asyncio.CancelledError):
            async for event in reader.follow():
                print(line(event), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.consume", description=__doc__)
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
    parser.add_argument("--bootstrap-servers", default=given, help="default: %(default)s")
    parser.add_argument("topic", nargs="?", default=TOPIC, help="default: %(default)s")
    chosen = parser.parse_args()
    # Without a handler Python prints what a library says; that Kafka is away shows by itself.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    asyncio.run(_print(chosen.bootstrap_servers, chosen.topic))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Reads the events as they should be read: committed ones only, their offsets after the work."""

import asyncio
import contextlib
import json
import os
import signal
from itertools import chain
from typing import Any, Required, TypedDict

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError

# What schemas/event.v1.schema.json says. `Any` comes as the API sends it: usually text.
Event = TypedDict("Event", {
    "event_id": Required[str], "source": Required[str], "conn_id": str | int | None,
    "date": Required[str], "occurred_at": Required[str], "occurred_at_ambiguous": bool,
    "channel": Any, "from": Any, "from_name": Any, "to_name": Any, "message": Any,
    "message_bytes": int, "message_sha256": str, "customer_id": Any, "customer_phone": Any,
    "feeling": Any, "agent_name": Any, "customer_name": Any, "extra": dict[str, Any],
}, total=False)  # fmt: skip


def work(event: Event) -> None:
    """Your work. It sees an event again after a crash: let `event_id` be its primary key."""
    print(event["event_id"], event["occurred_at"], flush=True)


async def main() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    consumer = AIOKafkaConsumer(
        os.environ.get("TOPIC", "wolkvox.messages"),
        bootstrap_servers=os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
        group_id=os.environ.get("GROUP", "example"),
        isolation_level="read_committed",  # what an aborted transaction left is never seen
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=6000,  # after a crash another member takes over so much later
        heartbeat_interval_ms=2000,
    )
    await consumer.start()
    try:
        while not stop.is_set():
            found = await consumer.getmany(timeout_ms=500)
            for record in chain(*found.values()):
                work(json.loads(record.value))
            if found:  # where it fails another member has the partitions, and does it again
                with contextlib.suppress(CommitFailedError):
                    await consumer.commit()
    finally:
        await consumer.stop()  # leaves the group


if __name__ == "__main__":
    asyncio.run(main())

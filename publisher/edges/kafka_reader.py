"""Reads the state topic to its true end, and compares ends.

Rules of this file:
- The end is the high watermark. `end_offsets()` of a read_committed consumer
  answers the last stable offset, which an open transaction of anybody holds
  back: reading only so far would take an older state for the newest (measured).
- What cannot be read to its end within bounds is refused, never cut short.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from publisher.edges.kafka_client import REQUEST_MS, Clients, discard
from publisher.edges.kafka_errors import translated
from publisher.errors import Held, Reason, Stage, StepError

BLOCKED_SECONDS: Final = 75.0
"""Longer than the broker needs to abort a dead transaction: 60 s and its 10 s scan."""

_CALL_SECONDS: Final = 2 * REQUEST_MS / 1000


async def bounds(
    clients: Clients, partitions: Iterable[TopicPartition], isolation: str = "read_uncommitted"
) -> dict[TopicPartition, tuple[int, int]]:
    """First offset and end of each partition; the end is the high watermark or the stable one."""
    wanted = list(partitions)
    consumer = clients.consumer(isolation)
    await clients.start(consumer)
    try:
        first = await _bounded(consumer.beginning_offsets(wanted))
        end = await _bounded(consumer.end_offsets(wanted))
    finally:
        await discard(consumer)
    return {partition: (first[partition], end[partition]) for partition in wanted}


async def read_live_records(
    clients: Clients, partition: TopicPartition, blocked_after: float = BLOCKED_SECONDS
) -> dict[bytes, bytes]:
    """The last value of every key of a compacted partition, as of its high watermark.

    Call it after the takeover of the transactional id: then no transaction of
    our own can hide the tail. Raises Held when somebody else's does.
    """
    begin, end = (await bounds(clients, [partition]))[partition]
    live: dict[bytes, bytes] = {}
    consumer = clients.consumer("read_committed")
    await clients.start(consumer)
    try:
        consumer.assign([partition])
        consumer.seek(partition, begin)
        await asyncio.sleep(0)  # stop() straight after assign() raises CancelledError (measured)
        last, moved = begin, time.monotonic()
        while True:
            # Also where there is nothing to read: a missing READ right shows nowhere else.
            for messages in (await _bounded(consumer.getmany(timeout_ms=100))).values():
                for message in messages:
                    if message.value is None:
                        live.pop(message.key, None)
                    elif message.key is not None:
                        live[message.key] = message.value
            # The position runs over markers and aborted batches too, so it does reach the end.
            position = await _bounded(consumer.position(partition))
            if position >= end:
                return live
            if position != last:
                last, moved = position, time.monotonic()
            elif time.monotonic() - moved > blocked_after:
                raise _blocked(partition)
    finally:
        await discard(consumer)


async def _bounded(call: Any) -> Any:
    try:
        return await asyncio.wait_for(call, _CALL_SECONDS)
    except (KafkaError, OSError, TimeoutError) as error:
        raise translated(error, Stage.RESTORE) from None


def _blocked(partition: TopicPartition) -> StepError:
    return Held(
        Stage.RESTORE,
        Reason.STATE_BLOCKED,
        f"an undecided transaction hides the end of {partition.topic}-{partition.partition}:"
        " what was published is not known until it ends; find it with Kafka's"
        " kafka-transactions.sh --describe-producers and abort it if it hangs",
    )

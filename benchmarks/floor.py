"""The floor: what any publisher of this report must at least do, and no guarantee at all.

aiohttp + orjson + `send_batch` in one transaction per window. It knows no
identity, no ledger, no state, no dead letters, no faults.
"""

import asyncio
import os
import time
import zlib
from typing import Any

import aiohttp
import orjson
from aiokafka import AIOKafkaProducer

TOPIC = os.environ["PUBLISHER_MESSAGES_TOPIC"]
WINDOWS = int(os.environ["FLOOD_WINDOWS"])


async def main() -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        transactional_id="floor",
        compression_type="zstd",
        max_batch_size=512 * 1024,
    )
    await producer.start()
    count = len(await producer.partitions_for(TOPIC))
    async with aiohttp.ClientSession() as session:
        for _ in range(WINDOWS + 1):
            async with session.get(os.environ["WOLKVOX_URL"]) as response:
                body = await response.read()
            if response.status == 200:
                await publish(producer, orjson.loads(body)["data"], count)
    await producer.stop()


async def publish(producer: AIOKafkaProducer, data: list[dict[str, Any]], count: int) -> None:
    now = int(time.time() * 1000)
    batches = [[producer.create_batch()] for _ in range(count)]
    for conversation in data:
        conn_id = conversation["conn_id"]
        key = conn_id.encode()
        mine = batches[zlib.crc32(key) % count]
        agent, customer = conversation["agent_name"], conversation["customer_name"]
        for row in conversation["conversation"]:
            event = {"conn_id": conn_id, **row, "agent_name": agent, "customer_name": customer}
            value = orjson.dumps(event)
            if mine[-1].append(timestamp=now, key=key, value=value) is None:
                mine.append(producer.create_batch())
                mine[-1].append(timestamp=now, key=key, value=value)
    await producer.begin_transaction()
    futures = [
        await producer.send_batch(batch, TOPIC, partition=partition)
        for partition, those in enumerate(batches)
        for batch in those
        if batch.record_count()
    ]
    await asyncio.gather(*futures)
    await producer.commit_transaction()


asyncio.run(main())

"""The script that one writes in an afternoon: requests, confluent-kafka, a set of ids.

Its set dies with it, so a restart publishes again what it reads again; what it
had not flushed is lost. Equal rows of one second are one to it. It reads an
answer that is cut or broken as it comes.
"""

import hashlib
import json
import os
from typing import Any

import requests
from confluent_kafka import Producer

TOPIC = os.environ["PUBLISHER_MESSAGES_TOPIC"]
WINDOWS = int(os.environ["FLOOD_WINDOWS"])


def main() -> None:
    producer = Producer(
        {
            "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
            "compression.type": "zstd",
            "enable.idempotence": True,
        }
    )
    session = requests.Session()
    seen: set[str] = set()
    for _ in range(WINDOWS + 1):
        response = session.get(os.environ["WOLKVOX_URL"], timeout=60)
        if response.ok:
            publish(producer, response.json()["data"], seen)


def publish(producer: Producer, data: list[dict[str, Any]], seen: set[str]) -> None:
    for conversation in data:
        conn_id = conversation["conn_id"]
        for row in conversation["conversation"]:
            name = "|".join((conn_id, row["date"], row["from"], row["message"]))
            event_id = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
            if event_id in seen:
                continue
            seen.add(event_id)
            event = {
                "event_id": event_id,
                "conn_id": conn_id,
                **row,
                "agent_name": conversation["agent_name"],
                "customer_name": conversation["customer_name"],
            }
            producer.produce(TOPIC, key=conn_id, value=json.dumps(event))
        producer.poll(0)
    producer.flush()


main()

"""How long customers wait for their first answer, by agent and hour, drawn as events come.

    KAFKA_BOOTSTRAP_SERVERS=localhost:9092 python examples/first_response.py [FILE]

A conversation counts in the hour of its first message of a customer, for the agent who answers
first. Bots do not count as agents, and conversations whose number is a placeholder not at all.

The sink is exactly once by itself: the rows and the offsets behind them are one transaction of
the same database, and `event_id` is the primary key. So it needs no consumer group.
"""

import asyncio
import json
import os
import signal
import sys
from typing import Any, Final

import duckdb
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.live import Live
from rich.table import Table
from rich.text import Text

TOPIC: Final = os.environ.get("TOPIC", "wolkvox.messages")
BOOTSTRAP: Final = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
BOTS: Final = ["chat_bot", "chat bot"]
BAR: Final = 30

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS messages (
    event_id UUID PRIMARY KEY, source TEXT, conn_id TEXT, sender TEXT, name TEXT,
    local TIMESTAMP, occurred_at TIMESTAMP);
CREATE TABLE IF NOT EXISTS offsets (
    topic TEXT, "partition" INTEGER, next BIGINT, PRIMARY KEY (topic, "partition"));
"""
ADD: Final = """
INSERT OR IGNORE INTO messages
SELECT unnest($1), unnest($2), unnest($3), unnest($4), unnest($5), unnest($6), unnest($7)
"""
REPORT: Final = """
WITH asked AS (
    SELECT source, conn_id, min(occurred_at) AS at, arg_min(local, occurred_at) AS local
    FROM messages WHERE sender = 'CUSTOMER' GROUP BY source, conn_id
), answered AS (
    SELECT any_value(asked.local) AS local, arg_min(name, occurred_at) AS agent,
           epoch(min(occurred_at) - any_value(asked.at)) AS seconds
    FROM asked JOIN messages USING (source, conn_id)
    WHERE sender = 'AGENT' AND occurred_at >= asked.at AND name NOT IN (SELECT unnest($1))
    GROUP BY source, conn_id
)
SELECT agent, date_trunc('hour', local) AS hour, count(*), median(seconds)
FROM answered GROUP BY agent, hour ORDER BY hour, agent
"""


def store(db: duckdb.DuckDBPyConnection, found: dict[TopicPartition, list[Any]]) -> None:
    """Rows and offsets, both or neither; an event that is there already changes nothing."""
    rows = []
    for event in (json.loads(r.value) for those in found.values() for r in those if r.key):
        sender, name = str(event.get("from")), str(event.get("from_name") or "(no name)")
        rows.append(
            (event["event_id"], event["source"], str(event["conn_id"]), sender, name,
             event["date"], event["occurred_at"])
        )  # fmt: skip
    db.begin()
    if rows:
        db.execute(ADD, [list(column) for column in zip(*rows, strict=True)])
    for place, records in found.items():
        values = [place.topic, place.partition, records[-1].offset + 1]
        db.execute("INSERT OR REPLACE INTO offsets VALUES ($1, $2, $3)", values)
    db.commit()


def drawn(db: duckdb.DuckDBPyConnection) -> Table:
    """One line for each agent and hour, with the median as a bar."""
    rows = db.execute(REPORT, [BOTS]).fetchall()
    longest = max((row[3] for row in rows), default=0) or 1
    [[messages]] = db.execute("SELECT count(*) FROM messages").fetchall()
    table = Table("hour", "agent", "chats", "median", "", caption=f"{messages} messages")
    for agent, hour, chats, seconds in rows:
        bar = "█" * max(1, round(BAR * seconds / longest))
        table.add_row(f"{hour:%Y-%m-%d %H}h", Text(agent), str(chats), f"{seconds:.0f} s", bar)
    return table


async def main(file: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    consumer = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=BOOTSTRAP,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    with duckdb.connect(file) as db, Live(auto_refresh=False) as screen:
        db.execute(SCHEMA)
        await consumer.start()
        try:
            for topic, partition, offset in db.execute("FROM offsets").fetchall():
                if topic == TOPIC:
                    consumer.seek(TopicPartition(topic, partition), offset)
            while not stop.is_set():
                if found := await consumer.getmany(timeout_ms=500):
                    store(db, found)
                screen.update(drawn(db), refresh=True)
        finally:
            await consumer.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "first_response.duckdb"))

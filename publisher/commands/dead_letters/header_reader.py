"""Reads the headers of published messages. Nothing here writes or takes over anything."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from publisher.kafka.clients import Clients
from publisher.kafka.reader import topic_records
from publisher.model import Instant


async def headers(
    clients: Clients, topics: set[str], since: Instant, hidden: set[str]
) -> AsyncGenerator[dict[str, bytes], None]:
    """Those of each record that was written since, as far as it is decided.

    For `hidden` see `topic_records`. Raises Transient or NeedsOperator.
    """
    async with aclosing(topic_records(clients, topics, since=since, hidden=hidden)) as pieces:
        async for records in pieces:
            for record in records:
                yield dict(record.headers)

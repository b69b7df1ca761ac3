"""Reads the headers of published messages, for statistics.

Nothing here writes to Kafka or takes over a transactional id.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from publisher.kafka.clients import Clients
from publisher.kafka.reader import topic_records
from publisher.model import Instant


async def headers(
    clients: Clients, topics: set[str], since: Instant, hidden: set[str]
) -> AsyncGenerator[dict[str, bytes], None]:
    """The headers of every committed record of these topics that was written after `since`.

    It leaves out what is undecided: for `hidden` see `topic_records`. Raises Transient or
    NeedsOperator.
    """
    async with aclosing(topic_records(clients, topics, since=since, hidden=hidden)) as pieces:
        async for records in pieces:
            for record in records:
                yield dict(record.headers)

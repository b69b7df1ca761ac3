"""Reads the dead letters from their topics.

Nothing here writes to Kafka or takes over a transactional id.
"""

from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from datetime import UTC, datetime

from publisher.commands.dead_letters.stored_letter import Letter, Letters, Replayed
from publisher.kafka.clients import Clients
from publisher.kafka.reader import topic_records
from publisher.settings import Settings


async def letters(
    settings: Settings,
    operations: Collection[str],
    *,
    wanted: Callable[[Letter], bool],
    hidden: set[str] | None = None,
) -> AsyncGenerator[Letter | Replayed, None]:
    """The letters and replays of these operations, oldest first; incomplete letters come last.

    The letters that are `wanted` come with their bytes. For `hidden`,
    and for the errors raised, see `topic_records`.
    """
    topics = {settings.dead_letters_topic(name) for name in operations}
    assembler = Letters(operations, wanted)
    async with aclosing(topic_records(Clients(settings), topics, hidden=hidden)) as pieces:
        async for records in pieces:
            for record in records:
                written_at = datetime.fromtimestamp(record.timestamp / 1000, UTC)
                letter = assembler.add(record.headers, record.value, written_at)
                if letter is not None:
                    yield letter
    for incomplete in assembler.incomplete():
        yield incomplete

"""Reads the dead letters back. Nothing here writes or takes over a transactional id."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime

from publisher.commands.dead_letters.stored_letter import Letter, Letters, Replayed
from publisher.kafka.clients import Clients
from publisher.kafka.reader import topic_records
from publisher.settings import Settings


async def letters(
    settings: Settings,
    names: Mapping[str, str],
    *,
    wanted: Callable[[Letter], bool],
    hidden: set[str] | None = None,
) -> AsyncGenerator[Letter | Replayed, None]:
    """All of these operations (see `Letters`), oldest first; with their bytes the wanted ones.

    For `hidden`, and what is raised, see `topic_records`.
    """
    topics = {settings.dead_letters_topic(name) for name in names}
    assembled = Letters(names, wanted)
    async with aclosing(topic_records(Clients(settings), topics, hidden=hidden)) as pieces:
        async for records in pieces:
            for record in records:
                at = datetime.fromtimestamp(record.timestamp / 1000, UTC)
                letter = assembled.add(record.headers, record.value, at)
                if letter is not None:
                    yield letter
    for incomplete in assembled.incomplete():
        yield incomplete

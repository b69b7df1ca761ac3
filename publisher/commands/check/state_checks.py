"""Whether the service could go on from the state of each operation: judged as the service does.

It takes over nothing. What holds the service is said here in the same words.
"""

import asyncio
from contextlib import suppress
from typing import Final

from publisher.commands.check.checklist import Check, GiveUpError, trying
from publisher.commands.status_reader import restored_of
from publisher.kafka.topics import unseen_events
from publisher.model import iso
from publisher.settings import Operation, Settings
from publisher.state.restored import events_gone, refuse_unconfirmed_zone, state_to_go_on_from

BLOCKED_SECONDS: Final = 3.0
"""Longest wait for the end of a transaction that hides the end: all checks share 12 s."""

_AT_ONCE: Final = 4
"""So many operations are read at the same time."""


async def check(settings: Settings, checks: dict[str, Check]) -> None:
    """Fill in one line for each operation."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def check_next(operation: Operation) -> None:
        async with turn:
            with suppress(GiveUpError), trying(checks[operation.name]) as line:
                await _check(settings, operation, line)

    await asyncio.gather(*map(check_next, settings.operations))


async def _check(settings: Settings, operation: Operation, line: Check) -> None:
    name, topics = operation.name, settings.publisher
    restored = await restored_of(settings, name, BLOCKED_SECONDS)
    revisions = bool(topics.revisions_topic)
    state = state_to_go_on_from(name, restored, topics.state_topic, revisions=revisions)
    if state is None:
        line.ok("none yet; the first start will create it")
        return
    checkpoint = state.checkpoint
    refuse_unconfirmed_zone(
        name, checkpoint.timezone, operation.timezone, operation.timezone_replaces
    )
    if events_gone(state, restored):
        line.hint(
            "can be restored, but the messages topic was deleted and made again, or lost its"
            " records: published events are gone; a backfill that publishes again brings back"
            " what the report still shows"
        )
    elif not restored.topic_readable:
        line.hint(unseen_events(settings.messages_topic(name)))
    else:
        line.ok(f"can be restored; live goes on at {iso(checkpoint.live.cursor)}")

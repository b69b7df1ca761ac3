"""Checks whether the service could continue from the state of every operation.

The check uses the rules of the service and reports a problem in the words of the service. It
takes over nothing.
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
"""Longest wait for an open transaction that hides the end of a topic: all checks share 12 s."""

_AT_ONCE: Final = 4
"""How many states are read at the same time."""


async def check(settings: Settings, checks: dict[str, Check]) -> None:
    """Fill in the check of every operation; `checks` has them by the operation's name."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def check_next(operation: Operation) -> None:
        async with slots:
            with suppress(GiveUpError), trying(checks[operation.name]) as line:
                await _check(settings, operation, line)

    await asyncio.gather(*map(check_next, settings.operations))


async def _check(settings: Settings, operation: Operation, line: Check) -> None:
    name, publisher_settings = operation.name, settings.publisher
    restored = await restored_of(settings, name, BLOCKED_SECONDS)
    revisions = bool(publisher_settings.revisions_topic)
    state = state_to_go_on_from(name, restored, publisher_settings.state_topic, revisions=revisions)
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

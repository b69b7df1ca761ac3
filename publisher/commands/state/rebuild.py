"""`wolkvox-publisher state rebuild`: makes a lost state again from the published events.

The command writes like the service, under its transactional id. A service that runs meanwhile is
fenced and reports that. A minute later it restores the rebuilt state.
"""

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import click
import orjson

from publisher.commands import status_reader, takeover
from publisher.commands.event_reader import events_of, first_kept, revisions_of
from publisher.commands.runner import RefusedError, chosen, complain, run
from publisher.commands.state.rebuilt_state import Rebuilt
from publisher.context import Log
from publisher.errors import Reason, StepError
from publisher.kafka.cluster import Cluster
from publisher.kafka.commands_topic import KafkaCommands
from publisher.model import Backfill, Batch, Instant, Restored, StateRecord, iso
from publisher.schedule import backfill_pass
from publisher.settings import Operation, Settings
from publisher.state.checkpoint import checkpoint_of
from publisher.state.journal import placeholder
from publisher.state.restored import restored_state
from publisher.wolkvox.timezone import Zone


def main(name: str | None, *, yes: bool, take_over: bool, as_json: bool) -> int:
    """Rebuild the lost states and return the exit code.

    `name` is the operation to rebuild; None = all. Without `yes` it only prints what it would do.
    `take_over` rebuilds although the service may be running.
    """

    async def doing(settings: Settings) -> int:
        operations = await _rebuild(settings, chosen(settings, name), yes=yes, take_over=take_over)
        if as_json:
            click.echo(orjson.dumps({"done": yes, "operations": operations}))
        return 0

    return run(doing)


@dataclass(frozen=True, slots=True)
class _Lost:
    """An operation that has published events, and has no usable state."""

    name: str
    log: Log
    left: Mapping[bytes, bytes]
    """The records that are left of its state."""
    rebuilt: Rebuilt
    cursor: Instant
    """Where live continues."""
    kept_since: Instant | None
    """The topic has deleted older events; None = it holds all events."""
    backfills: tuple[Backfill, ...]
    """The backfills that were ordered. They count as ended."""

    @property
    def first_sequence(self) -> int:
        """The first sequence number of the rebuilt state.

        It is greater than all numbers in the topic and in the records that are left.
        """
        broken = checkpoint_of(self.name, self.left)
        return max(self.rebuilt.newest_sequence, broken.sequence if broken else -1) + 1


async def _rebuild(
    settings: Settings, operations: list[Operation], *, yes: bool, take_over: bool
) -> list[dict[str, Any]]:
    """Rebuild these operations and return what was done for every operation, as JSON."""
    if yes and not take_over:
        await takeover.refuse_while_running(settings)
    lost = [
        operation
        for operation in settings.operations
        if not _usable(operation.name, await status_reader.restored_of(settings, operation.name))
    ]
    wanted = [operation for operation in operations if operation in lost]
    if not wanted:
        names = ", ".join(operation.name for operation in operations)
        raise RefusedError(f"{names}: its state is whole, there is nothing to rebuild")
    for operation in lost:
        if operation not in wanted:
            await _refuse_beside(settings, operation, wanted)
    async with takeover.owned(settings) as cluster:
        looks = [await _look(settings, cluster, operation, yes=yes) for operation in wanted]
        lost_states = [look for look in looks if isinstance(look, _Lost)]
        if yes:
            # First write a placeholder for all, and only then a checkpoint for any of them:
            # beside the state of another operation, an operation without records would begin
            # anew in the topic that they share.
            for lost_state in lost_states:
                await _begin(lost_state)
            for lost_state in lost_states:
                await _write(settings, lost_state)
        return [_described(look, yes=yes) if isinstance(look, _Lost) else look for look in looks]


async def _refuse_beside(settings: Settings, other: Operation, wanted: list[Operation]) -> None:
    """Raise RefusedError if `other`, which stays lost, would begin anew and publish twice.

    That happens if it shares its messages topic with an operation in `wanted`.
    """
    topic = settings.messages_topic(other.name)
    if topic not in {settings.messages_topic(operation.name) for operation in wanted}:
        return
    async with aclosing(events_of(settings, other.name)) as events:
        async for _ in events:
            raise RefusedError(
                f"{other.name} lost its state, too, and shares the messages topic: it would begin"
                " anew and publish twice; rebuild them together, without --operation"
            )


async def _look(
    settings: Settings, cluster: Cluster, operation: Operation, *, yes: bool
) -> _Lost | dict[str, Any]:
    """Read the events of the operation; with `yes` take it over before.

    Returns a report instead, as JSON, if there are no events to rebuild from.
    """
    name, publisher = operation.name, settings.publisher
    log = cluster.log(name)
    if yes:
        # Take over first: after that nobody publishes an event that is not read below.
        restored = await log.restore()
    else:
        restored = await status_reader.restored_of(settings, name)
    records = dict(restored.records)
    if _usable(name, restored):
        raise RefusedError(f"{name}: its state is whole, there is nothing to rebuild")
    rebuilt = Rebuilt(name, Zone(operation.timezone))
    async for published in events_of(settings, name):
        rebuilt.add(published)
    async for published in revisions_of(settings, name):
        rebuilt.revised(published)
    kept = await first_kept(settings, name)
    cursor = rebuilt.cursor(publisher, kept)
    if cursor is None:
        complain(f"{name}: no events in {settings.messages_topic(name)}: nothing to rebuild")
        return {"operation": name, "events": 0}
    backfill_requests = await KafkaCommands(settings, name).read_if_allowed()
    return _Lost(name, log, records, rebuilt, cursor, kept, backfill_pass.lost(backfill_requests))


def _described(lost: _Lost, *, yes: bool) -> dict[str, Any]:
    """Print what was done for the operation, and return it as JSON."""
    name, rebuilt, cursor, kept = lost.name, lost.rebuilt, lost.cursor, lost.kept_since
    done = "rebuilt" if yes else "would be rebuilt (add --yes)"
    complain(f"{name}: {done} from {rebuilt.events} events; live goes on at {iso(cursor)}")
    if kept is not None:
        complain(
            f"{name}: the topic keeps events since {iso(kept)} only: earlier ones may come again"
            " with backfill --again, nothing else reads that time"
        )
    if lost.backfills:
        complain(f"{name}: backfills that were ordered before are ended: order them anew if wanted")
    return {
        "operation": name,
        "events": rebuilt.events,
        "unrecoverable": rebuilt.unrecoverable,
        "cursor": iso(cursor),
        "kept_since": iso(kept) if kept else None,
    }


async def _begin(lost: _Lost) -> None:
    """Replace the rest of the lost state by a placeholder, which keeps every service waiting."""
    broken = checkpoint_of(lost.name, lost.left)
    follows = broken.sequence if broken else None
    record = placeholder(
        lost.name, lost.first_sequence + 1, lost.cursor
    )  # the first rebuilt record replaces it
    tombstones = [StateRecord(key, None) for key in lost.left if key != record.key]
    await lost.log.commit(Batch(lost.name, follows, lost.first_sequence, [*tombstones, record]))


async def _write(settings: Settings, lost: _Lost) -> None:
    """Write the rebuilt state."""
    follows = lost.first_sequence
    for sequence, records in lost.rebuilt.transactions(
        settings.publisher, lost.cursor, lost.backfills, lost.kept_since, follows=follows
    ):
        await lost.log.commit(Batch(lost.name, follows, sequence, records))
        follows = sequence


def _usable(operation: str, restored: Restored) -> bool:
    """Whether the service could continue from this state. Raises if this version must not judge."""
    try:
        return restored_state(operation, restored) is not None
    except StepError as error:
        if error.reason is not Reason.STATE_LOST:
            raise
        return False

"""`wolkvox-publisher state rebuild`: a lost state, made again from what was published.

It writes as the service would, under its transactional id: whoever runs meanwhile is fenced,
says so, and restores a minute later what stands here.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click
import orjson

from publisher.commands import owning
from publisher.commands.frame import RefusedError, chosen, complain, run
from publisher.edges import report_reader
from publisher.edges.kafka import Cluster
from publisher.edges.kafka_events import events_of, first_kept
from publisher.errors import Reason, StepError
from publisher.job import Log
from publisher.model import Batch, StateRecord, iso
from publisher.rules import state
from publisher.rules.rebuild import Rebuilt
from publisher.rules.records import checkpoint_key, decode_checkpoint
from publisher.rules.state import State
from publisher.rules.zone import Zone
from publisher.settings import Operation, Settings


def main(name: str | None, *, yes: bool, take_over: bool, as_json: bool) -> int:
    """Rebuild, or tell what would be; returns the exit code."""

    async def doing(settings: Settings) -> int:
        told = await _rebuild(settings, chosen(settings, name), yes=yes, take_over=take_over)
        if as_json:
            click.echo(orjson.dumps({"done": yes, "operations": told}))
        return 0

    return run(doing)


async def refuse_while_running(settings: Settings, states: Iterable[State] = ()) -> None:
    """Raise RefusedError when something speaks for a service that runs."""
    if why := await owning.running(settings, states):
        raise RefusedError(
            f"a service seems to run ({why}): stop it first, or pass --take-over; it then waits"
            " for more than a minute, takes back and goes on"
        )


async def _rebuild(
    settings: Settings, operations: list[Operation], *, yes: bool, take_over: bool
) -> list[dict[str, Any]]:
    if yes and not take_over:
        await refuse_while_running(settings)
    async with owning.owned(settings) as cluster:
        return [await _one(settings, cluster, operation, yes=yes) for operation in operations]


async def _one(
    settings: Settings, cluster: Cluster, operation: Operation, *, yes: bool
) -> dict[str, Any]:
    name, told = operation.name, settings.publisher
    log = cluster.log(name)
    if yes:
        # First of all: from here on nobody publishes anything that is not read below.
        records = dict((await log.restore()).records)
    else:
        records = await report_reader.records_of(settings, name)
    if _usable(name, records.copy()):
        raise RefusedError(f"{name}: its state is whole, there is nothing to rebuild")
    rebuilt = Rebuilt(name, Zone(operation.timezone))
    async for published in events_of(settings, name):
        rebuilt.add(published)
    cursor = rebuilt.cursor(told)
    if cursor is None:
        complain(f"{name}: no events in {settings.messages_topic(name)}: nothing to rebuild")
        return {"operation": name, "events": 0}
    kept = await first_kept(settings, name)
    if yes:
        await _write(log, name, records, rebuilt.transactions(told, cursor))
    done = "rebuilt" if yes else "would be rebuilt (add --yes)"
    complain(f"{name}: {done} from {rebuilt.events} events; live goes on at {iso(cursor)}")
    if kept is not None and cursor < kept:
        complain(
            f"{name}: the topic keeps events since {iso(kept)} only: earlier ones may come again"
        )
    return {
        "operation": name,
        "events": rebuilt.events,
        "unrecoverable": rebuilt.unrecoverable,
        "cursor": iso(cursor),
        "kept_since": iso(kept) if kept else None,
    }


async def _write(
    log: Log,
    operation: str,
    left: Mapping[bytes, bytes],
    transactions: Iterator[tuple[int, list[StateRecord]]],
) -> None:
    """Commit what is rebuilt; what is left of the lost state goes with the first transaction."""
    broken = left.get(checkpoint_key(operation))
    follows = decode_checkpoint(broken).sequence if broken else None
    gone = [StateRecord(key, None) for key in left]
    for sequence, records in transactions:
        written = {record.key for record in records}
        state_records = [*(each for each in gone if each.key not in written), *records]
        await log.commit(Batch(operation, follows, sequence, iter(()), iter(()), state_records))
        follows, gone = sequence, []


def _usable(operation: str, records: dict[bytes, bytes]) -> bool:
    """Whether the service could go on from there. Raises where this version must not judge."""
    try:
        return state.restore(operation, records) is not None
    except StepError as error:
        if error.reason is not Reason.STATE_LOST:
            raise
        return False

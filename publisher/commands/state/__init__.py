"""`wolkvox-publisher state show` and `state forget`: show the stored states, and remove a state.

`forget` writes to the state topic like the service, under its transactional id (decision 0020).
"""

from typing import Any, Final

import click
import orjson

from publisher.commands.runner import RefusedError, complain, complain_all, run
from publisher.commands.status_reader import all_records
from publisher.commands.takeover import owned, refuse_while_running
from publisher.errors import StepError
from publisher.model import Batch, StateRecord, iso
from publisher.settings import Settings
from publisher.state.checkpoint import checkpoint_of
from publisher.state.state import restore

WHAT: Final = "the state"


def show(*, as_json: bool) -> int:
    """Print a summary of the state of every operation and return the exit code."""

    async def doing(settings: Settings) -> int:
        hidden: set[str] = set()
        records_of = await all_records(settings, hidden)
        complain_all(hidden)
        operations = [
            _described(settings, name, records) for name, records in sorted(records_of.items())
        ]
        if as_json:
            click.echo(orjson.dumps({"operations": operations}))
            return 0
        for operation in operations:
            click.echo(_line(operation))
        if not operations:
            click.echo(f"{settings.publisher.state_topic} tells of no operation")
        return 0

    return run(doing, WHAT)


def forget(name: str, *, yes: bool, take_over: bool) -> int:
    """Remove the state of an operation that is no longer in the settings. Return the exit code.

    Without `yes` it only prints what it would do. `take_over` forgets although the service may be
    running.
    """

    async def doing(settings: Settings) -> int:
        if name in (operation.name for operation in settings.operations):
            raise RefusedError(
                f"operation {name} stands in the settings: it would begin anew and publish its"
                " past twice; take it out of the settings first"
            )
        records_of = await all_records(settings)
        records = records_of.get(name)
        if records is None:
            raise RefusedError(f"the state topic tells nothing of an operation {name}")
        if yes:
            if not take_over:
                await refuse_while_running(settings)
            await _tombstone(settings, name, records)
        done = "forgotten" if yes else "would be forgotten (add --yes)"
        complain(f"{name}: {len(records)} records {done}; its events stay in the messages topic")
        return 0

    return run(doing, WHAT)


async def _tombstone(settings: Settings, name: str, records: dict[bytes, bytes]) -> None:
    """Delete all records of the operation, in a transaction."""
    checkpoint = checkpoint_of(name, records)
    follows = checkpoint.sequence if checkpoint else None
    tombstones = [StateRecord(key, None) for key in records]
    async with owned(settings) as cluster:
        batch = Batch(name, follows, (follows or 0) + 1, tombstones)
        await cluster.log(name).commit(batch)


def _described(settings: Settings, name: str, records: dict[bytes, bytes]) -> dict[str, Any]:
    """The summary of an operation's state, as JSON."""
    description: dict[str, Any] = {
        "operation": name,
        "in_settings": name in (operation.name for operation in settings.operations),
        "records": len(records),
        "bytes": sum(map(len, records.values())),
    }
    try:
        state = restore(name, records.copy())
    except StepError as error:
        return description | {"problem": str(error)}
    if state is None:  # only if records without a checkpoint are no problem
        return description
    checkpoint = state.checkpoint
    return description | {
        "timezone": checkpoint.timezone,
        "began_at": iso(checkpoint.start),
        "cursor": iso(checkpoint.live.cursor),
        "covered_until": iso(checkpoint.live.covered_until),
        "windows": len(state.journal),
        "ids": len(state.ledger),
        "gaps": len(checkpoint.gaps),
        "backfills": len(checkpoint.backfills),
    }


def _line(row: dict[str, Any]) -> str:
    """The summary of an operation's state, for a person. `row` comes from `_described`."""
    held = f"{row['operation']}: {row['records']:,} records, {row['bytes']:,} bytes"
    if not row["in_settings"]:
        held += ", not in the settings: state forget removes it"
    if "problem" in row:
        return f"{held}\n  {row['problem']}"
    if "cursor" not in row:
        return held
    return (
        f"{held}\n  began at {row['began_at']}, zone {row['timezone']}, covered until"
        f" {row['covered_until']}, cursor {row['cursor']}\n  {row['ids']:,} ids in"
        f" {row['windows']:,} windows, {row['gaps']} parked, {row['backfills']} backfills"
    )

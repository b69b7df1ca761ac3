"""`wolkvox-publisher state show` and `state forget`: which operations the state topic holds.

Forgetting writes as the service would, under its transactional id (decision 0020).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import click
import orjson

from publisher.commands.runner import RefusedError, complain, complain_all, run
from publisher.commands.status_reader import all_records
from publisher.commands.takeover import owned, refuse_while_running
from publisher.errors import StepError
from publisher.model import Batch, StateRecord, iso
from publisher.settings import Settings
from publisher.state import state
from publisher.state.checkpoint import checkpoint_of
from publisher.state.journal import interrupted, reserved_for

WHAT: Final = "the state"


def show(*, as_json: bool) -> int:
    """Print what is remembered of every operation; the exit code."""

    async def doing(settings: Settings) -> int:
        hidden: set[str] = set()
        found = await all_records(settings, hidden)
        complain_all(hidden)
        told = [_described(settings, name, records) for name, records in sorted(found.items())]
        if as_json:
            click.echo(orjson.dumps({"operations": told}))
            return 0
        for one in told:
            click.echo(_line(one))
        if not told:
            click.echo(f"{settings.publisher.state_topic} tells of no operation")
        return 0

    return run(doing, WHAT)


def forget(name: str, *, yes: bool, take_over: bool) -> int:
    """Forget a removed operation, or tell what that would be; the exit code."""

    async def doing(settings: Settings) -> int:
        if name in (one.name for one in settings.operations):
            raise RefusedError(
                f"operation {name} stands in the settings: it would begin anew and publish its"
                " past twice; take it out of the settings first"
            )
        found = await all_records(settings)
        records = found.get(name)
        if records is None:
            raise RefusedError(f"the state topic tells nothing of an operation {name}")
        refuse_former(name, found.keys() - {name}, found)
        if problem := _in_the_middle(name, found):
            raise RefusedError(problem)
        if yes:
            if not take_over:
                await refuse_while_running(settings)
            await _tombstone(settings, name, records)
        done = "forgotten" if yes else "would be forgotten (add --yes)"
        complain(f"{name}: {len(records)} records {done}; its events stay in the messages topic")
        return 0

    return run(doing, WHAT)


def refuse_former(
    name: str, others: Iterable[str], found: Mapping[str, Mapping[bytes, bytes]]
) -> None:
    """Raise RefusedError where one of these operations once had the name."""
    for other in others:
        told = checkpoint_of(other, found[other])
        if told and name in told.formerly:
            raise RefusedError(
                f"{name} is a former name of {other}, whose ids are made of such names: nobody"
                f" else may have it as long as {other} is remembered"
            )


def _in_the_middle(name: str, found: Mapping[str, Mapping[bytes, bytes]]) -> str | None:
    """Why it must not be forgotten: nothing but a renaming that goes on can use what it holds."""
    for new, records in found.items():
        old = reserved_for(new, records)
        told = checkpoint_of(old, found.get(old, {}))
        given_up = told is not None and told.renamed_to == new
        whole = told is not None and len(found[old]) > told.journal_records
        if name in (old, new) and given_up and whole:
            return interrupted(old, new)
    return None


async def _tombstone(settings: Settings, name: str, records: dict[bytes, bytes]) -> None:
    told = checkpoint_of(name, records)
    follows = told.sequence if told else None
    gone = [StateRecord(key, None) for key in records]
    async with owned(settings) as cluster:
        batch = Batch(name, follows, (follows or 0) + 1, gone)
        await cluster.log(name).commit(batch)


def _described(settings: Settings, name: str, records: dict[bytes, bytes]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operation": name,
        "in_settings": name in (one.name for one in settings.operations),
        "records": len(records),
        "bytes": sum(map(len, records.values())),
    }
    try:
        written = checkpoint_of(name, records)
        if written and written.renamed_to:
            return told | {"renamed_to": written.renamed_to}
        known = state.restore(name, records.copy())
    except StepError as error:
        return told | {"problem": str(error)}
    if known is None:  # only where records without a checkpoint are no problem
        return told
    checkpoint = known.checkpoint
    return told | {
        "formerly": checkpoint.formerly,
        "timezone": checkpoint.timezone,
        "began_at": iso(checkpoint.start),
        "cursor": iso(checkpoint.live.cursor),
        "covered_until": iso(checkpoint.live.covered_until),
        "windows": len(known.journal),
        "ids": len(known.ledger),
        "gaps": len(checkpoint.gaps),
        "backfills": len(checkpoint.backfills),
    }


def _line(one: dict[str, Any]) -> str:
    if "renamed_to" in one:
        return f"{one['operation']}: renamed to {one['renamed_to']}"
    held = f"{one['operation']}: {one['records']:,} records, {one['bytes']:,} bytes"
    if formerly := ", ".join(one.get("formerly", ())):
        held += f", formerly {formerly}"
    if not one["in_settings"]:
        # After a renaming the settings may not have been changed yet.
        held += ", not in the settings: "
        held += "set its name there" if formerly else "state forget removes it"
    if "problem" in one:
        return f"{held}\n  {one['problem']}"
    if "cursor" not in one:
        return held
    return (
        f"{held}\n  began at {one['began_at']}, zone {one['timezone']}, covered until"
        f" {one['covered_until']}, cursor {one['cursor']}\n  {one['ids']:,} ids in"
        f" {one['windows']:,} windows, {one['gaps']} parked, {one['backfills']} backfills"
    )

"""`wolkvox-publisher backfill`: order history, change the order, tell how far it is.

Orders are written to the commands topic; how far they are stands in the
checkpoint, which is only read. Nothing here takes over a transactional id.
"""

import asyncio
import secrets
import sys
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, TypedDict

import click
import orjson

from publisher.commands.runner import complain_all, run, span
from publisher.commands.status_reader import NoAnswerError, read_states
from publisher.errors import SettingsError, StepError
from publisher.kafka.commands_topic import KafkaCommands
from publisher.model import SECOND, Backfill, Instant, Standing, iso
from publisher.schedule.backfill_pass import BackfillRequest, outlived
from publisher.settings import Settings
from publisher.state.state import State

LOOK_SECONDS: Final = 2.0
"""Between two looks at the progress."""

WAITING: Final = "waiting"
"""Ordered, and not yet taken up by the service."""

Told = TypedDict(
    "Told",
    {
        "operation": str,
        "id": str,
        "from": str,
        "to": str,
        "again": bool,
        "standing": str,
        "wanted": str,
        "cursor": str,
        "rows": int,
        "new": int,
        "skipped_seconds": int,
    },
)


def start(begin: str, end: str, operation: str | None, *, again: bool, wait: bool) -> int:
    """Order a range; returns the exit code."""

    async def doing(settings: Settings) -> int:
        name = _operation(settings, operation)
        window = _instant("FROM", begin), _instant("TO", end)
        if not window[0] < window[1] - SECOND / 2:
            raise SettingsError(["FROM must lie before TO"])
        if window[1] > datetime.now(UTC):
            raise SettingsError(["TO lies in the future: live reads that, choose an earlier TO"])
        id_ = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
        backfill_request = BackfillRequest(id_, *window, again, Standing.RUNNING)
        backfill_requests = KafkaCommands(settings, name)
        await backfill_requests.write(backfill_request)
        click.echo(f"{id_}  ordered: {iso(window[0])} to {iso(window[1])} of {name}")
        with suppress(NoAnswerError, StepError):  # tidied up the next time
            found = await _state(settings, name)
            gone = outlived(
                await backfill_requests.read() or (), found.checkpoint.backfills if found else ()
            )
            if gone:
                await backfill_requests.forget(gone)
        return await _watch(settings, name, id_) if wait else 0

    return run(doing)


def show(operation: str | None, *, as_json: bool) -> int:
    """Tell all that was ordered; returns the exit code."""

    async def doing(settings: Settings) -> int:
        names = [one.name for one in settings.operations]
        if operation is not None:
            names = [_operation(settings, operation)]
        hidden: set[str] = set()
        told = [one for name in names for one in await _told(settings, name, hidden)]
        complain_all(hidden)
        if as_json:
            click.echo(orjson.dumps({"backfills": told}, option=orjson.OPT_INDENT_2))
            return 0
        for one in told:
            click.echo(_line(one))
        if not told:
            click.echo("No backfill was ordered")
        return 0

    return run(doing)


def change(id_: str, operation: str | None, wanted: str) -> int:
    """Want something else of an order; returns the exit code."""

    async def doing(settings: Settings) -> int:
        name = _operation(settings, operation)
        backfill_requests = KafkaCommands(settings, name)
        found = next((one for one in await backfill_requests.read() or () if one.id == id_), None)
        if found is None:
            raise SettingsError([f"operation {name} has no backfill of this id: see backfill list"])
        told = next(one for one in await _told(settings, name) if one["id"] == id_)
        if told["standing"] in (Standing.DONE, Standing.CANCELLED):
            raise SettingsError(
                [f"backfill {id_} has ended ({told['standing']}): order its range anew"]
            )
        await backfill_requests.write(replace(found, wanted=Standing(wanted)))
        click.echo(f"{id_}  wanted: {wanted}")
        return 0

    return run(doing)


async def _watch(settings: Settings, name: str, id_: str) -> int:
    """Show the progress until it ends: a bar on a terminal, lines elsewhere."""
    began, first, last = time.monotonic(), 0.0, ""
    terminal = sys.stdout.isatty()
    while True:
        told = next(one for one in await _told(settings, name) if one["id"] == id_)
        share = _share(told)
        first = first or share
        line = _line(told)
        if share > first:
            seconds = time.monotonic() - began
            left = seconds * (1 - share) / (share - first)
            line += f", {told['rows'] / seconds:,.0f} rows/s, {span(left)} to go"
        if line != last:
            bar = f"[{'#' * int(share * 20):20}] " if terminal else ""
            click.echo(f"\r\x1b[K{bar}{line}" if terminal else line, nl=not terminal)
        last = line
        if told["standing"] in (Standing.DONE, Standing.CANCELLED):
            if terminal:
                click.echo()
            return 0 if told["standing"] == Standing.DONE else 1
        await asyncio.sleep(LOOK_SECONDS)


async def _told(settings: Settings, name: str, hidden: set[str] | None = None) -> list[Told]:
    """Every order that stands, and how far the checkpoint says it is.

    What makes that doubtful is put into `hidden`.
    """
    backfill_requests = await KafkaCommands(settings, name).read()
    found = await _state(settings, name, hidden)
    known = {one.id: one for one in found.checkpoint.backfills} if found else {}
    return [
        _of(name, backfill_request, known.get(backfill_request.id))
        for backfill_request in backfill_requests or ()
    ]


async def _state(settings: Settings, name: str, hidden: set[str] | None = None) -> State | None:
    """None where the operation has not begun. Raises NoAnswerError, Transient or NeedsOperator."""
    states, hints = await read_states(settings)
    if hidden is not None:
        hidden.update(hints)
    found = states[name]
    if isinstance(found, StepError):
        raise found
    return found


def _of(name: str, backfill_request: BackfillRequest, known: Backfill | None) -> Told:
    return {
        "operation": name,
        "id": backfill_request.id,
        "from": iso(backfill_request.start),
        "to": iso(backfill_request.end),
        "again": backfill_request.again,
        "standing": known.standing.value if known else WAITING,
        "wanted": backfill_request.wanted.value,
        "cursor": iso(known.cursor if known else backfill_request.start),
        "rows": known.rows if known else 0,
        "new": known.new if known else 0,
        "skipped_seconds": known.skipped_seconds if known else 0,
    }


def _share(told: Told) -> float:
    begin, end, at = (datetime.fromisoformat(told[key]) for key in ("from", "to", "cursor"))
    return (at - begin) / (end - begin)


def _line(told: Told) -> str:
    again = ", again" if told["again"] else ""
    skipped = f", {span(told['skipped_seconds'])} skipped" if told["skipped_seconds"] else ""
    return (
        f"{told['id']}  {told['operation']}  {told['standing']} {_share(told):.0%}"
        f"  {told['from']} to {told['to']}{again}: {told['rows']:,} rows, {told['new']:,} new"
        f"{skipped}"
    )


def _operation(settings: Settings, name: str | None) -> str:
    names = [one.name for one in settings.operations]
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        given = name or "(none given)"
        raise SettingsError([f"--operation: there is no {given}; there are: {', '.join(names)}"])
    return name


def _instant(what: str, text: str) -> Instant:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise SettingsError(
            [f"{what} must be an instant with its offset, such as 2026-11-01T00:00:00-05:00"]
        )
    return found.astimezone(UTC).replace(microsecond=0)

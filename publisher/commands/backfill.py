"""`wolkvox-publisher backfill`: orders backfills, lists them, and changes them.

The command writes orders to the commands topic. It reads the progress of the orders from the
checkpoint, and never writes there. It does not take over a transactional id.
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
"""Seconds between two looks at the progress."""

WAITING: Final = "waiting"
"""The standing of an order that the service has not taken up yet."""

BackfillStatus = TypedDict(
    "BackfillStatus",
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
    """Order the backfill of a range; returns the exit code.

    With `again`, the backfill publishes once more what was published before. With `wait`, the
    command shows the progress until the backfill ends.
    """

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
        with suppress(NoAnswerError, StepError):  # the next order tidies up
            state = await _state(settings, name)
            gone = outlived(
                await backfill_requests.read() or (), state.checkpoint.backfills if state else ()
            )
            if gone:
                await backfill_requests.forget(gone)
        return await _watch(settings, name, id_) if wait else 0

    return run(doing)


def show(operation: str | None, *, as_json: bool) -> int:
    """List all orders; returns the exit code."""

    async def doing(settings: Settings) -> int:
        names = [configured.name for configured in settings.operations]
        if operation is not None:
            names = [_operation(settings, operation)]
        hidden: set[str] = set()
        statuses = [status for name in names for status in await _statuses(settings, name, hidden)]
        complain_all(hidden)
        if as_json:
            click.echo(orjson.dumps({"backfills": statuses}, option=orjson.OPT_INDENT_2))
            return 0
        for status in statuses:
            click.echo(_line(status))
        if not statuses:
            click.echo("No backfill was ordered")
        return 0

    return run(doing)


def change(id_: str, operation: str | None, wanted: str) -> int:
    """Write the standing that a person wants for an order; returns the exit code."""

    async def doing(settings: Settings) -> int:
        name = _operation(settings, operation)
        backfill_requests = KafkaCommands(settings, name)
        backfill_request = next(
            (request for request in await backfill_requests.read() or () if request.id == id_), None
        )
        if backfill_request is None:
            raise SettingsError([f"operation {name} has no backfill of this id: see backfill list"])
        status = next(status for status in await _statuses(settings, name) if status["id"] == id_)
        if status["standing"] in (Standing.DONE, Standing.CANCELLED):
            raise SettingsError(
                [f"backfill {id_} has ended ({status['standing']}): order its range anew"]
            )
        await backfill_requests.write(replace(backfill_request, wanted=Standing(wanted)))
        click.echo(f"{id_}  wanted: {wanted}")
        return 0

    return run(doing)


async def _watch(settings: Settings, name: str, id_: str) -> int:
    """Show the progress until the backfill ends; returns the exit code.

    A terminal gets a bar, anything else gets lines.
    """
    began_at, first_share, last_line = time.monotonic(), 0.0, ""
    terminal = sys.stdout.isatty()
    while True:
        status = next(status for status in await _statuses(settings, name) if status["id"] == id_)
        share = _share(status)
        first_share = first_share or share
        line = _line(status)
        if share > first_share:
            seconds = time.monotonic() - began_at
            seconds_left = seconds * (1 - share) / (share - first_share)
            line += f", {status['rows'] / seconds:,.0f} rows/s, {span(seconds_left)} to go"
        if line != last_line:
            bar = f"[{'#' * int(share * 20):20}] " if terminal else ""
            click.echo(f"\r\x1b[K{bar}{line}" if terminal else line, nl=not terminal)
        last_line = line
        if status["standing"] in (Standing.DONE, Standing.CANCELLED):
            if terminal:
                click.echo()
            return 0 if status["standing"] == Standing.DONE else 1
        await asyncio.sleep(LOOK_SECONDS)


async def _statuses(
    settings: Settings, name: str, hidden: set[str] | None = None
) -> list[BackfillStatus]:
    """Every order in the commands topic, with its progress by the checkpoint.

    Hints that the progress may be out of date are added to `hidden`.
    """
    backfill_requests = await KafkaCommands(settings, name).read()
    state = await _state(settings, name, hidden)
    backfills = {backfill.id: backfill for backfill in state.checkpoint.backfills} if state else {}
    return [
        _status(name, backfill_request, backfills.get(backfill_request.id))
        for backfill_request in backfill_requests or ()
    ]


async def _state(settings: Settings, name: str, hidden: set[str] | None = None) -> State | None:
    """The state by the state topic; None = the operation has not begun.

    Hints that the state may be out of date are added to `hidden`. Raises NoAnswerError, Transient
    or NeedsOperator.
    """
    states, hints = await read_states(settings)
    if hidden is not None:
        hidden.update(hints)
    outcome = states[name]
    if isinstance(outcome, StepError):
        raise outcome
    return outcome


def _status(
    name: str, backfill_request: BackfillRequest, backfill: Backfill | None
) -> BackfillStatus:
    """The report of an order; `backfill` is None until the service takes the order up."""
    return {
        "operation": name,
        "id": backfill_request.id,
        "from": iso(backfill_request.start),
        "to": iso(backfill_request.end),
        "again": backfill_request.again,
        "standing": backfill.standing.value if backfill else WAITING,
        "wanted": backfill_request.wanted.value,
        "cursor": iso(backfill.cursor if backfill else backfill_request.start),
        "rows": backfill.rows if backfill else 0,
        "new": backfill.new if backfill else 0,
        "skipped_seconds": backfill.skipped_seconds if backfill else 0,
    }


def _share(status: BackfillStatus) -> float:
    """The part of the range that is read, from 0 to 1."""
    begin, end, cursor = (datetime.fromisoformat(status[key]) for key in ("from", "to", "cursor"))
    return (cursor - begin) / (end - begin)


def _line(status: BackfillStatus) -> str:
    again = ", again" if status["again"] else ""
    skipped = f", {span(status['skipped_seconds'])} skipped" if status["skipped_seconds"] else ""
    return (
        f"{status['id']}  {status['operation']}  {status['standing']} {_share(status):.0%}"
        f"  {status['from']} to {status['to']}{again}: {status['rows']:,} rows,"
        f" {status['new']:,} new{skipped}"
    )


def _operation(settings: Settings, name: str | None) -> str:
    """The operation of that name; for None, the only operation there is. Raises SettingsError."""
    names = [configured.name for configured in settings.operations]
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        given = name or "(none given)"
        raise SettingsError([f"--operation: there is no {given}; there are: {', '.join(names)}"])
    return name


def _instant(what: str, text: str) -> Instant:
    """The instant that the argument `what` gives, in whole seconds. Raises SettingsError."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise SettingsError(
            [f"{what} must be an instant with its offset, such as 2026-11-01T00:00:00-05:00"]
        )
    return instant.astimezone(UTC).replace(microsecond=0)

"""`wolkvox-publisher status`: prints where each operation stands, for a person or as JSON.

The command asks the running service. If no service answers, the command reads the state topic. The
report says which of the two it comes from.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence

import click

from publisher.commands import status_reader
from publisher.commands.runner import complain, span
from publisher.commands.status_reader import NoAnswerError
from publisher.errors import SettingsError
from publisher.settings import Settings, base_url, load
from publisher.telemetry.status_document import (
    SERVICE,
    ErrorReport,
    OperationReport,
    Report,
    as_json,
)


def main(url: str | None, *, as_text: bool) -> int:
    """Print the report; returns the exit code.

    `url` is the address of the service; None = the local service at the port of the settings.
    """
    # The lines below say in our words what libraries log.
    logging.root.addHandler(logging.NullHandler())
    try:
        report = asyncio.run(_report(url))
    except NoAnswerError as error:
        complain(str(error))
        return 1
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return 2
    if as_text:
        for line in rendered(report):
            click.echo(line)  # without colours unless standard output is a terminal
    else:
        click.echo(as_json(report), nl=False)
    return 0


async def _report(url: str | None) -> Report:
    """The report of the service; if it does not answer, the report by the state topic.

    With `url`, the settings are needed only if the service does not answer.
    """
    settings: Settings | None = None
    if url is None:
        settings = load()
        port = settings.publisher.http_port
        url = f"http://localhost:{port}" if port else None
    if url is None:
        complain("PUBLISHER_HTTP_PORT is 0, so the service's port is not known: name it with --url")
    else:
        try:
            return await status_reader.from_service(_checked(url))
        except NoAnswerError as error:
            complain(str(error))
    return await status_reader.from_state_topic(settings or load())


def _checked(url: str) -> str:
    try:
        return base_url(url)
    except ValueError:
        raise SettingsError(["--url is not an address such as http://localhost:9108"]) from None


def rendered(report: Report) -> Iterator[str]:
    """Write the report for a person, line by line."""
    if report["answered_by"] == SERVICE:
        yield f"The running service at {report['where']}, version {report['version']}"
    else:
        yield f"No running service; the state topic {report['where']}"
    yield f"All times are UTC; it is {_moment(report['at'])}"
    yield ""
    head = ("OPERATION", "STANDING", "BEHIND NOW", "COVERED UNTIL", "CURSOR", "IDS")
    first, *rows = _columns([head, *(_row(operation) for operation in report["operations"])])
    yield click.style(first, bold=True)
    for row, operation in zip(rows, report["operations"], strict=True):
        yield click.style(row, fg=_color(operation))
    for operation in report["operations"]:
        yield ""
        yield click.style(operation["operation"], bold=True)
        yield from (f"  {line}" for line in _details(operation))
    for hint in report["hints"]:
        yield ""
        yield click.style(f"Note: {hint}", fg="yellow")


def _row(operation: OperationReport) -> tuple[str, ...]:
    lag, ids = operation["lag_seconds"], operation["ids"]
    return (
        operation["operation"],
        (operation["standing"] or "-").replace("_", " "),
        "-" if lag is None else span(lag),
        _moment(operation["covered_until"]),
        _moment(operation["cursor"]),
        "-" if ids is None else f"{ids:,}",
    )


def _color(operation: OperationReport) -> str | None:
    error = operation["last_error"]
    if error and not error["solved"]:
        return "red" if error["needs_person"] else "yellow"
    return {"hanging": "red", "incomplete": "yellow"}.get(operation["standing"] or "")


def _details(operation: OperationReport) -> Iterator[str]:
    window = operation["last_window"]
    if operation["cursor"] is None and operation["last_error"] is None:
        yield "has not begun yet"
    if window:
        yield (
            f"last window  {window['pass']}, {_moment(window['from'])} to {_moment(window['to'])}:"
            f" {window['rows']:,} rows, {window['new']:,} new,"
            f" {window['duplicate']:,} known before, {window['rejected']:,} rejected"
            + (", possibly cut" * window["possibly_cut"])
        )
    if operation["published"] is not None:
        yield f"published    {operation['published']:,} events since the service started"
    if operation["cursor"] is not None:
        yield from (f"missing      {line}" for line in operation["missing"] or [])
    for gap in operation["gaps"]:
        yield f"parked       {_moment(gap['from'])} to {_moment(gap['to'])}: could not be read yet"
    for backfill in operation["backfills"]:
        yield (
            f"backfill     {backfill['id']} {backfill['standing']}, {_moment(backfill['from'])} to"
            f" {_moment(backfill['to'])}: read until {_moment(backfill['cursor'])},"
            f" {backfill['rows']:,} rows, {backfill['new']:,} new"
        )
    error = operation["last_error"]
    if error:
        yield f"last error   {error['problem']}"
        yield f"             {error['stage']} / {error['reason']}{_course(error)}"
    passes = operation["passes"].items()
    lines = [(name, _moment(p["covered_until"]), _moment(p["cursor"])) for name, p in passes]
    if lines:
        yield from _columns([("passes", "COVERED UNTIL", "CURSOR"), *lines])


def _course(error: ErrorReport) -> str:
    """When the step failed, and what has come of it since; empty if that is not in the report."""
    if error["at"] is None:
        return ""
    attempt = f", {_moment(error['at'])}, attempt {error['attempt']}"
    if error["solved"]:
        return f"{attempt}, solved since"
    return f"{attempt}, next attempt in {span(error['retry_in_seconds'] or 0.0)}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _moment(text: str | None) -> str:
    return text[:19].replace("T", " ") if text else "-"

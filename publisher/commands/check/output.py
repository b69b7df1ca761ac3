"""Prints the checklist: as text for people, or as JSON for programs."""

import json
import shutil
import sys
import textwrap
from itertools import groupby
from typing import Any, Final

import click

from publisher.commands.check.checklist import Check, Checklist, State

_MARKS: Final[dict[State, tuple[str, dict[str, Any]]]] = {
    State.OK: ("ok", {"fg": "green"}),
    State.HINT: ("hint", {"fg": "yellow"}),
    State.FAILED: ("FAILED", {"fg": "red", "bold": True}),
    State.NOT_TRIED: ("not tried", {"dim": True}),
}
_MARK_WIDTH: Final = 9


def begin(*, as_json: bool) -> None:
    """Tell a person at a terminal that the checks take a moment."""
    if not as_json and sys.stdout.isatty():
        click.echo(click.style("Checking, at most 15 seconds ...", dim=True), nl=False)


def everything(checklist: Checklist, code: int, *, as_json: bool) -> None:
    """Print the checklist to standard output. `code` is the exit code of the command."""
    if as_json:
        click.echo(json.dumps(as_data(checklist, code), ensure_ascii=False, indent=2))
        return
    if sys.stdout.isatty():
        click.echo("\r\033[K", nl=False)
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))
    for group, checks in groupby(checklist.checks, key=lambda check: check.group):
        click.secho(group, bold=True)
        group_checks = list(checks)
        tried = [check for check in group_checks if check.state is not State.NOT_TRIED]
        column = max((len(check.name) for check in tried), default=0)
        for check in tried:
            _line(check, column, width)
        # Untried checks come last in their group and share a line: nobody needs their details.
        if untried_names := [
            check.name for check in group_checks if check.state is State.NOT_TRIED
        ]:
            mark, style = _MARKS[State.NOT_TRIED]
            click.echo(
                f"  {click.style(f'{mark:{_MARK_WIDTH}}', **style)}  {', '.join(untried_names)}"
            )
        click.echo()
    _verdict(checklist)


def as_data(checklist: Checklist, code: int) -> dict[str, Any]:
    """The JSON document. Its keys never change, because programs rely on them."""
    return {
        "ok": code == 0,
        "exit_code": code,
        "checks": [
            {
                "group": check.group,
                "check": check.name,
                "state": check.state.value,
                "text": check.text,
                **({"command": check.command} if check.command else {}),
            }
            for check in checklist.checks
        ],
    }


def _line(check: Check, column: int, width: int) -> None:
    """Print a check. `column` is the width of the names, `width` that of the whole line."""
    mark, style = _MARKS[check.state]
    head = f"  {click.style(f'{mark:{_MARK_WIDTH}}', **style)}  {check.name:{column}}"
    indent = " " * (_MARK_WIDTH + 4)
    if check.state is State.OK:
        first, *rest = textwrap.wrap(check.text, width - len(indent) - column - 2) or [""]
        click.echo(f"{head}  {first}".rstrip())
        for line in rest:
            click.echo(f"{indent}{' ' * column}  {line}")
        return
    # Hints and failures need attention, so their text gets lines of its own.
    click.echo(head.rstrip())
    for problem in check.text.splitlines():
        # Names and addresses are not broken, so that people can copy them.
        for line in textwrap.wrap(
            problem, width - len(indent), break_long_words=False, break_on_hyphens=False
        ):
            click.echo(indent + line)
    if check.command:
        click.echo(indent + click.style(check.command, fg="cyan"))


def _verdict(checklist: Checklist) -> None:
    failed = sum(check.state is State.FAILED for check in checklist.checks)
    waiting = sum(check.state is State.NOT_TRIED for check in checklist.checks)
    if not failed:
        hints = sum(check.state is State.HINT for check in checklist.checks)
        summary = f"Nothing failed, hints: {hints}. " if hints else "All good. "
        click.secho(f"{summary}The service can run.", fg="green", bold=True)
        return
    rest = f", {waiting} not tried because of that" if waiting else ""
    click.secho(f"{failed} failed{rest}.", fg="red", bold=True)

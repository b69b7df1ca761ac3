"""`wolkvox-publisher dead-letters list` and `show`: look, and change nothing."""

import sys
from collections.abc import (
    AsyncGenerator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import click
import orjson

from publisher.commands.dead_letters.letter_reader import letters
from publisher.commands.dead_letters.stored_letter import Key, Letter, Replayed
from publisher.commands.runner import RefusedError, chosen, complain_all, run
from publisher.commands.status_reader import names_of
from publisher.model import Instant, iso
from publisher.settings import Operation, Settings

_PRIVATE: Final = "conversation"
"""The header that holds names."""
WHAT: Final = "the dead letters"
SHORT: Final = 12
"""Digits of an id in a table."""


@dataclass(frozen=True, slots=True)
class Index:
    """All dead letters of some operations, without their bytes."""

    letters: Sequence[Letter]
    replayed: Mapping[Key, Replayed]


def list_(operation: str | None, *, as_json: bool) -> int:
    """Print the table; the exit code."""

    async def doing(settings: Settings) -> int:
        hidden: set[str] = set()
        found = await indexed(settings, chosen(settings, operation), hidden)
        complain_all(hidden)
        if as_json:
            told = {"dead_letters": [*_described(found)], "hints": sorted(hidden)}
            click.echo(orjson.dumps(told))
        else:
            for line in _table(found):
                click.echo(line)
        return 0

    return run(doing, WHAT)


def show(id_: str, operation: str | None, *, show_text: bool) -> int:
    """Print one letter; the exit code."""

    async def doing(settings: Settings) -> int:
        operations = chosen(settings, operation)
        hidden: set[str] = set()
        index = await indexed(settings, operations, hidden)
        complain_all(hidden)
        key = matching(index, id_).key
        wanted = _all(settings, operations, hidden, lambda one: one.key == key)
        async with aclosing(wanted) as found:
            those = [one async for one in found if isinstance(one, Letter) and one.key == key]
        letter = matching(Index(those, {}), id_)
        for name, text in letter.headers.items():
            if name != _PRIVATE or show_text:
                click.echo(f"{name:<12}  {text}", err=show_text)
        if show_text:
            sys.stdout.buffer.write(b"".join(letter.pieces))
        if letter.missing:
            raise RefusedError(
                f"{letter.missing} of {letter.parts} parts of {letter.id[:SHORT]} are missing: they"
                " are older than the topic's retention, or are being written"
            )
        return 0

    return run(doing, WHAT)


async def indexed(
    settings: Settings, operations: Iterable[Operation], hidden: set[str] | None = None
) -> Index:
    """Read through the dead letters of these operations; `hidden` as in `topic_records`."""
    found: list[Letter] = []
    replayed: dict[Key, Replayed] = {}
    async with aclosing(_all(settings, operations, hidden)) as those:
        async for one in those:
            if isinstance(one, Replayed):
                replayed[one.key] = one
            else:
                found.append(one)
    return Index(found, replayed)


async def _all(
    settings: Settings,
    operations: Iterable[Operation],
    hidden: set[str] | None,
    wanted: Callable[[Letter], bool] = lambda _: False,
) -> AsyncGenerator[Letter | Replayed, None]:
    names = await names_of(settings, [one.name for one in operations], hidden)
    async with aclosing(letters(settings, names, wanted=wanted, hidden=hidden)) as those:
        async for one in those:
            yield one


def matching(index: Index, id_: str) -> Letter:
    """The letter of that id, or whose id begins so. Raises RefusedError."""
    found = {one.key: one for one in index.letters if id_ and one.id.startswith(id_.lower())}
    if not found:
        raise RefusedError(
            f"there is no dead letter {id_[:40]}: `dead-letters list` shows those that the topic"
            " still holds"
        )
    if len(found) > 1:
        raise RefusedError(
            f"{len(found)} dead letters have an id that begins with {id_[:40]}: write more of it,"
            " or name the --operation"
        )
    return next(iter(found.values()))


def _described(index: Index) -> Iterator[dict[str, Any]]:
    for one in index.letters:
        done = index.replayed.get(one.key)
        yield {
            "id": one.id,
            "operation": one.operation,
            "reason": one.reason,
            "pass": one.headers.get("pass"),
            "from": iso(one.window.start),
            "to": iso(one.window.end),
            "position": one.position,
            "read_at": iso(one.read_at),
            "written_at": iso(one.written_at),
            "size_bytes": one.size,
            "parts": one.parts,
            "missing_parts": one.missing,
            "replayed_at": iso(done.at) if done else None,
            "result": done.result if done else None,
        }


def _table(index: Index) -> Iterator[str]:
    head = ("ID", "REASON", "OPERATION", "READ (UTC)", "WINDOW", "POSITION", "BYTES", "PARTS",
            "REPLAYED")  # fmt: skip
    rows = [
        (
            one.id[:SHORT], one.reason, one.operation, _moment(one.read_at), str(one.window),
            one.position, str(one.size),
            f"{one.parts - one.missing} of {one.parts}" if one.missing else str(one.parts),
            f"{done.result}, {_moment(done.at)}" if (done := index.replayed.get(one.key)) else "-",
        )
        for one in index.letters
    ]  # fmt: skip
    first, *lines = columns([head, *rows])
    yield click.style(first, bold=True)
    yield from lines


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _moment(instant: Instant) -> str:
    return iso(instant)[:19].replace("T", " ")

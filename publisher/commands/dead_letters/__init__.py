"""`wolkvox-publisher dead-letters list` and `show`: print dead letters, and change nothing.

The module also reads the index of all letters, which `replay` uses, too.
"""

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
from publisher.model import Instant, iso
from publisher.settings import Operation, Settings

_PRIVATE: Final = "conversation"
"""The header that holds personal data, such as names."""
WHAT: Final = "the dead letters"
SHORT: Final = 12
"""How many digits of an id a table shows."""


@dataclass(frozen=True, slots=True)
class Index:
    """All dead letters of some operations, without their bytes."""

    letters: Sequence[Letter]
    replayed: Mapping[Key, Replayed]


def list_(operation: str | None, *, as_json: bool) -> int:
    """Print the table and return the exit code."""

    async def doing(settings: Settings) -> int:
        hidden: set[str] = set()
        index = await indexed(settings, chosen(settings, operation), hidden)
        complain_all(hidden)
        if as_json:
            document = {"dead_letters": [*_described(index)], "hints": sorted(hidden)}
            click.echo(orjson.dumps(document))
        else:
            for line in _table(index):
                click.echo(line)
        return 0

    return run(doing, WHAT)


def show(id_: str, operation: str | None, *, show_text: bool) -> int:
    """Print a letter and return the exit code.

    `id_` may be the begin of an id. `show_text` also prints the bytes and the personal data.
    """

    async def doing(settings: Settings) -> int:
        operations = chosen(settings, operation)
        hidden: set[str] = set()
        index = await indexed(settings, operations, hidden)
        complain_all(hidden)
        key = matching(index, id_).key
        wanted = _all(settings, operations, hidden, lambda letter: letter.key == key)
        async with aclosing(wanted) as stream:
            parts = [part async for part in stream if isinstance(part, Letter) and part.key == key]
        letter = matching(Index(parts, {}), id_)
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
    """Read the topics of these operations into an index. For `hidden` see `topic_records`."""
    letter_list: list[Letter] = []
    replayed: dict[Key, Replayed] = {}
    async with aclosing(_all(settings, operations, hidden)) as stream:
        async for letter in stream:
            if isinstance(letter, Replayed):
                replayed[letter.key] = letter
            else:
                letter_list.append(letter)
    return Index(letter_list, replayed)


async def _all(
    settings: Settings,
    operations: Iterable[Operation],
    hidden: set[str] | None,
    wanted: Callable[[Letter], bool] = lambda _: False,
) -> AsyncGenerator[Letter | Replayed, None]:
    """The letters and replays in the topics of these operations, as `letters` yields them.

    The letters that are `wanted` come with their bytes.
    """
    names = [operation.name for operation in operations]
    async with aclosing(letters(settings, names, wanted=wanted, hidden=hidden)) as stream:
        async for letter in stream:
            yield letter


def matching(index: Index, id_: str) -> Letter:
    """The letter whose id is `id_` or begins with it.

    Raises RefusedError if there is no such letter, or several.
    """
    matches = {
        letter.key: letter for letter in index.letters if id_ and letter.id.startswith(id_.lower())
    }
    if not matches:
        raise RefusedError(
            f"there is no dead letter {id_[:40]}: `dead-letters list` shows those that the topic"
            " still holds"
        )
    if len(matches) > 1:
        raise RefusedError(
            f"{len(matches)} dead letters have an id that begins with {id_[:40]}: write more of it,"
            " or name the --operation"
        )
    return next(iter(matches.values()))


def _described(index: Index) -> Iterator[dict[str, Any]]:
    """The letters as JSON."""
    for letter in index.letters:
        done = index.replayed.get(letter.key)
        yield {
            "id": letter.id,
            "operation": letter.operation,
            "reason": letter.reason,
            "pass": letter.headers.get("pass"),
            "from": iso(letter.window.start),
            "to": iso(letter.window.end),
            "position": letter.position,
            "read_at": iso(letter.read_at),
            "written_at": iso(letter.written_at),
            "size_bytes": letter.size,
            "parts": letter.parts,
            "missing_parts": letter.missing,
            "replayed_at": iso(done.replayed_at) if done else None,
            "result": done.result if done else None,
        }


def _parts(letter: Letter) -> str:
    """How many parts there are, as a table shows it."""
    if letter.missing:
        return f"{letter.parts - letter.missing} of {letter.parts}"
    return str(letter.parts)


def _table(index: Index) -> Iterator[str]:
    """The lines of the table, for a person."""
    head = ("ID", "REASON", "OPERATION", "READ (UTC)", "WINDOW", "POSITION", "BYTES", "PARTS",
            "REPLAYED")  # fmt: skip
    rows = [
        (
            letter.id[:SHORT], letter.reason, letter.operation, _moment(letter.read_at),
            str(letter.window), letter.position, str(letter.size), _parts(letter),
            f"{done.result}, {_moment(done.replayed_at)}"
            if (done := index.replayed.get(letter.key)) else "-",
        )
        for letter in index.letters
    ]  # fmt: skip
    first, *lines = columns([head, *rows])
    yield click.style(first, bold=True)
    yield from lines


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines, with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _moment(instant: Instant) -> str:
    return iso(instant)[:19].replace("T", " ")

"""`wolkvox-publisher gaps` and `coverage`: show which time was read, when, and which is missing.

Both only read the state topic. `gaps` lists the missing stretches; `coverage` draws every day as
a strip of characters. `coverage_map` holds the rules.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import Any, Final
from zoneinfo import ZoneInfo

import click
import orjson

from publisher.commands.coverage import coverage_map
from publisher.commands.coverage.coverage_map import MISSING, Kind, Stretch
from publisher.commands.runner import RefusedError, chosen, complain, run, span
from publisher.commands.status_reader import read_states
from publisher.errors import StepError
from publisher.model import Instant, Window, iso
from publisher.settings import Operation, PublisherSettings, Settings, duration_text, start_instant
from publisher.state.state import State

WHAT: Final = "the coverage"
WEEK: Final = "-7d"
CELL_MINUTES: Final = (5, 6, 10, 12, 15, 20, 30, 60, 120, 180, 240)
"""The possible widths of a cell, all divisors of a day. The finest that fits is used."""
DATE_WIDTH: Final = len("2026-11-20  ")
LONGEST: Final = 400
"""The most days that a strip shows."""

WORDS: Final = {
    Kind.PARKED: "parked: it failed while others answered, repair reads it again",
    Kind.NEVER_ASKED: "never asked",
    Kind.POSSIBLY_CUT: "possibly cut by the report's row cap",
    Kind.NOT_YET: "not read yet",
    Kind.READ: "read",
    Kind.FORGOTTEN: "read longer ago than the journal remembers",
    Kind.BEFORE_START: "before the operation began",
}
COLORS: Final = {
    Kind.PARKED: "red", Kind.NEVER_ASKED: "red", Kind.POSSIBLY_CUT: "yellow",
    Kind.READ: "green", Kind.NOT_YET: "blue",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """The coverage of an operation in a range of time."""

    name: str
    state: State
    window: Window | None
    """The range; None = it is empty."""
    stretches: Sequence[Stretch]
    ages: Sequence[timedelta]
    """The ages that the strip distinguishes: the overlap and the ages of the re-reads."""


def gaps(since: str | None, until: str | None, operation: str | None, *, as_json: bool) -> int:
    """Print the missing stretches. Return the exit code: 1 if something is missing."""

    async def doing(settings: Settings) -> int:
        looks = await _look(settings, operation, since, until)
        missing = {look.name: coverage_map.missing(look.stretches) for look in looks}
        if as_json:
            click.echo(orjson.dumps({
                name: [*map(_described, stretches)] for name, stretches in missing.items()
            }))  # fmt: skip
        else:
            for look in looks:
                for line in _gaps(look, missing[look.name]):
                    click.echo(line)
        return 1 if any(missing.values()) else 0

    return run(doing, WHAT)


def calendar(since: str | None, until: str | None, operation: str | None, *, as_json: bool) -> int:
    """Print the strips. Return the exit code: 1 if something is missing."""

    async def doing(settings: Settings) -> int:
        zones = dict(map(_zone_of, settings.operations))
        looks = await _look(settings, operation, since, until, default=WEEK)
        if as_json:
            click.echo(orjson.dumps({look.name: _everything(look) for look in looks}))
        else:
            for look in looks:
                for line in strip(look, zones[look.name]):
                    click.echo(line)
        return 1 if any(coverage_map.missing(look.stretches) for look in looks) else 0

    return run(doing, WHAT)


def _zone_of(operation: Operation) -> tuple[str, ZoneInfo]:
    return operation.name, ZoneInfo(operation.timezone)


async def _look(
    settings: Settings, operation: str | None, since: str | None, until: str | None,
    default: str | None = None,
) -> list[Look]:  # fmt: skip
    """The coverage of the range from `since` to `until` for every chosen operation.

    Without `since` the range begins at the start of the operation, but not before `default`.
    """
    now = datetime.now(UTC)
    end = start_instant(until, now) if until else now
    publisher = settings.publisher
    states, hints = await read_states(settings)
    for hint in hints:
        complain(hint)
    looks = []
    for wanted in chosen(settings, operation):
        state = states[wanted.name]
        if isinstance(state, StepError):
            raise state
        if state is None:
            raise RefusedError(
                f"operation {wanted.name} has not begun: there is nothing to tell before the"
                " service has run with these settings"
            )
        start = state.checkpoint.start
        if since:
            start = start_instant(since, now)
        elif default:
            start = max(start, start_instant(default, now))
        looks.append(_look_at(wanted.name, state, start, end, publisher))
    return looks


def _look_at(
    name: str, state: State, start: Instant, end: Instant, settings: PublisherSettings
) -> Look:
    ages = sorted({settings.overlap, *settings.rereads})
    stretches = coverage_map.coverage(state, start, end, ages)
    return Look(name, state, Window(start, end) if start < end else None, stretches, ages)


def _gaps(look: Look, missing: Sequence[Stretch]) -> Iterator[str]:
    """The lines about the missing stretches, for a person."""
    covered = look.state.checkpoint.live.covered_until
    if look.window is None:
        yield f"{look.name}: nothing lies between --from and --to"
        return
    start, end = look.window.start, min(look.window.end, covered)
    total = sum(stretch.seconds for stretch in missing)
    what = f"{_span(total)} missing" if missing else "nothing is missing"
    yield click.style(
        f"{look.name}: {what} between {_moment(start)} and {_moment(max(start, end))} (UTC)",
        bold=True,
    )
    for stretch in missing:
        width = _span(stretch.seconds)
        moments = f"{_moment(stretch.start)} to {_moment(stretch.end)}"
        line = f"  {moments}  {width:>10}  {WORDS[stretch.kind]}"
        yield click.style(line, fg="red")


def strip(look: Look, zone: ZoneInfo) -> Iterator[str]:
    """The lines of the strip and of its legend, for a person.

    A line is a day of the operation's zone, and a character stands for some minutes of it.
    """
    if look.window is None:
        yield f"{look.name}: nothing lies between --from and --to"
        return
    room_columns = shutil.get_terminal_size().columns - DATE_WIDTH
    minutes = next(
        (candidate for candidate in CELL_MINUTES if 1440 // candidate <= room_columns),
        CELL_MINUTES[-1],
    )
    signs = _Signs(look.ages)
    yield click.style(
        f"{look.name}, days of {zone.key}, {minutes} minutes a cell; times below are local",
        bold=True,
    )
    yield " " * DATE_WIDTH + _hours(minutes)
    day = look.window.start.astimezone(zone).date()
    last_day = (look.window.end - timedelta(microseconds=1)).astimezone(zone).date()
    if (last_day - day).days >= LONGEST:
        raise RefusedError(f"more than {LONGEST} days: choose a later --from")
    seen: set[str] = set()
    while day <= last_day:
        slots = _slots(datetime.combine(day, time(), zone), minutes)
        row = ""
        for cell in coverage_map.cells(look.stretches, slots):
            sign, color = signs.of(cell)
            seen.add(sign)
            row += click.style(sign, fg=color) if color else sign
        yield f"{day}  {row}".rstrip()
        day += timedelta(days=1)
    yield ""
    yield from signs.legend(seen)


def _slots(midnight: datetime, minutes: int) -> list[Window]:
    """The cells of a day by local time.

    They are always those of 24 hours, although a day of a time change has 23 or 25.
    """
    naive = midnight.replace(tzinfo=None)
    edges = [
        (naive + timedelta(minutes=at)).replace(tzinfo=midnight.tzinfo).astimezone(UTC)
        for at in range(0, 1441, minutes)
    ]
    for at in range(len(edges) - 2, -1, -1):
        edges[at] = min(
            edges[at], edges[at + 1]
        )  # a skipped local time becomes the instant of the jump
    # A skipped hour has no length, so its cells get the shortest one.
    tick = timedelta(microseconds=1)
    return [Window(start, max(end, start + tick)) for start, end in pairwise(edges)]


def _hours(minutes: int) -> str:
    """The line with the hours above their cells. It has as many hours as fit."""
    line = ""
    for hour in range(24):
        place = hour * 60 // minutes
        if len(line) <= place:
            line = line.ljust(place) + f"{hour:02} "
    return line.rstrip()


class _Signs:
    """The characters of the strip: one for every kind of stretch, and for every age of a read one.

    A terminal that cannot show block characters gets ASCII.
    """

    def __init__(self, ages: Sequence[timedelta]) -> None:
        fancy = sys.stdout.isatty() and "utf" in (sys.stdout.encoding or "").lower()
        fancy = fancy and os.environ.get("TERM") != "dumb"
        ramp = "\N{LIGHT SHADE}\N{MEDIUM SHADE}\N{DARK SHADE}\N{FULL BLOCK}" if fancy else ".-+#"
        self._ages = (timedelta(), *ages)
        self._kinds = {
            Kind.PARKED: "X", Kind.NEVER_ASKED: "!", Kind.POSSIBLY_CUT: "?",
            Kind.NOT_YET: "~", Kind.FORGOTTEN: "_", Kind.BEFORE_START: " ",
        }  # fmt: skip
        last = len(self._ages) - 1
        self._read = {
            age: ramp[3] if number == last else ramp[min(number * 3 // max(last, 1), 2)]
            for number, age in enumerate(self._ages)
        }

    def of(self, cell: Stretch | None) -> tuple[str, str | None]:
        """The character of the cell, and its colour on a terminal; None = no colour."""
        if cell is None:
            return " ", None
        sign = self._read[cell.age] if cell.kind is Kind.READ else self._kinds[cell.kind]
        return sign, COLORS.get(cell.kind)

    def legend(self, seen: set[str]) -> Iterator[str]:
        """The lines that explain the characters that were `seen` in the strip."""
        by_sign: dict[str, timedelta] = {}
        for age, sign in self._read.items():
            by_sign.setdefault(sign, age)
        for sign, age in by_sign.items():
            if sign in seen:
                how = f"read when it was {duration_text(age)} old or older" if age else "read once"
                yield f"  {click.style(sign, fg='green')}  {how}"
        for kind, sign in self._kinds.items():
            if sign in seen and sign.strip():
                yield f"  {click.style(sign, fg=COLORS.get(kind))}  {WORDS[kind]}"


def _everything(look: Look) -> dict[str, Any]:
    """The stretches, and the windows that were read, as JSON."""
    range_ = look.window
    windows = coverage_map.asked(look.state, range_.start, range_.end) if range_ else []
    return {
        "stretches": [_described(stretch) for stretch in look.stretches],
        "windows": [
            {
                "pass": window.pass_name, "from": iso(window.start), "to": iso(window.end),
                "read_at": iso(window.read_at), "rows": window.rows, "new": window.new,
                "duplicate": window.duplicate, "rejected": window.rejected,
                "possibly_cut": window.possibly_cut,
            }
            for window in windows
        ],
    }  # fmt: skip


def _described(stretch: Stretch) -> dict[str, Any]:
    return {
        "from": iso(stretch.start),
        "to": iso(stretch.end),
        "seconds": stretch.seconds,
        "kind": stretch.kind,
        "missing": stretch.kind in MISSING,
        "read_at_age_seconds": stretch.age.total_seconds() if stretch.kind is Kind.READ else None,
    }


def _moment(instant: Instant) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _span(seconds: float) -> str:
    return span(seconds) if seconds >= 1 else "below 1 s"

"""What the demo shows: plain lines for pipes, something pleasant for people.

Plain: standard output holds events alone, one a line; all else goes to standard error.
"""

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Protocol, Self, TextIO

from rich.box import ROUNDED
from rich.cells import set_cell_size
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.rule import Rule
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from sandbox.consume import Event, line, moment, text, visible


@dataclass(frozen=True, slots=True)
class Part:
    """One of the things that run."""

    name: str
    where: str
    about: str
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Numbers:
    """What the publisher tells about itself."""

    published: int = 0
    late: int = 0
    """Of these, found by a re-read."""
    duplicates: int = 0
    requests: int = 0
    lag_seconds: float | None = None


class Screen(Protocol):
    """Where the demo is shown; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def busy(self, what: str) -> AbstractContextManager[object]:
        """Say that something takes its time, for the block."""
        ...

    def header(self, parts: Sequence[Part]) -> None:
        """What runs where."""
        ...

    def events(self, events: Sequence[Event]) -> None: ...

    def numbers(self, numbers: Numbers) -> None: ...

    def problem(self, told: str) -> None:
        """What keeps the publisher from its work; "" = nothing does."""
        ...

    def end(self) -> None:
        """No more events and numbers will come."""
        ...

    def farewell(self, numbers: Numbers, seen: int) -> None:
        """Everything has ended."""
        ...


def screen() -> Screen:
    """The one that fits standard output."""
    console = Console(highlight=False)
    return Pretty(console) if console.is_terminal and not console.is_dumb_terminal else Plain()


class Plain:
    """One line per event."""

    def __init__(self, out: TextIO = sys.stdout, aside: TextIO = sys.stderr) -> None:
        self._out = out
        self._aside = aside
        self._problem = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.flush()

    def busy(self, what: str) -> AbstractContextManager[object]:
        self._say(f"{what} ...")
        return nullcontext()

    def header(self, parts: Sequence[Part]) -> None:
        for part in parts:
            pid = f" (pid {part.pid})" if part.pid else ""
            self._say(f"{part.name:10} {part.where}{pid}  {part.about}")

    def events(self, events: Sequence[Event]) -> None:
        self._out.writelines(f"{line(event)}\n" for event in events)
        self._out.flush()

    def numbers(self, numbers: Numbers) -> None:
        pass

    def problem(self, told: str) -> None:
        if told and told != self._problem:
            self._say(told)
        self._problem = told

    def end(self) -> None:
        pass

    def farewell(self, numbers: Numbers, seen: int) -> None:
        self._say(
            f"published {numbers.published}, duplicates dropped {numbers.duplicates},"
            f" consumed {seen}; everything has ended"
        )

    def _say(self, told: str) -> None:
        print(told, file=self._aside, flush=True)


COLOURS: Final = {
    "whatsapp": "green",
    "facebook": "blue",
    "instagram": "magenta",
    "web": "cyan",
    "telegram": "bright_blue",
    "sms": "yellow",
}
RATE_SECS: Final = 5.0
_TIME, _CHANNEL, _ARROW, _GAP = 8, 13, 3, 2


class Pretty:
    """Events scroll by; below them stands how the publisher is doing."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._numbers = Numbers()
        self._parts: Sequence[Part] = ()
        self._problem = ""
        self._recent: list[tuple[float, int]] = []
        self._spinner = Spinner("dots", style="green")
        self._live = Live(
            get_renderable=self._foot, console=console, refresh_per_second=8, transient=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def busy(self, what: str) -> AbstractContextManager[object]:
        return self._console.status(Text(f"{what} …", style="dim"), spinner="dots")

    def header(self, parts: Sequence[Part]) -> None:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column(style="cyan", no_wrap=True)
        grid.add_column(style="dim", overflow="fold")
        for part in parts:
            grid.add_row(part.name, part.where, part.about)
        self._parts = parts
        self._console.print(
            Panel(
                grid,
                box=ROUNDED,
                title="[bold]Wolkvox → Kafka[/], each message exactly once",
                title_align="left",
                border_style="green",
                padding=(0, 1),
            )
        )
        self._live.start()

    def events(self, events: Sequence[Event]) -> None:
        if events:
            width = self._console.width
            self._console.print(Group(*(_row(event, width) for event in events)))

    def numbers(self, numbers: Numbers) -> None:
        self._numbers = numbers
        now = time.monotonic()
        recent = [*self._recent, (now, numbers.published)]
        self._recent = [told for told in recent if told[0] > now - RATE_SECS]

    def problem(self, told: str) -> None:
        self._problem = told

    def end(self) -> None:
        self._live.stop()

    def farewell(self, numbers: Numbers, seen: int) -> None:
        self._console.print(
            Text.assemble(
                ("✓ ", "green"),
                (f"{seen:,} events", "bold"),
                f", each exactly once; {numbers.duplicates:,} rows read again and dropped;"
                f" {numbers.late:,} late ones found. Everything has ended.",
            )
        )

    def _foot(self) -> RenderableType:
        told = self._numbers
        lag = "-" if told.lag_seconds is None else f"{told.lag_seconds:.1f} s"
        calm = told.lag_seconds is not None and told.lag_seconds < 5
        cells = (
            ("published", f"{told.published:,}", "bold green", f" {self._rate():.0f}/s"),
            ("duplicates dropped", f"{told.duplicates:,}", "bold", ""),
            ("late ones found", f"{told.late:,}", "bold yellow", ""),
            ("lag", lag, "bold green" if calm else "bold red", ""),
        )
        counts = Text(no_wrap=True, overflow="ellipsis")
        for name, value, style, more in cells:
            counts.append(f"{name} ", "dim").append(value, style).append(more, "dim").append("   ")
        where = "   ".join(f"{part.name} {part.where}" for part in self._parts[:3])
        bar = Table.grid(padding=(0, 1))
        bar.add_column(width=1)
        bar.add_column(no_wrap=True, overflow="ellipsis")
        bar.add_row(self._spinner, counts)
        bar.add_row("", Text(f"{where}   Ctrl-C ends it", "dim", overflow="ellipsis"))
        if not self._problem:
            return Group(Rule(style="green"), bar)
        return Group(Rule(style="red"), Text(self._problem, "red"), bar)

    def _rate(self) -> float:
        if len(self._recent) < 2:
            return 0.0
        (began, before), (now, after) = self._recent[0], self._recent[-1]
        return (after - before) / max(now - began, 0.1)


def _row(event: Event, width: int) -> Text:
    told = event.value
    channel = visible(told.get("channel")).lower()
    colour = COLOURS.get(channel, "white")
    customer = told.get("from") == "CUSTOMER"
    late = event.headers.get("wolkvox_pass") != b"live"
    who = 17 if width >= 110 else 12
    room = width - _TIME - _CHANNEL - 2 * who - _ARROW - 2 * _GAP - 1
    row = Text(no_wrap=True, overflow="ellipsis")
    row.append(f"{moment(event):%H:%M:%S}", "dim").append("  ")
    row.append(set_cell_size(f"● {channel}", _CHANNEL), colour)
    row.append(_column(told.get("from_name"), who, "bold" if customer else "cyan"))
    row.append(" → ", "dim")
    row.append(_column(told.get("to_name"), who, "cyan" if customer else "bold"))
    row.append("  ")
    if late:
        row.append("late ", "bold yellow")
        room -= 5
    row.append(text(event, max(room, 10)), "" if told.get("message") is not None else "dim italic")
    row.truncate(width, overflow="ellipsis")
    return row


def _column(value: object, width: int, style: str) -> Text:
    cell = Text(visible(value), style)
    cell.truncate(width, overflow="ellipsis", pad=True)
    return cell

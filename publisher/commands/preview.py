"""`preview`: asks the API and prints the events that would be published. Knows no Kafka.

It is the service's own flow with another log behind it: what the flow commits is printed.
"""

import asyncio
import logging
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TextIO

import orjson

from publisher import pipeline
from publisher.clock import MachineClock
from publisher.commands.check.api_checks import ask_for_newest, newest_row
from publisher.commands.runner import chosen, complain
from publisher.commands.window_reader import Walker
from publisher.context import LoopState, OperationContext
from publisher.errors import PublisherError, SettingsError
from publisher.events import kafka_record
from publisher.model import Batch, Restored, Window, iso
from publisher.schedule import passes
from publisher.schedule.passes import Read
from publisher.settings import Operation, Settings, duration_text, load
from publisher.signals import Signal, WindowPublished
from publisher.wolkvox.client import HttpSource, open_session
from publisher.wolkvox.timezone import Zone

MASKED: Final = (
    "message", "from_name", "to_name", "agent_name", "customer_name", "customer_phone",
    "customer_id", "extra",
)  # fmt: skip
"""What people wrote, and who they are; `extra` may hold anything."""
MASK: Final = "***"


def main(last: timedelta, operation: str | None, limit: int | None, *, show_text: bool) -> int:
    """Print the events of the last so long; the exit code."""
    # What libraries log of failures, we tell better.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        settings = load()
        operations = chosen(settings, operation)
    except SettingsError as error:
        for problem in error.problems:
            complain(problem)
        return 2
    if not show_text:
        complain(f"masked: {', '.join(MASKED)}; --show-text shows them")
    printer = _Printer(sys.stdout, limit, show_text=show_text)
    try:
        complete = [
            asyncio.run(_preview(settings, one, last, printer))
            for one in operations
            if not printer.full
        ]
    except BrokenPipeError:  # whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return 0 if all(complete) else 1


@dataclass(slots=True)
class _Printer:
    """Fits `context.Log`: prints the events that are committed."""

    out: TextIO
    limit: int | None
    show_text: bool
    printed: int = 0
    dead_letters: int = 0

    @property
    def full(self) -> bool:
        return self.limit is not None and self.printed >= self.limit

    async def restore(self) -> Restored:
        """Nothing was ever published here."""
        return Restored({}, history_lost=False)

    async def commit(self, batch: Batch) -> None:
        """Print, at most as many as asked for."""
        for event in batch.events:
            if not self.full:
                value = kafka_record.value_of(event)
                self.out.write((value if self.show_text else masked(value)).decode() + "\n")
                self.printed += 1
        # Consumed after the events, as Kafka's log does it.
        self.dead_letters += sum(1 for _ in batch.dead_letters)
        self.out.flush()


def masked(value: bytes) -> bytes:
    """The event with every text of people masked; empty stays empty, null stays null."""
    event = orjson.loads(value)
    return orjson.dumps(
        {name: MASK if name in MASKED and field else field for name, field in event.items()}
    )


@dataclass(slots=True)
class _Told:
    """What the flow says of its windows; fits `signals.Emit`."""

    windows: int = 0
    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    cut: list[Window] = field(default_factory=list)

    def __call__(self, happened: Signal) -> None:
        if isinstance(happened, WindowPublished):
            self.windows += 1
            self.rows += happened.rows
            self.rejected.update(happened.rejected)
            if happened.possibly_cut:
                self.cut.append(happened.window)


async def _preview(
    settings: Settings, operation: Operation, last: timedelta, printer: _Printer
) -> bool:
    """One operation; True = all of the time was read, or as much as was asked for."""
    told = _Told()
    began, printed, letters = time.monotonic(), printer.printed, printer.dead_letters
    problem, fits, newest = "", True, ""
    async with open_session() as session:
        clock = MachineClock()
        source = HttpSource(session, operation.url, operation.token, clock.now)
        context = OperationContext(
            operation=operation.name,
            zone=Zone(operation.timezone),
            settings=settings.publisher.model_copy(
                # Nothing is read twice: one walk from there to now.
                update={"start": f"-{duration_text(last)}", "rereads": (), "overlap": timedelta()}
            ),
            source=source,
            log=printer,
            clock=clock,
            emit=told,
            beat=lambda _: None,
        )
        loop_state = LoopState.starting(context.settings)
        try:
            await _walk(context, loop_state, printer)
            if not printer.full:
                answers = await ask_for_newest(source, settings, operation)
                fits, newest = newest_row(context.zone, *answers)
        except PublisherError as error:
            problem = str(error)
    progress = loop_state.state.checkpoint.live if loop_state.state else None
    covered = f" up to {iso(progress.covered_until)}" if progress and told.windows else ""
    complain(
        f"{operation.name}: {printer.printed - printed} events of the last {duration_text(last)}"
        f"{covered}, from {told.rows} rows in {told.windows} requests,"
        f" {time.monotonic() - began:.1f} s"
    )
    if printer.dead_letters > letters:
        reasons = ", ".join(f"{why} {count}" for why, count in sorted(told.rejected.items()))
        complain(
            f"{operation.name}: {printer.dead_letters - letters} to the dead letters ({reasons})"
        )
    for window in told.cut:
        complain(f"{operation.name}: possibly cut by the report: {window}")
    if not fits:
        complain(f"{operation.name}: newest row: {newest}")
    if printer.full and not problem:
        complain(f"{operation.name}: ended at --limit {printer.limit}")
    if problem:
        complain(f"{operation.name}: FAILED, {problem}")
    return not problem


async def _walk(context: OperationContext, loop_state: LoopState, printer: _Printer) -> None:
    """One round of the live pass, from the start to now; too large windows are narrowed."""
    state = loop_state.state = await pipeline.begin(context, loop_state)
    walker = Walker(context, loop_state, state)
    while not printer.full:
        state = loop_state.state = await pipeline.begin_earlier(context, loop_state, state)
        now = loop_state.server.now(context.clock.now())
        step = passes.next_step(
            loop_state.passes,
            state.checkpoint.passes,
            loop_state.pace,
            now,
            state.read_until,
            state.checkpoint.gaps,
        )
        if not isinstance(step, Read):
            return
        walker.known = state
        done = await walker.published(step)
        if done and done.ends_round:
            return

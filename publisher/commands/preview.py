"""`preview`: asks the API, and prints the events that the service would publish. Needs no Kafka.

The command runs the service's own flow with another log: this log prints what the flow commits.
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
from publisher.wolkvox.schema import Trait, names_with
from publisher.wolkvox.timezone import Zone

MASKED: Final = (*names_with(Trait.PERSONAL), "extra")
"""The fields that hold what people wrote and who they are; `extra` may hold anything."""
MASK: Final = "***"


def main(last: timedelta, operation: str | None, limit: int | None, *, show_text: bool) -> int:
    """Print the events of the duration `last` until now; returns the exit code.

    `operation` is the name of an operation; None = all. `limit` is the greatest number of events to
    print; None = all. Without `show_text`, the fields `MASKED` are masked.
    """
    # Our own lines explain failures better than the log lines of libraries.
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
            asyncio.run(_preview(settings, chosen_operation, last, printer))
            for chosen_operation in operations
            if not printer.full
        ]
    except BrokenPipeError:  # the reader of our output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return 0 if all(complete) else 1


@dataclass(slots=True)
class _Printer:
    """Prints the events that are committed; implements `context.Log`."""

    out: TextIO
    limit: int | None
    show_text: bool
    printed: int = 0
    dead_letters: int = 0

    @property
    def full(self) -> bool:
        return self.limit is not None and self.printed >= self.limit

    async def restore(self) -> Restored:
        """Restore an empty state: this log has never published anything."""
        return Restored({}, history_lost=False)

    async def commit(self, batch: Batch) -> None:
        """Print the events of the batch, up to `limit` in all."""
        for event in batch.events:
            if not self.full:
                value = kafka_record.value_of(event)
                self.out.write((value if self.show_text else masked(value)).decode() + "\n")
                self.printed += 1
        # The dead letters are consumed after the events, as Kafka's log does it.
        self.dead_letters += sum(1 for _ in batch.dead_letters)
        self.out.flush()


def masked(value: bytes) -> bytes:
    """The event with the fields `MASKED` masked; an empty field stays empty, null stays null."""
    event = orjson.loads(value)
    return orjson.dumps(
        {name: MASK if name in MASKED and field else field for name, field in event.items()}
    )


@dataclass(slots=True)
class _Totals:
    """Adds up what the flow reports about its windows; implements `signals.Emit`."""

    windows: int = 0
    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    cut: list[Window] = field(default_factory=list)

    def __call__(self, signal: Signal) -> None:
        if isinstance(signal, WindowPublished):
            self.windows += 1
            self.rows += signal.rows
            self.rejected.update(signal.rejected)
            if signal.possibly_cut:
                self.cut.append(signal.window)


async def _preview(
    settings: Settings, operation: Operation, last: timedelta, printer: _Printer
) -> bool:
    """Preview an operation; True = the whole time was read, or `limit` was reached."""
    totals = _Totals()
    began_at, printed_before = time.monotonic(), printer.printed
    letters_before = printer.dead_letters
    problem, fits, newest = "", True, ""
    async with open_session() as session:
        clock = MachineClock()
        source = HttpSource(session, operation.url, operation.token, clock.now)
        context = OperationContext(
            operation=operation.name,
            zone=Zone(operation.timezone),
            settings=settings.publisher.model_copy(
                # No time is read twice: the flow walks once from the start to now.
                update={"start": f"-{duration_text(last)}", "rereads": (), "overlap": timedelta()}
            ),
            source=source,
            log=printer,
            clock=clock,
            emit=totals,
            beat=lambda _: None,
            label=operation.label,
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
    covered = f" up to {iso(progress.covered_until)}" if progress and totals.windows else ""
    complain(
        f"{operation.name}: {printer.printed - printed_before} events"
        f" of the last {duration_text(last)}{covered}, from {totals.rows} rows"
        f" in {totals.windows} requests, {time.monotonic() - began_at:.1f} s"
    )
    if printer.dead_letters > letters_before:
        reasons = ", ".join(f"{why} {count}" for why, count in sorted(totals.rejected.items()))
        complain(
            f"{operation.name}: {printer.dead_letters - letters_before} to the dead letters"
            f" ({reasons})"
        )
    for window in totals.cut:
        complain(f"{operation.name}: possibly cut by the report: {window}")
    if not fits:
        complain(f"{operation.name}: newest row: {newest}")
    if printer.full and not problem:
        complain(f"{operation.name}: ended at --limit {printer.limit}")
    if problem:
        complain(f"{operation.name}: FAILED, {problem}")
    return not problem


async def _walk(context: OperationContext, loop_state: LoopState, printer: _Printer) -> None:
    """Walk a round of the live pass, from the start to now; windows that are too large shrink."""
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
        walker.state = state
        done = await walker.published(step)
        if done and done.ends_round:
            return

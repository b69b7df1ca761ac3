"""`wolkvox-publisher verify`: tests whether the topic holds what the report shows for a range.

The code of the service reads the report, so a row is compared as the event that the service would
publish. With --repair the command publishes exactly the missing events, in transactions like
those of the service.
"""

import os
from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click
import orjson

from publisher import pipeline
from publisher.clock import MachineClock
from publisher.commands import status_reader, takeover
from publisher.commands.event_reader import events_of, first_kept, published_until, revisions_of
from publisher.commands.runner import RefusedError, chosen, complain, run
from publisher.commands.verify import textfile
from publisher.commands.verify.comparison import Comparison, Finding
from publisher.commands.verify.publish_missing import repair
from publisher.commands.verify.verdict import KINDS, Verdict
from publisher.commands.window_reader import Walker, walk
from publisher.context import Log, LoopState, OperationContext
from publisher.errors import Reason, SettingsError, StepError
from publisher.events import kafka_record
from publisher.model import Batch, Instant, Restored, Window, iso
from publisher.settings import Operation, Settings, start_instant
from publisher.state.checkpoint import checkpoint_of
from publisher.state.forgetting import not_remembered
from publisher.state.restored import refuse_set_back
from publisher.state.state import State, restore
from publisher.wolkvox.client import HttpSource, open_session
from publisher.wolkvox.timezone import Zone

MARGINS: Final = (timedelta(hours=1), timedelta(days=1))
"""How much more than the range is read on both sides, because the report may filter by another
time than `date`. The second margin is read only if the topic holds events that the first did not
show."""
PADDING: Final = timedelta(seconds=10)
"""A request reaches a little beyond its window, but must not reach beyond what is settled."""
LATE: Final = timedelta(minutes=10)
"""How late live may be, beyond the time it needs anyway, if all until `now` counts as judged."""
LINES: Final = 50
"""The most differences printed for a person; --json prints all."""


def main(
    start: str,
    end: str,
    name: str | None,
    *,
    repair: bool,
    take_over: bool,
    as_json: bool,
    metrics_file: str | None,
) -> int:
    """Compare, repair if requested, print the results and return the exit code.

    `start` and `end` bound the range. `name` is the operation; None = all. `take_over` repairs
    although the service may be running. `metrics_file` is a path for the results as metrics.
    """
    metrics = Path(metrics_file) if metrics_file else None

    async def doing(settings: Settings) -> int:
        # Check this before the requests, because they cost quota.
        if metrics and (why := _unwritable(metrics)):
            raise RefusedError(f"--metrics-file: {metrics} cannot be written: {why}")
        asked = Asked(_range(start, end), end == "now", repair, take_over)
        results = [
            await _verify(settings, operation, asked) for operation in chosen(settings, name)
        ]
        complete = all(result["complete"] for result in results)
        if metrics:
            _write(metrics, results)
        if as_json:
            click.echo(orjson.dumps({"complete": complete, "operations": results}))
        else:
            for result in results:
                _print(result)
        for result in results:
            if result["problem"]:
                complain(f"{result['operation']}: {result['problem']}")
        return 0 if complete else 1

    return run(doing)


def _write(metrics: Path, results: list[dict[str, Any]]) -> None:
    """Write the results as metrics. Only print an error if the file cannot be written."""
    try:
        textfile.write(metrics, results, datetime.now(UTC))
    except OSError as error:
        complain(f"--metrics-file: {metrics} cannot be written: {error.strerror}")


def _unwritable(path: Path) -> str:
    """Why the file cannot be written; empty = it seems to be possible."""
    if path.is_dir():
        return "it is a directory"
    if not path.parent.is_dir():
        return "there is no such directory"
    return "" if os.access(path.parent, os.W_OK) else "its directory is not for us to write in"


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of the command."""

    range_: Window
    until_now: bool
    """Whether the range ends now. Then the unsettled end counts as judged, if live is on time."""
    repair: bool
    take_over: bool


def _range(start: str, end: str) -> Window:
    now = datetime.now(UTC)
    try:
        return Window(start_instant(start, now), start_instant(end, now))
    except ValueError:
        raise SettingsError(["FROM must lie before TO"]) from None


@dataclass(slots=True)
class _Reader:
    """A `context.Log` that publishes nothing. It adds the events to the comparison, as rows."""

    comparison: Comparison
    window: Window | None = None
    rejected: int = 0

    def about_to_ask(self, window: Window) -> None:
        """Note the window that the next batch belongs to."""
        self.window = window

    async def restore(self) -> Restored:
        """A state without records: nothing counts as published."""
        return Restored({}, history_lost=False)

    async def commit(self, batch: Batch) -> None:
        """Add the events of the batch to the comparison."""
        for event in batch.events:
            assert self.window is not None
            self.comparison.shown(kafka_record.value_of(event), self.window)
        self.rejected += sum(1 for _ in batch.dead_letters)


async def _verify(settings: Settings, operation: Operation, asked: Asked) -> dict[str, Any]:
    """Judge the operation and return the verdict as JSON.

    If a transaction hides what was published, the verdict is that nothing can be judged.
    """
    verdict = Verdict(operation.name, asked.range_)
    try:
        await _judge(settings, operation, asked, verdict)
    except StepError as error:
        if error.reason is not Reason.STATE_BLOCKED:
            raise
        verdict = Verdict(operation.name, asked.range_)
        verdict.undecided(str(error))
    return verdict.described()


async def _judge(settings: Settings, operation: Operation, asked: Asked, verdict: Verdict) -> None:
    """Compare the operation and fill in the verdict. To repair, take the operation over before."""
    name, revisions = operation.name, bool(settings.publisher.revisions_topic)
    state = _begun(name, await status_reader.records_of(settings, name))
    if not asked.repair:
        await _compare(settings, operation, asked, state, verdict, None)
        return
    if not asked.take_over:
        await takeover.refuse_while_running(settings, [state])
    async with takeover.owned(settings) as cluster:
        log = cluster.log(name)
        # Take over first: after that nobody else publishes what is compared below.
        restored = await log.restore()
        last = restored.newest_published
        refuse_set_back(name, checkpoint_of(name, restored.records), last)
        state = _begun(name, restored.records, revisions=revisions)
        await _compare(settings, operation, asked, state, verdict, log)


def _begun(
    operation: str, records: MutableMapping[bytes, bytes], *, revisions: bool = False
) -> State:
    """The state of an operation that has published. Raises RefusedError."""
    state = restore(operation, records, revisions=revisions)
    if state is None:
        raise RefusedError(f"{operation}: nothing was published yet, or its state is lost")
    return state


async def _compare(
    settings: Settings,
    operation: Operation,
    asked: Asked,
    state: State,
    verdict: Verdict,
    log: Log | None,
) -> None:
    """Compare the report with the topic and fill in the verdict. With a `log`, repair."""
    checkpoint, name = state.checkpoint, operation.name
    # Note the ends of the topics before the report is read. They separate what is published
    # meanwhile, and show whether a transaction hides events.
    until = await published_until(settings, name)
    if settings.messages_topic(name) not in {place.topic for place in until}:
        raise RefusedError(
            f"{name}: its messages topic {settings.messages_topic(name)} is not there: check"
            " PUBLISHER_MESSAGES_TOPIC, and that READ on it is granted"
        )
    kept = await first_kept(settings, name)
    settled, publisher = checkpoint.live.cursor - PADDING, settings.publisher
    rhythm = publisher.overlap + max(3 * publisher.poll_every, LATE)
    forgotten = not_remembered(checkpoint, publisher.horizon)
    range_ = verdict.bounds(kept, settled, forgotten, rhythm if asked.until_now else timedelta())
    if checkpoint.start > asked.range_.start:
        verdict.notes.append(f"nothing before {iso(checkpoint.start)} was ever asked for")
    if range_ is None:
        return
    start, end = range_.start, range_.end
    comparison = verdict.comparison = Comparison(start, end, settled)
    reader = _Reader(comparison)
    async with open_session() as session:
        # Without revisions, so that every row is read as its message, even if a revision exists.
        alone = settings.publisher.model_copy(update={"revisions_topic": ""})
        unrevised = replace(settings, publisher=alone)
        context = _job(unrevised, operation, session, reader, start)
        loop_state = LoopState.starting(context.settings)
        blank = await pipeline.begin(context, loop_state)
        pass_ = loop_state.passes[0]
        began = datetime.now(UTC)
        outer = Window(start - MARGINS[0], min(end + MARGINS[0], settled))
        await walk(Walker(context, loop_state, blank), pass_, outer, reader.about_to_ask)
        async for revisions in revisions_of(settings, name, until=until):
            for revision in revisions:
                comparison.revised(revision.value, later=revision.later)
        async for events in events_of(settings, name, until=until):
            for event in events:
                comparison.published(event.value, later=event.later)
        if comparison.extra:
            before = Window(start - MARGINS[1], outer.start)
            await walk(Walker(context, loop_state, blank), pass_, before, reader.about_to_ask)
            if outer.end < (latest := min(end + MARGINS[1], began)):
                after = Window(outer.end, latest)
                await walk(Walker(context, loop_state, blank), pass_, after, reader.about_to_ask)
        if log is not None:
            context = _job(settings, operation, session, log, start)
            verdict.repaired = await repair(context, state, comparison.missing_by_window())


def _job(
    settings: Settings, operation: Operation, session: Any, log: Log, start: Instant
) -> OperationContext:
    """A context for reading this operation. `start` is the start of the compared range."""
    clock = MachineClock()
    return OperationContext(
        operation=operation.name,
        zone=Zone(operation.timezone),
        settings=settings.publisher.model_copy(update={"start": iso(start - MARGINS[1])}),
        source=HttpSource(session, operation.url, operation.token, clock.now),
        log=log,
        clock=clock,
        emit=lambda _: None,
        beat=lambda _: None,
        label=operation.label,
    )


def _print(result: dict[str, Any]) -> None:
    """Print the result of an operation, for a person."""
    wrong = sum(result[kind] for kind in KINDS) - result["repaired"]
    standing = (
        "complete" if result["complete"] else "NOT COMPLETE" if wrong else "NOT JUDGED in whole"
    )
    counts = "nothing could be compared"
    if result["from"]:
        counts = (
            f"{result['from']} to {result['to']}:"
            f" {result['rows']:,} rows, {result['events']:,} events; {result['missing']:,} missing"
            f" ({result['repaired']:,} repaired), {result['doubled']:,} doubled,"
            f" {result['extra']:,} extra, {result['changed']:,} changed"
        )
    click.echo(f"{result['operation']}: {standing}, {counts}")
    for note in result["notes"]:
        click.echo(f"  {note}")
    for finding in (Finding(**values) for values in result["findings"][:LINES]):
        fields = ", ".join(finding.fields)
        click.echo(
            f"  {finding.kind:8} {finding.date}  {finding.event_id}  {finding.conn_id}  {fields}"
        )
    if len(result["findings"]) > LINES:
        click.echo(f"  and {len(result['findings']) - LINES:,} more: --json shows them all")

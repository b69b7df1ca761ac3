"""`wolkvox-publisher verify`: whether the topic holds what the report shows for a range.

The report is read by the service's own flow, so a row is compared as the event that it would
be. With --repair the same flow publishes what is missing, as the service would.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click
import orjson

from publisher import flow
from publisher.commands import owning
from publisher.commands.frame import RefusedError, chosen, run
from publisher.commands.range_walk import Walker, walk
from publisher.edges import report_reader
from publisher.edges.clock import MachineClock
from publisher.edges.kafka_events import events_of, first_kept, revisions_of
from publisher.edges.source import HttpSource, open_session
from publisher.errors import SettingsError
from publisher.job import Job, Log, Memory
from publisher.model import Batch, Instant, Restored, Window, iso
from publisher.rules import state, wire
from publisher.rules.comparison import Comparison, Finding
from publisher.rules.reopened import Reopened
from publisher.rules.schedule import REPAIRING
from publisher.rules.zone import Zone
from publisher.settings import Operation, Settings, start_instant

MARGINS: Final = (timedelta(hours=1), timedelta(days=1))
"""How much more is read on both sides: the report may filter by another time than `date`. The
second only when the topic holds what the first did not show."""
PADDING: Final = timedelta(seconds=10)
"""Requests reach a little over their windows: a window that ends with what is settled must not."""
LINES: Final = 50
"""Differences printed for a person; --json holds all of them."""


def main(
    start: str, end: str, name: str | None, *, repair: bool, take_over: bool, as_json: bool
) -> int:
    """Compare, repair if asked to, and report; returns the exit code."""

    async def doing(settings: Settings) -> int:
        range_ = _range(start, end)
        told = [
            await _verify(settings, one, range_, repair=repair, take_over=take_over)
            for one in chosen(settings, name)
        ]
        complete = all(one["complete"] for one in told)
        if as_json:
            click.echo(orjson.dumps({"complete": complete, "operations": told}))
        else:
            for one in told:
                _print(one)
        return 0 if complete else 1

    return run(doing)


def _range(start: str, end: str) -> Window:
    now = datetime.now(UTC)
    try:
        return Window(start_instant(start, now), start_instant(end, now))
    except ValueError:
        raise SettingsError(["FROM must lie before TO"]) from None


@dataclass(slots=True)
class _Reader:
    """Fits `job.Log`: what the flow would publish is what the report shows."""

    comparison: Comparison
    window: Window | None = None
    rejected: int = 0

    def about_to_ask(self, window: Window) -> None:
        self.window = window

    async def restore(self) -> Restored:
        return Restored({}, history_lost=False)

    async def commit(self, batch: Batch) -> None:
        """Remember the digests."""
        for event in batch.events:
            assert self.window is not None
            self.comparison.shown(wire.value_of(event), self.window)
        self.rejected += sum(1 for _ in batch.dead_letters)


@dataclass(slots=True)
class _Told:
    """What is said of one operation."""

    notes: list[str] = field(default_factory=list)
    repaired: int = 0


async def _verify(
    settings: Settings, operation: Operation, range_: Window, *, repair: bool, take_over: bool
) -> dict[str, Any]:
    told, name = _Told(), operation.name
    revisions = bool(settings.publisher.revisions_topic)
    known = _begun(name, await report_reader.records_of(settings, name))
    if not repair:
        return await _compare(settings, operation, range_, known, told, None)
    if not take_over:
        await owning.refuse_while_running(settings, [known])
    async with owning.owned(settings) as cluster:
        log = cluster.log(name)
        # First of all: from here on nobody else publishes what is compared below.
        known = _begun(name, (await log.restore()).records, revisions=revisions)
        return await _compare(settings, operation, range_, known, told, log)


def _begun(
    operation: str, records: MutableMapping[bytes, bytes], *, revisions: bool = False
) -> state.State:
    known = state.restore(operation, records, revisions=revisions)
    if known is None:
        raise RefusedError(f"{operation}: nothing was published yet, or its state is lost")
    return known


async def _compare(
    settings: Settings,
    operation: Operation,
    range_: Window,
    known: state.State,
    told: _Told,
    log: Log | None,
) -> dict[str, Any]:
    settled = known.checkpoint.live.cursor - PADDING
    kept = await first_kept(settings, operation.name, known.checkpoint.formerly)
    start, end = max(range_.start, kept or range_.start), min(range_.end, settled)
    if start > range_.start:
        told.notes.append(f"not judged before {iso(start)}: the topic has deleted older events")
    if end < range_.end:
        told.notes.append(f"not judged after {iso(end)}: live has not settled it yet")
    if known.checkpoint.start > range_.start:
        told.notes.append(f"nothing before {iso(known.checkpoint.start)} was ever asked for")
    if end <= start:
        return _result(operation.name, None, told)
    comparison = Comparison(start, end, settled)
    reader = _Reader(comparison)
    async with open_session() as session:
        # Read and compared as messages, whatever may have been told of changes.
        alone = settings.publisher.model_copy(update={"revisions_topic": ""})
        unrevised = replace(settings, publisher=alone)
        job = _job(unrevised, operation, session, reader, start)
        memory = Memory.starting(job.settings)
        blank = await flow.begin(job, memory)
        blank.checkpoint = replace(blank.checkpoint, formerly=known.checkpoint.formerly)
        pass_ = memory.passes[0]
        began = datetime.now(UTC)
        outer = Window(start - MARGINS[0], min(end + MARGINS[0], settled))
        await walk(Walker(job, memory, blank), pass_, outer, reader.about_to_ask)
        async for revisions in revisions_of(settings, known.checkpoint.names):
            for revision in revisions:
                comparison.revised(revision.value, later=revision.read_at >= began)
        async for events in events_of(settings, known.checkpoint.names):
            for event in events:
                comparison.published(event.value, later=event.read_at >= began)
        if comparison.extra:
            before = Window(start - MARGINS[1], outer.start)
            await walk(Walker(job, memory, blank), pass_, before, reader.about_to_ask)
            if outer.end < (until := min(end + MARGINS[1], began)):
                after = Window(outer.end, until)
                await walk(Walker(job, memory, blank), pass_, after, reader.about_to_ask)
        result = _result(operation.name, comparison, told)
        if log is not None and comparison.missing_ids:
            reopened = Reopened(known.ledger, comparison.missing_ids)
            known.ledger = reopened
            job = _job(settings, operation, session, log, start)
            memory = Memory.starting(job.settings)
            for window in comparison.missing_windows:
                # Answered at this width above; repairs do not widen by themselves.
                memory.pace.width = window.width
                await walk(Walker(job, memory, known), REPAIRING, window)
            result["repaired"] = len(comparison.missing_ids) - len(reopened.missing)
            result["complete"] = not (reopened.missing or comparison.extra or comparison.changed)
    return result


def _job(settings: Settings, operation: Operation, session: Any, log: Log, start: Instant) -> Job:
    clock = MachineClock()
    return Job(
        operation=operation.name,
        zone=Zone(operation.timezone),
        settings=settings.publisher.model_copy(update={"start": iso(start - MARGINS[1])}),
        source=HttpSource(session, operation.url, operation.token, clock.now),
        log=log,
        clock=clock,
        emit=lambda _: None,
        beat=lambda _: None,
    )


def _result(name: str, comparison: Comparison | None, told: _Told) -> dict[str, Any]:
    findings = comparison.findings if comparison else []
    return {
        "operation": name,
        "complete": comparison is not None and not findings,
        "from": iso(comparison.start) if comparison else None,
        "to": iso(comparison.end) if comparison else None,
        "rows": comparison.rows if comparison else 0,
        "events": comparison.events if comparison else 0,
        "missing": len(comparison.missing) if comparison else 0,
        "extra": len(comparison.extra) if comparison else 0,
        "changed": len(comparison.changed) if comparison else 0,
        "repaired": 0,
        "notes": told.notes,
        "findings": [finding._asdict() for finding in findings],
    }


def _print(one: dict[str, Any]) -> None:
    standing = "complete" if one["complete"] else "NOT COMPLETE"
    click.echo(
        f"{one['operation']}: {standing}, {one['from']} to {one['to']}:"
        f" {one['rows']:,} rows, {one['events']:,} events; {one['missing']:,} missing"
        f" ({one['repaired']:,} repaired), {one['extra']:,} extra, {one['changed']:,} changed"
    )
    for note in one["notes"]:
        click.echo(f"  {note}")
    for told in one["findings"][:LINES]:
        finding = Finding(**told)
        fields = ", ".join(finding.fields)
        click.echo(
            f"  {finding.kind:8} {finding.date}  {finding.event_id}  {finding.conn_id}  {fields}"
        )
    if len(one["findings"]) > LINES:
        click.echo(f"  and {len(one['findings']) - LINES:,} more: --json shows them all")

"""THE MAIN FLOW: read a window of the report, publish what is new in it, go on.

`run` is the life of one operation. Nothing here touches the network, the clock
or Kafka by itself: the three doors are the Protocols in `job.py`, and every
decision is made by a pure function in `rules/`.
"""

import traceback
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from publisher.asking import ask, ask_quota
from publisher.committing import commit
from publisher.errors import (
    Held,
    OutcomeUnknown,
    PublisherError,
    Reason,
    Stage,
    StepError,
    Stop,
    TooLarge,
    Transient,
)
from publisher.job import Job, Memory
from publisher.model import Batch, Instant, iso
from publisher.ordering import LOOK_EVERY, obey
from publisher.parking import park, probe
from publisher.rezoning import settle_zone
from publisher.rules import schedule, state, upstream
from publisher.rules.backfill import meanwhile
from publisher.rules.parking import Next, own
from publisher.rules.publication import Limits, prepare
from publisher.rules.records import LIVE
from publisher.rules.retry import pause
from publisher.rules.schedule import NARROWEST, REREAD, Read, Wait
from publisher.rules.silence import rows_again
from publisher.rules.state import State
from publisher.rules.upstream import Verdict
from publisher.settings import start_instant
from publisher.signals import (
    DatesOff,
    HintGiven,
    RepairFailed,
    StateRestored,
    StepFailed,
    WindowNarrowed,
    WindowPublished,
)

STEP_LIMIT: Final = 420.0
"""Seconds a step may take at most, the sum of its bounded waits; longer = the loop hangs."""


async def run(job: Job) -> None:
    """Publish window after window until a stop is requested. No fault ends it."""
    memory = Memory.starting(job.settings)
    while not job.clock.stopping:
        job.beat(STEP_LIMIT)
        try:
            memory.state = memory.state or await begin(job, memory)
            memory.state = await begin_earlier(job, memory, memory.state)
            await obey(job, memory, memory.state)
            now = memory.server.now(job.clock.now())
            known = memory.state.checkpoint
            frugal = memory.quota.holds_back(now)
            due = schedule.next_step(
                memory.passes, known.passes, memory.pace, now,
                memory.state.read_until, known.gaps, frugal=frugal,
            )  # fmt: skip
            history = () if frugal or memory.quota.due(now) else known.backfills
            match meanwhile(due, history, memory.stride, now, known.gaps):
                case Wait() if memory.quota.due(now):
                    await ask_quota(job, memory)
                case Wait(until):
                    wait = min(until - now, job.settings.poll_every).total_seconds()
                    await _sleep(job, wait if job.orders is None else min(wait, LOOK_EVERY))
                case Read() as step:
                    step = schedule.short_of_jump(step, job.zone)
                    match memory.suspect.next(step):
                        case Next.ASK:
                            await publish(job, memory, memory.state, step)
                        case Next.PROBE:
                            await probe(job, memory, memory.state, step)
                        case Next.PARK:
                            await park(job, memory, memory.state)
        except PublisherError as error:
            await _recover(job, memory, error)
        except Exception as error:  # a mistake of ours must not end the service either
            await _recover(job, memory, _unexpected(error))


async def publish(job: Job, memory: Memory, known: State, step: Read) -> None:
    """Read one window and commit what is new in it, or nothing.

    1. Ask for the window; judge the answer.
    2. Identify its rows; keep those that the ledger does not know.
    3. Commit events, dead letters, journal and checkpoint in one transaction.
    4. Only then remember: ledger, cursors, pace.

    A failure before 3 leaves no trace, so the caller may simply try again; after
    a failure in 3 only a restore tells what happened.
    """
    memory.step = step
    answer, judgement = await ask(job, memory, step)
    if state.earlier_start(known.checkpoint, memory.server.skew):
        return  # `run` moves the start first
    sent = memory.server.now(answer.sent_at)
    # Before its answer was dated, whatever our clock has done in between.
    now = min(sent, upstream.server_time(answer) or sent)
    # Neither what the server has not lived through nor what is younger than the pass wants it.
    covered_until = min(step.window.end, now - step.pass_.delay)
    publication = prepare(
        known, step, answer, judgement, job.zone, Limits.of(job.settings),
        now=now, covered_until=covered_until, possibly_cut=judgement.verdict is Verdict.TOO_LARGE,
    )  # fmt: skip
    took = await commit(job, publication.batch)
    known.apply(publication.successor, job.settings.horizon)
    if covered_until < step.window.end:
        step = replace(step, ends_round=True)  # the rest is read from the cursor, when it is due
    memory.published(step, sent, publication.rows, answer.took + took)
    committed_at, live = memory.server.now(job.clock.now()), known.checkpoint.live
    if step.pass_.label in (LIVE, REREAD):
        off = memory.punctuality.notice(publication.occurred, committed_at, live.covered_until)
        if off is not None:
            job.emit(DatesOff(job.operation, off.total_seconds()))
    job.emit(
        WindowPublished(
            operation=job.operation,
            pass_label=step.pass_.label,
            window=step.window,
            rows=publication.rows,
            new=publication.new,
            duplicate=publication.duplicate,
            revised=publication.revised,
            rejected=publication.rejected,
            possibly_cut=judgement.verdict is Verdict.TOO_LARGE,
            lenient=judgement.lenient,
            committed_at=committed_at,
            occurred=publication.occurred,
            cursor=live.cursor,
            covered_until=live.covered_until,
            passes=known.checkpoint.passes,
            gaps=known.checkpoint.gaps,
            ledger_ids=len(known.ledger),
            next_width=memory.pace.width,
            request_seconds=answer.took,
            commit_seconds=took,
            backfills=known.checkpoint.backfills,
        )
    )
    if publication.silent_since:
        job.emit(rows_again(job.operation, publication.silent_since))


async def begin(job: Job, memory: Memory) -> State:
    """Take over and restore the operation; at its very first start, make the start durable.

    The first checkpoint is committed before the first request, so that a start
    of "now" still means the same instant after a crash or a wrong token.
    """
    began = job.clock.elapsed()
    restored = await job.log.restore()
    revisions = bool(job.settings.revisions_topic)
    known = state.restore(job.operation, restored.records, revisions=revisions)
    first_start = known is None
    if known is None:
        if restored.history_lost:
            raise _history_lost(job)
        if restored.goes_on_as:
            raise state.goes_on_as(job.operation, restored.goes_on_as)
        start = start_instant(job.settings.start, memory.server.now(job.clock.now()))
        known = await _begin_at(job, start, [pass_.name for pass_ in memory.passes])
    await settle_zone(job, known)
    checkpoint = known.checkpoint
    if checkpoint.start_setting != job.settings.start:
        job.emit(
            HintGiven(
                f"PUBLISHER_START is ignored: operation {job.operation} has begun at"
                f" {iso(checkpoint.start)} already",
                job.operation,
            )
        )
    passes = schedule.with_passes(checkpoint.passes, memory.passes, checkpoint.start)
    known.checkpoint = replace(checkpoint, passes=passes)
    memory.pace.begin(known.checkpoint.live.cursor)
    job.emit(
        StateRestored(
            operation=job.operation,
            first_start=first_start,
            cursor=known.checkpoint.live.cursor,
            covered_until=known.checkpoint.live.covered_until,
            passes=known.checkpoint.passes,
            gaps=known.checkpoint.gaps,
            journal_entries=len(known.journal),
            ledger_ids=len(known.ledger),
            took_seconds=job.clock.elapsed() - began,
            backfills=known.checkpoint.backfills,
        )
    )
    return known


async def begin_earlier(job: Job, memory: Memory, known: State) -> State:
    """The same state, unless its start was told by a clock that ran ahead of the server's."""
    start = state.earlier_start(known.checkpoint, memory.server.skew)
    if start is None:
        return known
    memory.pace.begin(start)
    return await _begin_at(job, start, known.checkpoint.passes, known.checkpoint.sequence)


async def _begin_at(
    job: Job, start: Instant, passes: Iterable[str], follows: int | None = None
) -> State:
    """Make it durable that the operation begins there."""
    sequence = 0 if follows is None else follows + 1
    known, record = state.first(
        job.operation, job.zone.name, start, job.settings.start, passes, sequence
    )
    await commit(job, Batch(job.operation, follows, sequence, [record]))
    return known


async def _recover(job: Job, memory: Memory, error: PublisherError) -> None:
    """Tell what failed and wait as long as that calls for."""
    step, memory.step = memory.step, None
    overloaded = isinstance(error, OutcomeUnknown) and error.overloaded
    aside = None if step is None else memory.aside(step)
    if step is not None and aside is not None:
        now = memory.server.now(job.clock.now())
        aside.failed(step.window, now, halve=overloaded or own(error))
        if isinstance(error, StepError) and error.stage in (Stage.READ, Stage.PARSE):
            job.emit(
                RepairFailed(
                    job.operation,
                    step.window,
                    error.stage,
                    error.reason,
                    str(error),
                    step.pass_.label,
                )
            )
            await _sleep(job, error.retry_after or 0.0)
            return
    elif step is not None:
        if overloaded or isinstance(error, TooLarge):
            memory.pace.narrow(step.window)
            job.emit(WindowNarrowed(job.operation, error.reason, step.window, memory.pace.width))
            if isinstance(error, TooLarge) and step.window.width > NARROWEST:
                return
        memory.suspect.failed(step, error)
    memory.attempt += 1
    if isinstance(error, Stop) or error.stage is Stage.LOOP:
        memory.state = None
    # A guilty window is parked now, unless the server may still be busy with it.
    attempt = 1 if memory.suspect.guilty else memory.attempt
    seconds = pause(error, attempt, job.settings.poll_every, job.jitter())
    job.emit(
        StepFailed(
            operation=job.operation,
            stage=error.stage,
            reason=error.reason,
            text=str(error),
            needs_person=error.needs_person,
            retry_in_seconds=seconds,
            attempt=memory.attempt,
        )
    )
    await _sleep(job, seconds)


async def _sleep(job: Job, seconds: float) -> None:
    job.beat(seconds + STEP_LIMIT)
    await job.clock.sleep(seconds)


def _history_lost(job: Job) -> Held:
    return Held(
        Stage.RESTORE,
        Reason.STATE_LOST,
        f"the state topic {job.settings.state_topic} is empty, but the messages topic holds"
        " events: what was published is no longer known, and going on would publish it twice;"
        " restore the state topic from a backup, rebuild it (wolkvox-publisher state rebuild), or"
        " set PUBLISHER_MESSAGES_TOPIC to a new topic",
    )


def _unexpected(error: Exception) -> Transient:
    """A mistake of ours, told by type and place only: its text may hold anything."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
    return Transient(
        Stage.LOOP,
        Reason.UNEXPECTED,
        f"unexpected {type(error).__name__} at {place}: please report it",
    )

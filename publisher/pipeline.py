"""THE MAIN FLOW: read a window of the report, publish what is new in it, go on.

`run` is the life of one operation. Nothing here touches the network, the clock
or Kafka by itself: the three doors are the Protocols in `context.py`, and every
decision is made by a pure function in `schedule/`, `events/` or `state/`.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from publisher.backfill_requests import LOOK_EVERY, end_look, obey
from publisher.commit import commit
from publisher.context import Job, Memory
from publisher.errors import (
    OutcomeUnknown,
    PublisherError,
    Stage,
    StepError,
    Stop,
    TooLarge,
    unexpected,
)
from publisher.events.publication import Limits, prepare
from publisher.fetch import ask_quota, share_wait
from publisher.model import Batch, Instant, Rhythm, iso
from publisher.quarantine import ask_or_keep, park, probe
from publisher.schedule.failing_window import Next, own
from publisher.schedule.passes import NARROWEST, REREAD, Read, Wait, askable
from publisher.schedule.retry import pause
from publisher.schedule.second_reading import resumed
from publisher.schedule.silence import rows_again
from publisher.settings import start_instant
from publisher.settle_timezone import settle_zone
from publisher.signals import (
    DatesOff,
    EventsGone,
    HintGiven,
    RepairFailed,
    StateRestored,
    StepFailed,
    WindowNarrowed,
    WindowPublished,
)
from publisher.state import state
from publisher.state.checkpoint import LIVE
from publisher.state.restored import events_gone, state_to_go_on_from
from publisher.state.state import State
from publisher.wolkvox import responses
from publisher.wolkvox.responses import Verdict

STEP_LIMIT: Final = 420.0
"""Seconds a step may take at most, the sum of its bounded waits; longer = the loop hangs."""


async def run(job: Job) -> None:
    """Publish window after window until a stop is requested. No fault ends it."""
    memory = Memory.starting(job.settings)
    try:
        await _walk(job, memory)
    finally:
        await end_look(memory)


async def _walk(job: Job, memory: Memory) -> None:
    while not job.clock.stopping:
        job.beat(STEP_LIMIT)
        try:
            memory.state = memory.state or await begin(job, memory)
            memory.state = await begin_earlier(job, memory, memory.state)
            await obey(job, memory, memory.state)
            now = memory.server.now(job.clock.now())
            spare = share_wait(job, memory)
            frugal = memory.undated or spare > 0 or memory.quota.holds_back(now)
            due = memory.next_step(
                memory.state, now, frugal=frugal, live_first=spare > 0,
                history=not (frugal or memory.quota.due(now)),
            )  # fmt: skip
            match due:
                case Read() if spare and not memory.quota.was_asked:
                    await ask_quota(job, memory, 0)  # perhaps the day's quota is a larger one
                case Read() as step if delay := share_wait(job, memory, step):
                    await _sleep(job, min(delay, LOOK_EVERY), memory.look)
                case Wait(until) if memory.quota.due(now) and not spare:
                    await ask_quota(job, memory, (until - now).total_seconds())
                case Wait(until):
                    wait = min(until - now, job.settings.poll_every).total_seconds()
                    looks = spare or job.orders is not None
                    await _sleep(job, min(wait, LOOK_EVERY) if looks else wait, memory.look)
                case Read() as step:
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
            await _recover(job, memory, unexpected(error))


async def publish(job: Job, memory: Memory, known: State, step: Read) -> Read | None:
    """Read one window and commit what is new in it, or nothing; returns the step that was done.

    1. Ask for the window, or as much of it as one request may; judge the answer.
    2. Identify its rows; keep those that the ledger does not know.
    3. Commit events, dead letters, journal and checkpoint in one transaction.
    4. Only then remember: ledger, cursors, pace.

    A failure before 3 leaves no trace, so the caller may simply try again; after
    a failure in 3 only a restore tells what happened.
    """
    memory.step = step = askable(step, job.zone, memory.longest)
    asked_at = memory.server.now(job.clock.now())
    answer, judgement = await ask_or_keep(job, memory, known, step, asked_at)
    if state.earlier_start(known.checkpoint, memory.server.start_skew, memory.newest_published):
        return None  # `begin_earlier` moves the start first
    sent = memory.server.now(answer.sent_at)
    # Before its answer was dated, whatever our clock has done in between.
    covered = known.checkpoint.live.covered_until
    now = min(sent, responses.server_time(answer) or memory.server.lived_until(sent, covered))
    # Neither what was not asked for or lived through nor what is younger than the pass wants it.
    covered_until = min(step.window.end, asked_at, now - step.pass_.delay)
    publication = prepare(
        known, step, answer, judgement, job.zone, Limits.of(job.settings),
        now=now, covered_until=covered_until, possibly_cut=judgement.verdict is Verdict.TOO_LARGE,
    )  # fmt: skip
    took = await commit(job, publication.batch)
    memory.server.saw(publication.occurred)
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
            passes=memory.pace.seen(known.checkpoint.passes),
            gaps=known.checkpoint.gaps,
            ledger_ids=len(known.ledger),
            next_width=memory.pace.width,
            request_seconds=answer.took,
            commit_seconds=took,
            backfills=known.checkpoint.backfills,
            unconfirmed=known.checkpoint.unconfirmed,
        )
    )
    if publication.silent_since:
        job.emit(rows_again(job.operation, publication.silent_since))
    return step


async def begin(job: Job, memory: Memory) -> State:
    """Take over and restore the operation; at its very first start, make the start durable.

    The first checkpoint is committed before the first request, so that a start
    of "now" still means the same instant after a crash or a wrong token.
    """
    began = job.clock.elapsed()
    restored = await job.log.restore()
    revisions = bool(job.settings.revisions_topic)
    state_topic = job.settings.state_topic
    known = state_to_go_on_from(job.operation, restored, state_topic, revisions=revisions)
    memory.newest_published = restored.newest_published
    first_start = known is None
    if known is None:
        start = start_instant(job.settings.start, memory.server.now(job.clock.now()))
        names = [pass_.name for pass_ in memory.passes]
        known = await _begin_at(job, start, names, None, restored.newest_published + 1)
    elif events_gone(known, restored):
        topic = job.settings.messages_topic.replace("{operation}", job.operation)
        if not memory.events_gone_reported:
            job.emit(EventsGone(topic, job.operation))
        memory.events_gone_reported = True
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
    known.checkpoint = resumed(checkpoint, known.journal, job.settings)
    memory.pace.begin(known.checkpoint.live.cursor)
    memory.quota.restored(reversed(known.journal), job.clock.now(), job.clock.elapsed())
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
            unconfirmed=known.checkpoint.unconfirmed,
            rhythms={each.name: Rhythm(each.delay, each.cadence) for each in memory.passes},
        )
    )
    return known


async def begin_earlier(job: Job, memory: Memory, known: State) -> State:
    """The same state, unless its start was told by a clock that ran ahead of the server's."""
    skew = memory.server.start_skew
    start = state.earlier_start(known.checkpoint, skew, memory.newest_published)
    if start is None:
        return known
    memory.pace.begin(start)
    follows = known.checkpoint.sequence
    return await _begin_at(job, start, known.checkpoint.passes, follows, follows + 1)


async def _begin_at(
    job: Job, start: Instant, passes: Iterable[str], follows: int | None, sequence: int
) -> State:
    """Make it durable that the operation begins there."""
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
            failure = RepairFailed(
                job.operation, step.window, error.stage, error.reason, str(error), step.pass_.label
            )
            job.emit(failure)
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


async def _sleep(job: Job, seconds: float, look: asyncio.Future[Any] | None = None) -> None:
    """Wait, or until the look at the orders is done."""
    job.beat(seconds + STEP_LIMIT)
    await (job.clock.sleep(seconds) if look is None else job.wait(look, seconds))

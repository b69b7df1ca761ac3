"""THE MAIN FLOW: read a window of the report, publish what is new in it, go on.

`run` is the life of one operation. Nothing here touches the network, the clock
or Kafka by itself: the three doors are the Protocols in `context.py`, and every
decision is made by a pure function in `schedule/`, `events/` or `state/`.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from publisher.backfill_requests import LOOK_EVERY, apply_backfill_requests, end_look
from publisher.commit import commit
from publisher.context import LoopState, OperationContext
from publisher.errors import (
    OutcomeUnknown,
    PublisherError,
    Stage,
    StateUncertain,
    StepError,
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


async def run(context: OperationContext) -> None:
    """Publish window after window until a stop is requested. No fault ends it."""
    loop_state = LoopState.starting(context.settings)
    try:
        await _walk(context, loop_state)
    finally:
        await end_look(loop_state)


async def _walk(context: OperationContext, loop_state: LoopState) -> None:
    while not context.clock.stopping:
        context.beat(STEP_LIMIT)
        try:
            loop_state.state = loop_state.state or await begin(context, loop_state)
            loop_state.state = await begin_earlier(context, loop_state, loop_state.state)
            await apply_backfill_requests(context, loop_state, loop_state.state)
            now = loop_state.server.now(context.clock.now())
            spare = share_wait(context, loop_state)
            quota_low = loop_state.undated or spare > 0 or loop_state.quota.holds_back(now)
            due = loop_state.next_step(
                loop_state.state, now, quota_low=quota_low, live_first=spare > 0,
                history=not (quota_low or loop_state.quota.due(now)),
            )  # fmt: skip
            match due:
                case Read() if spare and not loop_state.quota.was_asked:
                    await ask_quota(
                        context, loop_state, 0
                    )  # perhaps the day's quota is a larger one
                case Read() as step if delay := share_wait(context, loop_state, step):
                    await _sleep(context, min(delay, LOOK_EVERY), loop_state.look)
                case Wait(until) if loop_state.quota.due(now) and not spare:
                    await ask_quota(context, loop_state, (until - now).total_seconds())
                case Wait(until):
                    wait = min(until - now, context.settings.poll_every).total_seconds()
                    looks = spare or context.backfill_requests is not None
                    await _sleep(context, min(wait, LOOK_EVERY) if looks else wait, loop_state.look)
                case Read() as step:
                    match loop_state.failing_window.next(step):
                        case Next.ASK:
                            await publish(context, loop_state, loop_state.state, step)
                        case Next.PROBE:
                            await probe(context, loop_state, loop_state.state, step)
                        case Next.PARK:
                            await park(context, loop_state, loop_state.state)
        except PublisherError as error:
            await _recover(context, loop_state, error)
        except Exception as error:  # a mistake of ours must not end the service either
            await _recover(context, loop_state, unexpected(error))


async def publish(
    context: OperationContext, loop_state: LoopState, known: State, step: Read
) -> Read | None:
    """Read one window and commit what is new in it, or nothing; returns the step that was done.

    1. Ask for the window, or as much of it as one request may; judge the answer.
    2. Identify its rows; keep those that the ledger does not know.
    3. Commit events, dead letters, journal and checkpoint in one transaction.
    4. Only then remember: ledger, cursors, pace.

    A failure before 3 leaves no trace, so the caller may simply try again; after
    a failure in 3 only a restore tells what happened.
    """
    loop_state.step = step = askable(step, context.zone, loop_state.longest)
    asked_at = loop_state.server.now(context.clock.now())
    answer, classification = await ask_or_keep(context, loop_state, known, step, asked_at)
    if state.earlier_start(
        known.checkpoint, loop_state.server.start_skew, loop_state.newest_published
    ):
        return None  # `begin_earlier` moves the start first
    sent = loop_state.server.now(answer.sent_at)
    # Before its answer was dated, whatever our clock has done in between.
    covered = known.checkpoint.live.covered_until
    now = min(sent, responses.server_time(answer) or loop_state.server.lived_until(sent, covered))
    # Neither what was not asked for or lived through nor what is younger than the pass wants it.
    covered_until = min(step.window.end, asked_at, now - step.pass_.delay)
    publication = prepare(
        known, step, answer, classification, context.zone, Limits.of(context.settings),
        now=now, covered_until=covered_until,
        possibly_cut=classification.verdict is Verdict.TOO_LARGE,
    )  # fmt: skip
    took = await commit(context, publication.batch)
    loop_state.server.saw(publication.occurred)
    known.apply(publication.successor, context.settings.horizon)
    if covered_until < step.window.end:
        step = replace(step, ends_round=True)  # the rest is read from the cursor, when it is due
    loop_state.published(step, sent, publication.rows, answer.took + took)
    committed_at, live = loop_state.server.now(context.clock.now()), known.checkpoint.live
    if step.pass_.label in (LIVE, REREAD):
        off = loop_state.punctuality.notice(publication.occurred, committed_at, live.covered_until)
        if off is not None:
            context.emit(DatesOff(context.operation, off.total_seconds()))
    context.emit(
        WindowPublished(
            operation=context.operation,
            pass_label=step.pass_.label,
            window=step.window,
            rows=publication.rows,
            new=publication.new,
            duplicate=publication.duplicate,
            revised=publication.revised,
            rejected=publication.rejected,
            possibly_cut=classification.verdict is Verdict.TOO_LARGE,
            lenient=classification.lenient,
            committed_at=committed_at,
            occurred=publication.occurred,
            cursor=live.cursor,
            covered_until=live.covered_until,
            passes=loop_state.pace.seen(known.checkpoint.passes),
            gaps=known.checkpoint.gaps,
            ledger_ids=len(known.ledger),
            next_width=loop_state.pace.width,
            request_seconds=answer.took,
            commit_seconds=took,
            backfills=known.checkpoint.backfills,
            unconfirmed=known.checkpoint.unconfirmed,
        )
    )
    if publication.silent_since:
        context.emit(rows_again(context.operation, publication.silent_since))
    return step


async def begin(context: OperationContext, loop_state: LoopState) -> State:
    """Take over and restore the operation; at its very first start, make the start durable.

    The first checkpoint is committed before the first request, so that a start
    of "now" still means the same instant after a crash or a wrong token.
    """
    began = context.clock.elapsed()
    restored = await context.log.restore()
    revisions = bool(context.settings.revisions_topic)
    state_topic = context.settings.state_topic
    known = state_to_go_on_from(context.operation, restored, state_topic, revisions=revisions)
    loop_state.newest_published = restored.newest_published
    first_start = known is None
    if known is None:
        start = start_instant(context.settings.start, loop_state.server.now(context.clock.now()))
        names = [pass_.name for pass_ in loop_state.passes]
        known = await _begin_at(context, start, names, None, restored.newest_published + 1)
    elif events_gone(known, restored):
        topic = context.settings.messages_topic.replace("{operation}", context.operation)
        if not loop_state.events_gone_reported:
            context.emit(EventsGone(topic, context.operation))
        loop_state.events_gone_reported = True
    await settle_zone(context, known)
    checkpoint = known.checkpoint
    if checkpoint.start_setting != context.settings.start:
        context.emit(
            HintGiven(
                f"PUBLISHER_START is ignored: operation {context.operation} has begun at"
                f" {iso(checkpoint.start)} already",
                context.operation,
            )
        )
    known.checkpoint = resumed(checkpoint, known.journal, context.settings)
    loop_state.pace.begin(known.checkpoint.live.cursor)
    loop_state.quota.restored(reversed(known.journal), context.clock.now(), context.clock.elapsed())
    context.emit(
        StateRestored(
            operation=context.operation,
            first_start=first_start,
            cursor=known.checkpoint.live.cursor,
            covered_until=known.checkpoint.live.covered_until,
            passes=known.checkpoint.passes,
            gaps=known.checkpoint.gaps,
            journal_entries=len(known.journal),
            ledger_ids=len(known.ledger),
            took_seconds=context.clock.elapsed() - began,
            backfills=known.checkpoint.backfills,
            unconfirmed=known.checkpoint.unconfirmed,
            rhythms={each.name: Rhythm(each.delay, each.cadence) for each in loop_state.passes},
        )
    )
    return known


async def begin_earlier(context: OperationContext, loop_state: LoopState, known: State) -> State:
    """The same state, unless its start was told by a clock that ran ahead of the server's."""
    skew = loop_state.server.start_skew
    start = state.earlier_start(known.checkpoint, skew, loop_state.newest_published)
    if start is None:
        return known
    loop_state.pace.begin(start)
    follows = known.checkpoint.sequence
    return await _begin_at(context, start, known.checkpoint.passes, follows, follows + 1)


async def _begin_at(
    context: OperationContext,
    start: Instant,
    passes: Iterable[str],
    follows: int | None,
    sequence: int,
) -> State:
    """Make it durable that the operation begins there."""
    known, record = state.first(
        context.operation, context.zone.name, start, context.settings.start, passes, sequence
    )
    await commit(context, Batch(context.operation, follows, sequence, [record]))
    return known


async def _recover(context: OperationContext, loop_state: LoopState, error: PublisherError) -> None:
    """Tell what failed and wait as long as that calls for."""
    step, loop_state.step = loop_state.step, None
    overloaded = isinstance(error, OutcomeUnknown) and error.overloaded
    aside = None if step is None else loop_state.aside(step)
    if step is not None and aside is not None:
        now = loop_state.server.now(context.clock.now())
        aside.failed(step.window, now, halve=overloaded or own(error))
        if isinstance(error, StepError) and error.stage in (Stage.READ, Stage.PARSE):
            failure = RepairFailed(
                context.operation,
                step.window,
                error.stage,
                error.reason,
                str(error),
                step.pass_.label,
            )
            context.emit(failure)
            await _sleep(context, error.retry_after or 0.0)
            return
    elif step is not None:
        if overloaded or isinstance(error, TooLarge):
            loop_state.pace.narrow(step.window)
            context.emit(
                WindowNarrowed(context.operation, error.reason, step.window, loop_state.pace.width)
            )
            if isinstance(error, TooLarge) and step.window.width > NARROWEST:
                return
        loop_state.failing_window.failed(step, error)
    loop_state.attempt += 1
    if isinstance(error, StateUncertain) or error.stage is Stage.LOOP:
        loop_state.state = None
    # A guilty window is parked now, unless the server may still be busy with it.
    attempt = 1 if loop_state.failing_window.proven else loop_state.attempt
    seconds = pause(error, attempt, context.settings.poll_every, context.jitter())
    context.emit(
        StepFailed(
            operation=context.operation,
            stage=error.stage,
            reason=error.reason,
            text=str(error),
            needs_person=error.needs_person,
            retry_in_seconds=seconds,
            attempt=loop_state.attempt,
        )
    )
    await _sleep(context, seconds)


async def _sleep(
    context: OperationContext, seconds: float, look: asyncio.Future[Any] | None = None
) -> None:
    """Wait, or until the look at the orders is done."""
    context.beat(seconds + STEP_LIMIT)
    await (context.clock.sleep(seconds) if look is None else context.wait(look, seconds))

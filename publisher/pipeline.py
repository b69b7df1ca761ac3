"""The main flow: read a window of the report, publish what is new in it, go on.

`run` is the whole life of an operation. It reaches the report, Kafka and the clock only through
the ports in `context.py`. Pure functions in `schedule/`, `events/` and `state/` decide what to
ask, what to publish and how long to wait.
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
from publisher.state.checkpoint import LIVE
from publisher.state.restored import events_gone, state_to_go_on_from
from publisher.state.state import State, earlier_start, first
from publisher.wolkvox import responses
from publisher.wolkvox.responses import Verdict

STEP_LIMIT: Final = 420.0
"""The longest that a step may take, the sum of its bounded waits. A longer step means a hang."""


async def run(context: OperationContext) -> None:
    """Publish window after window until a stop is requested. No error ends it."""
    loop_state = LoopState.starting(context.settings)
    try:
        await _walk(context, loop_state)
    finally:
        await end_look(loop_state)


async def _walk(context: OperationContext, loop_state: LoopState) -> None:
    """Do the most urgent step again and again: read a window, ask for the quota, or wait."""
    while not context.clock.stopping:
        context.beat(STEP_LIMIT)
        try:
            loop_state.state = loop_state.state or await begin(context, loop_state)
            loop_state.state = await begin_earlier(context, loop_state, loop_state.state)
            await apply_backfill_requests(context, loop_state, loop_state.state)
            now = loop_state.server.now(context.clock.now())
            share_seconds = share_wait(context, loop_state)
            quota_low = loop_state.undated or share_seconds > 0 or loop_state.quota.holds_back(now)
            next_step = loop_state.next_step(
                loop_state.state, now, quota_low=quota_low, live_first=share_seconds > 0,
                history=not (quota_low or loop_state.quota.due(now)),
            )  # fmt: skip
            match next_step:
                case Read() if share_seconds and not loop_state.quota.was_asked:
                    # The day's quota may be larger than we assume.
                    await ask_quota(context, loop_state, 0)
                case Read() as step if step_seconds := share_wait(context, loop_state, step):
                    await _sleep(context, min(step_seconds, LOOK_EVERY), loop_state.look)
                case Wait(until) if loop_state.quota.due(now) and not share_seconds:
                    await ask_quota(context, loop_state, (until - now).total_seconds())
                case Wait(until):
                    seconds = min(until - now, context.settings.poll_every).total_seconds()
                    looks_often = share_seconds or context.backfill_requests is not None
                    seconds = min(seconds, LOOK_EVERY) if looks_often else seconds
                    await _sleep(context, seconds, loop_state.look)
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
        except Exception as error:  # even a bug must not end the service
            await _recover(context, loop_state, unexpected(error))


async def publish(
    context: OperationContext, loop_state: LoopState, state: State, step: Read
) -> Read | None:
    """Read one window and commit what is new in it.

    1. Ask for the window, or for as much of it as a request may ask.
    2. Identify the rows, and keep the rows that the ledger does not hold.
    3. Commit events, dead letters, journal and checkpoint in a single transaction.
    4. Only then update the memory: ledger, cursors, window width.
    5. Report what was published.

    A failure before step 3 leaves no trace, so the caller may try again. After a failure in step 3
    only a restore shows what happened.

    Returns the step that was done, or None if the start of the operation must move first.
    """
    # 1. Ask for the window.
    loop_state.step = step = askable(step, context.zone, loop_state.longest)
    asked_at = loop_state.server.now(context.clock.now())
    answer, classification = await ask_or_keep(context, loop_state, state, step, asked_at)
    if earlier_start(state.checkpoint, loop_state.server.start_skew, loop_state.newest_published):
        return None  # `begin_earlier` moves the start
    # 2. Identify the rows.
    sent_at = loop_state.server.now(answer.sent_at)
    # `now` is no later than the date of the answer, even if our clock has jumped meanwhile.
    covered = state.checkpoint.live.covered_until
    now = min(
        sent_at, responses.server_time(answer) or loop_state.server.lived_until(sent_at, covered)
    )
    # Time counts as read only if it was asked for, has passed, and is as old as the pass requires.
    covered_until = min(step.window.end, asked_at, now - step.pass_.delay)
    publication = prepare(
        state, step, answer, classification, context.zone,
        Limits.of(context.settings, context.label), now=now, covered_until=covered_until,
        possibly_cut=classification.verdict is Verdict.TOO_LARGE,
    )  # fmt: skip
    # 3. Commit.
    commit_seconds = await commit(context, publication.batch)
    # 4. Update the memory.
    loop_state.server.saw(publication.occurred)
    state.apply(publication.successor, context.settings.horizon)
    if covered_until < step.window.end:
        step = replace(step, ends_round=True)  # the next round begins at the cursor
    loop_state.published(step, sent_at, publication.rows, answer.took + commit_seconds)
    # 5. Report.
    committed_at, live = loop_state.server.now(context.clock.now()), state.checkpoint.live
    if step.pass_.label in (LIVE, REREAD):
        offset = loop_state.punctuality.notice(
            publication.occurred, committed_at, live.covered_until
        )
        if offset is not None:
            context.emit(DatesOff(context.operation, offset.total_seconds()))
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
            passes=loop_state.pace.seen(state.checkpoint.passes),
            gaps=state.checkpoint.gaps,
            ledger_ids=len(state.ledger),
            next_width=loop_state.pace.width,
            request_seconds=answer.took,
            commit_seconds=commit_seconds,
            backfills=state.checkpoint.backfills,
            unconfirmed=state.checkpoint.unconfirmed,
        )
    )
    if publication.silent_since:
        context.emit(rows_again(context.operation, publication.silent_since))
    return step


async def begin(context: OperationContext, loop_state: LoopState) -> State:
    """Take over the operation and restore its state. The very first time, make its start durable.

    The first checkpoint is committed before the first request. So a start of "now" still means the
    same instant after a crash or a wrong token.
    """
    began_at = context.clock.elapsed()
    restored = await context.log.restore()
    revisions = bool(context.settings.revisions_topic)
    state_topic = context.settings.state_topic
    state = state_to_go_on_from(context.operation, restored, state_topic, revisions=revisions)
    loop_state.newest_published = restored.newest_published
    first_start = state is None
    if state is None:
        start = start_instant(context.settings.start, loop_state.server.now(context.clock.now()))
        pass_names = [pass_.name for pass_ in loop_state.passes]
        state = await _begin_at(context, start, pass_names, None, restored.newest_published + 1)
    elif events_gone(state, restored):
        topic = context.settings.messages_topic.replace("{operation}", context.operation)
        if not loop_state.events_gone_reported:
            context.emit(EventsGone(topic, context.operation))
        loop_state.events_gone_reported = True
    await settle_zone(context, state)
    checkpoint = state.checkpoint
    if checkpoint.start_setting != context.settings.start:
        context.emit(
            HintGiven(
                f"PUBLISHER_START is ignored: operation {context.operation} has begun at"
                f" {iso(checkpoint.start)} already",
                context.operation,
            )
        )
    state.checkpoint = resumed(checkpoint, state.journal, context.settings)
    loop_state.pace.begin(state.checkpoint.live.cursor)
    loop_state.quota.restored(reversed(state.journal), context.clock.now(), context.clock.elapsed())
    context.emit(
        StateRestored(
            operation=context.operation,
            first_start=first_start,
            cursor=state.checkpoint.live.cursor,
            covered_until=state.checkpoint.live.covered_until,
            passes=state.checkpoint.passes,
            gaps=state.checkpoint.gaps,
            journal_entries=len(state.journal),
            ledger_ids=len(state.ledger),
            took_seconds=context.clock.elapsed() - began_at,
            backfills=state.checkpoint.backfills,
            unconfirmed=state.checkpoint.unconfirmed,
            rhythms={pass_.name: Rhythm(pass_.delay, pass_.cadence) for pass_ in loop_state.passes},
        )
    )
    return state


async def begin_earlier(context: OperationContext, loop_state: LoopState, state: State) -> State:
    """Move the start if our clock ran ahead when it was set; otherwise return the same state."""
    skew = loop_state.server.start_skew
    start = earlier_start(state.checkpoint, skew, loop_state.newest_published)
    if start is None:
        return state
    loop_state.pace.begin(start)
    follows = state.checkpoint.sequence
    return await _begin_at(context, start, state.checkpoint.passes, follows, follows + 1)


async def _begin_at(
    context: OperationContext,
    start: Instant,
    pass_names: Iterable[str],
    follows: int | None,
    sequence: int,
) -> State:
    """Commit the first checkpoint of an operation that begins at `start`.

    `sequence` is its sequence number, `follows` that of the checkpoint before it, if there is any.
    """
    state, record = first(
        context.operation, context.zone.name, start, context.settings.start, pass_names, sequence
    )
    await commit(context, Batch(context.operation, follows, sequence, [record]))
    return state


async def _recover(context: OperationContext, loop_state: LoopState, error: PublisherError) -> None:
    """Report the failure, decide what it means for the next steps, and wait."""
    step, loop_state.step = loop_state.step, None
    overloaded = isinstance(error, OutcomeUnknown) and error.overloaded
    reader = None if step is None else loop_state.aside(step)
    if step is not None and reader is not None:  # no pass waits for this window
        now = loop_state.server.now(context.clock.now())
        reader.failed(step.window, now, halve=overloaded or own(error))
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
    # A window that is proven to fail alone is parked next. So the pause is short, unless the server
    # is still busy with it.
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
    """Wait so many seconds, or until `look` is done: the read of the commands topic."""
    context.beat(seconds + STEP_LIMIT)
    await (context.clock.sleep(seconds) if look is None else context.wait(look, seconds))

"""Set aside what cannot be read: a window that fails alone, bytes that no decoder takes."""

from publisher.commit import commit, commit_state
from publisher.context import LoopState, OperationContext
from publisher.events.publication import Limits, kept
from publisher.fetch import Undecodable, ask
from publisher.model import Answer, Instant
from publisher.schedule.failing_window import parked
from publisher.schedule.passes import Read
from publisher.signals import WindowParked
from publisher.state.state import State
from publisher.wolkvox.responses import Classification


async def probe(context: OperationContext, loop_state: LoopState, known: State, step: Read) -> None:
    """Ask for another window than the one that fails; its answer is proof and nothing more."""
    other = loop_state.failing_window.probe(step, known.checkpoint.gaps)
    await ask(context, loop_state, other, loop_state.server.now(context.clock.now()))
    loop_state.failing_window.answered(other)


async def park(context: OperationContext, loop_state: LoopState, known: State) -> None:
    """Record the window as a gap: a commit without events."""
    step = loop_state.failing_window.step
    loop_state.failing_window.clear()
    now = loop_state.server.now(context.clock.now())
    if step is None or step.window.end > now:
        return  # our idea of the server's clock was wrong: nothing of the future is a gap
    successor = parked(known, step, now, context.settings.horizon)
    await commit_state(context, known, successor)
    loop_state.pace.parked(step, now)
    loop_state.attempt = 0
    checkpoint = known.checkpoint
    context.emit(
        WindowParked(
            operation=context.operation,
            pass_label=step.pass_.label,
            window=step.window,
            cursor=checkpoint.live.cursor,
            covered_until=checkpoint.live.covered_until,
            passes=loop_state.pace.seen(checkpoint.passes),
            gaps=checkpoint.gaps,
        )
    )


async def ask_or_keep(
    context: OperationContext, loop_state: LoopState, known: State, step: Read, now: Instant
) -> tuple[Answer, Classification]:
    """Ask; bytes that nobody can read are written to the dead letters, once.

    Their window stays unread, and is asked for again.
    """
    try:
        return await ask(context, loop_state, step, now)
    except Undecodable as error:
        written = kept(known, step, error.answer, Limits.of(context.settings), now)
        if written is not None:
            batch, successor = written
            await commit(context, batch)
            known.apply(successor, context.settings.horizon)
        raise

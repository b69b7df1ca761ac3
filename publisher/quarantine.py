"""Sets aside what cannot be read, so that the rest is still published.

A window that fails while other windows answer becomes a gap. Bytes that no decoder can read go to
the dead letters. Both windows are read again later.
"""

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


async def probe(context: OperationContext, loop_state: LoopState, state: State, step: Read) -> None:
    """Ask for another window than the failing window, to prove that other windows can be read."""
    probe_step = loop_state.failing_window.probe(step, state.checkpoint.gaps)
    await ask(context, loop_state, probe_step, loop_state.server.now(context.clock.now()))
    loop_state.failing_window.answered(probe_step)


async def park(context: OperationContext, loop_state: LoopState, state: State) -> None:
    """Commit the failing window as a gap, without events."""
    step = loop_state.failing_window.step
    loop_state.failing_window.clear()
    now = loop_state.server.now(context.clock.now())
    if step is None or step.window.end > now:
        return  # our estimate of the server's clock was wrong: the future is no gap
    successor = parked(state, step, now, context.settings.horizon)
    await commit_state(context, state, successor)
    loop_state.pace.parked(step, now)
    loop_state.attempt = 0
    checkpoint = state.checkpoint
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
    context: OperationContext, loop_state: LoopState, state: State, step: Read, now: Instant
) -> tuple[Answer, Classification]:
    """Ask as `ask` does. Write bytes that no decoder can read to the dead letters, once.

    Then the error is raised all the same: the window stays unread and is asked for again.
    """
    try:
        return await ask(context, loop_state, step, now)
    except Undecodable as error:
        limits = Limits.of(context.settings, context.label)
        dead_letter = kept(state, step, error.answer, limits, now)
        if dead_letter is not None:
            batch, successor = dead_letter
            await commit(context, batch)
            state.apply(successor, context.settings.horizon)
        raise

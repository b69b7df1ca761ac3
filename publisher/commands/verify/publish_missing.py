"""Publishes exactly the events that `verify` has found missing, in the service's transactions."""

from collections.abc import Mapping

from publisher.commands import republish
from publisher.commands.window_reader import Publish, Walker, walk
from publisher.commit import commit
from publisher.context import LoopState, OperationContext
from publisher.events.publication import Limits
from publisher.fetch import ask
from publisher.model import Window
from publisher.schedule.passes import REPAIRING, Read, askable
from publisher.state.forgetting import not_remembered
from publisher.state.gaps import near
from publisher.state.state import State


async def repair(
    context: OperationContext, state: State, missing: Mapping[Window, set[bytes]]
) -> int:
    """Ask again for the windows that have shown what is missing; how many were published.

    Near forgotten time nothing is: nobody knows any more what was published there.
    """
    loop_state, repaired = LoopState.starting(context.settings), 0
    for window, event_ids in missing.items():
        forgotten = not_remembered(state.checkpoint, context.settings.horizon)
        if near(forgotten, window.start, window.end):
            continue
        wanted = len(event_ids)
        # Answered at this width before; repairs do not widen by themselves.
        loop_state.pace.width = window.width
        await walk(Walker(context, loop_state, state, _publishing(event_ids)), REPAIRING, window)
        repaired += wanted - len(event_ids)
    return repaired


def _publishing(missing: set[bytes]) -> Publish:
    """Publishes these ids and nothing else, and takes away what is published."""

    async def publish(
        context: OperationContext, loop_state: LoopState, state: State, step: Read
    ) -> Read:
        loop_state.step = step = askable(step, context.zone, loop_state.longest)
        answer, classification = await ask(
            context, loop_state, step, loop_state.server.now(context.clock.now())
        )
        sent = loop_state.server.now(answer.sent_at)
        limits = Limits.of(context.settings)
        republication = republish.prepare(
            state, missing, step.window, answer, classification, context.zone, limits, sent
        )
        if republication is not None:
            await commit(context, republication.batch)
            state.apply(republication.successor, limits.horizon)
            missing.difference_update(republication.event_ids)
        loop_state.published(step, sent, 0, answer.took)
        return step

    return publish

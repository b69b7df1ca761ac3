"""Publishes exactly the events that `verify` reports as missing.

The events are published in transactions like those of the service.
"""

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
    """Read the windows with missing events again, and return how many events were published.

    `missing` holds the ids of the missing events by window. Near forgotten time nothing is
    published, because the state no longer remembers what was published there.
    """
    loop_state, repaired_count = LoopState.starting(context.settings), 0
    for window, event_ids in missing.items():
        forgotten = not_remembered(state.checkpoint, context.settings.horizon)
        if near(forgotten, window.start, window.end):
            continue
        wanted_count = len(event_ids)
        # The report answered at this width before. A repair does not widen by itself.
        loop_state.pace.width = window.width
        await walk(Walker(context, loop_state, state, _publishing(event_ids)), REPAIRING, window)
        repaired_count += wanted_count - len(event_ids)
    return repaired_count


def _publishing(missing: set[bytes]) -> Publish:
    """A function that publishes only the events with these ids.

    It removes the ids of the published events from `missing`.
    """

    async def publish(
        context: OperationContext, loop_state: LoopState, state: State, step: Read
    ) -> Read:
        loop_state.step = step = askable(step, context.zone, loop_state.longest)
        answer, classification = await ask(
            context, loop_state, step, loop_state.server.now(context.clock.now())
        )
        sent = loop_state.server.now(answer.sent_at)
        limits = Limits.of(context.settings, context.label)
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

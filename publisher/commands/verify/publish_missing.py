"""Publishes exactly the events that `verify` has found missing, in the service's transactions."""

from collections.abc import Mapping

from publisher.commands import republish
from publisher.commands.window_reader import Publish, Walker, walk
from publisher.commit import commit
from publisher.context import Job, Memory
from publisher.events.publication import Limits
from publisher.fetch import ask
from publisher.model import Window
from publisher.schedule.passes import REPAIRING, Read, askable
from publisher.state.forgetting import not_remembered
from publisher.state.gaps import near
from publisher.state.state import State


async def repair(job: Job, known: State, missing: Mapping[Window, set[bytes]]) -> int:
    """Ask again for the windows that have shown what is missing; how many were published.

    Near forgotten time nothing is: nobody knows any more what was published there.
    """
    memory, repaired = Memory.starting(job.settings), 0
    for window, event_ids in missing.items():
        forgotten = not_remembered(known.checkpoint, job.settings.horizon)
        if near(forgotten, window.start, window.end):
            continue
        wanted = len(event_ids)
        # Answered at this width before; repairs do not widen by themselves.
        memory.pace.width = window.width
        await walk(Walker(job, memory, known, _publishing(event_ids)), REPAIRING, window)
        repaired += wanted - len(event_ids)
    return repaired


def _publishing(missing: set[bytes]) -> Publish:
    """Publishes these ids and nothing else, and takes away what is published."""

    async def publish(job: Job, memory: Memory, known: State, step: Read) -> Read:
        memory.step = step = askable(step, job.zone, memory.longest)
        answer, judgement = await ask(job, memory, step, memory.server.now(job.clock.now()))
        sent = memory.server.now(answer.sent_at)
        limits = Limits.of(job.settings)
        found = republish.prepare(
            known, missing, step.window, answer, judgement, job.zone, limits, sent
        )
        if found is not None:
            await commit(job, found.batch)
            known.apply(found.successor, limits.horizon)
            missing.difference_update(found.event_ids)
        memory.published(step, sent, 0, answer.took)
        return step

    return publish

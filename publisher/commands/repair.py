"""Publishes exactly the events that `verify` has found missing, in the service's transactions."""

from collections.abc import Mapping

from publisher.asking import ask
from publisher.commands.range_walk import Publish, Walker, walk
from publisher.committing import commit
from publisher.job import Job, Memory
from publisher.model import Window
from publisher.rules import republish
from publisher.rules.forgetting import not_remembered
from publisher.rules.gaps import near
from publisher.rules.publication import Limits
from publisher.rules.schedule import REPAIRING, Read, askable
from publisher.rules.state import State


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

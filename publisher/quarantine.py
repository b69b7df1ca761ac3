"""Set aside what cannot be read: a window that fails alone, bytes that no decoder takes."""

from publisher.commit import commit, commit_state
from publisher.context import Job, Memory
from publisher.events.publication import Limits, kept
from publisher.fetch import Undecodable, ask
from publisher.model import Answer, Instant
from publisher.schedule.failing_window import parked
from publisher.schedule.passes import Read
from publisher.signals import WindowParked
from publisher.state.state import State
from publisher.wolkvox.responses import Judgement


async def probe(job: Job, memory: Memory, known: State, step: Read) -> None:
    """Ask for another window than the one that fails; its answer is proof and nothing more."""
    other = memory.suspect.probe(step, known.checkpoint.gaps)
    await ask(job, memory, other, memory.server.now(job.clock.now()))
    memory.suspect.answered(other)


async def park(job: Job, memory: Memory, known: State) -> None:
    """Record the window as a gap: a commit without events."""
    step = memory.suspect.step
    memory.suspect.acquit()
    now = memory.server.now(job.clock.now())
    if step is None or step.window.end > now:
        return  # our idea of the server's clock was wrong: nothing of the future is a gap
    successor = parked(known, step, now, job.settings.horizon)
    await commit_state(job, known, successor)
    memory.pace.parked(step, now)
    memory.attempt = 0
    checkpoint = known.checkpoint
    job.emit(
        WindowParked(
            operation=job.operation,
            pass_label=step.pass_.label,
            window=step.window,
            cursor=checkpoint.live.cursor,
            covered_until=checkpoint.live.covered_until,
            passes=memory.pace.seen(checkpoint.passes),
            gaps=checkpoint.gaps,
        )
    )


async def ask_or_keep(
    job: Job, memory: Memory, known: State, step: Read, now: Instant
) -> tuple[Answer, Judgement]:
    """Ask; bytes that nobody can read are written to the dead letters, once.

    Their window stays unread, and is asked for again.
    """
    try:
        return await ask(job, memory, step, now)
    except Undecodable as error:
        written = kept(known, step, error.answer, Limits.of(job.settings), now)
        if written is not None:
            batch, successor = written
            await commit(job, batch)
            known.apply(successor, job.settings.horizon)
        raise

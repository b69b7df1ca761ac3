"""Commit one batch, and tell how it went; or the state alone."""

from publisher.context import Job
from publisher.errors import Fenced
from publisher.model import Batch
from publisher.signals import TransactionEnded
from publisher.state.state import State, Successor


async def commit(job: Job, batch: Batch) -> float:
    """Commit the batch; returns the seconds it took."""
    began = job.clock.elapsed()
    result = "failed"
    try:
        await job.log.commit(batch)
        result = "committed"
    except Fenced:
        result = "fenced"
        raise
    finally:
        took = job.clock.elapsed() - began
        job.emit(TransactionEnded(job.operation, result, took))
    return took


async def commit_state(job: Job, known: State, successor: Successor) -> None:
    """Commit what has changed without any message; only then it counts."""
    before, sequence = known.checkpoint.sequence, successor.checkpoint.sequence
    await commit(job, Batch(job.operation, before, sequence, successor.records))
    known.apply(successor, job.settings.horizon)

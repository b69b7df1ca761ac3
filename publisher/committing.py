"""Commit one batch, and tell how it went; or the state alone."""

from collections.abc import Iterable

from publisher.errors import Fenced
from publisher.job import Job, Memory
from publisher.model import Batch, Instant
from publisher.rules.punctuality import NEAR
from publisher.rules.state import State, Successor
from publisher.signals import DatesOff, TransactionEnded


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
    await commit(job, Batch(job.operation, before, sequence, iter(()), iter(()), successor.records))
    known.apply(successor, job.settings.horizon)


def notice_dates(job: Job, memory: Memory, occurred: Iterable[str], covered_until: Instant) -> None:
    """Tell of new messages whose dates are steadily far off; while live catches up they may be."""
    now = memory.server.now(job.clock.now())
    if now - covered_until < NEAR and (off := memory.punctuality.notice(occurred, now)):
        job.emit(DatesOff(job.operation, off.total_seconds()))

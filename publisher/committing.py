"""Commit one batch, and tell how it went."""

from publisher.errors import Fenced
from publisher.job import Job
from publisher.model import Batch
from publisher.signals import TransactionEnded


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

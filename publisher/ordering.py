"""Obey what people have ordered through Kafka: backfills, as far as they are wanted."""

from typing import Final

from publisher.committing import commit_state
from publisher.errors import StepError
from publisher.job import Job, Memory
from publisher.rules.backfill import obeyed
from publisher.rules.state import State
from publisher.signals import HintGiven, OrdersObeyed

LOOK_EVERY: Final = 5.0
"""Seconds between two looks at the orders."""
LOOK_AGAIN: Final = 60.0
"""The same after one that failed: it may have waited long, and live needs no orders."""


async def obey(job: Job, memory: Memory, known: State) -> None:
    """Make new orders durable: a commit of its own, and only then they count.

    Not before the first window: until then the start itself may move.
    """
    elapsed = job.clock.elapsed()
    checkpoint = known.checkpoint
    if job.orders is None or elapsed < memory.look_again or not checkpoint.sequence:
        return
    memory.look_again = elapsed + LOOK_EVERY
    try:
        orders = await job.orders.read()
    except StepError as error:
        memory.look_again = job.clock.elapsed() + LOOK_AGAIN
        if not memory.deaf:
            job.emit(HintGiven(f"orders cannot be read: {error}", job.operation))
        memory.deaf = True
        return
    memory.deaf = False
    if orders is None:
        return
    backfills = obeyed(checkpoint.backfills, orders, checkpoint.sequence + 1)
    if backfills == checkpoint.backfills:
        return
    await commit_state(job, known, known.with_backfills(backfills))
    job.emit(OrdersObeyed(job.operation, backfills))

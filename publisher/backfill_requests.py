"""Obey what people have ordered through Kafka: backfills, as far as they are wanted.

The orders are read by a task beside the loop: a broker that does not answer delays no window.
"""

import asyncio
from typing import Final

from publisher.commit import commit_state
from publisher.context import Job, Memory
from publisher.errors import StepError
from publisher.schedule.backfill_pass import obeyed, skipped
from publisher.signals import HintGiven, OrdersObeyed
from publisher.state.state import State

LOOK_EVERY: Final = 5.0
"""Seconds between two looks at the orders."""
LOOK_AGAIN: Final = 60.0
"""The same after one that failed: the next one may fail likewise, and costs clients."""
END_SECONDS: Final = 3.0
"""How long a look that is cancelled may take to close its clients."""


async def obey(job: Job, memory: Memory, known: State) -> None:
    """Make new orders durable: a commit of its own, and only then they count.

    Not before the first window: until then the start itself may move.
    """
    checkpoint = known.checkpoint
    if job.orders is None or not checkpoint.sequence:
        return
    if memory.look is None:
        if job.clock.elapsed() < memory.look_again:
            return
        memory.look = asyncio.ensure_future(job.orders.read())
        await asyncio.sleep(0)  # orders that are at hand are obeyed at once
    if not memory.look.done():
        return
    look, memory.look = memory.look, None
    memory.look_again = job.clock.elapsed() + LOOK_EVERY
    try:
        orders = look.result()
    except StepError as error:
        memory.look_again = job.clock.elapsed() + LOOK_AGAIN
        if not memory.deaf:
            job.emit(HintGiven(f"orders cannot be read: {error}", job.operation))
        memory.deaf = True
        return
    memory.deaf = False
    if orders is None:
        return
    backfills = obeyed(checkpoint.backfills, orders, checkpoint.sequence + 1, checkpoint.forgotten)
    if backfills == checkpoint.backfills:
        return
    await commit_state(job, known, known.with_backfills(backfills))
    job.emit(OrdersObeyed(job.operation, backfills))
    before = {backfill.id for backfill in checkpoint.backfills}
    for backfill in backfills:
        if backfill.skipped_seconds and backfill.id not in before:
            job.emit(HintGiven(skipped(backfill), job.operation))


async def end_look(memory: Memory) -> None:
    """Cancel the look that is under way and wait until its clients are closed, within bounds."""
    if memory.look is not None:
        memory.look.cancel()
        ended, _ = await asyncio.wait([memory.look], timeout=END_SECONDS)
        for look in ended:
            _ = look.cancelled() or look.exception()  # retrieved: what it was changes nothing

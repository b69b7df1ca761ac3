"""Applies the backfills that people request through the commands topic.

A task beside the loop reads the topic. So a broker that does not answer delays no window.
"""

import asyncio
from typing import Final

from publisher.commit import commit_state
from publisher.context import LoopState, OperationContext
from publisher.errors import StepError
from publisher.schedule.backfill_pass import skipped, with_requests
from publisher.signals import BackfillRequestsApplied, HintGiven
from publisher.state.state import State

LOOK_EVERY: Final = 5.0
"""Seconds between two reads of the commands topic."""
LOOK_AGAIN: Final = 60.0
"""The same after a failed read. The next read may fail too, and it must open new clients."""
END_SECONDS: Final = 3.0
"""How long a cancelled read may take to close its clients, in seconds."""


async def apply_backfill_requests(
    context: OperationContext, loop_state: LoopState, state: State
) -> None:
    """Commit new requests in a transaction of their own. They take effect only after that.

    Before the first window nothing is applied, because the start of the operation may still move.
    """
    checkpoint = state.checkpoint
    if context.backfill_requests is None or not checkpoint.sequence:
        return
    if loop_state.look is None:
        if context.clock.elapsed() < loop_state.look_again:
            return
        loop_state.look = asyncio.ensure_future(context.backfill_requests.read())
        await asyncio.sleep(0)  # a read that is ready at once is used at once
    if not loop_state.look.done():
        return
    look, loop_state.look = loop_state.look, None
    loop_state.look_again = context.clock.elapsed() + LOOK_EVERY
    try:
        backfill_requests = look.result()
    except StepError as error:
        loop_state.look_again = context.clock.elapsed() + LOOK_AGAIN
        if not loop_state.commands_unreadable:
            context.emit(HintGiven(f"orders cannot be read: {error}", context.operation))
        loop_state.commands_unreadable = True
        return
    loop_state.commands_unreadable = False
    if backfill_requests is None:
        return
    backfills = with_requests(
        checkpoint.backfills, backfill_requests, checkpoint.sequence + 1, checkpoint.forgotten
    )
    if backfills == checkpoint.backfills:
        return
    await commit_state(context, state, state.with_backfills(backfills))
    context.emit(BackfillRequestsApplied(context.operation, backfills))
    earlier_ids = {backfill.id for backfill in checkpoint.backfills}
    for backfill in backfills:
        if backfill.skipped_seconds and backfill.id not in earlier_ids:
            context.emit(HintGiven(skipped(backfill), context.operation))


async def end_look(loop_state: LoopState) -> None:
    """Cancel a read that is under way. Wait until it has closed its clients, or `END_SECONDS`."""
    if loop_state.look is not None:
        loop_state.look.cancel()
        ended, _ = await asyncio.wait([loop_state.look], timeout=END_SECONDS)
        for look in ended:
            _ = look.cancelled() or look.exception()  # retrieve it, so that asyncio is silent

"""Commit a batch, or the state alone, and report how long it took and how it ended."""

from publisher.context import OperationContext
from publisher.errors import Fenced
from publisher.model import Batch
from publisher.signals import TransactionEnded
from publisher.state.state import State, Successor


async def commit(context: OperationContext, batch: Batch) -> float:
    """Commit the batch; returns the seconds it took."""
    began = context.clock.elapsed()
    result = "failed"
    try:
        await context.log.commit(batch)
        result = "committed"
    except Fenced:
        result = "fenced"
        raise
    finally:
        took = context.clock.elapsed() - began
        context.emit(TransactionEnded(context.operation, result, took))
    return took


async def commit_state(context: OperationContext, state: State, successor: Successor) -> None:
    """Commit a change of the state without messages, and apply it only then."""
    before, sequence = state.checkpoint.sequence, successor.checkpoint.sequence
    await commit(context, Batch(context.operation, before, sequence, successor.records))
    state.apply(successor, context.settings.horizon)

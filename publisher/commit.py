"""Commits a batch, or a change of the state alone, and reports the duration and the result.

The running service commits only through this module, so it reports every transaction.
"""

from publisher.context import OperationContext
from publisher.errors import Fenced
from publisher.model import Batch
from publisher.signals import TransactionEnded
from publisher.state.state import State, Successor


async def commit(context: OperationContext, batch: Batch) -> float:
    """Commit the batch and return the seconds it took. Raises what `Log.commit` raises."""
    began_at = context.clock.elapsed()
    result = "failed"
    try:
        await context.log.commit(batch)
        result = "committed"
    except Fenced:
        result = "fenced"
        raise
    finally:
        took_seconds = context.clock.elapsed() - began_at
        context.emit(TransactionEnded(context.operation, result, took_seconds))
    return took_seconds


async def commit_state(context: OperationContext, state: State, successor: Successor) -> None:
    """Commit a change of the state without messages. Only then apply it to `state`."""
    follows, sequence = state.checkpoint.sequence, successor.checkpoint.sequence
    await commit(context, Batch(context.operation, follows, sequence, successor.records))
    state.apply(successor, context.settings.horizon)

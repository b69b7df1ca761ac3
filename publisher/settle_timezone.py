"""Take over another time zone, once a person has named the one that it replaces."""

from publisher.commit import commit_state
from publisher.context import OperationContext
from publisher.schedule.timezone_change import rezoned
from publisher.signals import ZoneChanged
from publisher.state.restored import refuse_unconfirmed_zone
from publisher.state.state import State


async def settle_zone(context: OperationContext, state: State) -> None:
    """Apply a confirmed change of the zone. Raises NeedsOperator for one that is not confirmed."""
    before, zone = state.checkpoint.timezone, context.zone.name
    if before == zone:
        return
    refuse_unconfirmed_zone(context.operation, before, zone, context.zone_replaces)
    await commit_state(context, state, rezoned(state.checkpoint, zone))
    context.emit(ZoneChanged(context.operation, before, zone, state.checkpoint.gaps))

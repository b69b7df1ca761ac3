"""Applies a change of the time zone in the settings.

The zone decides which instants the report's local times mean. So a change takes effect only after
a person has confirmed it by naming the wrong zone that it replaces.
"""

from publisher.commit import commit_state
from publisher.context import OperationContext
from publisher.schedule.timezone_change import rezoned
from publisher.signals import ZoneChanged
from publisher.state.restored import refuse_unconfirmed_zone
from publisher.state.state import State


async def settle_zone(context: OperationContext, state: State) -> None:
    """Apply a confirmed change of the zone. Raises NeedsOperator if the change is not confirmed."""
    old_zone, new_zone = state.checkpoint.timezone, context.zone.name
    if old_zone == new_zone:
        return
    refuse_unconfirmed_zone(context.operation, old_zone, new_zone, context.zone_replaces)
    await commit_state(context, state, rezoned(state.checkpoint, new_zone))
    context.emit(ZoneChanged(context.operation, old_zone, new_zone, state.checkpoint.gaps))

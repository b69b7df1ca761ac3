"""Compares a stored state with the messages topic and the settings.

A state is believed only if it fits both. Otherwise the operator must decide.
"""

from publisher.errors import NeedsOperator, Reason, Stage, history_lost
from publisher.model import Restored
from publisher.state.checkpoint import Checkpoint, checkpoint_of
from publisher.state.state import State, restore


def restored_state(operation: str, restored: Restored, *, revisions: bool = False) -> State | None:
    """The state that a log holds, like `restore`. Raises NeedsOperator also if it was set back."""
    refuse_set_back(
        operation, checkpoint_of(operation, restored.records), restored.newest_published
    )
    return restore(operation, restored.records, revisions=revisions)


def state_to_go_on_from(
    operation: str, restored: Restored, state_topic: str, *, revisions: bool = False
) -> State | None:
    """The state from which the service goes on; None at a first start.

    Raises NeedsOperator if the service can neither go on nor start anew.
    """
    state = restored_state(operation, restored, revisions=revisions)
    if state is None and restored.history_lost:
        raise history_lost(state_topic)
    return state


def events_gone(state: State, restored: Restored) -> bool:
    """Whether the messages topic was made anew: it was never used, but the state has published."""
    return restored.topic_unused and any(entry.new for entry in state.journal)


def refuse_unconfirmed_zone(operation: str, before: str, zone: str, replaces: str | None) -> None:
    """Raise NeedsOperator if the settings name another time zone and do not confirm the change.

    `before` is the zone in which the operation was read so far. `replaces` is the zone that the
    settings declare wrong.
    """
    if before not in (zone, replaces):
        raise NeedsOperator(
            Stage.RESTORE,
            Reason.ZONE_CHANGED,
            f"the time zone is {zone}, but operation {operation} was read in {before}"
            f" so far: set it back to {before}; or, if {before} was wrong, confirm the change with"
            f" WOLKVOX_TIMEZONE_REPLACES={before} (timezone_replaces in [[operations]]), and what"
            " was read within the horizon is read again",
        )


def refuse_set_back(operation: str, checkpoint: Checkpoint | None, newest_published: int) -> None:
    """Raise NeedsOperator if the messages topic holds later events than the state knows of."""
    if checkpoint and checkpoint.sequence < newest_published:
        raise NeedsOperator(
            Stage.RESTORE,
            Reason.STATE_LOST,
            f"the state of operation {operation} was set back to transaction"
            f" {checkpoint.sequence}, but the messages topic holds events of transaction"
            f" {newest_published}: going on would publish messages twice; rebuild the state"
            " (wolkvox-publisher state rebuild)",
        )

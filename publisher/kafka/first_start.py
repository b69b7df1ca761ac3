"""Judges an operation that has no checkpoint.

Either the operation is new, or its state is lost.
"""

from collections.abc import Collection, Iterable, Mapping

from aiokafka import TopicPartition

from publisher.kafka.reader import Reader
from publisher.settings import Settings
from publisher.state.checkpoint import Checkpoint, decode_checkpoint


async def history_lost(
    reader: Reader,
    settings: Settings,
    messages: Collection[TopicPartition],
    states: Iterable[TopicPartition],
    blocked_after: float,
) -> bool:
    """Whether the messages topic holds events that no state explains.

    If operations share the messages topic, the state of any of them explains its events.
    `messages` and `states` are the partitions of the messages topic and of the state topic.
    `blocked_after` is how many seconds an undecided transaction may hide the end of a state
    partition before `Reader.live_records` raises NeedsOperator.
    """
    if not await reader.with_offsets(messages):
        return False
    if any(partition.topic == settings.publisher.messages_topic for partition in messages):
        # Offsets alone prove nothing: aborted records and markers have some, too.
        for state in await reader.with_offsets(states):
            if await reader.live_records(state, blocked_after):
                return False
    return True


async def operations_in(reader: Reader, states: Iterable[TopicPartition]) -> set[str]:
    """The names of all operations that have a state in these partitions of the state topic."""
    names: set[str] = set()
    for state in await reader.with_offsets(states):
        # Reading stops at what is decided: an open transaction in the partition of another
        # operation must not block this operation.
        live, _ = await reader.decided_records(state)
        names |= {checkpoint.operation for checkpoint in checkpoints(live)}
    return names


def begins_anew_hint(settings: Settings, operation: str, names: set[str]) -> str | None:
    """The hint for a first start if the state topic has operations that the settings do not name.

    `names` are the operations that have a state; None = there is nothing to hint at.
    """
    unconfigured = names - {configured.name for configured in settings.operations}
    if not unconfigured:
        return None
    return (
        f"operation {operation} starts for the first time, but {settings.publisher.state_topic}"
        f" also holds {', '.join(sorted(unconfigured))}, which the settings do not name: if it is"
        " the same operation, stop now, set its old WOLKVOX_NAME again and give the new name as"
        " WOLKVOX_LABEL; if not, remove the old state with wolkvox-publisher state forget"
    )


def checkpoints(live: Mapping[bytes, bytes]) -> list[Checkpoint]:
    """The checkpoints among the live records of a state partition."""
    return [decode_checkpoint(live[key]) for key in live if key.startswith(b"checkpoint/")]

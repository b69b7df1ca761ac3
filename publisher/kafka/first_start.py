"""What it means that an operation has no checkpoint: it is new, its state is lost, or renamed."""

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

    In a topic that operations share the state of any of them explains the events.
    """
    if not await reader.with_offsets(messages):
        return False
    if any(partition.topic == settings.publisher.messages_topic for partition in messages):
        # Offsets alone prove nothing: aborted records and markers have some, too.
        for state in await reader.with_offsets(states):
            if await reader.live_records(state, blocked_after):
                return False
    return True


async def operations_in(
    reader: Reader, states: Iterable[TopicPartition], operation: str
) -> tuple[str, set[str]]:
    """The name under which the operation goes on; else all names that the state topic holds."""
    names: set[str] = set()
    for state in await reader.with_offsets(states):
        # Not to the true end: what hangs in the partition of others must not keep this one.
        live, _ = await reader.decided_records(state)
        for checkpoint in checkpoints(live):
            if checkpoint.renamed_to:
                continue
            if operation in checkpoint.formerly:
                return checkpoint.operation, set()
            names.add(checkpoint.operation)
    return "", names


def begins_anew_hint(settings: Settings, operation: str, names: set[str]) -> str | None:
    """What to say of a first start beside operations that the settings do not name."""
    strangers = names - {configured.name for configured in settings.operations}
    if not strangers:
        return None
    return (
        f"{operation} begins anew, and {settings.publisher.state_topic} knows"
        f" {', '.join(sorted(strangers))}, too, of which the"
        " settings say nothing: if it is the same under a new name, stop, set the old"
        " name again, and run wolkvox-publisher state rename; if not, wolkvox-publisher"
        " state forget ends this hint"
    )


def checkpoints(live: Mapping[bytes, bytes]) -> list[Checkpoint]:
    return [decode_checkpoint(live[key]) for key in live if key.startswith(b"checkpoint/")]

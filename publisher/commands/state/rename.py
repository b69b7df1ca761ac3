"""`wolkvox-publisher state rename`: gives an operation another name; nothing is published twice.

The command writes like the service, under the transactional ids of both names (decision 0027).
`rename_steps` computes what to write.
"""

from collections.abc import Mapping

from publisher.commands.runner import RefusedError, complain, run
from publisher.commands.state import refuse_former
from publisher.commands.state.rename_steps import Renaming, RenamingError, renaming
from publisher.commands.status_reader import all_records
from publisher.commands.takeover import owned, refuse_while_running
from publisher.errors import SettingsError
from publisher.kafka.commands_topic import KafkaCommands
from publisher.settings import NAME, Settings
from publisher.state import state
from publisher.state.checkpoint import checkpoint_of


def main(old: str, new: str, *, yes: bool, take_over: bool) -> int:
    """Rename the operation and return the exit code.

    Without `yes` it only prints what it would do. `take_over` renames although the service may be
    running. After a crash, the same call continues the renaming.
    """

    async def doing(settings: Settings) -> int:
        if not NAME.fullmatch(new):
            raise SettingsError(["NEW must be letters, digits, '.', '_' and '-' only"])
        if new == old:
            raise SettingsError(["NEW must be another name than OLD"])
        records_of = await all_records(settings)
        records = records_of.get(old, {})
        left = _left(old, new, records, records_of.get(new, {}))
        checkpoint = checkpoint_of(old, records)
        if checkpoint and new not in checkpoint.names and new not in records_of:
            # The checkpoint of a former name says so, too, but is lost if the state was rebuilt.
            refuse_former(new, records_of, records_of)
        if checkpoint is None or not (left.beginning or left.cleaning):
            complain(f"{old}: is {new} already; nothing is left to do")
            return 0
        begun = None if checkpoint.renamed_to else state.restore(old, records.copy())
        if yes:
            if not take_over:
                await refuse_while_running(settings, [begun] if begun else [])
            await _rename(settings, old, new)
        done = "renamed" if yes else "would be renamed (add --yes)"
        complain(
            f"{old}: {done} to {new}, {len(records)} records; ids of messages are made of"
            f" {checkpoint.identity} as before"
        )
        if new not in (operation.name for operation in settings.operations):
            complain(f"{new}: give the operation this name in the settings before it starts again")
        return 0

    return run(doing)


async def _rename(settings: Settings, old: str, new: str) -> None:
    """Take over both names, and do what is left of the renaming."""
    before, after = KafkaCommands(settings, old), KafkaCommands(settings, new)
    async with owned(settings) as cluster:
        logs = {name: cluster.log(name) for name in (old, new)}
        # Take over first: after that nobody else writes under either name.
        records = {name: (await log.restore()).records for name, log in logs.items()}
        left = _left(old, new, records[old], records[new])
        for batch in left.beginning:
            await logs[batch.operation].commit(batch)
        if left.moving and (backfill_requests := await before.read_if_allowed()):
            for backfill_request in backfill_requests:
                await after.write(backfill_request)
            # Remove the requests while neither name can continue. If a kill left them behind, they
            # would come back together with the old name.
            await before.forget(backfill_request.id for backfill_request in backfill_requests)
        for batch in (*left.moving, *left.cleaning):
            await logs[batch.operation].commit(batch)


def _left(
    old: str, new: str, records: Mapping[bytes, bytes], others: Mapping[bytes, bytes]
) -> Renaming:
    """What is left to do, from the records of both names. Raises RefusedError."""
    try:
        return renaming(old, new, records, others)
    except RenamingError as error:
        raise RefusedError(str(error)) from None

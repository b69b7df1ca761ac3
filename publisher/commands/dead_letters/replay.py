"""`wolkvox-publisher dead-letters replay`: publishes exactly once what can be read now.

The command reads the topic twice. First it reads which letters exist and which are done. Then it
publishes letter by letter, in transactions of a single window and some megabytes. What is
committed stays done. So after any failure the command can simply be started again.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from typing import Any, Final

import click
import orjson

from publisher.commands import takeover
from publisher.commands.dead_letters import (
    SHORT,
    WHAT,
    Index,
    columns,
    indexed,
    matching,
    replay_batch,
)
from publisher.commands.dead_letters.letter_reader import letters
from publisher.commands.dead_letters.replay_batch import DONE, Result
from publisher.commands.dead_letters.stored_letter import Key, Letter
from publisher.commands.runner import RefusedError, chosen, complain, run
from publisher.commands.status_reader import records_of
from publisher.errors import PublisherError, SettingsError
from publisher.events.publication import Limits
from publisher.events.rows import RejectReason
from publisher.kafka.cluster import Cluster
from publisher.settings import Operation, Settings
from publisher.state.restored import restored_state
from publisher.state.state import State, restore
from publisher.wolkvox.timezone import Zone

BATCH_BYTES: Final = 4 * 1024 * 1024
"""The most bytes of letters in a transaction; a single letter may be larger."""
BATCH_LETTERS: Final = 500
"""The most letters in a transaction."""


def main(
    ids: Collection[str],
    *,
    reason: str | None,
    all_: bool,
    operation: str | None,
    dry_run: bool,
    take_over: bool,
    as_json: bool,
) -> int:
    """Replay the chosen letters and return the exit code.

    The letters are chosen by `ids`, by `reason`, or with `all_`. `dry_run` only shows what would
    happen. `take_over` replays although the service may be running.
    """

    async def doing(settings: Settings) -> int:
        if bool(ids) + bool(reason) + all_ != 1:
            raise SettingsError(["choose what to replay: ids, --reason or --all, one of the three"])
        if reason and reason not in set(RejectReason):
            raise SettingsError([f"--reason must be one of {', '.join(RejectReason)}"])
        operations = chosen(settings, operation)
        index = await indexed(settings, operations)
        wanted = _wanted(index, ids, reason)
        results: list[Result] = []
        problem = None
        if wanted:
            names = {name for name, _ in wanted}
            theirs = [candidate for candidate in operations if candidate.name in names]
            try:
                await _replay(settings, theirs, wanted, results, dry=dry_run, take_over=take_over)
            except PublisherError as error:
                problem = error
        _tell(results, dry_run=dry_run, as_json=as_json)
        if problem:
            complain(
                f"the replay ended early: {problem}; what was published so far is done:"
                " start it again"
            )
        return 0 if not problem and all(result.outcome in DONE for result in results) else 1

    return run(doing, WHAT)


def _wanted(index: Index, ids: Iterable[str], reason: str | None) -> set[Key]:
    """The keys of the chosen letters that are not done. Raises RefusedError for an unknown id."""
    if named := {matching(index, id_).key for id_ in ids}:
        return named - index.replayed.keys()
    keys = {letter.key for letter in index.letters if reason in (None, letter.reason)}
    return keys - index.replayed.keys()


async def _replay(
    settings: Settings,
    operations: list[Operation],
    wanted: set[Key],
    results: list[Result],
    *,
    dry: bool,
    take_over: bool,
) -> None:
    """Replay the wanted letters of these operations, and add what became of them to `results`.

    `results` is filled step by step, so that it is right even if an error ends the replay.
    """
    states = {
        operation.name: _begun(
            restore(operation.name, await records_of(settings, operation.name)),
            operation.name,
        )
        for operation in operations
    }
    if not dry and not take_over:
        await takeover.refuse_while_running(settings, states.values())
    async with AsyncExitStack() as stack:
        cluster = None if dry else await stack.enter_async_context(takeover.owned(settings))
        for operation in operations:
            state = states.pop(operation.name)
            if cluster:
                restored = await cluster.log(operation.name).restore()
                state = _begun(restored_state(operation.name, restored), operation.name)
            # Read the index again: since the takeover nobody else can write.
            index = await indexed(settings, [operation])
            todo = wanted - index.replayed.keys()
            await _operation(settings, operation, state, todo, results, cluster)


def _begun(state: State | None, operation: str) -> State:
    """The state, if there is one. Raises RefusedError."""
    if state is None:
        raise RefusedError(
            f"operation {operation} has no state in the state topic: start the service first, or"
            " rebuild the state; without it nobody knows what was published"
        )
    return state


async def _operation(
    settings: Settings,
    operation: Operation,
    state: State,
    todo: set[Key],
    results: list[Result],
    cluster: Cluster | None,
) -> None:
    """Replay the letters `todo` of an operation, batch by batch.

    Removes what is done from `todo`. Without a `cluster` it only computes the results.
    """
    publisher = settings.publisher
    zone, limits = Zone(state.checkpoint.timezone), Limits.of(publisher, operation.label)
    async with aclosing(_batches(settings, operation.name, todo)) as batches:
        async for batch in batches:
            # If a letter is in the topic twice, the first counts.
            fresh = {letter.key: letter for letter in reversed(batch) if letter.key in todo}
            fresh_letters = [*reversed(fresh.values())]
            replay = replay_batch.prepare(state, fresh_letters, zone, limits, datetime.now(UTC))
            if replay.batch and replay.successor:
                if cluster:
                    await cluster.log(operation.name).commit(replay.batch)
                state.apply(replay.successor, publisher.horizon)
            todo -= fresh.keys()
            results += (
                Result(_light(letter.letter), letter.outcome, letter.events)
                for letter in replay.results
            )


async def _batches(
    settings: Settings, operation: str, todo: set[Key]
) -> AsyncGenerator[list[Letter], None]:
    """The letters with their bytes, in the order of the topic. A batch has a single window."""
    batch: list[Letter] = []
    size = 0
    stream = letters(settings, [operation], wanted=lambda letter: letter.key in todo)
    async with aclosing(stream):
        async for letter in stream:
            if not isinstance(letter, Letter) or letter.key not in todo:
                continue
            full = size + letter.size > BATCH_BYTES or len(batch) >= BATCH_LETTERS
            if batch and (full or letter.window != batch[0].window):
                yield batch
                batch, size = [], 0
            batch.append(letter)
            size += letter.size
    if batch:
        yield batch


def _light(letter: Letter) -> Letter:
    """The letter without its bytes, so that the results need little memory."""
    letter.pieces.clear()
    return letter


def _tell(results: list[Result], *, dry_run: bool, as_json: bool) -> None:
    """Print the results, as a table or as JSON."""
    counts = Counter(result.outcome.value for result in results)
    events = sum(result.events for result in results)
    if as_json:
        document: dict[str, Any] = {
            "dry_run": dry_run,
            "events": events,
            "outcomes": dict(sorted(counts.items())),
            "dead_letters": [
                {
                    "id": result.letter.id, "operation": result.letter.operation,
                    "reason": result.letter.reason, "outcome": result.outcome,
                    "events": result.events,
                }
                for result in results
            ],
        }  # fmt: skip
        click.echo(orjson.dumps(document))
        return
    head = ("ID", "REASON", "OPERATION", "OUTCOME", "EVENTS")
    rows = [
        (result.letter.id[:SHORT], result.letter.reason, result.letter.operation,
         result.outcome.replace("_", " "), str(result.events))
        for result in results
    ]  # fmt: skip
    for line in columns([head, *rows]):
        click.echo(line)
    outcomes = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    click.echo(f"{events} events" + (f"; {outcomes}" if outcomes else ": nothing to replay"))
    if dry_run and events:
        click.echo("a dry run: nothing was published; --publish does it")

"""Reads what a running service or the state topic says about the operations.

Nothing here writes, creates a topic, or takes over a transactional id. A service that runs
elsewhere with the same settings notices nothing.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, cast

import aiohttp
import orjson
from aiokafka import TopicPartition

from publisher.errors import StepError
from publisher.kafka.clients import Clients
from publisher.kafka.cluster import partition_of
from publisher.kafka.first_start import history_lost
from publisher.kafka.reader import COMMAND_SECONDS, Reader, hidden_hint, reading
from publisher.kafka.tail import NEVER
from publisher.kafka.topics import partitions_of
from publisher.model import Restored
from publisher.settings import Settings
from publisher.state import state
from publisher.state.checkpoint import checkpoint_key, operation_of
from publisher.state.state import State
from publisher.telemetry import status_document
from publisher.telemetry.status_document import Report

SERVICE_SECONDS: Final = 5.0
KAFKA_SECONDS: Final = 15.0
"""Longer than a healthy cluster ever takes; not longer, as a person waits at a terminal."""


class NoAnswerError(Exception):
    """A source does not answer; the text says which, why, and what to do."""


class SlowServiceError(NoAnswerError):
    """A process listens at the address of the service, but has not answered in time."""


async def from_service(url: str) -> Report:
    """Ask the service at this base URL. Raises NoAnswerError."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(SERVICE_SECONDS)) as session,
            session.get(f"{url}/status") as response,
        ):
            report = orjson.loads(await response.read())
    except TimeoutError as error:
        raise SlowServiceError(_service_problem(url, error)) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NoAnswerError(_service_problem(url, error)) from None
    if not isinstance(report, dict) or report.get("answered_by") != status_document.SERVICE:
        raise NoAnswerError(_service_problem(url, ValueError()))
    return cast("Report", {**report, "where": url})


def _service_problem(url: str, error: Exception) -> str:
    match error:
        case TimeoutError():
            why = f"no answer within {SERVICE_SECONDS:.0f} s"
        case aiohttp.ClientConnectorDNSError():
            why = "its name is not known here"
        case aiohttp.ClientConnectorError() | OSError():
            why = "nobody listens there"
        case _:
            why = "what answers there is not this service, or an older version of it"
    return f"the service does not answer at {url} ({why}): start it, or name its address with --url"


async def from_state_topic(settings: Settings) -> Report:
    """Report the last state that the service has written.

    Raises NoAnswerError; SettingsError for bad files.
    """
    where = f"{settings.publisher.state_topic} at {settings.kafka.bootstrap_servers}"
    states, hints = await read_states(settings)
    return status_document.of_state_topic(where, states.items(), hints, datetime.now(UTC))


async def read_states(settings: Settings) -> tuple[dict[str, State | StepError | None], list[str]]:
    """The state of each operation by the state topic, and hints that states may be out of date.

    A state that cannot be used is replaced by its error. None = the operation has not begun.
    Raises NoAnswerError; SettingsError for bad files.
    """
    try:
        async with asyncio.timeout(KAFKA_SECONDS):
            return await _states(settings)
    except StepError as error:
        raise NoAnswerError(f"the state topic cannot be read: {error}") from None
    except TimeoutError:
        raise NoAnswerError(
            f"the state topic cannot be read: Kafka at {settings.kafka.bootstrap_servers} did not"
            f" answer within {KAFKA_SECONDS:.0f} s: it is restarting, overloaded or cut off; try"
            " again, and check KAFKA_BOOTSTRAP_SERVERS"
        ) from None


async def _states(settings: Settings) -> tuple[dict[str, State | StepError | None], list[str]]:
    clients = Clients(settings)
    topic = settings.publisher.state_topic
    there = {home.partition for home in await partitions_of(clients, [topic])}
    if not there:
        raise NoAnswerError(
            f"the state topic cannot be read: Kafka at {settings.kafka.bootstrap_servers} shows no"
            f" topic {topic}: the service has not run with these settings yet, or READ on the topic"
            " is not granted; check KAFKA_BOOTSTRAP_SERVERS and PUBLISHER_STATE_TOPIC"
        )
    labels = {operation.name: operation.label for operation in settings.operations}
    wanted = sorted({partition_of(name) for name in labels} & there)
    async with reading(clients) as reader:
        read = [await reader.decided_records(TopicPartition(topic, number)) for number in wanted]
    live = {number: records for number, (records, _) in zip(wanted, read, strict=True)}
    hints = [
        hidden_hint(TopicPartition(topic, number))
        for number, (_, hidden) in zip(wanted, read, strict=True)
        if hidden
    ]
    return {
        label: _state(name, live.get(partition_of(name), {})) for name, label in labels.items()
    }, hints


async def records_of(
    settings: Settings, operation: str, hidden: set[str] | None = None
) -> dict[bytes, bytes]:
    """The live records of the operation's state, by key; empty if the topic does not exist.

    For `hidden`, and what is raised, see `topic_records` in `publisher/kafka/reader.py`.
    """
    clients = Clients(settings)
    home = TopicPartition(settings.publisher.state_topic, partition_of(operation))
    if home not in await partitions_of(clients, [home.topic]):
        return {}
    async with reading(clients) as reader:
        live = await _live(reader, home, hidden)
    return {key: value for key, value in live.items() if operation_of(key) == operation}


async def restored_of(
    settings: Settings, operation: str, blocked_after: float = COMMAND_SECONDS
) -> Restored:
    """What the service would restore, read without a takeover.

    Raises NeedsOperator if an undecided transaction hides the end of the state for longer than
    `blocked_after` seconds.
    """
    clients = Clients(settings)
    home = TopicPartition(settings.publisher.state_topic, partition_of(operation))
    homes = await partitions_of(clients, [home.topic])
    partitions = await partitions_of(clients, [settings.messages_topic(operation)])
    async with reading(clients) as reader:
        live = await reader.live_records(home, blocked_after) if home in homes else {}
        since = reader.written_at.get(checkpoint_key(operation), NEVER)
        tail = await reader.tail(partitions, operation, since)
        if _sequence(live, operation) < tail.newest_published and home in homes:
            # A service that runs may have published since the state was read.
            live = await reader.live_records(home, blocked_after)
        records = {key: value for key, value in live.items() if operation_of(key) == operation}
        lost = False
        if checkpoint_key(operation) not in records:
            lost = await history_lost(reader, settings, partitions, homes, blocked_after)
    return Restored(records, lost, tail.newest_published, tail.unused, tail.readable)


def _sequence(live: Mapping[bytes, bytes], operation: str) -> int:
    """The number of the last transaction by the checkpoint; -1 = no checkpoint can be read."""
    try:
        return int(orjson.loads(live[checkpoint_key(operation)])["sequence"])
    except (KeyError, TypeError, ValueError):
        return -1


async def all_records(
    settings: Settings, hidden: set[str] | None = None
) -> dict[str, dict[bytes, bytes]]:
    """As `records_of`, for every operation in the state topic, by its name."""
    clients = Clients(settings)
    records: dict[str, dict[bytes, bytes]] = {}
    homes = await partitions_of(clients, [settings.publisher.state_topic])
    async with reading(clients) as reader:
        for home in sorted(homes):
            for key, value in (await _live(reader, home, hidden)).items():
                if operation := operation_of(key):
                    records.setdefault(operation, {})[key] = value
    return records


async def _live(
    reader: Reader, home: TopicPartition, hidden: set[str] | None
) -> dict[bytes, bytes]:
    """The live records of a state partition. For `hidden` see `records_of`."""
    if hidden is None:
        return await reader.live_records(home, COMMAND_SECONDS)
    live, undecided = await reader.decided_records(home)
    if undecided:
        hidden.add(hidden_hint(home))
    return live


def _state(name: str, live: dict[bytes, bytes]) -> State | StepError | None:
    own_records = {key: value for key, value in live.items() if operation_of(key) == name}
    try:
        return state.restore(name, own_records)
    except StepError as error:
        return error

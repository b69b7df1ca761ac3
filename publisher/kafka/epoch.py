"""Gives a producer a new epoch before each of its transactions (decision 0028).

Kafka's requests name a producer and its epoch, but no transaction. If the next transaction had the
same epoch, a copy of a commit that arrives late would commit it half-way. KIP-360 (Kafka 2.5) lets
a producer raise its epoch by one. aiokafka does not implement that request.
"""

import asyncio
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import (
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    IncompatibleBrokerVersion,
    KafkaError,
    NotCoordinatorError,
    ProducerFenced,
    for_code,
)
from aiokafka.producer.transaction_manager import PidAndEpoch
from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.types import CompactString, Int16, Int32, Int64, Schema, TaggedFields

EPOCH_SECONDS: Final = 10.0
"""Longest wait for the next epoch. Nothing was sent by then, so giving up costs only a restore."""

MARKERS_SECONDS: Final = 0.002
"""First pause while Kafka writes the markers of the last commit. Every further pause is twice as
long, up to `RETRY_SECONDS`."""

RETRY_SECONDS: Final = 0.1
"""Longest pause, and the pause while there is no coordinator."""

_FENCED: Final = (47, 90)
"""INVALID_PRODUCER_EPOCH, and the code that brokers send instead since 2.7. aiokafka lacks it."""
_ELSEWHERE: Final = (
    NotCoordinatorError,
    CoordinatorNotAvailableError,
    CoordinatorLoadInProgressError,
)
"""The coordinator is on another broker, or not ready."""


class _NextEpoch(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 22
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )


class _AskNextEpoch(RequestStruct):  # type: ignore[misc]
    """InitProducerId version 3, the first that names the producer whose next epoch is wanted."""

    FLEXIBLE_VERSION = True
    API_KEY = 22
    API_VERSION = 3
    RESPONSE_TYPE = _NextEpoch
    SCHEMA = Schema(
        ("transactional_id", CompactString("utf-8")),
        ("transaction_timeout_ms", Int32),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )

    def prepare(self, versions: dict[int, tuple[int, int]]) -> "_AskNextEpoch":
        """The request itself; the connection calls this to send it.

        Raises IncompatibleBrokerVersion if the broker does not offer it.
        """
        if not _offers(versions):
            raise IncompatibleBrokerVersion("Kafka is older than 2.5")
        return self


def renewable(producer: AIOKafkaProducer) -> bool:
    """Whether the brokers that the producer is connected to can give it a next epoch."""
    connections = producer.client._conns.values()  # noqa: SLF001 - no other way
    return all(_offers(connection._versions) for connection in connections)  # noqa: SLF001


async def renew(producer: AIOKafkaProducer) -> None:
    """Give the producer an epoch that no transaction has had. It must have no open transaction.

    Raises ProducerFenced if another process has taken over, or if a transaction was still open
    (Kafka aborts it then). Raises TimeoutError.
    """
    # All of this is private to aiokafka, because there is no other way. The tests notice changes.
    manager = producer._txn_manager  # noqa: SLF001
    request = _AskNextEpoch(
        manager.transactional_id,
        manager.transaction_timeout_ms,
        manager.producer_id,
        manager.producer_epoch,
        {},
    )
    async with asyncio.timeout(EPOCH_SECONDS):
        answer = await _next(producer, request)
    manager._pid_and_epoch = PidAndEpoch(answer.producer_id, answer.producer_epoch)  # noqa: SLF001
    manager._sequence_numbers.clear()  # noqa: SLF001


async def _next(producer: AIOKafkaProducer, request: _AskNextEpoch) -> Any:
    """The coordinator's answer with the next epoch.

    Asks again while the coordinator is away, or busy with the markers of our last commit.
    """
    pause = MARKERS_SECONDS
    while (answer := await _ask(producer, request)) is None or answer.error_code:
        error = None if answer is None else for_code(answer.error_code)()
        if error is None or isinstance(error, _ELSEWHERE):
            producer._sender._coordinator_dead(CoordinationType.TRANSACTION)  # noqa: SLF001
            pause = RETRY_SECONDS
        elif answer.error_code in _FENCED:
            raise ProducerFenced
        elif not isinstance(error, ConcurrentTransactions):
            raise error
        await asyncio.sleep(pause)
        pause = min(2 * pause, RETRY_SECONDS)
    return answer


async def _ask(producer: AIOKafkaProducer, request: _AskNextEpoch) -> Any:
    """The coordinator's answer; None = there was none, and the same request may be sent again."""
    sender, transactional_id = producer._sender, producer._txn_manager.transactional_id  # noqa: SLF001
    kind = CoordinationType.TRANSACTION
    coordinator = await sender._find_coordinator(kind, transactional_id)  # noqa: SLF001
    try:
        return await producer.client.send(coordinator, request, group=ConnectionGroup.COORDINATION)
    except IncompatibleBrokerVersion:
        raise
    except KafkaError as error:
        if not error.retriable:
            raise
        await producer.client.force_metadata_update()
        return None


def _offers(versions: dict[int, tuple[int, int]]) -> bool:
    lowest, highest = versions.get(_AskNextEpoch.API_KEY, (0, 0))
    return lowest <= _AskNextEpoch.API_VERSION <= highest

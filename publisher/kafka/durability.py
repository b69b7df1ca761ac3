"""Warns when Kafka may lose what it acknowledged, by looking at the copies of every topic.

Rules of this file:
- It gives hints only. Nothing here delays a restore or a window. It guesses nothing about what it
  may not see.
- Brokers that are down count: a single replica is no safer while the other brokers are away.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from publisher.errors import StepError
from publisher.kafka import probe as kafka_probe
from publisher.kafka.broker_version import hanging_hint
from publisher.kafka.clients import Clients
from publisher.kafka.probe import ClosedError
from publisher.kafka.replicas import PROMISED
from publisher.kafka.topics import wanted_topics
from publisher.settings import Settings
from publisher.signals import Emit, HintGiven, Signal, StateRestored

_LOOK_SECONDS: Final = 15.0
"""Longest time for a look at the topics of the waiting operations."""

TRANSACTIONS: Final = "__transaction_state"
"""Kafka's own topic, which records the transactions that were committed."""


def one_broker_hint() -> str:
    return (
        "Kafka has one broker only: acknowledged messages are lost if its disk is lost; use three"
        " brokers, so that topics have three replicas"
    )


class Copies(NamedTuple):
    """The replicas and settings that keep the records of a topic."""

    topic: str
    replicas: int
    """Replicas of the partition that has the fewest."""
    config: Mapping[str, str] | None
    """The settings of the topic; None = we may not see them."""

    def __str__(self) -> str:
        names = ("min.insync.replicas", "unclean.leader.election.enable")
        values = [f"{name}={self.config[name]}" for name in names if self.config]
        return ", ".join([f"replicas={self.replicas}", *values])

    def dangers(self, broker_count: int) -> Iterator[str]:
        """What may lose acknowledged records. `broker_count` includes brokers that are down."""
        config = self.config or {}
        if self.replicas == 1 and broker_count > 1:
            wanted = min(broker_count, PROMISED)
            yield self._danger(
                f"replicas=1 although there are {broker_count} brokers",
                f"give it {wanted} replicas (kafka-reassign-partitions.sh)",
            )
        if self.replicas > 1 and config.get("unclean.leader.election.enable") == "true":
            yield self._danger("unclean.leader.election.enable=true", "set it to false")
        if self.replicas > 1 and config.get("min.insync.replicas") == "1":
            yield self._danger("min.insync.replicas=1", "set it to 2")

    def _danger(self, danger: str, cure: str) -> str:
        return f"topic {self.topic} may lose acknowledged records: it has {danger}; {cure}"


async def dangers(clients: Clients, topics: Collection[str]) -> list[str]:
    """What may lose acknowledged records of these topics, or of Kafka's own transaction topic.

    Raises StepError or ClosedError if Kafka does not answer.
    """
    connection = await kafka_probe.enter_any(clients)
    try:
        names = [*topics, TRANSACTIONS]
        cluster, broker_ids, level = await asyncio.gather(
            kafka_probe.cluster(connection, names),
            kafka_probe.brokers_seen(connection),
            kafka_probe.level_of(connection),
        )
        broker_count = len(broker_ids | set(cluster.brokers))
        if broker_count == 1:
            return [hint for hint in (one_broker_hint(), hanging_hint(level)) if hint]
        existing = [name for name in names if not cluster.topics[name].code]
        configs = await asyncio.gather(
            *(kafka_probe.settings_of(connection, name) for name in existing)
        )
    finally:
        connection.close()
    return [
        danger
        for name, config in zip(existing, configs, strict=True)
        for danger in Copies(name, cluster.topics[name].replicas, config).dangers(broker_count)
    ]


class DurabilityHints:
    """A listener that looks once an operation is restored, because its topics exist then."""

    def __init__(self, clients: Clients, settings: Settings, emit: Emit) -> None:
        self._clients = clients
        self._settings = settings
        self._emit = emit
        self._waiting: set[str] = set()
        """Operations whose topics were not looked at yet."""
        self._looked_at: set[str] = set()
        self._given: set[str] = set()
        self._look: asyncio.Task[None] | None = None

    def __call__(self, signal: Signal) -> None:
        """Look at the topics of an operation once. Look again only if Kafka did not answer."""
        if isinstance(signal, StateRestored) and signal.operation not in self._looked_at:
            self._waiting.add(signal.operation)
            if self._look is None or self._look.done():
                self._look = asyncio.create_task(self._look_at_all())

    async def close(self) -> None:
        """End a look that is still running."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait([self._look])

    async def _look_at_all(self) -> None:
        # While Kafka is away the loops report it. Every loop restores again, which brings us back.
        with suppress(StepError, ClosedError, TimeoutError):
            while self._waiting:
                operations = frozenset(self._waiting)
                topics = {self._settings.publisher.commands_topic}
                for operation in operations:
                    topics |= set(wanted_topics(self._settings, operation))
                async with asyncio.timeout(_LOOK_SECONDS):
                    hints = await dangers(self._clients, sorted(topics))
                self._looked_at |= operations
                self._waiting -= operations
                for hint in hints:
                    if hint not in self._given:
                        self._given.add(hint)
                        self._emit(HintGiven(hint))

"""Checks whether Kafka can be reached, accepts our login, and allows what the service does.

Nothing here begins a transaction or opens a producer: see `kafka/probe.py`.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final

from publisher.commands.check import state_checks, topic_checks
from publisher.commands.check.checklist import Check, Checklist, GiveUpError, State, trying
from publisher.commands.check.kafka_context import Inside, acl
from publisher.errors import NeedsOperator, Reason, StepError
from publisher.kafka import probe as kafka_probe
from publisher.kafka.broker_version import hanging_hint, release
from publisher.kafka.client_errors import no_broker
from publisher.kafka.clients import TRANSACTION_MS, Clients
from publisher.kafka.cluster import partition_of
from publisher.kafka.durability import TRANSACTIONS, one_broker_hint
from publisher.kafka.probe import ClosedError, Cluster, ConnectStage
from publisher.kafka.replicas import replicas_of_new
from publisher.kafka.topics import COMMANDS, Wanted, wanted_topics
from publisher.settings import Settings

NAMES: Final = {
    ConnectStage.CONNECTION: "connection",
    ConnectStage.TLS: "TLS",
    ConnectStage.PROTOCOL: "protocol",
    ConnectStage.LOGIN: "login",
}


async def check(settings: Settings, clients: Clients, checklist: Checklist) -> None:
    """Fill in all checks of Kafka."""
    wanted: dict[str, Wanted] = {}
    for operation in settings.operations:
        wanted |= wanted_topics(settings, operation.name)
    wanted[settings.publisher.commands_topic] = COMMANDS
    group = f"Kafka, {settings.kafka.bootstrap_servers}"
    doors = [
        door
        for door in ConnectStage
        if (door is not ConnectStage.TLS or clients.secure)
        and (door is not ConnectStage.LOGIN or settings.kafka.security_protocol.startswith("SASL"))
    ]
    checks = checklist.add(
        group,
        *(NAMES[door] for door in doors),
        "brokers",
        "version",
        "transactional id",
        "transaction time",
        "transaction log",
    )
    checks_of = {
        topic: checklist.add(
            f"Kafka topic {topic}",
            *topic_checks.CHECKS,
            optional=topic == settings.publisher.commands_topic,
        )
        for topic in wanted
    }
    states = checklist.add("Kafka state", *(operation.name for operation in settings.operations))
    with suppress(GiveUpError), ExitStack() as open_:
        connection = await _enter(settings, clients, checks, doors)
        open_.callback(connection.close)
        inside = await _look_around(settings, clients, checks, connection, wanted)
        open_.callback(inside.controller.close)
        await asyncio.gather(
            *(topic_checks.check(inside, topic, checks_of[topic]) for topic in wanted),
            _transactions(inside, checks),
            topic_checks.check_transaction_log(inside, checks["transaction log"]),
        )
        if not any(lines["rights"].state is State.FAILED for lines in checks_of.values()):
            await state_checks.check(settings, states)


async def _enter(
    settings: Settings, clients: Clients, checks: dict[str, Check], doors: Sequence[ConnectStage]
) -> Any:
    """A connection to a server, with the login done.

    `doors` are the stages of a login; every stage has its check in `checks`. If no server accepts
    us, the server that got furthest gives the reason. Raises GiveUpError.
    """
    checks[NAMES[ConnectStage.CONNECTION]].trying = True
    results = await _enter_each(clients, clients.servers)
    closed = [result for result in results if isinstance(result, ClosedError)]
    connections = [result for result in results if not isinstance(result, BaseException)]
    for spare in connections[1:]:
        spare.close()
    best = max(
        closed,
        key=lambda error: (error.door, isinstance(error.problem, NeedsOperator)),
        default=None,
    )
    for door in doors:
        with trying(checks[NAMES[door]]) as check:
            if not connections and best and door is best.door:
                raise best.problem
            check.ok(_passed(door, settings, clients))
    if closed and connections:
        problems = "; ".join(str(error.problem) for error in closed)
        connection = checks[NAMES[ConnectStage.CONNECTION]]
        connection.hint(f"{len(connections)} of {len(results)} servers let us in; {problems}")
    return connections[0]


async def _enter_each(clients: Clients, servers: Iterable[str]) -> list[Any]:
    """The connection to every server, or the ClosedError that says why there is none."""
    entering = (kafka_probe.enter(clients, server) for server in servers)
    return await asyncio.gather(*entering, return_exceptions=True)


def _passed(door: ConnectStage, settings: Settings, clients: Clients) -> str:
    """The result of the check of this stage, when it has succeeded."""
    match door:
        case ConnectStage.CONNECTION:
            return f"{', '.join(clients.servers)} accepts connections"
        case ConnectStage.TLS:
            return "agreed on, and the certificate is trusted"
        case ConnectStage.PROTOCOL:
            return f"it speaks Kafka, {settings.kafka.security_protocol}"
        case ConnectStage.LOGIN:
            return f"as {settings.kafka.sasl_username}, {settings.kafka.sasl_mechanism}"


async def _look_around(
    settings: Settings,
    clients: Clients,
    checks: dict[str, Check],
    connection: Any,
    wanted: dict[str, Wanted],
) -> Inside:
    """Find the brokers, and check that each is reachable under the address that it advertises.

    `wanted` are the topics that the service uses. Raises GiveUpError if there are no brokers.
    """
    cluster: Cluster | None = None
    connections: dict[int, Any] = {}
    brokers: set[int] = set()
    with suppress(GiveUpError), trying(checks["brokers"]) as check:
        try:
            cluster = await kafka_probe.cluster(connection, [*wanted, TRANSACTIONS])
        except StepError as error:
            if error.reason is not Reason.KAFKA_UNREACHABLE:
                raise
            # The broker hung up: a port for SASL does so at the first request without a login.
            raise no_broker(clients.servers) from None
        if not cluster.brokers:
            raise no_broker(clients.servers)
        results = await _enter_each(clients, cluster.brokers.values())
        closed = [result for result in results if isinstance(result, ClosedError)]
        connections = {
            node: result
            for node, result in zip(cluster.brokers, results, strict=True)
            if not isinstance(result, BaseException)
        }
        brokers = set(cluster.brokers)
        with suppress(StepError):
            brokers |= await kafka_probe.brokers_seen(connection)
        addresses = ", ".join(cluster.brokers.values())
        if closed:
            servers = ", ".join(error.server for error in closed)
            check.failed(
                f"Kafka says that its brokers are at {servers}: from here they cannot be used there"
                f" ({closed[0].problem}); check advertised.listeners of the brokers, and the name"
                " servers and firewalls in between"
            )
        elif len(brokers) == 1:
            check.hint(f"{one_broker_hint()} (it is {addresses})")
        else:
            check.ok(f"{addresses}: each as it names itself")
    if cluster is None or not cluster.brokers:
        raise GiveUpError
    reached_connections = [*connections.values()] or [connection]
    await _versions(checks["version"], reached_connections, alone=len(brokers) == 1)
    controller = connections.pop(cluster.controller, connection)
    for spare in connections.values():
        spare.close()
    replicas = replicas_of_new(len(cluster.brokers), len(brokers), len(set(clients.servers)))
    return Inside(settings, wanted, cluster, connection, controller, replicas, len(brokers))


async def _versions(check: Check, connections: Iterable[Any], *, alone: bool) -> None:
    """Report the releases of the brokers that could be reached.

    `alone` = the cluster has a single broker: some releases of it can leave transactions hanging.
    """
    with suppress(GiveUpError), trying(check):
        levels = await asyncio.gather(*map(kafka_probe.level_of, connections))
        hints = [hint for hint in map(hanging_hint, levels) if hint and alone]
        if hints:
            check.hint(hints[0])
        else:
            check.ok(", ".join(sorted(set(map(release, levels)))))


async def _transactions(inside: Inside, checks: dict[str, Check]) -> None:
    """Check that we may write transactions, and that the brokers allow them to last long enough."""
    settings = inside.settings
    prefix = settings.publisher.transactional_id
    partitions = sorted({partition_of(operation.name) for operation in settings.operations})
    ids = [f"{prefix}-{partition}" for partition in partitions]
    with suppress(GiveUpError), trying(checks["transactional id"]) as check:
        try:
            for transactional_id in ids:
                await kafka_probe.use_transactional_id(inside.connection, transactional_id)
        except NeedsOperator as error:
            where = f"--transactional-id {prefix} --resource-pattern-type prefixed"
            check.failed(str(error), acl(settings, ["Write"], where))
        else:
            check.ok(f"we may write as {', '.join(ids)}")
    with suppress(GiveUpError), trying(checks["transaction time"]) as check:
        node = next(iter(inside.cluster.brokers))
        longest_ms = await kafka_probe.longest_transaction_ms(inside.connection, node)
        needed = TRANSACTION_MS // 1000
        if longest_ms is None:
            check.hint(
                f"cannot be seen without DESCRIBE_CONFIGS on the cluster; {needed} s are needed,"
                " Kafka allows 900 s unless it was told otherwise"
            )
        elif longest_ms < TRANSACTION_MS:
            check.failed(
                f"the brokers allow transactions of {longest_ms / 1000:g} s, {needed} s are needed:"
                f" raise their transaction.max.timeout.ms to at least {TRANSACTION_MS}"
            )
        else:
            check.ok(f"the brokers allow {longest_ms / 1000:g} s, {needed} s are needed")

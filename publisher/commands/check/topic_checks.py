"""Checks every topic: its existence, or whether we could create it, our rights and its settings.

The service only reads the commands topic. The command that orders backfills writes to it, and
creates it the first time. The service can run without it, so its checks are optional.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from publisher.commands.check.checklist import Check, GiveUpError, trying
from publisher.commands.check.kafka_context import Inside, acl
from publisher.kafka import probe as kafka_probe
from publisher.kafka.durability import TRANSACTIONS, Copies
from publisher.kafka.replicas import too_few_brokers
from publisher.kafka.topics import (
    AUTHORIZATION,
    UNKNOWN_TOPIC,
    new_topics,
    not_created,
    too_few_partitions,
    unseen_orders,
    unseen_settings,
    wrong_commands,
    wrong_settings,
)

CHECKS: Final = ("rights", "settings")


async def check(inside: Inside, topic: str, checks: dict[str, Check]) -> None:
    """Fill in the checks of a topic; `checks` has them by the names in `CHECKS`."""
    with suppress(GiveUpError):
        with trying(checks["rights"]) as line:
            await _rights(inside, topic, line)
        code = inside.cluster.topics[topic].code
        if code == UNKNOWN_TOPIC:
            checks["settings"].ok("the right ones, when it is created")
        elif not code:
            with trying(checks["settings"]) as line:
                await _settings(inside, topic, line)


async def _rights(inside: Inside, topic: str, line: Check) -> None:
    """Check that we have the rights that we need, or that we could create a missing topic."""
    seen = inside.cluster.topics[topic]
    backfill_requests = inside.is_commands(topic)
    if forbidden := _forbidden(inside, topic):
        words = " and ".join(right.upper() for right in forbidden)
        hidden = " (or it is missing, which is hidden from us)" if seen.code else ""
        text = f"Kafka forbids {words} on topic {topic}{hidden}: grant {words} on it"
        line.wrong(
            unseen_orders(topic) if backfill_requests else text,
            acl(inside.settings, forbidden, f"--topic {topic}"),
        )
    elif seen.code == UNKNOWN_TOPIC:
        await _creation(inside, topic, line)
    elif seen.code:
        line.wrong(
            f"Kafka cannot say anything of topic {topic} now (its error {seen.code}): look at the"
            " brokers' log"
        )
    elif backfill_requests and seen.rights is not None and "Write" not in seen.rights:
        line.ok(f"there (partitions {seen.partitions}); we may read, others order backfills")
    else:
        needed = " and ".join(_needed(inside, topic)).lower()
        may = "we may read and write" if backfill_requests else f"we may {needed}"
        rights = "rights are not told" if seen.rights is None else may
        line.ok(f"there (partitions {seen.partitions}); {rights}")


def _needed(inside: Inside, topic: str) -> list[str]:
    """The rights that the service needs on the topic."""
    if inside.is_commands(topic):
        return ["Read"]
    return ["Write", "Read"] if topic == inside.settings.publisher.state_topic else ["Write"]


def _forbidden(inside: Inside, topic: str) -> list[str]:
    """The rights that we need on the topic and do not have."""
    seen, needed = inside.cluster.topics[topic], _needed(inside, topic)
    if seen.code == AUTHORIZATION:
        return needed  # without the right to see the topic we have no other right on it
    if seen.rights is None or (seen.code and inside.is_commands(topic)):
        return []
    return [right for right in needed if right not in seen.rights]


async def _creation(inside: Inside, topic: str, line: Check) -> None:
    """Check that the missing topic could be created."""
    wanted = inside.wanted[topic]
    brokers_up_count = len(inside.cluster.brokers)
    if brokers_up_count < inside.replicas:
        line.wrong(str(too_few_brokers(topic, brokers_up_count, inside.replicas)))
        return
    [new_topic] = new_topics({topic: wanted}, inside.replicas)
    code = await kafka_probe.could_create(inside.controller, new_topic)
    if code == kafka_probe.NOT_CONTROLLER:
        line.hint("missing; whether we may create it only the controller knows")
    elif code and inside.is_commands(topic):
        line.wrong(f"{not_created(topic, code, wanted)}, before a backfill is ordered")
    elif code:
        raise not_created(topic, code, wanted)
    elif inside.is_commands(topic):
        line.ok(
            "missing, so nothing was ordered; the first backfill will create it"
            f" (partitions {new_topic.num_partitions}, replicas {new_topic.replication_factor})"
        )
    else:
        line.ok(
            "missing; the service will create it at its first start"
            f" (partitions {new_topic.num_partitions}, replicas {new_topic.replication_factor})"
        )


async def check_transaction_log(inside: Inside, check: Check) -> None:
    """Check that Kafka's own topic keeps safely which transactions were committed."""
    topic = inside.cluster.topics[TRANSACTIONS]
    with suppress(GiveUpError), trying(check):
        config = await kafka_probe.settings_of(inside.connection, TRANSACTIONS)
        copies = Copies(TRANSACTIONS, topic.replicas, config)
        if topic.code == UNKNOWN_TOPIC:
            check.ok("missing; Kafka will create it for the first transaction")
        elif dangers := [*copies.dangers(inside.brokers)]:
            check.failed("; ".join(dangers))
        elif topic.code or config is None:
            check.hint(
                f"replicas of topic {TRANSACTIONS} cannot be checked: grant DESCRIBE and"
                " DESCRIBE_CONFIGS on it",
                acl(inside.settings, ["Describe", "DescribeConfigs"], f"--topic {TRANSACTIONS}"),
            )
        else:
            check.ok(str(copies))


async def _settings(inside: Inside, topic: str, line: Check) -> None:
    """Check the settings, the partitions and the replicas of the topic."""
    topic_settings = await kafka_probe.settings_of(inside.connection, topic)
    copies = Copies(topic, inside.cluster.topics[topic].replicas, topic_settings)
    dangers = copies.dangers(inside.brokers)
    if problems := [*_problems(inside, topic, topic_settings), *dangers]:
        line.wrong("; ".join(problems))
    elif topic_settings is None:
        command = acl(inside.settings, ["DescribeConfigs"], f"--topic {topic}")
        line.hint(unseen_settings(topic), command)
    else:
        names = ["cleanup.policy", *([] if inside.is_commands(topic) else ["max.message.bytes"])]
        settings = ", ".join(
            f"{name}={topic_settings[name]}" for name in names if name in topic_settings
        )
        line.ok(f"{settings}, {copies}")


def _problems(inside: Inside, topic: str, topic_settings: Mapping[str, str] | None) -> list[str]:
    """The settings that cannot work. The partition count is visible even without the settings."""
    partitions = inside.cluster.topics[topic].partitions
    if inside.is_commands(topic):
        return [*wrong_commands(topic, partitions, topic_settings or {})]
    problems = [*wrong_settings(inside.settings, topic, topic_settings)] if topic_settings else []
    if topic == inside.settings.publisher.state_topic:
        problems += too_few_partitions(topic, partitions)
    return problems

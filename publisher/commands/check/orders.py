"""Whether backfills could be ordered: the commands topic, which the service can do without.

The service only reads it; who orders writes, and makes it the first time. So what is wrong with
it is a hint, with its cure.
"""

from contextlib import suppress
from typing import Final

from publisher.commands.check.checklist import Check, GiveUpError, trying
from publisher.commands.check.inside import Inside, acl
from publisher.edges import kafka_probe
from publisher.edges.kafka_topics import (
    AUTHORIZATION,
    COMMANDS,
    UNKNOWN_TOPIC,
    new_topics,
    not_created,
    unseen_orders,
    unseen_settings,
    wrong_commands,
)

CHECKS: Final = ("rights", "settings")


async def check(inside: Inside, checks: dict[str, Check]) -> None:
    """Fill in the lines of the commands topic."""
    topic = inside.settings.publisher.commands_topic
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
    seen = inside.cluster.topics[topic]
    rights = seen.rights
    if seen.code == AUTHORIZATION or (
        not seen.code and rights is not None and "Read" not in rights
    ):
        line.hint(unseen_orders(topic), acl(inside.settings, ["Read"], f"--topic {topic}"))
    elif seen.code == UNKNOWN_TOPIC:
        await _creation(inside, topic, line)
    elif seen.code:
        line.hint(
            f"Kafka cannot say anything of topic {topic} now (its error {seen.code}): look at the"
            " brokers' log"
        )
    elif rights is not None and "Write" not in rights:
        line.ok(f"there (partitions {seen.partitions}); we may read, others order backfills")
    else:
        told = "rights are not told" if rights is None else "we may read and write"
        line.ok(f"there (partitions {seen.partitions}); {told}")


async def _creation(inside: Inside, topic: str, line: Check) -> None:
    [new] = new_topics({topic: COMMANDS}, len(inside.cluster.brokers))
    code = await kafka_probe.could_create(inside.controller, new)
    if code == kafka_probe.NOT_CONTROLLER:
        line.hint("missing; whether we may create it only the controller knows")
    elif code:
        line.hint(f"{not_created(topic, code, COMMANDS)}, before a backfill is ordered")
    else:
        line.ok(
            "missing, so nothing was ordered; the first backfill will create it"
            f" (partitions {new.num_partitions}, replicas {new.replication_factor})"
        )


async def _settings(inside: Inside, topic: str, line: Check) -> None:
    found = (await kafka_probe.settings_of(inside.connection, [topic])).get(topic)
    partitions = inside.cluster.topics[topic].partitions
    problems = list(wrong_commands(topic, partitions, found or {}))
    if problems:
        line.hint("; ".join(problems))
    elif found is None:
        command = acl(inside.settings, ["DescribeConfigs"], f"--topic {topic}")
        line.hint(unseen_settings(topic), command)
    else:
        line.ok(f"cleanup.policy={found['cleanup.policy']}")

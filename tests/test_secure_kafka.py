"""The commands of docs/how-to/secure-kafka.md, applied to a real broker as they stand there.

The page is the list: the tests read it, so it cannot say what was not tried. The topics' names
and the user's are replaced by those of the test.
"""

import re
import shlex
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from aiokafka.helpers import create_ssl_context

from publisher.kafka.durability import one_broker_hint
from publisher.kafka.topics import (
    _STATE_CONFIG,
    DEAD_LETTERS_PARTITIONS,
    MESSAGES_PARTITIONS,
    STATE_PARTITIONS,
)
from publisher.settings import PublisherSettings
from sandbox.kafka import USERS, Broker
from sandbox.processes import until
from tests import kafka_tools
from tests.harness import Publisher, Rig, rig

PAGE: Final = Path(__file__).parents[1] / "docs" / "how-to" / "secure-kafka.md"
NAMES: Final = PublisherSettings()
USER: Final = "bob"
"""May do nothing on the test's broker but what a test grants."""

CALM: Final = {"history": "1m", "late": 0.0, "hypothesis": "H2"}
FAST: Final = {
    "PUBLISHER_POLL_EVERY": "300ms",
    "PUBLISHER_OVERLAP": "2s",
    "PUBLISHER_START": "-1m",
    "PUBLISHER_REREADS": "",
}


def commands(block: str) -> list[list[str]]:
    """The words of each command in the page's block of that name."""
    text = PAGE.read_text(encoding="utf-8")
    [found] = re.findall(rf"^```sh {block}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in found.splitlines()]


def option(words: list[str], name: str) -> str:
    [value] = [words[at + 1] for at, word in enumerate(words) if word == f"--{name}"]
    return value


@dataclass(frozen=True)
class Grant:
    """What one command of `kafka-acls.sh` gives."""

    operation: str
    kind: str
    name: str
    prefixed: bool

    def __str__(self) -> str:
        return f"{self.operation} {self.kind} {self.name}"


def grants(block: str) -> list[Grant]:
    return [_grant(words) for words in commands(block)]


def _grant(words: list[str]) -> Grant:
    assert words[0] == "kafka-acls.sh"
    assert "--add" in words
    [kind] = {"--topic", "--group", "--transactional-id"} & set(words)
    pattern = option(words, "resource-pattern-type") if "prefixed" in words else "literal"
    operation = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", option(words, "operation")).upper()
    name = option(words, kind.removeprefix("--"))
    return Grant(operation, kind[2:].replace("-", "_").upper(), name, pattern == "prefixed")


PUBLISHER: Final = grants("publisher")
SETTINGS: Final = grants("settings")
CREATE: Final = grants("create")
CONSUMER: Final = grants("consumer")


def without_each(rights: list[Grant]) -> pytest.MarkDecorator:
    """One test for each right that is missing."""
    return pytest.mark.parametrize("missing", rights, ids=str)


def mine(one: Rig) -> Mapping[str, str]:
    """What stands in the place of the page's names."""
    return {
        NAMES.messages_topic: one.settings["PUBLISHER_MESSAGES_TOPIC"],
        NAMES.dead_letters_topic: one.settings["PUBLISHER_DEAD_LETTERS_TOPIC"],
        NAMES.state_topic: one.settings["PUBLISHER_STATE_TOPIC"],
        NAMES.transactional_id: one.settings["PUBLISHER_TRANSACTIONAL_ID"],
    }


def allow(kafka: Broker, rights: Iterable[Grant], names: Mapping[str, str]) -> None:
    for right in rights:
        kafka.allow(USER, right.operation, right.kind, names[right.name], prefixed=right.prefixed)


@asynccontextmanager
async def secured(
    kafka: Broker, folder: Path, *rights: Grant, topics: bool = True
) -> AsyncIterator[Rig]:
    """A rig whose publisher comes as a user with these rights; the topics are there or not."""
    settings = FAST | {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.secure_bootstrap,
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_USERNAME": USER,
        "KAFKA_SASL_PASSWORD": USERS[USER],
        "KAFKA_SSL_CAFILE": str(kafka.cafile),
    }
    async with rig(kafka.bootstrap, folder, CALM, settings) as one:
        if topics:
            await create(kafka, mine(one))
        allow(kafka, rights, mine(one))
        yield one


async def create(kafka: Broker, names: Mapping[str, str]) -> None:
    """Create the topics as the page does, as far as a single broker can."""
    for words in commands("topics"):
        config = dict(told.split("=") for told in _all(words, "config"))
        del config["min.insync.replicas"]
        dotted = {name.replace(".", "_"): value for name, value in config.items()}
        partitions = int(option(words, "partitions"))
        await kafka_tools.create(
            kafka.bootstrap, names[option(words, "topic")], partitions, **dotted
        )


def _all(words: list[str], name: str) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == f"--{name}"]


# --- topics ---------------------------------------------------------------------------------------


def test_the_topics_are_those_that_the_publisher_would_create() -> None:
    told = {option(words, "topic"): words for words in commands("topics")}
    assert {name: int(option(words, "partitions")) for name, words in told.items()} == {
        NAMES.messages_topic: MESSAGES_PARTITIONS,
        NAMES.dead_letters_topic: DEAD_LETTERS_PARTITIONS,
        NAMES.state_topic: STATE_PARTITIONS,
    }
    state = dict(config.split("=") for config in _all(told[NAMES.state_topic], "config"))
    for name, value in _STATE_CONFIG.items():
        if name != "message.timestamp.type":  # Kafka's own default
            assert state[name] == value


# --- the publisher --------------------------------------------------------------------------------


async def test_five_rights_are_enough(kafka: Broker, tmp_path: Path) -> None:
    """Into topics made by hand, it publishes, and goes on after a restart."""
    assert len(PUBLISHER) == 5
    async with secured(kafka, tmp_path, *PUBLISHER) as one:
        publisher = one.start()
        await publisher.logged(20, event="First start, state created")
        await publisher.logged(20, event="Window published")
        assert await publisher.stop() == 0
        publisher = one.start()
        await publisher.logged(20, event="State restored")
        await publisher.logged(20, event="Window published")
        assert not [line for line in publisher.lines if line["level"] == "error"]
        assert await one.read()


@without_each(PUBLISHER)
async def test_none_of_the_five_can_be_left_out(
    kafka: Broker, tmp_path: Path, missing: Grant
) -> None:
    """Without one of them nothing is published, and the line says what to grant."""
    rights = [right for right in PUBLISHER if right != missing]
    async with secured(kafka, tmp_path, *rights) as one:
        publisher = one.start()
        line = await publisher.logged(20, reason="kafka_authorization")
        assert line["level"] == "error"
        assert missing.operation in line["problem"]
        expected = (
            "PUBLISHER_TRANSACTIONAL_ID"
            if missing.kind == "TRANSACTIONAL_ID"
            else mine(one)[missing.name]
        )
        assert expected in line["problem"]
        assert not await one.read()


def hints(one: Rig, publisher: Publisher) -> list[str]:
    """What it complains of, but for the orders, which may not be read, and for a single broker."""
    backfill_requests = one.settings["PUBLISHER_COMMANDS_TOPIC"]
    lines = [line for line in publisher.lines if line["level"] in ("warning", "error")]
    told = [str(line.get("hint", line)) for line in lines]
    unread = (backfill_requests, "orders cannot be read", one_broker_hint())
    return [each for each in told if not any(text in each for text in unread)]


async def test_with_a_look_at_the_settings_nothing_is_left_to_say(
    kafka: Broker, tmp_path: Path
) -> None:
    async with secured(kafka, tmp_path, *PUBLISHER, *SETTINGS) as one:
        publisher = one.start()
        await publisher.logged(20, event="Window published")
        assert hints(one, publisher) == []


@without_each(SETTINGS)
async def test_each_look_at_the_settings_is_needed(
    kafka: Broker, tmp_path: Path, missing: Grant
) -> None:
    """Without it the publisher says which topic it could not check."""
    rights = [right for right in SETTINGS if right != missing]
    async with secured(kafka, tmp_path, *PUBLISHER, *rights) as one:
        publisher = one.start()
        await publisher.published()
        await publisher.stop()
        publisher = one.start()  # only now there is something in each topic that it may not read
        await publisher.logged(20, event="Window published")
        [hint] = hints(one, publisher)
        problem = (
            "set back cannot be noticed" if missing.operation == "READ" else "cannot be checked"
        )
        assert problem in hint
        assert f"topic {mine(one)[missing.name]} " in hint


async def test_it_creates_the_topics_where_it_may(kafka: Broker, tmp_path: Path) -> None:
    async with secured(kafka, tmp_path, *PUBLISHER, *CREATE, topics=False) as one:
        publisher = one.start()
        await publisher.logged(20, event="Window published")
        created = {line["topic"] for line in publisher.lines if line["event"] == "Topic created"}
        assert created == {mine(one)[right.name] for right in CREATE}


@without_each(CREATE)
async def test_each_right_to_create_is_needed(
    kafka: Broker, tmp_path: Path, missing: Grant
) -> None:
    rights = [right for right in CREATE if right != missing]
    async with secured(kafka, tmp_path, *PUBLISHER, *rights, topics=False) as one:
        publisher = one.start()
        line = await publisher.logged(20, reason="kafka_authorization")
        assert f"topic {mine(one)[missing.name]} is missing" in line["problem"]


# --- revisions ------------------------------------------------------------------------------------


async def test_revisions_need_a_right_more(kafka: Broker, tmp_path: Path) -> None:
    """Into a topic made by hand; without the right the line says what to grant."""
    [words] = commands("revisions-topic")
    write, settings, read = grants("revisions")
    assert option(words, "topic") == write.name == settings.name == read.name
    assert int(option(words, "partitions")) == MESSAGES_PARTITIONS
    assert (write.operation, settings.operation) == ("WRITE", "DESCRIBE_CONFIGS")
    async with secured(kafka, tmp_path, *PUBLISHER, *SETTINGS) as one:
        topic = one.settings["PUBLISHER_MESSAGES_TOPIC"] + ".revisions"
        one.settings["PUBLISHER_REVISIONS_TOPIC"] = topic
        one.settings["PUBLISHER_COMMANDS_TOPIC"] = f"{topic}.commands"  # nobody has made it
        await kafka_tools.create(kafka.bootstrap, topic, MESSAGES_PARTITIONS)
        publisher = one.start()
        line = await publisher.logged(20, reason="kafka_authorization")
        assert f"topic {topic}: grant DESCRIBE and WRITE" in line["problem"]
        publisher.kill()
        allow(kafka, (write, settings), {write.name: topic})
        publisher = one.start()
        await publisher.logged(20, event="Window published")
        assert hints(one, publisher) == []


# --- a consumer -----------------------------------------------------------------------------------


async def consumed(kafka: Broker, one: Rig, group: str) -> int:
    """How many records a consumer of the page gets at once."""
    consumer = AIOKafkaConsumer(
        one.settings["PUBLISHER_MESSAGES_TOPIC"],
        bootstrap_servers=kafka.secure_bootstrap,
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_plain_username=USER,
        sasl_plain_password=USERS[USER],
        ssl_context=create_ssl_context(cafile=str(kafka.cafile)),
        group_id=group,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    try:
        await consumer.start()

        async def some() -> int:  # whoever joins a group waits for its partitions first
            return sum(map(len, (await consumer.getmany(timeout_ms=1_000)).values()))

        return int(await until(some, 30, "a record"))
    finally:
        await consumer.stop()


@pytest.mark.parametrize(
    ("missing", "refusal"),
    [
        (None, None),
        ("TOPIC", TopicAuthorizationFailedError),
        ("GROUP", GroupAuthorizationFailedError),
    ],
)
async def test_a_consumer_needs_both_of_its_rights(
    kafka: Broker, tmp_path: Path, missing: str | None, refusal: type[Exception] | None
) -> None:
    assert [right.kind for right in CONSUMER] == ["TOPIC", "GROUP"]
    async with rig(kafka.bootstrap, tmp_path, CALM, FAST) as one:
        await one.start().logged(20, event="Window published")
        group = one.settings["PUBLISHER_MESSAGES_TOPIC"] + ".consumer"
        names = {**mine(one), CONSUMER[1].name: group}
        allow(kafka, (right for right in CONSUMER if right.kind != missing), names)
        if refusal is None:
            assert await consumed(kafka, one, group)
        else:
            with pytest.raises(refusal):
                await consumed(kafka, one, group)

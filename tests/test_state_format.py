"""A state topic as format 1 wrote it restores for ever, through the real code, on a real Kafka.

The files in `golden/` were written once and are never made again. Whoever changes the format
keeps them and their tests, and adds a file of the new format: see `schemas/README.md`.
`test_state.py` says what the first of them means, field by field.
"""

import json
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from publisher.errors import Fenced
from publisher.events.publication import Limits, Publication, prepare
from publisher.kafka.cluster import Cluster, partition_of
from publisher.model import Answer, Window
from publisher.schedule.passes import Read, passes_of
from publisher.settings import PublisherSettings
from publisher.state import state
from publisher.state.state import State
from publisher.wolkvox.responses import classify
from publisher.wolkvox.timezone import Zone
from sandbox.kafka import Broker
from tests import kafka_tools
from tests.fakes import Author, event, same, settings_of
from tests.test_schemas import DAY, MINUTE, OPERATION, READ_AT, START

GOLDEN: Final = Path(__file__).parent / "golden"
FIRST: Final[dict[str, Any]] = json.loads((GOLDEN / "state.v1.json").read_bytes())
"""Every kind of record: a journal of five windows, one of them in three parts, and gaps."""
TOPIC: Final[dict[str, Any]] = json.loads((GOLDEN / "topic.v1.json").read_bytes())
"""What one window of one answer left, owner included; and the answer."""


def records_of(golden: dict[str, Any]) -> dict[bytes, bytes]:
    return {key.encode(): b64decode(value) for key, value in golden["topic"].items()}


def publication_of(known: State, data: list[Any]) -> Publication:
    """What is published of an answer by a process that knows so much."""
    pass_, *_ = passes_of(PublisherSettings())
    body = orjson.dumps({"code": 200, "error": None, "msg": "", "data": data})
    answer = Answer(200, {}, body, READ_AT, READ_AT, 0.1)
    window = Window(START, START + 5 * MINUTE)
    return prepare(
        known, Read(pass_, window, ends_round=True), answer, classify(answer),
        Zone("America/Bogota"), Limits(31 * DAY, 1_000_000),
        now=READ_AT, covered_until=window.end, possibly_cut=False,
    )  # fmt: skip


@pytest.fixture
async def cluster(topics: dict[str, str]) -> AsyncIterator[Callable[[], Cluster]]:
    """Makes processes that are closed at the end of the test."""
    async with AsyncExitStack() as stack:

        def made() -> Cluster:
            one = Cluster(settings_of(topics), lambda _: None)
            stack.push_async_callback(one.close)
            return one

        yield made


async def seed(kafka: Broker, topics: dict[str, str], records: dict[bytes, bytes]) -> None:
    """A state topic as it was found: the records where the first release put them."""
    topic = topics["PUBLISHER_STATE_TOPIC"]
    await kafka_tools.create(kafka.bootstrap, topic, 12, cleanup_policy="compact")
    await put(kafka, topics, records)


async def put(kafka: Broker, topics: dict[str, str], records: dict[bytes, bytes]) -> None:
    topic, partition = topics["PUBLISHER_STATE_TOPIC"], TOPIC["partition"]
    async with kafka_tools.producing(kafka.bootstrap) as producer:
        for key, value in records.items():
            await producer.send_and_wait(topic, value, key=key, partition=partition)


async def restored(one: Cluster) -> State:
    told = await one.log(OPERATION).restore()
    found = state.restore(OPERATION, told.records)
    assert found is not None
    return found


def test_the_operation_lies_where_it_lay() -> None:
    assert partition_of(OPERATION) == TOPIC["partition"]


@pytest.mark.parametrize("golden", [FIRST, TOPIC], ids=["state.v1", "topic.v1"])
async def test_a_topic_of_format_1_restores_and_goes_on(
    golden: dict[str, Any],
    kafka: Broker,
    topics: dict[str, str],
    cluster: Callable[[], Cluster],
) -> None:
    """Nothing of it is lost in the restore, nor by what this release adds to it."""
    records = records_of(golden)
    await seed(kafka, topics, records)
    one = cluster()
    author = Author()
    author.state = await restored(one)
    mine = {key: value for key, value in records.items() if not key.startswith(b"owner/")}
    expected = state.restore(OPERATION, mine)
    assert expected is not None
    assert len(expected.ledger) > 0
    assert same(author.state, expected)
    sequence = author.state.checkpoint.sequence
    await one.log(OPERATION).commit(author.window([event("186067512", b"the next")]))
    author.committed()
    again = await restored(cluster())
    assert again.checkpoint.sequence == sequence + 1
    assert same(again, author.state)
    found = await kafka_tools.read(kafka.bootstrap, topics["PUBLISHER_MESSAGES_TOPIC"])
    assert [record.value for record in found] == [b"the next"]


async def test_what_format_1_remembers_is_not_published_again(
    kafka: Broker, topics: dict[str, str], cluster: Callable[[], Cluster]
) -> None:
    """Ids in the journal are those of the rows: the same answer is known, one more row is not."""
    await seed(kafka, topics, records_of(TOPIC))
    known = await restored(cluster())
    again = publication_of(known, TOPIC["answer"])
    assert (again.new, again.duplicate) == (0, TOPIC["new"])
    assert not again.rejected
    assert not list(again.batch.events)
    assert not list(again.batch.dead_letters)
    [chat, *others] = TOPIC["answer"]
    more = {**chat, "conversation": [*chat["conversation"], chat["conversation"][0]]}
    assert publication_of(known, [more, *others]).new == 1


async def test_an_owner_of_format_1_is_somebody_else(
    kafka: Broker, topics: dict[str, str], cluster: Callable[[], Cluster]
) -> None:
    """A process that lost its id to one of the first release knows that it was replaced."""
    records = records_of(TOPIC)
    key = f"owner/{TOPIC['partition']}".encode()
    owner = {key: records.pop(key)}
    await seed(kafka, topics, records)
    one, author = cluster(), Author()
    author.state = await restored(one)
    await one.log(OPERATION).commit(author.window())
    author.committed()
    transactional_id = f"{topics['PUBLISHER_TRANSACTIONAL_ID']}-{TOPIC['partition']}"
    await kafka_tools.fence(kafka.bootstrap, transactional_id)
    await put(kafka, topics, owner)
    with pytest.raises(Fenced):
        await one.log(OPERATION).commit(author.window())

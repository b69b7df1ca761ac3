"""What `check` says of the state: each thing that holds the service, on a real Kafka.

The API is not there; what is said of Kafka does not depend on it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from publisher.commands.check.checklist import State
from publisher.commands.status_reader import restored_of
from publisher.kafka.cluster import Cluster, OperationLog, partition_of
from publisher.kafka.reader import Reader
from publisher.state.restored import state_to_go_on_from
from sandbox.kafka import Broker
from tests import kafka_tools
from tests.fakes import Author, settings_of
from tests.test_check import NOBODY, check
from tests.test_kafka_security import MINIMUM, Env, grant, through
from tests.test_log_contract import numbered

OPERATION = "wv0010"


@asynccontextmanager
async def service(topics: Env, operation: str = OPERATION) -> AsyncIterator[OperationLog]:
    """The log as the service holds it, restored."""
    cluster = Cluster(settings_of(topics, operation), lambda _: None)
    try:
        log = cluster.log(operation)
        await log.restore()
        yield log
    finally:
        await cluster.close()


async def published(log: OperationLog, author: Author, *texts: str) -> None:
    for text in texts:
        await log.commit(author.window(numbered(author, text)))
        author.committed()


async def begun(topics: Env, *texts: str) -> Author:
    """An operation that has published these texts, a transaction each."""
    author = Author(OPERATION)
    async with service(topics) as log:
        await log.commit(author.first())
        await published(log, author, *texts)
    return author


async def state_line(topics: Env, **settings: str) -> dict[str, str]:
    """What `check` says of the operation's state."""
    outcome = await check({**topics, "WOLKVOX_URL": NOBODY, **settings})
    return outcome.of(OPERATION, "Kafka state")


async def test_a_service_that_publishes_meanwhile_has_not_lost_its_state(
    topics: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the state and the look at the topic, which is ahead of it then."""
    author = Author(OPERATION)
    read = Reader.live_records
    async with service(topics) as log:
        await log.commit(author.first())
        await published(log, author, "1")

        async def read_and_publish(
            reader: Reader, partition: TopicPartition, blocked_after: float
        ) -> dict[bytes, bytes]:
            found = await read(reader, partition, blocked_after)
            monkeypatch.setattr(Reader, "live_records", read)
            await published(log, author, "2")
            return found

        monkeypatch.setattr(Reader, "live_records", read_and_publish)
        settings = settings_of(topics, OPERATION)
        restored = await restored_of(settings, OPERATION)
    known = state_to_go_on_from(
        OPERATION, restored, settings.publisher.state_topic, revisions=False
    )
    assert known is not None
    assert known.checkpoint.sequence == restored.newest_published


async def test_a_state_that_can_be_restored(topics: Env) -> None:
    await begun(topics, "one")
    line = await state_line(topics)
    assert line["state"] == State.OK
    assert line["text"].startswith("can be restored; live goes on at ")


async def test_an_end_that_is_hidden(kafka: Broker, topics: Env) -> None:
    """The service's own words come in time, not "no answer"; once it is decided all is well."""
    author, home = Author(OPERATION), partition_of(OPERATION)
    async with (
        service(topics) as log,
        kafka_tools.producing(kafka.bootstrap, transactional_id="foreign") as foreign,
    ):
        await log.commit(author.first())
        await foreign.begin_transaction()
        await foreign.send_and_wait(
            topics["PUBLISHER_STATE_TOPIC"], b"x", b"foreign", partition=home
        )
        await published(log, author, "one")
        line = await state_line(topics)
        assert line["state"] == State.FAILED
        hidden = f"{topics['PUBLISHER_STATE_TOPIC']}-{home}"
        assert f"an undecided transaction hides the end of {hidden}: what was" in line["text"]
        await foreign.abort_transaction()
    assert (await state_line(topics))["state"] == State.OK


async def test_a_state_that_was_set_back(kafka: Broker, topics: Env) -> None:
    """A backup of the state, restored behind events that were published after it."""
    author = Author(OPERATION)
    async with service(topics) as log:
        await log.commit(author.first())
        await published(log, author, "one")
        put_back = await kafka_tools.back_up(kafka.bootstrap, topics["PUBLISHER_STATE_TOPIC"])
        await published(log, author, "two")
    await put_back()
    line = await state_line(topics)
    assert line["state"] == State.FAILED
    assert "was set back to transaction 1" in line["text"]
    assert "state rebuild" in line["text"]


@pytest.mark.parametrize(
    ("prefix", "words"),
    [(b"checkpoint/", "but no checkpoint"), (b"journal/", "has lost journal records")],
)
async def test_records_that_are_gone(kafka: Broker, topics: Env, prefix: bytes, words: str) -> None:
    """Somebody has deleted the checkpoint, or a record of the journal."""
    await begun(topics, "one", "two")
    state = topics["PUBLISHER_STATE_TOPIC"]
    keys = [record.key for record in await kafka_tools.read(kafka.bootstrap, state)]
    key = next(key for key in keys if key.startswith(prefix))
    async with kafka_tools.producing(kafka.bootstrap) as producer:
        await producer.send_and_wait(state, None, key, partition=partition_of(OPERATION))
    line = await state_line(topics)
    assert line["state"] == State.FAILED
    assert words in line["text"]


async def test_another_time_zone(topics: Env) -> None:
    """Held unless the change is confirmed."""
    await begun(topics)
    line = await state_line(topics, WOLKVOX_TIMEZONE="Europe/Madrid")
    assert line["state"] == State.FAILED
    assert "the time zone is Europe/Madrid, but" in line["text"]
    confirmed = {"WOLKVOX_TIMEZONE_REPLACES": "America/Bogota"}
    line = await state_line(topics, WOLKVOX_TIMEZONE="Europe/Madrid", **confirmed)
    assert line["state"] == State.OK


async def test_events_that_are_gone(kafka: Broker, topics: Env) -> None:
    """The service goes on, so it is a hint."""
    await begun(topics, "one")
    messages = topics["PUBLISHER_MESSAGES_TOPIC"]
    await kafka_tools.delete(kafka.bootstrap, messages)
    await kafka_tools.create(kafka.bootstrap, messages, 6)
    line = await state_line(topics)
    assert line["state"] == State.HINT
    assert "can be restored, but the messages topic was deleted and made again" in line["text"]


async def test_events_that_the_topic_has_deleted(kafka: Broker, topics: Env) -> None:
    """Without a state and without events an operation begins: the service does, too."""
    await begun(topics, "one")
    messages = topics["PUBLISHER_MESSAGES_TOPIC"]
    async with kafka_tools.administering(kafka.bootstrap) as admin:
        ends = await kafka_tools.end_offsets(kafka.bootstrap, messages)
        await admin.delete_records(
            {partition: RecordsToDelete(before_offset=end) for partition, end in ends.items()}
        )
    await kafka_tools.delete(kafka.bootstrap, topics["PUBLISHER_STATE_TOPIC"])
    line = await state_line(topics)
    assert line["text"] == "none yet; the first start will create it"
    async with service(topics) as log:
        assert not (await log.restore()).history_lost


async def test_events_that_may_not_be_read(kafka: Broker, topics: Env) -> None:
    """A state that was set back cannot be noticed then: `check` says it as the service does."""
    await begun(topics, "one")
    for right in MINIMUM:
        grant(kafka, topics, "bob", right)
    line = await state_line({**topics, **through(kafka, "SASL_SSL", user="bob")})
    assert line["state"] == State.HINT
    assert "a state that was set back cannot be noticed" in line["text"]

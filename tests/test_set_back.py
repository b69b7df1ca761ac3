"""A running service whose topics lose what they held: the state's end, or the events."""

from pathlib import Path

from sandbox.kafka import Broker
from sandbox.processes import until
from tests import kafka_tools
from tests.harness import Rig, rig
from tests.test_check import check
from tests.test_rebuild import rebuild

WORLD = {"rate": 3600, "history": "5m", "late": 0.0, "corrected": 0.0}
SETTINGS = {
    "PUBLISHER_START": "-10m",
    "PUBLISHER_POLL_EVERY": "300ms",
    "PUBLISHER_OVERLAP": "2s",
}
GONE = "Published events are gone from their topic"


async def more(one: Rig) -> int:
    """Wait until an event comes that was not there yet; how many there are."""
    before = len(await one.read())

    async def come() -> bool:
        return len(await one.read()) > before

    await until(come, 30, "another event")
    return len(one.events)


async def test_a_state_that_was_set_back_is_rebuilt(kafka: Broker, tmp_path: Path) -> None:
    """Held, said by the service and by `check`; rebuilt it goes on: 0 lost, 0 doubled."""
    async with rig(kafka.bootstrap, tmp_path, WORLD, SETTINGS) as one:
        publisher = one.start()
        assert (await one.settled(60)).none
        state = one.settings["PUBLISHER_STATE_TOPIC"]
        put_back = await kafka_tools.back_up(kafka.bootstrap, state)
        await more(one)
        await one.kill()
        await put_back()

        publisher = one.start()
        held = await publisher.logged(20, reason="state_lost")
        assert held["level"] == "error"
        assert "was set back to transaction" in held["problem"]
        line = (await check(one.settings)).of("wv0010", "Kafka state")
        assert line["text"] == held["problem"]
        published = len(await one.read())
        await one.kill()
        assert len(await one.read()) == published

        done = await rebuild(one, "--yes")
        assert done.code == 0, done.err
        publisher = one.start()
        await more(one)
        differences = await one.settled(60)
        assert differences.none, differences
        assert (await check(one.settings)).of("wv0010", "Kafka state")["state"] == "ok"
        assert await publisher.stop() == 0


async def test_a_messages_topic_that_is_made_again_beside_the_service(
    kafka: Broker, tmp_path: Path
) -> None:
    """Told at error level by the next transaction; what comes afterwards is published once."""
    async with rig(kafka.bootstrap, tmp_path, WORLD, SETTINGS) as one:
        publisher = one.start()
        assert (await one.settled(60)).none
        await kafka_tools.delete(kafka.bootstrap, one.topic)
        await kafka_tools.create(kafka.bootstrap, one.topic, 6)
        line = await publisher.logged(50, event=GONE)
        assert line["level"] == "error"
        assert line["topic"] == one.topic

        async def published() -> bool:
            return bool(await kafka_tools.read(kafka.bootstrap, one.topic))

        await until(published, 30, "an event in the new topic")
        events = await kafka_tools.read(kafka.bootstrap, one.topic)
        ids = [dict(event.headers)["ce_id"] for event in events]
        assert len(set(ids)) == len(ids)
        assert sum(line["event"] == GONE for line in publisher.lines) == 1

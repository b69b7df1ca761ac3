"""The label: people may rename an operation, and its ids, its state and its topics stay."""

from pathlib import Path
from typing import Final

import orjson

from publisher.signals import HintGiven, ServiceStopped, StopRequested, labelled
from sandbox.kafka import Broker
from tests import kafka_tools
from tests.commands import command
from tests.harness import rig

WORLD: Final = {"rate": 1200, "history": "10m", "corrected": 0.0, "long_texts": 0.0}
FAST: Final = {
    "PUBLISHER_POLL_EVERY": "500ms",
    "PUBLISHER_OVERLAP": "2s",
    "PUBLISHER_REREADS": "5s",
    "PUBLISHER_START": "-15m",
}
SALES: Final = {"WOLKVOX_LABEL": "sales"}


async def test_a_renamed_operation_goes_on(kafka: Broker, tmp_path: Path) -> None:
    """With all of its past; also when the state is lost and rebuilt from events of both labels."""
    async with rig(kafka.bootstrap, tmp_path, WORLD, FAST) as one:
        service = one.start()
        await service.published()
        await one.kill()
        service = one.start(**SALES)
        restored = await service.logged(20, event="State restored", operation="sales")
        assert restored["ledger_ids"] > 0
        await service.published()
        _, metrics = await service.get("/metrics")
        assert 'lag_seconds{operation="sales"}' in metrics
        assert "wv0010" not in metrics
        differences = await one.settled(30, labels=["sales"])
        assert differences.none, differences
        assert await service.stop() == 0

        await kafka_tools.delete(one.bootstrap, one.settings["PUBLISHER_STATE_TOPIC"])
        rebuilt = await command({**one.settings, **SALES}, "state", "rebuild", "--yes")
        assert rebuilt.code == 0, rebuilt
        service = one.start(**SALES)
        await service.published()
        differences = await one.settled(30, labels=["sales"])
        assert differences.none, differences
        assert await service.stop() == 0
    labels = {event.value["source"]: event.headers["ce_source"] for event in one.events}
    assert labels == {"wv0010": b"wv0010", "sales": b"wv0010"}


async def test_another_name_is_another_operation(kafka: Broker, tmp_path: Path) -> None:
    """The service says what that means, and what to do instead."""
    async with rig(kafka.bootstrap, tmp_path, WORLD, FAST) as one:
        service = one.start()
        await service.logged(30, event="Window published")
        assert await service.stop() == 0
        service = one.start(WOLKVOX_NAME="sales")
        hint = await service.logged(20, event="Something looks wrong", operation="sales")
        assert "operation sales starts for the first time, but" in hint["hint"]
        assert "also holds wv0010, which the settings do not name" in hint["hint"]
        assert "give the new name as WOLKVOX_LABEL" in hint["hint"]
        await service.logged(30, event="Window published")
        await one.kill()
        shown = await command(one.settings, "state", "show", "--json")
        states = orjson.loads(shown.out)["operations"]
        assert {state["operation"]: state["in_settings"] for state in states} == {
            "wv0010": True,
            "sales": False,
        }


def test_signals_carry_the_label() -> None:
    labels = {"wv0010": "sales"}
    seen = labelled(HintGiven("about it", "wv0010"), labels)
    assert seen == HintGiven("about it", "sales")
    assert labelled(seen, labels) == seen, "a label is no name"
    for signal in (HintGiven("about all"), StopRequested("SIGTERM"), ServiceStopped(clean=True)):
        assert labelled(signal, labels) == signal

"""`state show` and `state forget`, with a real service and a real Kafka."""

from pathlib import Path

import orjson

from sandbox.kafka import Broker
from tests.commands import command
from tests.harness import rig

WORLD = {"rate": 1200, "history": "60s", "late": 0.0}
FAST = {
    "PUBLISHER_POLL_EVERY": "500ms",
    "PUBLISHER_OVERLAP": "2s",
    "PUBLISHER_REREADS": "",
    "PUBLISHER_START": "-60s",
}


async def test_a_removed_operation_is_forgotten(kafka: Broker, tmp_path: Path) -> None:
    """Only once it is out of the settings, and nothing of the others is touched."""
    async with rig(kafka.bootstrap, tmp_path, WORLD, FAST) as one:
        for server in ("0010", "0020"):
            service = one.start(WOLKVOX_SERVER=server)
            await service.published()
            assert await service.stop() == 0
        unknown = await command(one.settings, "state", "forget", "wv0030")
        assert unknown.code == 1
        assert "the state topic tells nothing of an operation wv0030" in unknown.problems
        kept = await command(one.settings, "state", "forget", "wv0010", "--yes")
        assert kept.code == 1
        assert "stands in the settings: it would begin anew and publish its past twice" in (
            kept.problems
        )
        shown = await command(one.settings, "state", "show", "--json")
        told = {each["operation"]: each for each in orjson.loads(shown.out)["operations"]}
        assert {name: each["in_settings"] for name, each in told.items()} == {
            "wv0010": True,
            "wv0020": False,
        }
        assert told["wv0020"]["ids"] > 0
        assert "not in the settings" in (await command(one.settings, "state", "show")).out

        dry = await command(one.settings, "state", "forget", "wv0020")
        assert (dry.code, "would be forgotten (add --yes)" in dry.problems) == (0, True)
        done = await command(one.settings, "state", "forget", "wv0020", "--yes")
        assert done.code == 0, done
        shown = await command(one.settings, "state", "show", "--json")
        (left,) = orjson.loads(shown.out)["operations"]
        assert left == told["wv0010"]
        again = one.start()
        restored = await again.logged(20, event="State restored")
        assert restored["ledger_ids"] == left["ids"]
        assert await again.stop() == 0

"""`dead-letters` as a process, beside the real service, on a real Kafka."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from publisher.events import dead_letter
from publisher.events.dead_letter import DeadLetter, Origin
from publisher.events.rows import RejectReason
from publisher.kafka.cluster import partition_of
from publisher.model import Window
from publisher.state.checkpoint import encode_checkpoint
from publisher.state.state import first
from sandbox.kafka import Broker
from sandbox.processes import until
from tests import kafka_tools
from tests.commands import run
from tests.fakes import seen
from tests.harness import Fields, Rig, gather, rig, tell

SECRET: Final = "okapi"
"""Stands in every text of the letters."""
SMALL: Final = {"PUBLISHER_MAX_EVENT_BYTES": "2000"}
LARGE: Final = {"PUBLISHER_MAX_EVENT_BYTES": "900000"}
WORLD: Final = {"rate": 600, "history": "10m", "inline_media": 0.0, "long_texts": 0.0}


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: bytes
    problems: str

    @property
    def told(self) -> Any:
        return orjson.loads(self.out)


async def command(
    settings: Mapping[str, str],
    *words: str,
    env: Mapping[str, str] | None = None,
    kill_after: float | None = None,
) -> Ended:
    """Run `dead-letters` in a process of its own; killed hard where it takes longer."""
    given = {**settings, **(env or {})}
    return Ended(*await run(given, "dead-letters", *words, kill_after=kill_after))


def conversation(number: int, *names: str) -> Fields:
    """Rows that are too large even without their message, one for each name."""
    at = datetime.now(UTC) - timedelta(hours=5, minutes=5 + number)
    rows = [
        {
            "channel": "whatsapp",
            "from": "CUSTOMER",
            "from_name": name,
            "date": f"{at:%Y-%m-%d %H:%M}:0{index % 10}",
            "message": f"{SECRET} {number}",
            "customer_id": "1",
        }
        for index, name in enumerate(names)
    ]
    return {"conn_id": f"90000{number}", "agent_name": SECRET, "conversation": rows}


async def test_letters_come_out_once(kafka: Broker, tmp_path: Path) -> None:
    """Looked at without being read; replayed beside a running service, killed on the way, again."""
    large = SECRET + "x" * 3000
    said = [conversation(number, *[large] * 5) for number in range(6)]
    twin = said[0]["conversation"][0]
    said[0]["conversation"] += [twin, {**twin, "date": "never", "from_name": SECRET}]
    async with rig(kafka.bootstrap, tmp_path, WORLD, SMALL) as one:
        await one.api.say(said)
        service = one.start()

        async def lettered() -> list[Fields]:
            ended = await command(one.settings, "list", "--json")
            assert ended.code == 0, ended
            found: list[Fields] = ended.told["dead_letters"]
            return found if len(found) == 32 else []

        found = await until(lettered, 40, "32 dead letters")
        assert {each["reason"] for each in found} == {"event_too_large", "date_invalid"}
        assert len({each["id"] for each in found}) == 32
        ids = [each["id"] for each in found if each["reason"] == "event_too_large"]
        await _looks_and_shows(one, found)

        polls = {"PUBLISHER_POLL_EVERY": "1m"}  # it is taken for running for three of them
        refused = await command(
            {**one.settings, **polls}, "replay", "--all", "--publish", env=LARGE
        )
        assert (refused.code, refused.out) == (1, b"")
        assert "a service seems to run (wv0010 was published" in refused.problems
        dry = await command(one.settings, "replay", *ids[:3], "--json", env=LARGE)
        assert (dry.code, dry.told["events"], dry.told["dry_run"]) == (0, 3, True)
        taken = await command(
            one.settings, "replay", *ids[:3], "--publish", "--take-over", env=LARGE
        )
        assert taken.code == 0, taken

        def given_way() -> bool:
            return any(line.get("reason") in {"fenced", "kafka_timeout"} for line in service.lines)

        # A commit may wait for its bounds first; where it is refused before the replay has said
        # who it is, the service only knows that it was too slow.
        await until(given_way, 60, "the service to notice")
        await one.kill()

        async def allowed() -> bool:
            return (await command(one.settings, "replay", ids[4], "--publish", env=LARGE)).code == 0

        await until(allowed, 10, "the service to be taken for dead")
        began = time.monotonic()
        whole = await command(one.settings, "replay", ids[3], "--publish", env=LARGE)
        assert whole.code == 0, whole
        took = time.monotonic() - began
        for share in (0.6, 0.8, 0.9, 1.0):
            words = ("replay", "--all", "--publish", "--json")
            await command(one.settings, *words, kill_after=took * share, env=LARGE)
            await one.end_transactions()
        last = await command(one.settings, "replay", "--all", "--publish", "--json", env=LARGE)
        assert last.code == 1  # one is still bad
        assert last.told["outcomes"].get("still_bad") == 1, last.told
        again = await command(one.settings, "replay", "--all", "--publish", env=LARGE)
        assert b"0 events; 1 still bad" in again.out, again
        tell(f"a replay of one takes {took:.1f} s; the last brought {last.told['events']} events")

        service = one.start(**LARGE)
        differences = await one.settled(40)
        assert not differences.lost, differences
        assert not differences.duplicated, differences
        assert not differences.altered, differences
        events = [event for event in one.events if event.value["from_name"] == large]
        assert len(events) == 31
        assert {event.headers["wolkvox_pass"] for event in events} == {b"replay"}
        states = {each["id"]: each["result"] for each in await _listed(one)}
        assert all(states[each] == "published" for each in ids)
        assert sorted(states.values(), key=str).count(None) == 1
        assert await service.stop() == 0


async def _listed(one: Rig) -> list[Fields]:
    found: list[Fields] = (await command(one.settings, "list", "--json")).told["dead_letters"]
    return found


async def _looks_and_shows(one: Rig, found: list[Fields]) -> None:
    """Nothing that people wrote or are called is shown unless it is asked for."""
    letter = next(each for each in found if each["parts"] == 2)
    shown = await command(one.settings, "show", letter["id"][:20])
    listed = await command(one.settings, "list")
    for looked in (shown, listed, await command(one.settings, "replay", "--all")):
        assert SECRET not in looked.out.decode() + looked.problems
    assert shown.code == listed.code == 0
    assert letter["id"] in shown.out.decode()
    opened = await command(one.settings, "show", letter["id"], "--show-text")
    assert orjson.loads(opened.out)["from_name"].startswith(SECRET)
    assert len(opened.out) == letter["size_bytes"] > 2000
    assert SECRET in opened.problems  # the header `conversation`


async def test_what_is_wrong_is_said(topics: dict[str, str]) -> None:
    """One line with the cure; nothing is taken over, created or written."""
    settings = {"WOLKVOX_SERVER": "0010", "WOLKVOX_TOKEN": "the-token", **topics}
    start = datetime.now(UTC) - timedelta(minutes=5)
    origin = Origin("wv0010", "live", Window(start, start + timedelta(minutes=1)), start)
    raws = [b"%d" % number for number in range(17)]
    letters = [DeadLetter(RejectReason.ROW_INVALID, "data[0].conversation[0]", raw) for raw in raws]
    halves = DeadLetter(RejectReason.ANSWER_UNDECODABLE, "answer", b"x" * 20)
    records = [*dead_letter.records(letters, origin, 100)]
    records += [*dead_letter.records([halves], origin, 10)][:1]
    topic = topics["PUBLISHER_DEAD_LETTERS_TOPIC"]
    bootstrap = topics["KAFKA_BOOTSTRAP_SERVERS"]
    await kafka_tools.create(bootstrap, topic)
    async with kafka_tools.producing(bootstrap) as producer:
        for one in map(seen, records):
            await producer.send(topic, one.value, one.key, headers=one.headers)
    twice = next(
        digit
        for digit, count in Counter(letter.identity.hex()[0] for letter in letters).items()
        if count > 1
    )

    async def says(code: int, *words: str, **env: str) -> str:
        ended = await command(settings, *words, env=env)
        assert ended.code == code, ended
        (line,) = ended.problems.splitlines()
        assert line.startswith("wolkvox-publisher: ")
        return line

    said = await gather(
        says(1, "show", "nothing"),
        says(1, "show", twice),
        says(1, "show", halves.identity.hex()),
        says(2, "replay"),
        says(2, "replay", "--all", "--reason", "row_invalid"),
        says(2, "replay", "--reason", "dull"),
        says(1, "replay", "--all"),
        says(1, "list", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9"),
    )
    for line, words in zip(said, (
        "there is no dead letter nothing: `dead-letters list` shows those",
        f" dead letters have an id that begins with {twice}: write more of it,",
        "1 of 2 parts of " + halves.identity.hex()[:12] + " are missing: they are older than",
        "choose what to replay: ids, --reason or --all, one of the three",
        "choose what to replay: ids, --reason or --all, one of the three",
        "--reason must be one of conversation_invalid, ",
        "operation wv0010 has no state in the state topic: start the service first, or rebuild",
        "the dead letters cannot be read: Kafka at 127.0.0.1:9 cannot be reached",
    ), strict=True):  # fmt: skip
        assert words in line
    checkpoint = first("wv0010", "America/Bogota", start, "now", ["live"])[0].checkpoint
    lossy = encode_checkpoint(replace(checkpoint, journal_records=1)).value
    await kafka_tools.create(bootstrap, topics["PUBLISHER_STATE_TOPIC"], 12)
    async with kafka_tools.producing(bootstrap) as producer:
        await producer.send_and_wait(
            topics["PUBLISHER_STATE_TOPIC"], lossy, b"checkpoint/wv0010",
            partition=partition_of("wv0010"),
        )  # fmt: skip
    line = await says(1, "replay", "--all")
    assert "the replay ended early: the state topic has lost journal records of" in line
    assert "; what was published so far is done: start it again" in line
    assert await kafka_tools.read(bootstrap, topics["PUBLISHER_MESSAGES_TOPIC"]) == []

"""Whatever the API does: the same process goes on, and nothing well-formed is lost."""

import os
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import orjson
import pytest

from publisher.errors import NeedsOperator
from publisher.events.publication import Limits, prepare
from publisher.model import Answer, Window
from publisher.schedule import passes
from publisher.schedule.passes import Read
from publisher.settings import PublisherSettings
from publisher.state import state
from publisher.wolkvox.responses import Classification, Verdict, classify
from publisher.wolkvox.timezone import Zone
from sandbox.kafka import Broker
from sandbox.processes import until
from sandbox.wolkvox import World, faults, report
from sandbox.wolkvox.world import Traffic
from tests.fakes import seen
from tests.harness import Fields, Publisher, Rig, compare, rig, starved_seconds, tell

POLL_SECS: Final = 0.2
SLACK_SECS: Final = 0.7
"""For the request and the commit."""


@dataclass
class Case:
    """A fault, for how many answers, and what we expect to see of it."""

    kind: str
    answers: int = 2
    options: dict[str, Any] = field(default_factory=dict)
    waits: float = 0.0
    """Seconds for which the server has asked us to leave it alone, behind its last answer."""


OWN_CASES: Final = {
    "rate_limited": [
        Case("rate_limited", 1, {"retry_after": 1, "form": "seconds"}, 1),
        Case("rate_limited", 1, {"retry_after": 1, "form": "date"}, 1),
        Case("rate_limited", 2, {"form": "none"}),
    ],
    "unavailable": [
        Case("unavailable", 1, {"retry_after": 1, "form": "seconds"}, 1),
        Case("unavailable", 2, {"form": "none"}),
    ],
    "slow_headers": [Case("slow_headers", 1, {"delay": 1.5})],
    "slow_body": [Case("slow_body", 1, {"delay": 1.5})],
    "gzip_bomb": [Case("gzip_bomb", 1, {"megabytes": 64})],
    "code_in_body": [
        Case("code_in_body"),
        Case("code_in_body", 2, {"code": "403", "error": "FORBIDDEN", "msg": "X"}),
    ],
    "clock_off": [Case("clock_off", 0, {"offset": offset}) for offset in (7200, -7200)],
    "broken_row": [Case("broken_row", 8, {"rows": 8})],
    "wrong_types": [Case("wrong_types", 2, {"rows": 40})],
    "silent_gap": [Case("silent_gap", 0, {"share": 0.5})],
}
"""What differs from two answers with the fault's own options."""


def cases() -> list[Case]:
    return [case for kind in faults.KINDS for case in OWN_CASES.get(kind, [Case(kind)])]


async def test_each_fault_in_turn(kafka: Broker, tmp_path: Path) -> None:
    """One process survives them all, in work within three polls of each one's end."""
    world = {"rate": 7200, "history": "2m", "late": 0.0, "latest": "2s"}
    settings = {
        "PUBLISHER_POLL_EVERY": f"{POLL_SECS * 1000:.0f}ms",
        "PUBLISHER_OVERLAP": "2s",
        "PUBLISHER_REREADS": "5s,12s",
        "PUBLISHER_START": "-4m",
    }
    async with rig(kafka.bootstrap, tmp_path, world, settings) as one:
        publisher = one.start()
        await publisher.logged(event="Window published")
        mutated: list[tuple[str, str]] = []
        slowest, slow_one = 0.0, ""
        for case in cases():
            began = _now()
            before = _withheld(one)
            took = await _suffer(one, case)
            own = took - (_withheld(one) - before)
            if case.kind == "mutate":
                mutated.append((began, _now()))
            assert publisher.alive, f"{case}: {publisher.child.output[-3000:]}"
            planned = [line["retry_in_seconds"] for line in _failures(publisher, began)]
            assert max(planned, default=0.0) <= 2 * POLL_SECS + case.waits, f"{case}: {planned}"
            assert own <= 3 * POLL_SECS + case.waits + SLACK_SECS, f"{case}: {own:.2f} s"
            if took - case.waits > slowest:
                slowest, slow_one = took - case.waits, case.kind
        found = await one.settled(40)
        # Good rows among those that a fault has added.
        found.foreign = [line for line in found.foreign if " fault-" not in line]
        tell(f"{len(cases())} faults; slowest way back {slowest:.2f} s ({slow_one}); {found}")
        stats = await one.api.stats(1)
        never = set(faults.KINDS) - faults.STATES - set(stats["kinds"]) - TRANSPORT
        assert not never, f"never met: {never}"
        assert stats["max_in_flight"] == 1
        assert stats["redirected"] == [], "the token was carried to another host"
        assert not found.lost, found
        assert not found.duplicated, found
        assert not found.disordered, found
        _only_by_faults(one, await one.api.truth(), mutated)
        letters = await one.dead_letters()
        reasons = Counter(headers["reason"].decode() for headers, _ in letters)
        assert reasons.keys() >= {"date_invalid", "row_invalid", "conversation_invalid"}, reasons
        assert reasons["answer_undecodable"] > 0, reasons
        unexpected = [line for line in publisher.lines if line.get("reason") == "unexpected"]
        assert not unexpected, unexpected
        assert publisher is one.starts[-1]
        assert await publisher.stop() == 0


TRANSPORT: Final = frozenset({"slow_headers", "slow_body", "gzip", "broken_transfer"})
"""These deliver the usual answer; they are counted as what it was."""


async def _suffer(one: Rig, case: Case) -> float:
    """Switch the fault on until it has struck; the seconds from its end to a good answer."""
    asked = len(await one.api.requests())
    if case.answers:
        await one.api.fault(case.kind, count=case.answers, **case.options)

        async def over() -> bool:
            """All answers with the fault were sent, to their last byte."""
            if any(fault["used"] < fault["count"] for fault in (await one.api.faults())["on"]):
                return False
            return not (await one.api.stats(1))["in_flight"]

        await until(over, 20, f"{case} to strike")
    else:
        await one.api.fault(case.kind, **case.options)

        async def struck() -> bool:
            return len(await one.api.requests()) >= asked + 2

        await until(struck, 20, f"{case} to strike")
    await one.api.clear()
    ended = time.time()

    async def back() -> float:
        for request in reversed(await one.api.requests()):
            moment = datetime.fromisoformat(request["at"]).timestamp()
            if moment < ended - 0.001:
                break
            if request["kind"] in ("rows", "empty") and request["took"] is not None:
                return moment
        return 0.0

    return float(await until(back, 20, f"work after {case}")) - ended


def _withheld(one: Rig) -> float:
    """Seconds for which this machine had no processor for the service, the API or this test."""
    pids = (one.starts[-1].pid, one.api.child.pid, os.getpid())
    return sum(starved_seconds(pid) for pid in pids)


def _failures(publisher: Publisher, since: str) -> list[Fields]:
    return [
        line
        for line in publisher.lines
        if "retry_in_seconds" in line and str(line["timestamp"]) >= since
    ]


def _only_by_faults(one: Rig, truth: list[Fields], mutated: list[tuple[str, str]]) -> None:
    """Rows that no API has shown, and values it has not, are there only where a fault put them."""

    def innocent(line: str) -> bool:
        place = re.match(r"(\d+)/(\d+) ", line)
        assert place
        [event] = [
            event
            for event in one.events
            if (event.partition, event.offset) == (int(place[1]), int(place[2]))
        ]
        read_at = event.headers["wolkvox_read_at"].decode()
        return not (
            "wolkvox_decoding" in event.headers
            or str(event.value.get("conn_id")).startswith("fault-")
            or any(begin <= read_at <= end for begin, end in mutated)
        )

    found = compare(truth, one.events, "wv0010")
    assert not [line for line in found.altered if innocent(line)]
    assert not [line for line in found.foreign if innocent(line)]


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


# --- two thousand bodies --------------------------------------------------------------------------

ZONE: Final = Zone("America/Bogota")
NOON: Final = datetime(2026, 11, 20, 17, 0, tzinfo=UTC)
SETTINGS: Final = PublisherSettings(rereads=())


def _bodies(count: int, seed: int) -> list[tuple[bytes, bytes]]:
    """Pairs of an answer's body and the same with some bytes flipped or gone."""
    world = World(seed=seed, start=NOON - timedelta(hours=1), rate=240, inline_media=0.0)
    traffic = Traffic(world, (NOON - timedelta(hours=1)).timestamp())
    chats = list(traffic.between((NOON - timedelta(hours=1)).timestamp(), NOON.timestamp()))
    draw = Random(seed)
    found = []
    for number in range(count):
        some = draw.sample(chats, draw.randint(1, 8))
        elements = [report.element(chat, chat.rows, NOON.timestamp()) for chat in some]
        rows = sum(len(one["conversation"]) for one in elements)
        body = b"".join(report.encode(elements, rows, draw, 0.5))
        options = {"seed": number, "flips": draw.randint(0, 4), "deletions": draw.randint(0, 2)}
        fault = faults.Fault("mutate", None, 0.0, options)
        found.append((body, faults.spoil(body, fault)))
    return found


def _answer(body: bytes) -> Answer:
    return Answer(200, {}, body, NOON, NOON, 0.1)


def _published(classification: Classification, body: bytes) -> list[Fields]:
    """The events that this answer makes of an empty state; Held when the format has changed."""
    known, _ = state.first("wv0010", "America/Bogota", NOON - timedelta(hours=1), "-1h", ["live"])
    [live] = passes.passes_of(SETTINGS)
    publication = prepare(
        known,
        Read(live, Window(NOON - timedelta(hours=1), NOON), ends_round=True),
        _answer(body),
        classification,
        ZONE,
        Limits(SETTINGS.horizon, SETTINGS.max_event_bytes),
        now=NOON,
        covered_until=NOON,
        possibly_cut=False,
    )
    events = [orjson.loads(seen(record).value) for record in publication.batch.events]
    assert all(seen(record).key for record in publication.batch.dead_letters)
    known.apply(publication.successor, SETTINGS.horizon)
    return events


def _told(value: Fields) -> str:
    """What makes a message the same one, as text."""
    return repr([value.get(name) for name in ("conn_id", "date", "from", "message")])


@pytest.mark.parametrize("seed", range(4))
def test_mutated_bodies(seed: int) -> None:
    """Of 2,000 spoilt answers none brings us down, and rows that came through are published."""
    verdicts: Counter[str] = Counter()
    for body, spoilt in _bodies(500, seed):
        classification = classify(_answer(spoilt))
        if classification.verdict is Verdict.NOT_UNDERSTOOD:
            classification = classify(_answer(spoilt), lenient=True)
        verdicts[f"{classification.verdict}{' leniently' if classification.lenient else ''}"] += 1
        if classification.verdict not in (Verdict.USE, Verdict.TOO_LARGE):
            continue
        genuine = {
            _told({**chat, **row})
            for chat in orjson.loads(body)["data"]
            for row in chat["conversation"]
        }
        intact = Counter(
            told
            for chat in orjson.loads(msgspec.json.encode(classification.data))
            if isinstance(chat, dict) and isinstance(chat.get("conversation"), list)
            for row in chat["conversation"]
            if isinstance(row, dict)
            for told in [_told({**chat, **row})]
            if told in genuine
        )
        try:
            events = Counter(map(_told, _published(classification, spoilt)))
        except NeedsOperator:  # more than half of the rows are bad
            verdicts["held"] += 1
            continue
        assert events.keys() >= intact.keys(), spoilt
    tell(f"seed {seed}: {dict(verdicts)}")
    assert verdicts["use"] > 50
    assert verdicts["use leniently"] > 5

"""What no strict decoder takes: believed when it came twice, kept as bytes when nobody reads it."""

from datetime import timedelta
from itertools import count
from typing import Any

import orjson
import pytest

from publisher.errors import Reason
from publisher.model import Answer, Request
from publisher.signals import WindowPublished
from publisher.wolkvox.damage import examine
from tests.fakes import FakeClock, answer, conversation, found, row, seen
from tests.test_flow import HOUR, OPERATION, POLL, checkpoint_in, life, values
from tests.test_parking import World

DEEP = b"[" * 3_000 + b"]" * 3_000


def body(*chats: Any, before: bytes = b"", **broken: bytes) -> bytes:
    """An answer; what stands in it as `NAME` becomes those bytes."""
    told = {"code": 200, "error": None, "msg": "", "data": list(chats)}
    whole = orjson.dumps(told)
    for name, bytes_ in broken.items():
        whole = whole.replace(name.encode(), bytes_)
    return before + whole


def texts(kafka: Any) -> list[str]:
    return [event["message"] for event in values(kafka.events[OPERATION])]


def said(*messages: str) -> dict[str, Any]:
    return conversation("186067512", *(row("2026-11-20 07:00:00", text) for text in messages))


async def test_damage_that_differs_each_time_is_never_published() -> None:
    """Each answer is broken in another byte, until one is whole: only that one is believed."""
    number = count()

    def reply(clock: FakeClock) -> Answer:
        at = next(number)
        if at >= 9:
            return found(clock, [said("mañana", "otra")])
        return answer(clock, body(said(f"ma{'X' * at}BADana", "otra"), BAD=b"\xc3"))

    alive, _, kafka = life(then=reply, start="-5m")
    await alive.run_for(6 * POLL)
    assert sorted(texts(kafka)) == ["mañana", "otra"]
    assert kafka.dead_letters[OPERATION] == []
    assert {failure.reason for failure in alive.failures} == {Reason.NOT_UNDERSTOOD}


async def test_rows_that_appear_meanwhile_are_no_damage() -> None:
    """A warning before each answer of a busy operation: bytes never come twice, rows do."""
    number = count(1)

    def reply(clock: FakeClock) -> Answer:
        rows = [f"m{each}" for each in range(min(next(number), 50))]
        return answer(
            clock, body(said(*rows, "broken BAD for ever"), before=b"<b>x</b>", BAD=b"\xff")
        )

    alive, _, kafka = life(then=reply, start="-5m")
    await alive.run_for(HOUR)
    assert alive.failures == []
    assert len(texts(kafka)) == len(set(texts(kafka)))
    assert set(texts(kafka)) >= {"broken \ufffd for ever", "m0", "m9"}


@pytest.mark.parametrize("broken", [b"\xff", b"\x05", b"\\ud800"])
def test_only_what_came_before_is_confirmed(broken: bytes) -> None:
    clock = FakeClock()
    first, same, other, none = (
        examine(answer(clock, body(said(f"a{x}BAD"), before=b"\xef\xbb\xbf", BAD=bad)))
        for x, bad in (("", broken), ("", broken), ("x", broken), ("", b""))
    )
    assert first is not None
    assert same is not None
    assert other is not None
    assert none is not None
    assert first.readable
    assert [each.confirms(first) for each in (same, none, other)] == [True, True, False]
    assert not first.confirms(none)


def test_a_broken_conn_id_is_damage_too() -> None:
    clock = FakeClock()
    first, second = (
        examine(
            answer(clock, body(conversation(f"1BAD{x}", row("2026-11-20 07:00:00")), BAD=b"\xc3"))
        )
        for x in "67"
    )
    assert first is not None
    assert second is not None
    assert first.readable
    assert not second.confirms(first)


async def test_repair_asks_again_before_it_believes() -> None:
    """A gap is read while the wire is bad: a row that is broken once is not published broken."""
    world = World("timeout", 3)
    bad = world.clock.true + HOUR
    world.fails_at(bad)
    await world.life.run_for(2 * HOUR)
    assert world.gaps
    read, turns = world.report.read, count()

    async def spoilt(request: Request) -> Answer:
        told = await read(request)
        at = next(turns)
        if at % 2 or at > 60 or told.status != 200:
            return told
        place = told.body.index(b'"message":"') + len(b'"message":"')
        return answer(world.clock, told.body[:place] + b"\xc3" + told.body[place + 1 :])

    world.bad.clear()
    world.report.read = spoilt  # type: ignore[method-assign]
    await world.life.run_for(24 * HOUR)
    assert world.gaps == ()
    assert sorted(world.published) == list(range(540))


async def test_what_stays_undecodable_is_kept_as_bytes_and_its_gap_open() -> None:
    """One row nested 3,000 deep: its second stays a gap, its bytes are a letter."""
    world = World("", 3)
    bad = world.clock.true + HOUR
    deep = body(said("DEEP"), DEEP=b'",DEEP,"').replace(b'"",DEEP,""', DEEP)

    def nested(request: Request) -> Answer | None:
        moment = f"{world.report.local(bad):%Y%m%d%H%M%S}"
        return answer(world.clock, deep) if request.date_ini <= moment <= request.date_end else None

    world.report._trouble = nested
    await world.life.run_for(12 * HOUR)
    assert world.gaps
    assert sum((gap.width for gap in world.gaps), timedelta()) < timedelta(minutes=1)
    letters = [seen(letter) for letter in world.kafka.dead_letters[OPERATION]]
    assert [letter.value for letter in letters] == [deep]
    assert letters[0].header["reason"] == b"answer_undecodable"
    assert letters[0].header["position"] == b"answer"
    assert not any(told.lenient for told in world.life.heard(WindowPublished))
    start = checkpoint_in(world.kafka).gaps
    await world.start().run_for(6 * HOUR)  # and after a restart it is the same letter
    assert len(world.kafka.dead_letters[OPERATION]) == 1
    assert world.gaps == start
    world.report._trouble = lambda _: None
    await world.life.run_for(12 * HOUR)
    assert world.gaps == ()
    assert sorted(world.published) == list(range(540))


async def test_a_format_that_changes_in_a_quiet_night_is_held() -> None:
    """15 rows a window, none of which can be read: also by a process that was just started."""
    strange = [conversation("1", *[row("2026-11-20T07:00:00Z", f"m{n}") for n in range(15)])]
    good = [conversation("1", row("2026-11-20 07:00:00", "good"))]
    now = [strange]
    alive, _, kafka = life(then=lambda clock: found(clock, now[0]), start="-5m")
    await alive.run_for(POLL / 2)
    assert alive.failures == []
    assert len(kafka.dead_letters[OPERATION]) == 15
    again, _, _ = life(then=lambda clock: found(clock, now[0]), kafka=kafka)
    await again.run_for(2 * POLL)
    assert {failure.reason for failure in again.failures} == {Reason.FORMAT_CHANGED}
    assert all(failure.needs_person for failure in again.failures)
    assert "30 of 30 rows" in again.failures[0].text
    now[0] = good
    await again.run_for(HOUR)
    assert texts(kafka) == ["good"]
    assert len(kafka.dead_letters[OPERATION]) == 15


async def test_one_bad_row_in_a_quiet_night_holds_nobody() -> None:
    """It is read again thirty times, and nobody writes anything else."""
    data = [conversation("1", row("2026-11-20T07:00:00Z", "bad"))]
    alive, _, kafka = life(then=lambda clock: found(clock, data), start="-5m", poll_every="30s")
    await alive.run_for(2 * HOUR)
    assert alive.failures == []
    assert len(kafka.dead_letters[OPERATION]) == 1
    assert checkpoint_in(kafka).live.cursor > alive.clock.true - HOUR

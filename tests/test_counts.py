"""A counter that lies costs next to nothing, and a report that is cut is not taken for one."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from publisher.model import Answer, Request
from publisher.settings import PublisherSettings
from publisher.signals import HintGiven, WindowNarrowed, WindowPublished
from tests.fakes import (
    NOON,
    Chat,
    FakeClock,
    FakeReport,
    MemoryCluster,
    MemoryKafka,
    ScriptedSource,
    conversation,
    found,
    nothing,
    row,
)
from tests.test_flow import HOUR, OPERATION, Life, values
from tests.test_request_limits import chat_of

Lie = Callable[[int, int], int]
"""What an answer says that it found: of its elements, and of the rows of the window."""


class Counting(FakeReport):
    """Shows at most so many rows, the oldest first, and says what it likes."""

    lie: Lie = staticmethod(lambda _elements, rows: rows)
    most = 60_000
    says_when_empty = False
    asked = 0

    async def read(self, request: Request) -> Answer:
        self.asked += 1
        data = self.data(request)
        rows = sum(len(element["conversation"]) for element in data)
        said = self.lie(len(data), rows)
        left = self.most
        for element in data:
            element["conversation"] = element["conversation"][:left]
            left -= len(element["conversation"])
        data = [element for element in data if element["conversation"]]
        if not data and not self.says_when_empty:
            return nothing(self._clock)
        return found(self._clock, data, says=said)


def world(chats: list[Chat], **settings: Any) -> tuple[Life, Counting, MemoryKafka]:
    clock, kafka = FakeClock(), MemoryKafka()
    report = Counting(clock, chats, random.Random(1), kindly=True)
    told = PublisherSettings.model_validate({"rereads": "", "start": "-1h", **settings})
    return Life(clock, report, MemoryCluster(kafka).log(OPERATION), told), report, kafka


def of_one_row_each(number: int) -> list[Chat]:
    every = HOUR / number
    chats = [chat_of(NOON - HOUR + n * every, NOON - HOUR + (n + 0.5) * every, every)
             for n in range(number)]  # fmt: skip
    for n, chat in enumerate(chats):
        chat.conn_id = f"18600{n:04}"
    return chats


LIES: dict[str, Lie] = {
    "one more": lambda _elements, rows: rows + 1,
    "a thousand more": lambda _elements, rows: rows + 1000,
    "twice as many": lambda _elements, rows: rows * 2,
    "those of the day": lambda _elements, _rows: 5000,
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("says_when_empty", [False, True])
async def test_a_counter_that_lies_costs_next_to_nothing(lie: str, says_when_empty: bool) -> None:
    """All is published, by about as many requests as without the lie, and it is said once."""
    life, report, kafka = world(of_one_row_each(110))
    report.lie, report.says_when_empty = LIES[lie], says_when_empty and lie != "those of the day"
    await life.run_for(HOUR)
    assert len(kafka.events[OPERATION]) == 110
    assert report.asked < (60 if "more" in lie else 120)
    assert (
        len(
            [
                hint
                for hint in life.heard(HintGiven)
                if "found more records than they hold" in hint.text
            ]
        )
        == 1
    )
    assert not life.failures


async def test_one_row_and_two_found_for_ever() -> None:
    """Whatever is asked for, the same row comes: a descent to one second shows the lie."""
    clock = FakeClock()
    data = [conversation("1", row("2026-11-20 07:00:00"))]
    source = ScriptedSource(clock, then=lambda clock: found(clock, data, says=2))
    told = PublisherSettings.model_validate({"start": "-5m"})
    life = Life(clock, source, MemoryCluster(MemoryKafka()).log(OPERATION), told)
    await life.run_for(2 * HOUR)
    assert len(source.requests) < 100


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize(("most", "number"), [(3, 60), (40, 400)])
async def test_a_report_that_is_cut_is_narrowed(most: int, number: int, more: int) -> None:
    """Also by a counter that says one too many: nothing is missing, nothing possibly cut."""
    life, report, kafka = world(of_one_row_each(number), max_window="1h")
    report.most, report.lie = most, lambda _elements, rows: rows + more
    await life.run_for(3 * HOUR)
    assert len(kafka.events[OPERATION]) == number
    assert not any(told.possibly_cut for told in life.heard(WindowPublished))


async def test_elements_that_are_missing_are_noticed() -> None:
    """500 found, 300 conversations came, of 17 messages each: nobody knows what is counted."""
    clock = FakeClock()
    data = [
        conversation(str(n), *[row("2026-11-20 07:00:00", f"{n} {m}") for m in range(17)])
        for n in range(300)
    ]
    source = ScriptedSource(clock, then=lambda clock: found(clock, data, says=500))
    told = PublisherSettings.model_validate({"start": "-5m", "rereads": ""})
    life = Life(clock, source, MemoryCluster(MemoryKafka()).log(OPERATION), told)
    await life.run_for(timedelta(seconds=20))
    assert life.heard(WindowNarrowed)


async def test_a_report_that_begins_to_be_cut_is_noticed() -> None:
    """A counter that lied by one, and then says much more: that is not the known lie."""
    life, later, kafka = world(of_one_row_each(110), max_window="1h")

    def cut_from_now(_elements: int, rows: int) -> int:
        later.most = 5 if rows > 12 else 60_000
        return rows + 1

    later.lie = cut_from_now
    await life.run_for(HOUR)
    assert len({event["event_id"] for event in values(kafka.events[OPERATION])}) == 110

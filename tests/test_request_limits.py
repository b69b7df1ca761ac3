"""No request is wider than the vendor's limit, and none asks for the server's future."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from publisher.errors import Reason
from publisher.model import DAY, SECOND, Request, Window
from publisher.settings import PublisherSettings
from publisher.signals import WindowNarrowed, WindowPublished
from publisher.wolkvox.request import LONGEST_REQUEST, askable, reaches_beyond, request_for
from publisher.wolkvox.timezone import Zone
from tests.fakes import NOON, Chat, FakeClock, FakeReport, MemoryCluster, MemoryKafka, Said
from tests.test_flow import HOUR, OPERATION, POLL, Life, values
from tests.test_zone import MINUTE, NAMES, around, local_time, readings


def span_of(request: Request) -> timedelta:
    return local_time(request.date_end) - local_time(request.date_ini)


EDGES = [at for name in NAMES for at, _, _ in around(name)]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.sampled_from(EDGES),
    st.floats(-3 * 86_400, 3 * 86_400),
    st.floats(29, 40),
    st.booleans(),
)
def test_no_request_is_wider_than_the_limit(
    name: str, edge: datetime, off: float, days: float, at_the_end: bool
) -> None:
    """Padding, rounding and the repeated or skipped hour included; and no more is cut than must."""
    zone, width = Zone(name), days * DAY
    start = edge + off * SECOND - (width if at_the_end else timedelta())
    window = Window(start, start + width)
    part = askable(window, zone, LONGEST_REQUEST)
    assert part.start == window.start
    assert span_of(request_for(part, zone, 7, part.end + 2 * DAY)) <= LONGEST_REQUEST
    assert part == window or part.width > LONGEST_REQUEST - 3 * HOUR
    assert part == askable(part, zone, LONGEST_REQUEST)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.sampled_from(EDGES),
    st.floats(-10, 10) | st.floats(-10_000, 10_000),
    st.floats(0.01, 10) | st.floats(0.01, 10_000),
    st.floats(0, 30),
)
@example("America/Asuncion", datetime(2016, 3, 27, 3, tzinfo=UTC), -1.0, 1.0, 0.0)
def test_no_request_ends_after_now(
    name: str, edge: datetime, off: float, width: float, later: float
) -> None:
    """Its end is a time that the wall clock there has shown, and the window's begin lies before."""
    zone = Zone(name)
    start = edge + off * SECOND
    window = zone.cut(Window(start, start + width * SECOND))
    now = window.end + later * SECOND
    request = request_for(window, zone, 7, now)
    end = local_time(request.date_end)
    assert local_time(request.date_ini) < end
    assert min(readings(name, end)) <= now.replace(microsecond=0)
    assert reaches_beyond(window, now, window.start - SECOND)
    assert not reaches_beyond(window, now, now.replace(microsecond=0))


def chat_of(begin: datetime, end: datetime, every: timedelta) -> Chat:
    chat = Chat("186067512")
    while begin < end:
        fields = {"channel": "web", "from": "AGENT", "customer_id": "1"}
        said = {**fields, "message": str(len(chat.said))}
        chat.said.append(Said(begin, said, begin, begin))
        begin += every
    return chat


class World:
    """A report that refuses as the vendor's may, and a life in front of it."""

    def __init__(
        self, chat: Chat, skew: timedelta = timedelta(), *, open_ends: bool = False, **more: Any
    ) -> None:
        self.clock, self.kafka, self.chat = FakeClock(skew=skew), MemoryKafka(), chat
        self.requests: list[Request] = []
        self.report = FakeReport(
            self.clock, [chat], random.Random(1), kindly=True, refuses=True,
            opens=not open_ends, closes=not open_ends, trouble=self.requests.append,
        )  # fmt: skip
        told = PublisherSettings.model_validate({"rereads": "", **more})
        self.life = Life(self.clock, self.report, MemoryCluster(self.kafka).log(OPERATION), told)

    @property
    def missing(self) -> list[int]:
        """Messages said more than a poll ago that are not published."""
        published = {int(event["message"]) for event in values(self.kafka.events[OPERATION])}
        due = [n for n, said in enumerate(self.chat.said) if said.date < self.clock.true - POLL]
        return [number for number in due if number not in published]


@pytest.mark.parametrize("overlap", ["0s", "15m"])
@pytest.mark.parametrize("poll_every", ["5m", "7s"])
@pytest.mark.parametrize("open_ends", [False, True])
async def test_live_asks_up_to_now_and_misses_nothing(
    overlap: str, poll_every: str, open_ends: bool
) -> None:
    """Without a padding in the future: the next window begins before the end of this one."""
    chat = chat_of(NOON, NOON + HOUR / 3, timedelta(seconds=13))
    world = World(chat, overlap=overlap, poll_every=poll_every, open_ends=open_ends)
    await world.life.run_for(HOUR / 3)
    assert world.missing == []
    assert not world.life.failures


@pytest.mark.parametrize("minutes", [0.05, 30])
@pytest.mark.parametrize("start", ["now", "-1h"])
async def test_a_fast_clock_at_the_first_start(minutes: float, start: str) -> None:
    """The first request lies in the server's future; its answer says so, and it is asked again."""
    skew = timedelta(minutes=minutes)
    begin = NOON - (HOUR if start == "-1h" else timedelta())
    world = World(chat_of(begin, NOON + HOUR, MINUTE), skew, start=start, overlap="0s")
    await world.life.run_for(HOUR)
    assert world.missing == []
    for failure in world.life.failures:
        assert failure.reason is Reason.CLOCK_AHEAD
        assert "a part of the window lies in the server's future" in failure.text
    assert len(world.life.failures) <= 2


async def test_a_clock_that_is_set_forward_while_it_runs() -> None:
    world = World(chat_of(NOON, NOON + 2 * HOUR, MINUTE), overlap="0s")
    await world.life.run_for(HOUR)
    world.clock.skew = timedelta(minutes=40)
    await world.life.run_for(HOUR)
    assert world.missing == []
    assert len(world.life.failures) <= 2


async def test_windows_of_a_month_lose_nothing() -> None:
    """`PUBLISHER_MAX_WINDOW=31d` is allowed; the request is padded within it."""
    chat = chat_of(NOON - 190 * DAY, NOON, timedelta(hours=6))
    world = World(chat, max_window="31d", horizon="400d", start="-190d")
    await world.life.run_for(HOUR)
    assert world.missing == []
    assert max(map(span_of, world.requests)) > 30 * DAY
    assert max(map(span_of, world.requests)) <= 31 * DAY


async def test_nothing_in_a_month_is_asked_for_in_less() -> None:
    """A server whose month has 30 days: its refusal is not taken for "no rows"."""
    chat = chat_of(NOON - 190 * DAY, NOON, timedelta(hours=6))
    world = World(chat, max_window="31d", horizon="400d", start="-190d")
    answer_all = world.report.data
    world.report.data = lambda request: (  # type: ignore[method-assign]
        [] if span_of(request) > 30 * DAY else answer_all(request)
    )
    await world.life.run_for(HOUR)
    assert world.missing == []
    assert len(world.life.heard(WindowNarrowed)) == 1, "no rows in nearly 31 days: learned once"
    assert max(told.window.width for told in world.life.heard(WindowPublished)) > 27 * DAY

"""Local times are read and written as the zone's own rules say, in every year that matters."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from publisher.model import DAY, SECOND, Window
from publisher.wolkvox.request import request_for
from publisher.wolkvox.timezone import NARROW, Zone

NAMES = (
    "America/Bogota",
    "America/Mexico_City",
    "America/Santiago",
    "America/Asuncion",
    "America/Sao_Paulo",
    "Europe/Madrid",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
)
YEAR = datetime.now(UTC).year
FIRST = datetime(YEAR - 10, 1, 1, tzinfo=UTC)
LAST = datetime(YEAR + 5, 12, 31, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
PADDING = 5 * SECOND
MADRID_BACK = datetime(2026, 10, 25, 1, tzinfo=UTC)
"""Madrid's clocks go from 03:00 back to 02:00."""


@cache
def transitions(name: str) -> tuple[tuple[datetime, timedelta, timedelta], ...]:
    """Every (instant, offset before, offset after) of the zone, found by walking it."""
    zone = ZoneInfo(name)

    def offset(instant: datetime) -> timedelta:
        found = instant.astimezone(zone).utcoffset()
        assert found is not None
        return found

    found = []
    at = FIRST
    while at < LAST:
        before, after = at, at + 24 * HOUR
        if offset(before) != offset(after):
            while after - before > SECOND:
                middle = before + ((after - before) // 2 // SECOND) * SECOND
                before, after = (
                    (middle, after) if offset(middle) == offset(at) else (before, middle)
                )
            found.append((after, offset(before), offset(after)))
        at += 24 * HOUR
    return tuple(found)


def wall(name: str, instant: datetime) -> datetime:
    return instant.astimezone(ZoneInfo(name)).replace(tzinfo=None)


def local_time(bound: str) -> datetime:
    """A bound of a request; fails where it is not of the form the API wants."""
    assert len(bound) == 14
    assert bound.isdecimal()
    return datetime.fromisoformat(f"{bound[:8]}T{bound[8:]}")


@lru_cache(maxsize=100)
def asked(name: str, window: Window, padding: timedelta = PADDING) -> tuple[datetime, datetime]:
    """The bounds as local times."""
    first, last = Zone(name).bounds(window, padding, window.end + DAY)
    return local_time(first), local_time(last)


def exists(name: str, local: datetime) -> bool:
    there = local.replace(tzinfo=ZoneInfo(name)).astimezone(UTC)
    return wall(name, there) == local


def as_rows_say(local: datetime) -> str:
    return local.isoformat(" ", "seconds")  # strftime leaves out zeros of early years


def readings(name: str, local: datetime) -> list[datetime]:
    """Every instant at which a wall clock of the zone shows this local time: an oracle."""
    candidates = {local.replace(tzinfo=UTC) - offset for offset in offsets(name)}
    return sorted(at for at in candidates if wall(name, at) == local)


@cache
def offsets(name: str) -> frozenset[timedelta]:
    """Every offset the zone has had in these years."""
    at_first = FIRST.astimezone(ZoneInfo(name)).utcoffset()
    assert at_first is not None
    return frozenset({at_first, *(after for _, _, after in transitions(name))})


def around(name: str) -> Iterator[tuple[datetime, timedelta, timedelta]]:
    yield from transitions(name) or [(datetime(2026, 6, 1, tzinfo=UTC), HOUR, HOUR)]


@st.composite
def windows(draw: st.DrawFn) -> tuple[str, Window]:
    """Windows of all widths, mostly near a transition."""
    name = draw(st.sampled_from(NAMES))
    places = [at for at, _, _ in transitions(name)] or [FIRST + timedelta(days=900)]
    near = draw(st.sampled_from(places))
    start = near + timedelta(seconds=draw(st.integers(-90_000, 90_000)))
    start += timedelta(microseconds=draw(st.sampled_from([0, 0, 1, 500_000, 999_999])))
    width = draw(
        st.one_of(
            st.floats(1, 120),
            st.floats(1, 3 * 3600),
            st.floats(1, 2_600_000),
        )
    )
    return name, Window(start, start + timedelta(seconds=width))


def test_the_oracle_knows_transitions() -> None:
    """The zones chosen hold forward and backward jumps, half hours, and none at all."""
    kinds = {after - before for name in NAMES for _, before, after in transitions(name)}
    assert {HOUR, -HOUR, HOUR / 2, -HOUR / 2} <= kinds
    assert not transitions("America/Bogota")
    assert not transitions("Asia/Kathmandu")


@settings(max_examples=200, deadline=None)
@given(windows(), st.floats(0, 1))
def test_bounds_contain_every_instant_of_the_padded_window(
    told: tuple[str, Window], share: float
) -> None:
    """Whatever instant a window holds, its local text lies between the bounds; never inverted.

    Truly between, for both bounds may be exclusive; also at the edges of a repeated hour.
    """
    check_bounds(*told, share)


def check_bounds(name: str, window: Window, share: float = 0.5) -> None:
    window = Zone(name).cut(window)
    first, last = asked(name, window)
    assert first < last
    until = window.end - timedelta.resolution
    inside = [window.start, until, window.start + share * (until - window.start)]
    inside += [
        at + shift
        for at, before, after in transitions(name)
        for edge in (timedelta(), before - after, after - before)
        for shift in (edge - SECOND, edge, edge + SECOND)
        if window.start <= at + shift <= until
    ]
    for instant in inside:
        assert first < wall(name, instant) < last
    begin, end = window.start - PADDING, window.end + PADDING
    jumps = any(begin <= at <= end for at, _, _ in transitions(name))
    if window.width >= NARROW or not jumps:
        assert first <= wall(name, begin)
        assert last >= wall(name, end)


@settings(max_examples=200, deadline=None)
@given(windows())
def test_no_bound_lies_in_a_skipped_hour(told: tuple[str, Window]) -> None:
    """A time that no wall clock ever shows is never asked for."""
    check_no_skipped_time(*told)


def check_no_skipped_time(name: str, window: Window) -> None:
    for bound in asked(name, window):
        assert exists(name, bound), bound


@settings(max_examples=200, deadline=None)
@given(windows())
def test_a_window_that_touches_the_repeated_hour_asks_for_all_of_it(
    told: tuple[str, Window],
) -> None:
    """Nobody knows which reading the server means; only windows under a minute are spared."""
    check_whole_repeated_hour(*told)


def check_whole_repeated_hour(name: str, window: Window) -> None:
    if window.width < NARROW:
        return
    first, last = asked(name, window)
    for at, before, after in transitions(name):
        repeat = before - after
        if repeat > timedelta() and window.start < at + repeat and at - repeat < window.end:
            assert first <= wall(name, at)
            assert last >= wall(name, at) + repeat


@settings(max_examples=200, deadline=None)
@given(windows())
def test_bounds_are_as_tight_as_can_be_away_from_transitions(told: tuple[str, Window]) -> None:
    """Where no clock is changed nearby, only the padding and the rounding are added."""
    name, window = told
    near = any(
        window.start - 3 * HOUR < at < window.end + 3 * HOUR for at, _, _ in transitions(name)
    )
    if near:
        return
    first, last = asked(name, window)
    assert first > wall(name, window.start - PADDING) - SECOND
    assert last < wall(name, window.end + PADDING) + SECOND


@pytest.mark.parametrize("name", NAMES)
def test_halving_inside_the_repeated_hour_ends_in_small_questions(name: str) -> None:
    """A window that is too large can always be asked for in pieces that are smaller."""
    for at, before, after in around(name):
        repeat = before - after
        if repeat <= timedelta():
            continue
        for offset in (-repeat / 2, repeat / 2):
            width, spans = HOUR / 2, []
            while width > SECOND:
                width = max(width / 2, SECOND)
                first, last = asked(name, Window(at + offset, at + offset + width), SECOND)
                spans.append(last - first)
            assert spans[0] >= repeat
            assert spans[-1] <= 4 * SECOND
            assert spans == sorted(spans, reverse=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_narrowest_window_asks_for_little_where_the_clocks_go_back(name: str) -> None:
    """It is cut at the jump; both sides in one request would ask for the whole repeated hour."""
    zone = Zone(name)
    for at, before, after in around(name):
        for start in (-1.4, -1, -0.4, 0, 0.6, 1.6):
            window = Window(at + start * SECOND, at + start * SECOND + SECOND)
            back = after < before and window.start < at < window.end
            pieces = [zone.cut(window)]
            if back:
                assert pieces == [Window(window.start, at)]
                pieces.append(zone.cut(Window(at, window.end)))
            assert (pieces[0].start, pieces[-1].end) == (window.start, window.end)
            for piece in pieces if after < before else ():
                first, last = asked(name, piece, SECOND)
                assert last - first <= 4 * SECOND
        wide = Window(at - NARROW / 2, at + NARROW / 2)
        assert zone.cut(wide) == wide


def test_windows_side_by_side_ask_for_both_readings_of_the_repeated_hour() -> None:
    """The narrow pieces of the repeated hour together still ask for every local second of it."""
    texts = set()
    for second in range(-3600, 3600, 30):
        start = MADRID_BACK + second * SECOND
        first, last = asked("Europe/Madrid", Window(start, start + 30 * SECOND))
        at = first
        while at <= last:
            texts.add(at)
            at += SECOND
    hour = wall("Europe/Madrid", MADRID_BACK)
    assert {hour + second * SECOND for second in range(3600)} <= texts


def test_requests_are_padded_by_five_seconds_or_their_width() -> None:
    """The padding is min(5 s, width), so that a one-second window asks for three seconds."""
    zone = Zone("America/Bogota")
    start = datetime(2026, 11, 20, 15, 0, 1, tzinfo=UTC)
    minute = request_for(Window(start, start + MINUTE), zone, 7, start + HOUR)
    assert (minute.date_ini, minute.date_end) == ("20261120095956", "20261120100106")
    second = request_for(Window(start, start + SECOND), zone, 7, start + HOUR)
    assert (second.date_ini, second.date_end) == ("20261120100000", "20261120100003")
    assert minute.max_bytes == 7


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.datetimes(FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None)),
)
def test_a_date_is_read_as_a_wall_clock_shows_it(name: str, local: datetime) -> None:
    """Any second of fifteen years: the only reading, and not ambiguous, or the first of two."""
    local = local.replace(microsecond=0)
    check_reading(name, local)


@pytest.mark.parametrize("name", NAMES)
def test_dates_around_every_transition(name: str) -> None:
    """First occurrence and a flag in repeated hours, the offset before the jump in skipped ones."""
    for at, before, _ in around(name):
        jump = (at + before).replace(tzinfo=None)
        for minutes in range(-90, 91, 15):
            for seconds in (-1, 0, 1):
                check_reading(name, jump + minutes * MINUTE + seconds * SECOND)


def check_reading(name: str, local: datetime) -> None:
    text, ambiguous = Zone(name).occurred_at(as_rows_say(local))
    found = readings(name, local)
    assert ambiguous == (len(found) == 2)
    at = datetime.fromisoformat(text)
    assert text == f"{at:%Y-%m-%dT%H:%M:%S}Z"
    if found:
        assert at == found[0]
    else:
        # The time was skipped: as if the clock had not been moved yet.
        offset = local.replace(tzinfo=UTC) - at
        there = (at - timedelta(hours=3)).astimezone(ZoneInfo(name))
        assert there.utcoffset() == offset


def test_one_zone_reads_all_seconds_of_a_minute_alike() -> None:
    """What is remembered of a minute holds for each of its seconds, also where it is ambiguous."""
    zone = Zone("Europe/Madrid")
    for hour in (1, 2, 3):
        for second in (0, 30, 59):
            text = f"2026-10-25 {hour:02}:15:{second:02}"
            assert zone.occurred_at(text) == Zone("Europe/Madrid").occurred_at(text)
            assert zone.occurred_at(text)[1] == (hour == 2)


@pytest.mark.parametrize(
    ("name", "date", "utc"),
    [
        ("America/Bogota", "2026-11-20 10:00:01", "2026-11-20T15:00:01Z"),
        ("Asia/Kathmandu", "2026-11-20 10:00:01", "2026-11-20T04:15:01Z"),
        ("Europe/Madrid", "2026-10-25 02:30:00", "2026-10-25T00:30:00Z"),
        ("Europe/Madrid", "2026-03-29 02:30:00", "2026-03-29T01:30:00Z"),
        ("Australia/Lord_Howe", "2026-04-05 01:45:00", "2026-04-04T14:45:00Z"),
        ("America/Bogota", "1900-01-01 00:00:59", "1900-01-01T04:57:15Z"),
    ],
)
def test_known_dates(name: str, date: str, utc: str) -> None:
    """A few dates worked out by hand, among them one of an offset with seconds."""
    assert Zone(name).occurred_at(date)[0] == utc


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        " ",
        "2026-11-20",
        "2026-11-20 10:00",
        "2026-11-20T10:00:00",
        "2026-11-20 10:00:00Z",
        "2026-11-20 10:00:00.5",
        " 2026-11-20 10:00:00",
        "2026-11-20 10:00:00\n",
        "2026-11-20 24:00:00",
        "2026-11-20 10:00:60",
        "2026-02-30 10:00:00",
        "0000-00-00 00:00:00",
        "20261120100000",
        "20/11/2026 10:00:00",
        "\uff12\uff10\uff12\uff16-11-20 10:00:00",  # full-width digits
        "9999-12-31 23:59:59",  # beyond the calendar in UTC
        "2026-11-20 10:00:0\u0661",
    ],
)
def test_garbage_is_no_date(garbage: str) -> None:
    """Anything but a real YYYY-MM-DD HH:MM:SS raises ValueError, remembered minute or not."""
    zone = Zone("America/Bogota")
    zone.occurred_at("2026-11-20 10:00:00")
    with pytest.raises(ValueError, match=r".") as raised:
        zone.occurred_at(garbage)
    assert raised.type is ValueError


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(("Asia/Kathmandu", "America/Bogota")),
    st.one_of(
        st.text(),
        st.from_regex(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", fullmatch=True),
        st.from_regex(r"[0-9]{4}-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]"),
    ),
)
def test_any_text_is_a_date_or_a_value_error(name: str, text: str) -> None:
    """No text makes reading a date fail otherwise, and what is read is a date of that form."""
    try:
        utc, _ = Zone(name).occurred_at(text)
    except ValueError:
        return
    assert text.isascii()
    assert as_rows_say(datetime.fromisoformat(text)) == text
    assert abs(datetime.fromisoformat(utc[:-1]) - datetime.fromisoformat(text)) < 15 * HOUR


def test_dates_mean_the_same_whatever_the_machine_s_zone_is() -> None:
    """TZ of the process changes nothing: slim images and laptops publish the same events."""
    script = (
        "from publisher.wolkvox.timezone import Zone;"
        "print(Zone('Europe/Madrid').occurred_at('2026-10-25 02:30:00'))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "TZ": zone},
            check=True,
            capture_output=True,
        ).stdout
        for zone in ("Asia/Tokyo", "America/Bogota")
    }
    assert said == {f"{('2026-10-25T00:30:00Z', True)}\n".encode()}

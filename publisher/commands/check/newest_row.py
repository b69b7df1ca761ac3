"""What the newest row says of the time zone.

The report's dates carry no offset. The newest row was written at most now: so the operation's
offset is the row's date minus UTC, or more. Where people write often it is the next offset
that any zone has.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from publisher.model import Instant
from publisher.wolkvox.timezone import Zone

LOOK_BACK: Final = timedelta(hours=1)
LOOK_AHEAD: Final = timedelta(hours=26)
"""So far apart are the clocks of any two zones."""
FUTURE: Final = timedelta(minutes=5)
"""A row further ahead was written by another clock."""
ROUNDED: Final = timedelta(minutes=1)
"""A row may be that much ahead of a `Date`, which is rounded down."""
FRESH: Final = timedelta(minutes=25)
"""A younger newest row fits the zone; zones differ by half an hour and more, but for few."""
QUIET: Final = timedelta(minutes=55)
"""An older newest row fits no zone by itself: nobody may have written since."""
NO_OTHER: Final = "no other zone fits better"
USUAL: Final = (
    "America/Bogota", "America/Lima", "America/Mexico_City", "America/Santiago",
    "America/Argentina/Buenos_Aires", "America/Sao_Paulo", "America/Caracas", "America/La_Paz",
    "America/Guatemala", "America/Panama", "America/New_York", "America/Chicago",
    "America/Denver", "America/Los_Angeles", "Europe/Madrid", "Europe/London", "UTC",
)  # fmt: skip
"""Named first where several zones fit."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How the newest row stands to the zone of the settings."""

    age: timedelta
    """By that zone; negative = in the future."""
    fits: bool
    doubt: str
    """What else it may be, where it does not fit."""


def newest(dates: Iterable[str], zone: Zone) -> str | None:
    """The latest of the dates that can be read; None = there is none."""
    for date in sorted(set(dates), reverse=True):
        try:
            zone.occurred_at(date)
        except ValueError:
            continue
        return date
    return None


def fit(date: str, zone: Zone, now: Instant) -> Fit:
    """Compare the newest row's date with the server's clock."""
    occurred_at, _ = zone.occurred_at(date)
    age = now - datetime.fromisoformat(occurred_at)
    if -FUTURE <= age <= FRESH:
        return Fit(age, True, "")
    apparent = datetime.fromisoformat(date) - now.replace(tzinfo=None)
    offset = min(
        (offset_ for offset_ in _offsets(now) if offset_ >= apparent - ROUNDED), default=None
    )
    if offset is None or (offset == _offset(zone.name, now) and age <= QUIET):
        return Fit(age, age >= -FUTURE, NO_OTHER)
    if offset == _offset(zone.name, now):
        return Fit(age, False, NO_OTHER)
    return Fit(
        age, False, f"rows look like {_utc(offset)}; WOLKVOX_TIMEZONE={_zone(offset, now)} has it"
    )


def _utc(offset: timedelta) -> str:
    minutes = abs(offset) // timedelta(minutes=1)
    return f"UTC{'-' if offset < timedelta() else '+'}{minutes // 60:02}:{minutes % 60:02}"


def _offset(zone: str, now: Instant) -> timedelta:
    return now.astimezone(ZoneInfo(zone)).utcoffset() or timedelta()


def _zone(offset: timedelta, now: Instant) -> str:
    names = (*USUAL, *_places())
    return next(name for name in names if _offset(name, now) == offset)


def _offsets(now: Instant) -> set[timedelta]:
    """Every offset that some place has now."""
    return {_offset(name, now) for name in (*USUAL, *_places())}


@cache
def _places() -> tuple[str, ...]:
    areas = (
        "Africa/",
        "America/",
        "Asia/",
        "Australia/",
        "Atlantic/",
        "Europe/",
        "Indian/",
        "Pacific/",
    )
    return tuple(sorted(name for name in available_timezones() if name.startswith(areas)))

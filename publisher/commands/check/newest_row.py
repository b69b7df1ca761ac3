"""Compares the newest row of the report with the time zone of the settings.

The dates of the report carry no offset. The newest row was written now or earlier. So the
offset of the operation is the row's date minus the current UTC time, or more. If people write
often, it is the next larger offset that any zone has.
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
"""The largest difference between the clocks of two zones."""
FUTURE: Final = timedelta(minutes=5)
"""A row that is further in the future was dated by another clock: that of another zone."""
ROUNDED: Final = timedelta(minutes=1)
"""How far a row may be ahead of the `Date` header, which is rounded down."""
FRESH: Final = timedelta(minutes=25)
"""A newest row below this age fits the zone. Most zones differ by half an hour or more."""
QUIET: Final = timedelta(minutes=55)
"""A newest row above this age proves no zone: perhaps nobody has written since."""
NO_OTHER: Final = "no other zone fits better"
USUAL: Final = (
    "America/Bogota", "America/Lima", "America/Mexico_City", "America/Santiago",
    "America/Argentina/Buenos_Aires", "America/Sao_Paulo", "America/Caracas", "America/La_Paz",
    "America/Guatemala", "America/Panama", "America/New_York", "America/Chicago",
    "America/Denver", "America/Los_Angeles", "Europe/Madrid", "Europe/London", "UTC",
)  # fmt: skip
"""Zones that are proposed first if several fit."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether the newest row fits the zone of the settings."""

    age: timedelta
    """The age of the row by that zone; negative = in the future."""
    fits: bool
    doubt: str
    """What a row that does not fit points to: another zone, or none."""


def newest(dates: Iterable[str], zone: Zone) -> str | None:
    """The latest of the valid dates; None = no date is valid."""
    for date in sorted(set(dates), reverse=True):
        try:
            zone.occurred_at(date)
        except ValueError:
            continue
        return date
    return None


def fit(date: str, zone: Zone, now: Instant) -> Fit:
    """Compare the date of the newest row with `now`, which is the time of the server."""
    occurred_at, _ = zone.occurred_at(date)
    age = now - datetime.fromisoformat(occurred_at)
    if -FUTURE <= age <= FRESH:
        return Fit(age, True, "")
    apparent_offset = datetime.fromisoformat(date) - now.replace(tzinfo=None)
    offset = min(
        (candidate for candidate in _offsets(now) if candidate >= apparent_offset - ROUNDED),
        default=None,
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
    """The name of a zone that has this offset now."""
    names = (*USUAL, *_places())
    return next(name for name in names if _offset(name, now) == offset)


def _offsets(now: Instant) -> set[timedelta]:
    """All offsets that are in use now."""
    return {_offset(name, now) for name in (*USUAL, *_places())}


@cache
def _places() -> tuple[str, ...]:
    """The names of the zones that are places, and not abbreviations or fixed offsets."""
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

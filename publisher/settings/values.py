"""The types of the settings: what the value of a single setting may be.

Rules of this file:
- A refused value raises ValueError. Its text continues "NAME ..." and says what to write instead.
- No text repeats the value, because it may be secret.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field

_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST: Final = timedelta(days=3650)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)


def duration(text: object) -> timedelta:
    """Return the duration of a text with units: `30s`, `5m`, `1h`, `3d`, `1h30m`."""
    if isinstance(text, timedelta):
        return text
    if isinstance(text, str):
        text = text.strip()
        parts = _DURATION.findall(text)
        if parts and "".join(number + unit for number, unit in parts) == text:
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
            if seconds > _LONGEST.total_seconds():
                raise ValueError("is too long: write at most 3650d")
            return timedelta(seconds=seconds)
    raise ValueError("is not a duration: write a number with a unit, like 30s, 5m, 1h or 3d")


def duration_text(value: timedelta) -> str:
    """Return the shortest text that `duration` reads back: `1h`, `90s`."""
    for unit in ("d", "h", "m", "s"):
        count = value / timedelta(seconds=_UNITS[unit])
        if count >= 1 and count.is_integer():
            return f"{int(count)}{unit}"
    return f"{value / timedelta(milliseconds=1):.15g}ms"


def start_instant(text: str, now: datetime) -> datetime:
    """Return what `PUBLISHER_START` means at `now` (UTC). Raises ValueError for anything else."""
    if text == "now":
        return now
    if text.startswith("-"):
        return now - duration(text[1:])
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("an instant needs an offset")
    return instant.astimezone(UTC)


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta():
        raise ValueError("must be greater than zero")
    return value


def _ages(text: object) -> tuple[timedelta, ...]:
    if isinstance(text, str):
        text = [part for part in text.split(",") if part.strip()]
    if not isinstance(text, list | tuple):
        raise ValueError("is not a list of durations: write them like 1h,6h,24h (empty = none)")  # noqa: TRY004 - pydantic reports ValueErrors
    return tuple(sorted({duration(part) for part in text}))


def _start(text: object) -> str:
    """Check `now`, `-24h`, or an instant with offset. It stays text until the first start."""
    if isinstance(text, datetime):
        text = text.isoformat()
    if isinstance(text, str):
        text = text.strip()
        try:
            start_instant(text, datetime.now(UTC))
        except (ValueError, OverflowError):
            pass
        else:
            return text
    raise ValueError(
        "is not a start: write now, a duration back like -24h,"
        " or an instant with offset like 2026-11-20T00:00:00-05:00"
    )


def _topic(value: str) -> str:
    sample = value.replace("{operation}", "x")
    if not re.fullmatch(r"[\w.-]{1,249}", sample, re.ASCII) or value in (".", ".."):
        raise ValueError("is not a topic name: letters, digits, '.', '_' and '-' only")
    return value


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError, LookupError):
        raise ValueError("is not an IANA time zone such as America/Bogota") from None
    return value


def base_url(value: str) -> str:
    """Check an address to which paths are appended. Raises ValueError for anything else."""
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise ValueError("is not a base URL such as https://wv0010.wolkvox.com")
    if parts.username or parts.password:
        raise ValueError("must not hold a user name or password")
    return value.rstrip("/")


def _server(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"\d{4}", value, re.ASCII):
        return value
    raise ValueError(
        "must be four digits as text, such as 0010 (in YAML and TOML quote it:"
        ' "0010"; an unquoted 0010 is the number 8)'
    )


def _spelt(convert: Callable[[str], str]) -> BeforeValidator:
    """Convert text before it is checked. Other values are checked as they are."""
    return BeforeValidator(lambda value: convert(value) if isinstance(value, str) else value)


Duration = Annotated[timedelta, BeforeValidator(duration)]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Ages = Annotated[tuple[timedelta, ...], BeforeValidator(_ages)]
Start = Annotated[str, BeforeValidator(_start)]
Topic = Annotated[str, AfterValidator(_topic)]
TopicOrNone = Annotated[str, AfterValidator(lambda value: value and _topic(value))]
Zone = Annotated[str, AfterValidator(_zone)]
Url = Annotated[str, AfterValidator(base_url)]
Server = Annotated[str, BeforeValidator(_server)]
Text = Annotated[str, Field(min_length=1)]
AnyCaseLower: Final = _spelt(str.lower)
AnyCaseUpper: Final = _spelt(str.upper)

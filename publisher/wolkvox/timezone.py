"""Converts between UTC instants and the local times of the API, which name no zone.

Rules of this file:
- Local times are read and written only here.
- A request that touches the repeated hour (end of summer time) asks for all of it,
  because it is unknown which of the two readings the server means.
- A narrow window asks only for its own local times. It is cut where the clocks go back,
  so that every narrow window lies on one side of the jump.
- Both bounds may be exclusive, so every request is padded, whether it is widened or not.
- No request names a time inside the skipped hour: the bounds are made from UTC, where
  that hour does not exist.
- No request asks for time after the server's now, because the server might refuse it as
  a whole.

Dates carry no offset on the wire (wolkvox-api §1.7): `YYYY-MM-DD HH:MM:SS` in rows and
`YYYYmmddHHiiss` in requests.
"""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from publisher.model import DAY, SECOND, Instant, Window

_DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)
_SECONDS = frozenset(f":{second:02}" for second in range(60))
_MINUTES_REMEMBERED = 50_000

NARROW = timedelta(minutes=1)
"""Windows narrower than this ask only for their own local times, even inside the repeated
hour. Otherwise halving a window that is too large would never make its request smaller."""


class Zone:
    """An IANA zone with the conversions both ways. It caches a limited number of minutes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._zone = ZoneInfo(name)
        self._minutes: dict[str, tuple[str, bool]] = {}

    def occurred_at(self, date: str) -> tuple[str, bool]:
        """Return the UTC time of a row's `date`, RFC 3339 with `Z`, and whether it is ambiguous.

        A repeated time means its first occurrence. A skipped time takes the offset before the
        jump. Both are what `fold=0` means (PEP 495).
        Raises ValueError for anything but a real `YYYY-MM-DD HH:MM:SS`.
        """
        seconds = date[16:]
        if seconds not in _SECONDS:
            raise ValueError("not a date of the form YYYY-MM-DD HH:MM:SS")
        minute = self._minutes.get(date[:16])
        if minute is None:
            return self._read(date)
        return f"{minute[0]}{seconds}Z", minute[1]

    def _read(self, date: str) -> tuple[str, bool]:
        if not _DATE.fullmatch(date):
            raise ValueError("not a date of the form YYYY-MM-DD HH:MM:SS")
        local = datetime.fromisoformat(date).replace(tzinfo=self._zone)
        first_offset, second_offset = local.utcoffset(), local.replace(fold=1).utcoffset()
        if (
            first_offset is None or second_offset is None
        ):  # pragma: no cover - ZoneInfo always knows
            raise ValueError("the zone has no offset there")
        try:
            utc = local.replace(tzinfo=None) - first_offset
        except OverflowError:
            raise ValueError("out of the calendar's range") from None
        # In a skipped hour the second reading has the larger offset.
        text, ambiguous = utc.isoformat(), second_offset < first_offset
        # Offsets with seconds (before about 1970) change within a minute, so they are not cached.
        if not first_offset.seconds % 60 and not second_offset.seconds % 60:
            if len(self._minutes) >= _MINUTES_REMEMBERED:
                self._minutes.clear()
            self._minutes[date[:16]] = text[:16], ambiguous
        return f"{text}Z", ambiguous

    def bounds(self, window: Window, padding: timedelta, now: Instant) -> tuple[str, str]:
        """Return `date_ini` and `date_end` that hold the window, padded and rounded outwards.

        The padding exists because two things are unknown: whether the bounds are inclusive, and
        whether the filter column differs from `date` by seconds. The request ends at `now` at the
        latest (the server's, rounded down). The padding of the next window begins before that.
        """
        first, last = self._reach(window, padding, now)
        return f"{first:%Y%m%d%H%M%S}", f"{last:%Y%m%d%H%M%S}"

    def span(self, window: Window, padding: timedelta) -> timedelta:
        """How much local time the window's request covers, regardless of the present time."""
        first, last = self._reach(window, padding, window.end + DAY)
        return last - first

    def _reach(self, window: Window, padding: timedelta, now: Instant) -> tuple[datetime, datetime]:
        latest = _floor(max(now, window.start))
        start = _floor(window.start - padding)
        end = min(_ceil(window.end + padding), latest)
        first, last = self._local(start), self._local(end)
        if window.width < NARROW and self.cut(window) == window:
            # Only the padding may reach over a jump: it continues as if there were no jump.
            offset = self._offset(window.start)
            first = min(first, start.replace(tzinfo=None) + offset)
            last = max(last, end.replace(tzinfo=None) + offset)
            if self._offset(latest) < offset:
                # The times that the clocks would have shown without going back lie in the future.
                jump = self._transition(_floor(window.start), latest)
                shown = jump.replace(tzinfo=None) + offset - SECOND
                last = min(last, max(shown, self._local(latest)))
            return first, last
        for instant in (start, end):
            repeated = self._repeated(instant)
            if repeated:
                first = min(first, repeated[0] - padding)
                last = max(last, repeated[1] + padding)
        if self._offset(end) < self._offset(start):
            # The clocks went back inside the window: ask for both readings of the repeated hour.
            shift = self._offset(start) - self._offset(end)
            jump = self._transition(start, end)
            first = min(first, self._local(jump) - padding)
            last = max(last, self._local(jump) + shift + padding)
        # While an hour is repeated, the server's local clock is set back, too.
        return first, min(last, self._local(latest))

    def cut(self, window: Window) -> Window:
        """Return the window. Of a narrow window return only the part before the clocks go back.

        A request for both sides of the jump would cover the whole repeated hour. That may be
        too much, and a narrower window would not help.
        """
        if window.width >= NARROW:
            return window
        inside = window.end - timedelta.resolution
        if self._offset(inside) >= self._offset(window.start):
            return window
        return Window(window.start, self._transition(_floor(window.start), _ceil(inside)))

    def _local(self, instant: Instant) -> datetime:
        return instant.astimezone(self._zone).replace(tzinfo=None)

    def _offset(self, instant: Instant) -> timedelta:
        offset = instant.astimezone(self._zone).utcoffset()
        return offset if offset is not None else timedelta()

    def _repeated(self, instant: Instant) -> tuple[datetime, datetime] | None:
        """First and last local time of the repeated hour around the instant; None outside it."""
        local = instant.astimezone(self._zone)
        first_offset, second_offset = (local.replace(fold=fold).utcoffset() for fold in (0, 1))
        if first_offset is None or second_offset is None or second_offset >= first_offset:
            return None
        shift = first_offset - second_offset
        # The clocks went back at most one shift after the first reading of this time.
        first_reading = (local.replace(tzinfo=None, fold=0) - first_offset).replace(tzinfo=UTC)
        jump = self._transition(first_reading, first_reading + shift)
        begins = self._local(jump)
        return begins, begins + shift

    def _transition(self, before: Instant, after: Instant) -> Instant:
        """The first whole second in (before, after] at which the later offset holds."""
        old = self._offset(before)
        while after - before > SECOND:
            middle = before + ((after - before) // 2 // SECOND) * SECOND
            if middle <= before:
                break
            if self._offset(middle) == old:
                before = middle
            else:
                after = middle
        return after


def _floor(instant: Instant) -> Instant:
    return instant.replace(microsecond=0)


def _ceil(instant: Instant) -> Instant:
    return instant if instant.microsecond == 0 else _floor(instant) + SECOND

"""Turns a window into a request, and limits how much time one request covers.

Every reader uses it: live, re-reads, repair, backfills and the commands.
"""

from datetime import timedelta
from typing import Final

from publisher.model import SECOND, Instant, Request, Window
from publisher.wolkvox.timezone import Zone

PADDING: Final = 5 * SECOND
LONGEST_REQUEST: Final = timedelta(days=31)
"""The vendor's limit, in local time. The answer beyond it is unknown: probably it looks like
an answer without rows."""
SURE_REQUEST: Final = timedelta(days=28)
"""The length of the shortest month. An empty answer to a longer request may be a refusal."""


def request_for(window: Window, zone: Zone, max_bytes: int, now: Instant) -> Request:
    """Return the request for the window, sent at the server's time `now`.

    It is padded on both sides by 5 s, or by the window's width (at least 1 s) where that
    is less, but not beyond `now`. `max_bytes` limits the body of the answer.
    """
    date_ini, date_end = zone.bounds(window, _padding(window), now)
    return Request(date_ini=date_ini, date_end=date_end, max_bytes=max_bytes)


def askable(window: Window, zone: Zone, longest: timedelta) -> Window:
    """Return the window, or the first part of it that fits into one request.

    `longest` limits the local time of the request. The padding, the rounding and the hours
    that are repeated or skipped inside the window count.
    """
    window = zone.cut(window)
    while (excess := zone.span(window, _padding(window)) - longest) > timedelta():
        window = Window(window.start, window.end - excess)
    return window


def reaches_beyond(window: Window, now: Instant, date: Instant) -> bool:
    """Whether the request sent at `now` asks for time after `date`."""
    end = min(window.end + _padding(window), now.replace(microsecond=0))
    return end > date


def _padding(window: Window) -> timedelta:
    return min(PADDING, max(window.width, SECOND))

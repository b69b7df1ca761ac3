"""How a window is asked for, and how much of it one request may ask.

Every reader goes through here: live, re-reads, repair, backfills and the commands.
"""

from datetime import timedelta
from typing import Final

from publisher.model import SECOND, Instant, Request, Window
from publisher.wolkvox.timezone import Zone

PADDING: Final = 5 * SECOND
LONGEST_REQUEST: Final = timedelta(days=31)
"""The vendor's limit, in local time. What an answer beyond it looks like, nobody knows: likely
as if there were no rows."""
SURE_REQUEST: Final = timedelta(days=28)
"""Nothing in more than this may be a refusal, too: the shortest that a month can be."""


def request_for(window: Window, zone: Zone, max_bytes: int, now: Instant) -> Request:
    """How the window is asked for at the server's time `now`.

    Padded on both sides by min(5 s, its width), but not beyond `now`.
    """
    date_ini, date_end = zone.bounds(window, _padding(window), now)
    return Request(date_ini=date_ini, date_end=date_end, max_bytes=max_bytes)


def askable(window: Window, zone: Zone, longest: timedelta) -> Window:
    """The window, or the first part of it that one request can ask for.

    Its padding, its rounding and the hours that are repeated or skipped inside it count.
    """
    window = zone.cut(window)
    while (excess := zone.span(window, _padding(window)) - longest) > timedelta():
        window = Window(window.start, window.end - excess)
    return window


def reaches_beyond(window: Window, now: Instant, date: Instant) -> bool:
    """Whether the request made at `now` asks for what lies after `date`."""
    end = min(window.end + _padding(window), now.replace(microsecond=0))
    return end > date


def _padding(window: Window) -> timedelta:
    return min(PADDING, max(window.width, SECOND))

"""Computes with recorded gaps: parked windows, sorted, of which no two touch.

The forgotten stretches of a checkpoint have the same form. They are time whose journal entries
were removed, so the state does not say any more what was published of it.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final, TypeAlias

from publisher.model import Instant, Window

Gaps: TypeAlias = Sequence[Window]

NEAR: Final = timedelta(hours=3)
"""Windows this far apart may bring the same row: by the repeated hour on both sides, and by the
padding."""

FAR: Final = timedelta(hours=26) + NEAR
"""The same if one of the windows was read in a wrong time zone. Zones are up to 26 h apart."""

LAST_STRETCH: Final = timedelta(minutes=30)
"""The most that live asks for if the clock is behind what was read."""


def added(gaps: Gaps, window: Window) -> tuple[Window, ...]:
    """The gaps and this window. Gaps that touch become one."""
    touching = [gap for gap in gaps if gap.start <= window.end and window.start <= gap.end]
    whole = Window(
        min(gap.start for gap in [window, *touching]), max(gap.end for gap in [window, *touching])
    )
    return _sorted([whole, *(gap for gap in gaps if gap not in touching)])


def removed(gaps: Gaps, start: Instant, end: Instant) -> tuple[Window, ...]:
    """What is left of the gaps once the time from `start` to `end` has been read."""
    left: list[Window] = []
    for gap in gaps:
        sides = ((gap.start, min(gap.end, start)), (max(gap.start, end), gap.end))
        left += [Window(*side) for side in sides if side[0] < side[1]]
    return _sorted(set(left))


def beyond(gaps: Gaps, instant: Instant) -> Instant:
    """The instant, or the end of the gap that it lies in."""
    return next((gap.end for gap in gaps if gap.start <= instant < gap.end), instant)


def before_next(gaps: Gaps, start: Instant, end: Instant) -> Instant:
    """How far a window from `start` may go, up to `end`, without reaching into a gap."""
    return min([end, *(gap.start for gap in gaps if gap.start > start)])


def clear_of(forgotten: Gaps, stretches: Gaps, distance: timedelta = NEAR) -> tuple[Window, ...]:
    """The parts of the stretches that lie at least `distance` from forgotten time."""
    for window in forgotten:
        stretches = removed(stretches, window.start - distance, window.end + distance)
    return tuple(stretches)


def near(gaps: Gaps, start: Instant, end: Instant, distance: timedelta = NEAR) -> bool:
    """Whether reading a gap may bring rows of the window from `start` to `end` again."""
    return any(start < gap.end + distance and gap.start - distance < end for gap in gaps)


def _sorted(gaps: Iterable[Window]) -> tuple[Window, ...]:
    return tuple(sorted(gaps, key=lambda gap: gap.start))

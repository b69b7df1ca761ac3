"""Decides when bad rows mean that the format of the report has changed.

Rules of this file:
- The format has changed if more than half of at least 20 rows are bad. If a window shows fewer
  rows, the windows before it count as well, from the youngest on, as far as the journal remembers
  them.
- The same bad row, read again and again, is no new evidence. There must be a few different ones.
"""

from collections.abc import Iterable
from typing import Final

from publisher.state.checkpoint import Entry

ENOUGH: Final = 20
FEW: Final = 5
"""Fewer different bad rows never count as a change of the format."""


def format_changed(good: int, bad: int, youngest: Iterable[Entry] = ()) -> tuple[int, int] | None:
    """How many rows of how many are bad, if that means another format; otherwise None.

    `good` and `bad` count the rows of the new answer. `youngest` is the journal, newest entry
    first.
    """
    total, different = good + bad, bad
    if bad * 2 <= total:
        return None
    if total >= ENOUGH:
        return bad, total
    different = 0
    for entry in youngest:
        total += entry.rows
        bad += entry.rows - entry.new - entry.duplicate
        different += entry.rejected
        if total < ENOUGH:
            continue
        if bad * 2 <= total:
            return None
        if different >= FEW:
            return bad, total
    return None

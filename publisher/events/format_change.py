"""When bad rows are no longer bad rows, but another format.

Rules of this file:
- More than half of at least 20 rows are bad. Where a window shows fewer, those before it count
  as well, from the youngest on, as far as the journal remembers them.
- The same bad row, read again and again, is no new evidence: there must be a few of them.
"""

from collections.abc import Iterable
from typing import Final

from publisher.state.checkpoint import Entry

ENOUGH: Final = 20
FEW: Final = 5
"""Fewer different bad rows are never taken for a change of the format."""


def format_changed(good: int, bad: int, youngest: Iterable[Entry] = ()) -> tuple[int, int] | None:
    """How many rows of how many are bad, if that means another format.

    `good` and `bad` are the rows of one answer, `youngest` the journal from its end on.
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

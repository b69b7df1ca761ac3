"""Which rows of an answer are new. Pure.

Rules of this file:
- New is what neither the ledger knows nor the answer has shown before.
- Nothing is remembered here: the ids go into the ledger once they are committed.
"""

from array import array
from collections import defaultdict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from publisher.rules.ledger import Id, Ledger
from publisher.rules.rows import Reading, Row


class Screen:
    """Screens one answer, portion by portion."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._shown: defaultdict[str, set[Id]] = defaultdict(set)

    @property
    def count(self) -> int:
        """New rows so far."""
        return sum(map(len, self._shown.values()))

    def ids(self) -> dict[str, "array[Id]"]:
        """The ids of the new rows by hour: what the ledger takes."""
        return {hour: array("Q", those) for hour, those in self._shown.items() if those}

    def fresh(self, reading: Reading) -> list[Row]:
        """The new rows of a portion, in the answer's order."""
        found = reading.by_id
        for hour, ids in _by_hour(reading).items():
            shown = self._shown[hour]
            old = self._ledger.known(hour, ids) | shown.intersection(ids)
            shown.update(ids - old if old else ids)
            for id_ in old:
                del found[id_]
        return [*found.values()]


def _by_hour(reading: Reading) -> Mapping[str, AbstractSet[Id]]:
    if len(reading.hours) == 1:
        [hour] = reading.hours
        return {hour: reading.by_id.keys()}
    found: defaultdict[str, set[Id]] = defaultdict(set)
    for id_, row in reading.by_id.items():
        found[row[2][0]].add(id_)
    return found

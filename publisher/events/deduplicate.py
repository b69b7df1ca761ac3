"""Decides which rows of an answer are new.

Rules of this file:
- A row is new if the ledger does not know it and the answer has not shown it before.
- A row under a placeholder is not new either if the ledger knows it by another name: an earlier
  answer showed more or less of its customer. But if the same answer shows a row under that other
  name, the two rows are different messages.
- Nothing is remembered here. The ids go into the ledger once they are committed.
"""

from array import array
from collections import defaultdict
from collections.abc import Mapping

from publisher.events.rows import Reading, Row
from publisher.state.ledger import Id, Ledger


class Screen:
    """Screens one answer, portion by portion."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._shown: defaultdict[str, set[Id]] = defaultdict(set)
        self._with_them: defaultdict[str, set[Id]] = defaultdict(set)
        """By hour: the ids to remember besides those of the new rows."""
        self.known_otherwise: set[bytes] = set()
        """Digests of the rows that the ledger knows by another name."""

    @property
    def count(self) -> int:
        """The number of new rows so far."""
        return sum(map(len, self._shown.values()))

    def ids(self) -> dict[str, "array[Id]"]:
        """The ids to add to the ledger for the new rows, by hour."""
        return {
            hour: array("Q", ids | self._with_them.get(hour, set()))
            for hour, ids in self._shown.items()
            if ids
        }

    def fresh(self, reading: Reading) -> list[Row]:
        """The new rows of a portion, in the answer's order."""
        rows, ids = reading.rows, reading.ids
        wanted = {*ids}
        old: set[Id] = set()
        for hour, hour_ids in _by_hour(reading, wanted).items():
            shown = self._shown[hour]
            published = self._ledger.published_ids(hour, hour_ids) | shown.intersection(hour_ids)
            shown.update(hour_ids - published if published else hour_ids)
            old |= published
        if reading.strangers:
            old |= self._known_otherwise(reading, old)
        if len(wanted) == len(rows):
            pairs = zip(ids, rows, strict=True)
            return [row for id_, row in pairs if id_ not in old] if old else rows
        fresh: dict[Id, Row] = {}
        for id_, row in zip(ids, rows, strict=True):
            if id_ not in old:
                fresh.setdefault(id_, row)  # of equal rows the first is published
        return [*fresh.values()]

    def _known_otherwise(self, reading: Reading, old: set[Id]) -> set[Id]:
        """The ids of rows under placeholders that are not new after all.

        For the other rows under placeholders it notes which further ids to remember.
        """
        duplicates: set[Id] = set()
        for id_, row in zip(reading.ids, reading.rows, strict=True):
            stranger = reading.strangers.get(row[1])
            if stranger is None or id_ in old:
                continue
            hour = row[2].hour
            if stranger.is_known(self._ledger, hour):
                self.known_otherwise.add(row[1])
                self._shown[hour].discard(id_)
                duplicates.add(id_)
            else:
                self._with_them[hour] |= stranger.tells_more_than
        return duplicates


def _by_hour(reading: Reading, ids: set[Id]) -> Mapping[str, set[Id]]:
    if len(reading.hours) == 1:
        [hour] = reading.hours
        return {hour: ids}
    by_hour: defaultdict[str, set[Id]] = defaultdict(set)
    for id_, row in zip(reading.ids, reading.rows, strict=True):
        by_hour[row[2][0]].add(id_)
    return by_hour

"""A ledger in which some messages count as unknown, so that they are published again. Pure.

For events that the messages topic no longer holds although they were published. Their ids come
into the journal a second time with the commit; a restore finds them twice and knows them once.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet

from publisher.model import Instant
from publisher.rules.ledger import Id, Ids, Ledger


class Reopened(Ledger):
    """The ledger of the state, besides what is missing; each message is missing once."""

    def __init__(self, ledger: Ledger, event_ids: AbstractSet[bytes]) -> None:
        super().__init__()
        self._ledger = ledger
        self.missing = {_comparable(int.from_bytes(id_[:8])) for id_ in event_ids}

    def __len__(self) -> int:
        return len(self._ledger)

    def holds(self, bucket: str) -> bool:
        return self._ledger.holds(bucket)

    def known(self, hour: str, ids: AbstractSet[Id]) -> set[Id]:
        """Which of these have been published and are not missing."""
        found = self._ledger.known(hour, ids)
        return {id_ for id_ in found if _comparable(id_) not in self.missing}

    def knows_rejected(self, id_: Id) -> bool:
        return self._ledger.knows_rejected(id_)

    def add(self, ids: Ids, window_start: Instant, window_end: Instant) -> None:
        """Published: no longer missing."""
        self._ledger.add(ids, window_start, window_end)
        for bucket in ids.values():
            self.missing.difference_update(map(_comparable, bucket))

    def forget(
        self, before: Instant, spared: Callable[[Instant, Instant], bool] = lambda *_: False
    ) -> None:
        self._ledger.forget(before, spared)


def _comparable(id_: Id) -> Id:
    """An id without the four bits that the version of the UUID takes the place of."""
    return id_ & ~0xF000

"""How far topics reach. By itself no partition ends earlier than it did."""

from collections.abc import Mapping

from aiokafka import TopicPartition

from publisher.signals import Emit, EventsGone


class Ends:
    """Tells when a partition ends earlier than before: made anew, or its brokers lost data."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._ends: dict[TopicPartition, int] = {}

    def now(self) -> Mapping[TopicPartition, int]:
        """What was seen by now: to be taken before Kafka is asked, because others write too."""
        return dict(self._ends)

    def reset(self, ends: Mapping[TopicPartition, int]) -> None:
        """Believe these without a word."""
        self._ends |= ends

    def reached(
        self,
        ends: Mapping[TopicPartition, int],
        before: Mapping[TopicPartition, int],
    ) -> None:
        """Compare what Kafka answered with what was seen before it was asked.

        Each topic that went back is told.
        """
        back = {partition for partition, end in ends.items() if end < before.get(partition, 0)}
        for partition, end in ends.items():
            least = 0 if partition in back else self._ends.get(partition, 0)
            self._ends[partition] = max(end, least)
        for topic in sorted({partition.topic for partition in back}):
            self._emit(EventsGone(topic))

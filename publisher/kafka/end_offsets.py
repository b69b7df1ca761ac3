"""Watches how far partitions reach, to notice lost events.

The end of a partition never goes back by itself. If it does, events are gone.
"""

from collections.abc import Mapping

from aiokafka import TopicPartition

from publisher.signals import Emit, EventsGone


class Ends:
    """The ends of the partitions seen so far.

    Reports a partition that ends earlier than before: its topic was created anew, or its brokers
    lost data.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._ends: dict[TopicPartition, int] = {}

    def now(self) -> Mapping[TopicPartition, int]:
        """The ends seen by now, for `reached`.

        Take them before Kafka is asked, because others write to the topics, too.
        """
        return dict(self._ends)

    def reset(self, ends: Mapping[TopicPartition, int]) -> None:
        """Accept these ends without reporting anything."""
        self._ends |= ends

    def reached(
        self,
        ends: Mapping[TopicPartition, int],
        before: Mapping[TopicPartition, int],
    ) -> None:
        """Compare the ends that Kafka answered with those seen before it was asked.

        Emits EventsGone once for every topic that went back. What was seen of its other partitions
        belongs to the topic as it was, so it is forgotten.
        """
        back = {
            partition.topic
            for partition, end in ends.items()
            if end < min(before.get(partition, 0), self._ends.get(partition, 0))
        }
        self._ends = {
            partition: end for partition, end in self._ends.items() if partition.topic not in back
        }
        for partition, end in ends.items():
            self._ends[partition] = max(end, self._ends.get(partition, 0))
        for topic in sorted(back):
            self._emit(EventsGone(topic))

"""Which ends of partitions are told as events that are gone. No Kafka."""

from aiokafka import TopicPartition

from publisher.kafka.end_offsets import Ends
from publisher.signals import EventsGone, Signal

PARTITION = TopicPartition("wolkvox.messages", 0)


def test_an_end_that_goes_back_is_told_once() -> None:
    signals: list[Signal] = []
    ends = Ends(signals.append)
    for end in (0, 5, 5, 9):
        ends.reached({PARTITION: end}, ends.now())
    assert signals == []
    for end in (3, 3, 4):
        ends.reached({PARTITION: end}, ends.now())
    assert signals == [EventsGone("wolkvox.messages")]


def test_an_answer_that_is_older_than_what_was_seen_meanwhile_says_nothing() -> None:
    """A look and a transaction run at once; whichever ends last knows less."""
    signals: list[Signal] = []
    ends = Ends(signals.append)
    ends.reached({PARTITION: 5}, ends.now())
    before = ends.now()
    ends.reached({PARTITION: 9}, ends.now())
    ends.reached({PARTITION: 6}, before)
    ends.reached({PARTITION: 9}, ends.now())
    assert signals == []
    ends.reached({PARTITION: 8}, ends.now())
    assert len(signals) == 1


def test_a_topic_of_which_somebody_else_tells() -> None:
    signals: list[Signal] = []
    ends = Ends(signals.append)
    ends.reached({PARTITION: 5}, ends.now())
    ends.reset({PARTITION: 0})
    ends.reached({PARTITION: 1}, ends.now())
    assert signals == []


def test_a_topic_is_told_once_whichever_partitions_show_it() -> None:
    """A transaction touches some of its partitions, the next one touches others."""
    signals: list[Signal] = []
    ends = Ends(signals.append)
    other = TopicPartition(PARTITION.topic, 1)
    elsewhere = TopicPartition("wolkvox.revisions", 1)
    ends.reached({PARTITION: 5, other: 5, elsewhere: 5}, ends.now())
    before = ends.now()
    ends.reached({PARTITION: 1}, ends.now())
    ends.reached({other: 1}, ends.now())
    ends.reached({PARTITION: 2, other: 2}, before)
    assert signals == [EventsGone("wolkvox.messages")]
    ends.reached({elsewhere: 1}, ends.now())
    assert signals[1:] == [EventsGone("wolkvox.revisions")]

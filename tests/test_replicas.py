"""How many replicas a topic gets, what is said of topics and brokers that are there. No Kafka."""

import pytest
from aiokafka.protocol.admin import ApiVersionResponse_v0

from publisher.kafka.broker_version import ShowVersions, hanging_hint, metadata_level, release
from publisher.kafka.durability import Copies
from publisher.kafka.replicas import SAFE, replicas_of_new, too_few_brokers
from publisher.kafka.topics import Wanted, new_topics

UNSAFE = {"min.insync.replicas": "1", "unclean.leader.election.enable": "true"}


@pytest.mark.parametrize(
    ("up", "seen", "servers", "wanted"),
    [
        (1, 1, 1, 1),
        (2, 2, 1, 2),
        (3, 3, 1, 3),
        (9, 9, 3, 3),
        (1, 3, 1, 3),
        (1, 1, 2, 2),
        (2, 5, 1, 3),
    ],
)
def test_as_many_as_there_are_brokers(up: int, seen: int, servers: int, wanted: int) -> None:
    """Whether they are up or not, at most three."""
    assert replicas_of_new(up, seen, servers) == wanted


def test_the_text_names_brokers() -> None:
    """How many are up, and how many it takes."""
    text = "too few brokers are up to give it enough replicas (up: 1, wanted: 3): start the others"
    assert text in str(too_few_brokers("wolkvox.messages", 1, 3))


def test_what_endangers_records() -> None:
    """One sentence for each danger; none where all is well, or one broker is all there is."""
    assert not [*Copies("a", 3, SAFE).dangers(3)]
    assert not [*Copies("a", 2, SAFE).dangers(3)]
    assert not [*Copies("a", 1, UNSAFE).dangers(1)]
    assert not [*Copies("a", 3, None).dangers(3)]
    unclean, quick = Copies("a", 3, UNSAFE).dangers(3)
    assert unclean.endswith("it has unclean.leader.election.enable=true; set it to false")
    assert quick.endswith("it has min.insync.replicas=1; set it to 2")
    [alone] = Copies("a", 1, UNSAFE).dangers(2)
    assert alone.startswith("topic a may lose acknowledged records: it has replicas=1 although")
    assert "there are 2 brokers; give it 2 replicas" in alone
    [lonely] = Copies("a", 1, None).dangers(9)
    assert "there are 9 brokers; give it 3 replicas" in lonely


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_a_new_topic_is_in_no_danger(replicas: int) -> None:
    """What the service creates on so many brokers is what `check` asks for."""
    [topic] = new_topics({"a": Wanted(1, {})}, replicas)
    config = {**UNSAFE, **topic.topic_configs}
    assert not [*Copies("a", topic.replication_factor, config).dangers(replicas)]


@pytest.mark.parametrize(
    ("level", "name", "hangs"),
    [
        (None, "a release before 3.0, or another product", False),
        (21, "Kafka 3.9", False),
        (25, "Kafka 4.0", False),
        (29, "Kafka 4.2", False),
        (30, "Kafka 4.3", True),
        (33, "Kafka 4.4", True),
        (34, "Kafka after 4.4", True),
    ],
)
def test_the_release_of_a_broker(level: int | None, name: str, *, hangs: bool) -> None:
    """By what brokers of 3.9.2, 4.2.2, 4.3.1 and 4.4.0 were seen to tell: 21, 29, 30 and 33."""
    assert release(level) == name
    hint = hanging_hint(level)
    assert (hint is not None) == hangs
    if hint:
        assert f"a single node of {name} that is killed may leave a transaction open" in hint


def test_a_broker_that_tells_no_features() -> None:
    """Other products and old releases."""
    assert metadata_level(ApiVersionResponse_v0(error_code=0, api_versions=[])) is None
    answer = ShowVersions.RESPONSE_TYPE(error_code=0, api_versions=[], throttle_time_ms=0, tags={})
    assert metadata_level(answer) is None

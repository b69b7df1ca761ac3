"""The publisher on a Kafka of three brokers: replicas, and what is said of them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from publisher.errors import NeedsOperator, Reason
from publisher.kafka.cluster import Cluster
from publisher.signals import HintGiven, Signal, TopicCreated
from sandbox import kafka as sandbox
from tests import kafka_tools
from tests.conftest import names_of
from tests.fakes import settings_of
from tests.harness import Rig, rig
from tests.test_check import check
from tests.test_operator import CALM, FAST

ONE_IS_ENOUGH = {
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
}
"""As Kafka's own settings are: a broker alone creates whatever it is asked for."""


async def restored(environment: dict[str, str]) -> list[Signal]:
    """Start as the service does; what it told."""
    signals: list[Signal] = []
    kafka = Cluster(settings_of(environment), signals.append)
    try:
        await kafka.log("wv0010").restore()
    finally:
        await kafka.close()
    return signals


async def replicas_of(environment: dict[str, str]) -> dict[str, set[int]]:
    """How many replicas the partitions of each topic have."""
    prefix = environment["PUBLISHER_STATE_TOPIC"].partition(".")[0]
    async with kafka_tools.administering(environment["KAFKA_BOOTSTRAP_SERVERS"]) as admin:
        topics: list[dict[str, Any]] = await admin.describe_topics(None)
    return {
        topic["topic"]: {len(partition["replicas"]) for partition in topic["partitions"]}
        for topic in topics
        if topic["topic"].startswith(f"{prefix}.")
    }


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sandbox.Cluster]:
    """Three brokers that by themselves give a topic one replica."""
    folder: Path = tmp_path_factory.mktemp("careless")
    with sandbox.Cluster(folder, overrides=ONE_IS_ENOUGH) as cluster:
        yield cluster


@pytest.mark.parametrize(("up", "named"), [(1, "one"), (2, "all")])
async def test_topics_wait_for_all_brokers(careless: sandbox.Cluster, up: int, named: str) -> None:
    """A first start beside some of three brokers creates nothing, and goes on with all of them."""
    for broker in careless.brokers[up:]:
        await asyncio.to_thread(broker.kill)
    await asyncio.to_thread(careless.wait_for, up)
    servers = careless.bootstrap if named == "all" else careless.broker(1).bootstrap
    environment = names_of(f"waiting{up}{named}", servers)
    with pytest.raises(NeedsOperator) as held:
        await restored(environment)
    assert held.value.reason is Reason.KAFKA_TOPIC
    assert f"(up: {up}, wanted: 3)" in str(held.value)
    assert await replicas_of(environment) == {}
    await asyncio.to_thread(careless.start)
    created = [told for told in await restored(environment) if isinstance(told, TopicCreated)]
    assert len(created) == 3
    assert set(map(tuple, (await replicas_of(environment)).values())) == {(3,)}


async def test_brokers_that_never_joined_are_counted_by_their_default(tmp_path: Path) -> None:
    """Nobody names the others, but the one that is up is told to make three replicas of all."""
    overrides = {**ONE_IS_ENOUGH, "default.replication.factor": "3"}
    cluster = sandbox.Cluster(tmp_path, overrides=overrides)
    try:
        await asyncio.to_thread(cluster.start, cluster.brokers[:1])
        environment = names_of("alone", cluster.broker(1).bootstrap)
        with pytest.raises(NeedsOperator, match="wanted: default"):
            await restored(environment)
        assert await replicas_of(environment) == {}
    finally:
        await asyncio.to_thread(cluster.stop)


async def test_new_topics_keep_what_is_acknowledged(careless: sandbox.Cluster) -> None:
    """Two replicas at least have each record, and none that lacks some becomes the leader."""
    environment = names_of("kept", careless.bootstrap)
    signals = await restored(environment)
    # Nor is a right missing because one of the brokers does not know the topics yet.
    hints = [signal.text for signal in signals if isinstance(signal, HintGiven)]
    assert not [hint for hint in hints if "DESCRIBE_CONFIGS" in hint]
    for topic in await replicas_of(environment):
        config = await kafka_tools.config_of(careless.bootstrap, topic)
        assert config["min.insync.replicas"] == "2"
        assert config["unclean.leader.election.enable"] == "false"


TWO = {"min_insync_replicas": "2"}


async def endangered(one: Rig) -> dict[str, str]:
    """Topics that somebody has made; what may lose their records, and those of transactions."""
    prefix = one.topic.partition(".")[0]
    danger = {"__transaction_state": "replicas=1 although there are 3 brokers"}
    for name, (partitions, replicas, config) in {
        "messages": (6, 1, {}),
        "dead-letters": (1, 3, {"unclean_leader_election_enable": "true", **TWO}),
        "state": (12, 3, {"cleanup_policy": "compact"}),
    }.items():
        await kafka_tools.create(one.bootstrap, f"{prefix}.{name}", partitions, replicas, **config)
    danger[f"{prefix}.messages"] = "replicas=1 although there are 3 brokers"
    danger[f"{prefix}.dead-letters"] = "unclean.leader.election.enable=true"
    danger[f"{prefix}.state"] = "min.insync.replicas=1"
    return danger


async def test_the_service_and_check_name_each_danger(
    careless: sandbox.Cluster, tmp_path: Path
) -> None:
    """The service goes on, and gives one hint for each topic and danger; `check` fails."""
    async with rig(careless.bootstrap, tmp_path, CALM, FAST) as one:
        wanted = await endangered(one)
        publisher = one.start()
        for topic, danger in wanted.items():
            text = f"topic {topic} may lose acknowledged records: it has {danger}"
            await publisher.logged(20, event="Something looks wrong", hint=text)
        await publisher.logged(20, event="Window published")
        hints = [line["hint"] for line in publisher.lines if "acknowledged" in str(line)]
        assert len(hints) == len(wanted)
        outcome = await check(one.settings)
    failures = {line["text"] for line in outcome.checks if line["state"] == "failed"}
    assert failures == set(hints)
    assert "can be restored" in outcome.of("wv0010", "Kafka state")["text"]
    assert outcome.of("version")["text"].startswith("Kafka 4.")


async def test_the_service_waits_for_all_brokers(careless: sandbox.Cluster, tmp_path: Path) -> None:
    """Its first start beside one of three ends with three replicas of everything, by itself."""
    for broker in careless.brokers[1:]:
        await asyncio.to_thread(broker.kill)
    await asyncio.to_thread(careless.wait_for, 1)
    async with rig(careless.broker(1).bootstrap, tmp_path, {"history": "1m"}) as one:
        publisher = one.start()
        held = await publisher.logged(event="Step failed: action required")
        assert held["reason"] == Reason.KAFKA_TOPIC.value
        assert await replicas_of(one.settings) == {}
        await asyncio.to_thread(careless.start)
        await publisher.published()
        assert set(map(tuple, (await replicas_of(one.settings)).values())) == {(3,)}

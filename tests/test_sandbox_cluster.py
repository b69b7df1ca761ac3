"""The local cluster does what tests take for granted: it survives one broker, and heals."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.kafka import Cluster, wire
from tests import kafka_tools

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


async def test_committed_records_survive_the_loss_of_a_broker(own_cluster: Cluster) -> None:
    """Killed with its disk: the others serve what was committed; its successor gets a copy."""
    address = own_cluster.bootstrap
    await kafka_tools.create(address, "kept", replicas=3)
    async with (
        kafka_tools.producing(address, transactional_id="kept") as producer,
        producer.transaction(),
    ):
        await producer.send_and_wait("kept", b"before")
    for broker in own_cluster.brokers:
        await asyncio.to_thread(broker.replace)
        await asyncio.to_thread(own_cluster.wait_for, 3)
        await asyncio.to_thread(own_cluster.wait_in_sync)
    assert [record.value for record in await kafka_tools.read(address, "kept")] == [b"before"]


def test_one_broker_alone_knows_that_it_is_alone(tmp_path: Path) -> None:
    """A cluster may be started one by one; a frozen broker is no more of the cluster."""
    with Cluster(tmp_path / "one-by-one", count=2) as cluster:
        first, second = cluster.brokers
        second.stop()
        cluster.wait_for(1)
        assert wire.nodes(first.bootstrap, 5) == {1}
        cluster.start([second])
        assert wire.nodes(second.bootstrap, 5) == {1, 2}
        second.freeze()
        cluster.controller.start()  # it runs: nothing happens
        while wire.brokers(first.bootstrap, 5) != 1:
            pass
        second.thaw()
        cluster.wait_for(2)


async def test_clients_are_sent_where_a_broker_says(tmp_path: Path) -> None:
    """A proxy may stand before each broker; the other brokers go past it."""
    cluster = Cluster(tmp_path, count=2)
    cluster.broker(2).advertised = cluster.broker(2).bootstrap.replace("127.0.0.1", "localhost")
    with cluster:
        assert ",localhost:" in cluster.bootstrap
        async with kafka_tools.administering(cluster.broker(1).bootstrap) as admin:
            told = await admin.describe_cluster()
    hosts = {node["node_id"]: node["host"] for node in told["brokers"]}
    assert hosts == {1: "127.0.0.1", 2: "localhost"}


def test_the_command_runs_a_cluster(tmp_path: Path) -> None:
    """It prints all addresses and ends cleanly when asked to."""
    command = [sys.executable, "-m", "sandbox.kafka", "--brokers", "2", "--port", "0"]
    command += ["--data-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout
        line = process.stdout.readline()
        first, second = line.split()[3].split(",")
        assert wire.brokers(first, 5) == wire.brokers(second, 5) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0

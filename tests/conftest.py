"""What test files share: one real broker for all of a process, topics of its own for each test."""

import gc
import os
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from hypothesis import HealthCheck, Phase, settings

from sandbox import processes
from sandbox.kafka import Broker, Cluster
from tests.side_by_side import SideBySide

# Python before 3.11.9 may answer a collection in the middle of `ast.parse` with "SystemError: AST
# constructor recursion depth mismatch", and pytest parses every test file: none until it is done.
gc.disable()

# Machines for CI may be slow at any moment; that is no finding about an example.
# Whoever only wants to know whether a test fails need not know the smallest example (mutants).
_PHASES = [
    phase for phase in Phase if phase is not Phase.shrink or "NO_SHRINKING" not in os.environ
]
settings.register_profile(
    "shared",
    phases=_PHASES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("shared")

# What is waited for comes by an event; how long it may take is a bound for what never comes.
processes.patience = 4.0

_numbers = count(1)


def pytest_collection_finish() -> None:
    """All test files are parsed."""
    gc.enable()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three processes for the whole suite; tests that are named, or run with -s, run in this one.

    Each waits for half of its time, so that three keep two cores busy.
    """
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return 3 if whole and config.option.capture != "no" and (os.cpu_count() or 1) > 1 else 0


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SideBySide:
    return SideBySide(config, log)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real broker; `kafka.bootstrap` is its PLAINTEXT address, where everything is allowed.

    Whoever kills, freezes or stops it leaves it running.
    """
    overrides = {"log.cleaner.backoff.ms": "200"}  # compaction within a test; the default is 15 s
    with Broker(tmp_path_factory.mktemp("kafka"), secure=True, overrides=overrides) as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three real brokers and their controller. Whoever kills or freezes some leaves all running."""
    with Cluster(tmp_path_factory.mktemp("kafka-cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster_topics(kafka_cluster: Cluster) -> dict[str, str]:
    """As `topics`, on three brokers; they stay, because they are few."""
    return names_of(f"c{next(_numbers)}", kafka_cluster.bootstrap)


def names_of(prefix: str, bootstrap: str) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "PUBLISHER_MESSAGES_TOPIC": f"{prefix}.messages",
        "PUBLISHER_DEAD_LETTERS_TOPIC": f"{prefix}.dead-letters",
        "PUBLISHER_STATE_TOPIC": f"{prefix}.state",
        "PUBLISHER_COMMANDS_TOPIC": f"{prefix}.commands",
        "PUBLISHER_TRANSACTIONAL_ID": f"{prefix}.publisher",
    }


@pytest.fixture
async def topics(kafka: Broker) -> AsyncIterator[dict[str, str]]:
    """Settings, as environment variables, that no other test uses: three topics, an id.

    The topics do not exist yet; whatever began with their prefix is gone afterwards.
    """
    prefix = f"t{next(_numbers)}"
    yield names_of(prefix, kafka.bootstrap)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        mine = [topic for topic in await admin.list_topics() if topic.startswith(f"{prefix}.")]
        if mine:  # hundreds of partitions would slow down every start of the broker
            await admin.delete_topics(mine)
    finally:
        await admin.close()

"""Which Kafka to use: one that is given, one of our own by Java, one of our own by Docker."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sandbox.kafka import config, install, wire
from sandbox.kafka.broker import Broker

_IMAGE: Final = f"apache/kafka:{install.VERSION}"
_DOCKER_START_SECS: Final = 300.0  # the image may have to be fetched


@contextlib.contextmanager
def ensure(data_dir: Path | None = None) -> Iterator[str]:
    """Yield the bootstrap servers of a Kafka; one we started ends with the block.

    In this order: `KAFKA_BOOTSTRAP_SERVERS` as it is, unchecked; Java, with Maven if the jars
    are not there yet; Docker. Data go to `data_dir`, to a directory that is removed afterwards
    when none is given; Docker always forgets. Raises NoKafka.
    """
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield given
    elif install.is_possible():
        with contextlib.ExitStack() as stack:
            if data_dir is None:
                data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            yield stack.enter_context(Broker(data_dir)).bootstrap
    elif _docker_works():
        with _docker() as bootstrap:
            yield bootstrap
    else:
        raise install.NoKafka(f"no Kafka here: {install.HOW_TO_GET_ONE}")


def _docker_works() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        return not subprocess.run(
            [docker, "info"], capture_output=True, timeout=20, check=False
        ).returncode
    return False


@contextlib.contextmanager
def _docker() -> Iterator[str]:
    ports = config.free_ports()
    values = config.properties(ports, "/tmp/kafka", bind="0.0.0.0")
    command = ["docker", "run", "--rm", "--detach"]
    command += ["--publish", f"127.0.0.1:{ports.plaintext}:{ports.plaintext}"]
    command += ["--env", f"CLUSTER_ID={config.CLUSTER_ID}"]
    for name, value in values.items():
        command += ["--env", f"KAFKA_{name.upper().replace('.', '_')}={value}"]
    started = subprocess.run([*command, _IMAGE], capture_output=True, text=True, check=False)
    if started.returncode:
        raise install.NoKafka(f"Docker cannot run {_IMAGE}: {started.stderr.strip()[-500:]}")
    container = started.stdout.strip()
    bootstrap = f"127.0.0.1:{ports.plaintext}"
    try:
        _wait(bootstrap)
        yield bootstrap
    finally:
        subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=False)


def _wait(bootstrap: str) -> None:
    deadline = time.monotonic() + _DOCKER_START_SECS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if wire.brokers(bootstrap, 5):
                return
        time.sleep(0.2)
    raise install.NoKafka(f"{_IMAGE} did not answer within {_DOCKER_START_SECS:.0f} s")

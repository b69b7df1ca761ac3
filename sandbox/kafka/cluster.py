"""A Kafka of several brokers on one machine, to lose some of them and see what happens."""

import contextlib
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

from sandbox.kafka import config, wire
from sandbox.kafka.broker import Broker, BrokerError

_READY_SECS: Final = 60.0
_ANSWER_SECS: Final = 2.0
_POLL_SECS: Final = 0.1

_NO_OVERRIDES: Final[Mapping[str, str]] = MappingProxyType({})


class Controller(Broker):
    """The process that keeps the cluster's metadata and elects leaders; no client talks to it."""

    def __init__(self, data_dir: Path, replicas: int, overrides: Mapping[str, str]) -> None:
        super().__init__(data_dir, node_id=config.CONTROLLER_ID, overrides=overrides)
        self._replicas = replicas
        self._flags = ("-Xmx96m",)
        self._ports = config.free_ports()

    @property
    def port(self) -> int:
        return self._known_ports().controller

    def _properties(self, ports: config.Ports, data: str) -> dict[str, str]:
        return config.controller_properties(ports, data, self._replicas)

    def _answers(self) -> bool:
        socket.create_connection(("127.0.0.1", self.port), _ANSWER_SECS).close()
        return True


class Member(Broker):
    """One broker of a cluster. Its address is known before its first start."""

    def __init__(
        self,
        data_dir: Path,
        node_id: int,
        controller: Controller,
        replicas: int,
        overrides: Mapping[str, str],
        port: int | None,
    ) -> None:
        super().__init__(data_dir, node_id=node_id, overrides=overrides)
        self._flags = ("-Xmx160m",)
        self._ports = config.free_ports(port)
        self._controller = controller
        self._replicas = replicas
        self.advertised = ""
        """Where clients are sent, from the next start on; empty = to `bootstrap`. A test puts the
        address of its proxy here; the other brokers do not pass it."""

    def _properties(self, ports: config.Ports, data: str) -> dict[str, str]:
        address = self.advertised or self.bootstrap
        return config.member_properties(
            ports, data, self.node_id, self._controller.port, self._replicas, address
        )

    def replace(self) -> None:
        """Lose it for good, and start another one, with nothing on its disk, in its place."""
        self.kill()
        shutil.rmtree(self.data_dir / "data")
        self.start()


class Cluster:
    """`count` brokers (node ids from 1) and one controller, each a process of its own.

    Topics get as many replicas as there are brokers, at most three; one broker may be away.
    `overrides` are entries of every process's server.properties that win over ours.

        with Cluster(tmp_path) as cluster:
            cluster.brokers[0].kill()
            cluster.wait_for(2)
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        count: int = 3,
        overrides: Mapping[str, str] = _NO_OVERRIDES,
        port: int | None = None,
    ) -> None:
        self.data_dir: Final = data_dir.resolve()
        replicas = min(3, count)
        self.controller: Final = Controller(self.data_dir / "controller", replicas, overrides)
        self.brokers: Final = [
            Member(
                self.data_dir / f"broker-{node_id}",
                node_id,
                self.controller,
                replicas,
                overrides,
                port + node_id - 1 if port else None,
            )
            for node_id in range(1, count + 1)
        ]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """All brokers, whether they run or not, as clients are to reach them."""
        return ",".join(broker.advertised or broker.bootstrap for broker in self.brokers)

    def broker(self, node_id: int) -> Member:
        """The broker that the metadata calls so."""
        return self.brokers[node_id - 1]

    def start(self, brokers: Iterable[Member] | None = None) -> None:
        """Start the controller and these brokers, or all; return once they know each other."""
        self.controller.start()
        wanted = self.brokers if brokers is None else [*brokers]
        _side_by_side(broker.start for broker in wanted)
        self.wait_for(sum(broker.running for broker in self.brokers))

    def stop(self) -> None:
        """End all in good order, the brokers first."""
        _side_by_side(broker.stop for broker in self.brokers)
        self.controller.stop()

    def wait_for(self, count: int) -> None:
        """Return once each running broker's metadata names exactly so many brokers."""
        deadline = time.monotonic() + _READY_SECS
        while not all(self._names(broker, count) for broker in self.brokers if broker.running):
            if time.monotonic() > deadline:
                raise BrokerError(f"not {count} brokers after {_READY_SECS:.0f} s: {self.data_dir}")
            time.sleep(_POLL_SECS)

    def wait_in_sync(self) -> None:
        """Return once every partition has all its replicas in sync."""
        deadline = time.monotonic() + _READY_SECS
        while wire.out_of_sync(next(b for b in self.brokers if b.running).bootstrap, _ANSWER_SECS):
            if time.monotonic() > deadline:
                raise BrokerError(f"replicas out of sync for {_READY_SECS:.0f} s: {self.data_dir}")
            time.sleep(_POLL_SECS)

    @staticmethod
    def _names(broker: Member, count: int) -> bool:
        with contextlib.suppress(OSError):
            return wire.brokers(broker.bootstrap, _ANSWER_SECS) == count
        return False


def _side_by_side(calls: Iterable[Callable[[], None]]) -> None:
    with ThreadPoolExecutor(max_workers=8) as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()

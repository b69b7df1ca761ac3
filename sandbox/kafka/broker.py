"""One Kafka broker as a process of its own, with the ways a broker can go wrong as methods."""

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

from sandbox.kafka import config, install, leash, tls, wire

_START_SECS: Final = 60.0
_STOP_SECS: Final = 30.0
_ANSWER_SECS: Final = 5.0
_POLL_SECS: Final = 0.05
_ENDED_BY_SIGTERM: Final = 143

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class BrokerError(Exception):
    """The broker does not do what it was asked; the text is one line and names its log."""


class Broker:
    """A real Kafka on 127.0.0.1 that keeps its data in `data_dir` and dies with this process.

    Ports are chosen at the first start and kept over restarts of this object (`port` fixes
    the PLAINTEXT one). A second Broker on the same directory, later, finds the data again.
    `overrides` are entries of server.properties that win over ours.

    Everything blocks: a start takes 1 to 4 s, `stop` half a second, the others milliseconds.
    May be used from any thread, but from one at a time.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        secure: bool = False,
        overrides: Mapping[str, str] = _NOTHING,
        port: int | None = None,
        node_id: int = 1,
    ) -> None:
        self.data_dir: Final = data_dir.resolve()
        self.node_id: Final = node_id
        self.log: Final = self.data_dir / "broker.log"
        """What the broker printed, all starts one after the other: warnings and worse."""
        self._secure = secure
        self._overrides = overrides
        self._port = port
        self._ports: config.Ports | None = None
        self._installation: install.Installation | None = None
        self._flags: tuple[str, ...] = ()
        self._process: subprocess.Popen[str] | None = None
        self._pid = 0
        self._exit_code: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # Addresses: "127.0.0.1:PORT", known from the first start on.

    @property
    def bootstrap(self) -> str:
        """PLAINTEXT: whoever comes here is a super user."""
        return f"127.0.0.1:{self._known_ports().plaintext}"

    @property
    def secure_bootstrap(self) -> str:
        """SASL_SSL, with PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512 and the `config.USERS`."""
        return f"127.0.0.1:{self._known_ports(secure=True).sasl_ssl}"

    @property
    def ssl_bootstrap(self) -> str:
        """SSL: a super user without a client certificate, `alice` with ours."""
        return f"127.0.0.1:{self._known_ports(secure=True).ssl}"

    @property
    def sasl_plaintext_bootstrap(self) -> str:
        """SASL_PLAINTEXT, with the mechanisms and users of `secure_bootstrap`."""
        return f"127.0.0.1:{self._known_ports(secure=True).sasl_plaintext}"

    @property
    def cafile(self) -> Path:
        """The CA that signed the server's certificate (127.0.0.1, localhost)."""
        return self._tls().ca

    @property
    def certfile(self) -> Path:
        """A client certificate for `alice`."""
        return self._tls().client_cert

    @property
    def keyfile(self) -> Path:
        """The key of `certfile`, without a password."""
        return self._tls().client_key

    # Life and death.

    @property
    def running(self) -> bool:
        """Whether the process exists; a frozen one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the Java process, for measurements; 0 before the first start."""
        return self._pid

    def start(self) -> None:
        """Start and wait until it answers for itself. Raises BrokerError or NoKafka."""
        if self.running:
            return
        self._installation = self._installation or install.prepare(_train)
        self._ports = self._ports or config.free_ports(self._port)
        if not config.is_free(self._ports.plaintext):  # its answers would be taken for ours
            raise BrokerError(f"port {self._ports.plaintext} is used by another program")
        settings = self._write_data_dir(self._installation, self._ports)
        command = self._installation.command(
            "kafka.Kafka",
            str(settings),
            # Native libraries are unpacked there, and left behind by a kill.
            flags=(*self._flags, f"-Djava.io.tmpdir={self.data_dir / 'tmp'}"),
        )
        with self.log.open("a") as log:
            before = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", leash.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # a Ctrl-C at the terminal is for us, not for it
            )
        try:
            assert self._process.stdout
            self._pid = int(self._process.stdout.readline() or 0)
            self._wait_until_ready(before)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End it in good order (SIGTERM), frozen or not; by force after 30 s."""
        self._send("SIGTERM")
        self._send("SIGCONT")
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECS)
        self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL). What it acknowledged survives; no marker is written."""
        self._send("SIGKILL")
        if self._process:
            process, self._process = self._process, None
            assert process.stdin
            assert process.stdout
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            self._exit_code = process.wait()
            process.stdout.close()

    def freeze(self) -> None:
        """Halt it (SIGSTOP): connections stay open and nothing answers."""
        self._send("SIGSTOP")
        # Each thread stops when it is next scheduled, and may answer until then.
        deadline = time.monotonic() + _STOP_SECS
        while not self._stopped() and time.monotonic() < deadline:
            time.sleep(_POLL_SECS)

    def _stopped(self) -> bool:
        """Whether all threads have stopped, where the system tells (Linux)."""
        states = []
        for stat in Path(f"/proc/{self._pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # it has just ended
                states.append(stat.read_text().rpartition(")")[2].split()[0])
        return all(state in "Tt" for state in states)

    def thaw(self) -> None:
        """Let a frozen one go on (SIGCONT)."""
        self._send("SIGCONT")

    def restart(self) -> None:
        """Stop in good order and start again: same ports, same data."""
        self.stop()
        self.start()

    # Rights.

    def allow(
        self,
        user: str,
        operation: str,
        resource_type: str,
        name: str,
        *,
        prefixed: bool = False,
    ) -> None:
        """Give `user` a right, and return once it holds. Kept over restarts.

        `operation`: ALL, READ, WRITE, CREATE, DESCRIBE... `resource_type`: TOPIC, GROUP,
        TRANSACTIONAL_ID or CLUSTER (whose name is `kafka-cluster`). With `prefixed` the right
        is for every name that begins with `name`.
        """
        if not self._secure:
            raise BrokerError("rights need a secure broker")
        right = wire.Right(user, operation, resource_type, name, prefixed=prefixed)
        wire.allow(self.bootstrap, right, _ANSWER_SECS)
        deadline = time.monotonic() + _ANSWER_SECS
        while not wire.is_allowed(self.bootstrap, right, _ANSWER_SECS):
            if time.monotonic() > deadline:
                raise BrokerError(f"the right of {user} did not take hold; see {self.log}")
            time.sleep(_POLL_SECS)

    # Inside.

    def _known_ports(self, *, secure: bool = False) -> config.Ports:
        if secure and not self._secure:
            raise BrokerError("this listener needs Broker(..., secure=True)")
        if self._ports is None:
            raise BrokerError("the ports are not known before the first start")
        return self._ports

    def _tls(self) -> tls.Files:
        if not self._secure:
            raise BrokerError("certificates need Broker(..., secure=True)")
        return tls.issue(self.data_dir / "tls", client_name="alice")

    def _write_data_dir(self, installation: install.Installation, ports: config.Ports) -> Path:
        """Put on disk what the process needs; its settings file."""
        data = self.data_dir / "data"
        if not data.exists():
            config.copy_template(installation.template, data, self.node_id)
        shutil.rmtree(self.data_dir / "tmp", ignore_errors=True)
        (self.data_dir / "tmp").mkdir()
        values = self._properties(ports, str(data))
        if self._secure:
            values = config.secured(values, ports, self._tls())
        settings = self.data_dir / "server.properties"
        config.write(settings, {**values, **self._overrides})
        return settings

    def _properties(self, ports: config.Ports, data: str) -> dict[str, str]:
        return config.properties(ports, data)

    def _answers(self) -> bool:
        """Whether the metadata names the broker: an open port alone is not yet an answer."""
        return self.node_id in wire.nodes(self.bootstrap, _ANSWER_SECS)

    def _wait_until_ready(self, log_start: int) -> None:
        """Wait until it answers."""
        assert self._process
        deadline = time.monotonic() + _START_SECS
        while True:
            if self._process.poll() is not None:
                code = self._process.returncode
                raise BrokerError(f"Kafka ended with {code} at its start: {self._why(log_start)}")
            with contextlib.suppress(OSError):
                if self._answers():
                    return
            if time.monotonic() > deadline:
                why = self._why(log_start)
                raise BrokerError(f"Kafka did not answer within {_START_SECS:.0f} s: {why}")
            time.sleep(_POLL_SECS)

    def _why(self, log_start: int) -> str:
        """Put the end of the log on one line, without stack frames."""
        with self.log.open(encoding="utf-8", errors="replace") as log:
            log.seek(log_start)
            lines = [line.strip() for line in log]
        told = [line for line in lines if line and not re.match(r"at |\.\.\. \d+ more", line)]
        return f"{' | '.join(told[-6:])[-1500:] or 'it said nothing'} (log: {self.log})"

    def _send(self, name: str) -> None:
        """Send a signal and wait until it was sent; nothing happens to one that ended."""
        if not self.running:
            return
        assert self._process
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # it ended just now
            self._process.stdin.write(f"{name}\n")
            self._process.stdin.flush()
            self._process.stdout.readline()


class _Trainee(Broker):
    """Runs on an installation that is not complete yet, and leaves its class archive."""

    def __init__(self, data_dir: Path, installation: install.Installation, archive: Path) -> None:
        super().__init__(data_dir)
        self._installation = installation
        self._flags = (f"-XX:ArchiveClassesAtExit={archive}",)


def _train(installation: install.Installation, archive: Path) -> None:
    """Run a broker through its start and the start of a transaction; Java notes the classes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _Trainee(Path(folder), installation, archive) as broker,
    ):
        deadline = time.monotonic() + _ANSWER_SECS
        while time.monotonic() < deadline and not wire.open_transactional_id(
            broker.bootstrap, "training", _ANSWER_SECS
        ):
            time.sleep(_POLL_SECS)
    if broker._exit_code != _ENDED_BY_SIGTERM:  # noqa: SLF001  # the archive may be cut
        archive.unlink(missing_ok=True)

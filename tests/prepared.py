"""Starts `python -m publisher ...` as a fork of a process that has imported it already.

A start costs 0.6 s of CPU, nearly all of it imports, and the suite needs some 500 of them. A fork
is as much a process as any other: it has its own settings, files and death. Tests that measure a
start, or are about the interpreter itself, start one of their own.

`python -m tests.prepared SOCKET` is the server: it answers each connection with one fork.

- The first message of a connection carries arguments and environment as JSON, and three file
  descriptors. The answer is the process id in a line.
- Each line from then on is a number: that signal is sent, and an empty line answers.
- `exit CODE` in a line says that it has ended (128 + the signal that ended it).
- The end of the connection kills it; so nothing outlives the test process.
"""

import array
import asyncio
import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

from sandbox.processes import Child

_FILES: Final = 3


class Fork:
    """One process, as far as a test needs it."""

    def __init__(
        self, arguments: Sequence[str], env: Mapping[str, str], out: IO[bytes], err: IO[bytes]
    ) -> None:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.connect(_server())
        self._received = b""
        self.returncode: int | None = None
        start = {"arguments": [*arguments], "env": dict(env), "cwd": str(Path.cwd())}
        message = json.dumps(start)
        with Path(os.devnull).open("rb") as nothing:
            files = array.array("i", [nothing.fileno(), out.fileno(), err.fileno()])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)]
            self._connection.sendmsg([f"{message}\n".encode()], ancillary)
        self.pid: Final = int(self._line())

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        while self.returncode is None and (
            b"\n" in self._received or select.select([self._connection], [], [], 0)[0]
        ):
            self._line()
        return self.returncode

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        while self.returncode is None:
            self._line()
        return self.returncode

    def send(self, number: signal.Signals) -> None:
        """Send a signal, and return once it was sent; nothing happens to one that has ended."""
        if self.poll() is None:
            with contextlib.suppress(OSError):
                self._connection.sendall(b"%d\n" % number)
                self._line()

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self.send(signal.SIGKILL)
        self.wait()
        self._connection.close()

    def _line(self) -> str:
        while b"\n" not in self._received:
            more = self._connection.recv(4096)
            if not more:
                raise ConnectionError("the server of prepared processes has ended")
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        if line.startswith(b"exit "):
            self.returncode = int(line[5:])
        return line.decode()


async def forked(
    arguments: Sequence[str], env: Mapping[str, str], kill_after: float | None = None
) -> tuple[int, bytes, bytes]:
    """Exit code, standard output and standard error of a process that needs no attention.

    Killed hard where it takes longer than `kill_after` seconds.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        fork = Fork(arguments, env, out, err)
        try:
            began = time.monotonic()
            while fork.poll() is None:
                if kill_after is not None and time.monotonic() - began >= kill_after:
                    break
                await asyncio.sleep(0.01)
        finally:
            fork.kill()
        out.seek(0)
        err.seek(0)
        return fork.wait(), out.read(), err.read()


class PreparedChild(Child):
    """As `Child`, of `python -m publisher` with these arguments."""

    def __init__(self, arguments: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.log = log
        self.began = time.time()
        with log.open("ab") as file:
            self._from = file.tell()
            self._fork = Fork(arguments, env, file, file)
        self.pid = self._fork.pid

    @property
    def exit_code(self) -> int | None:
        return self._fork.poll()

    def send(self, number: signal.Signals) -> None:
        self._fork.send(number)

    def kill(self) -> None:
        self._fork.kill()


@cache
def _server() -> str:
    """Where the server of this process listens; it ends with this process."""
    address = Path(tempfile.mkdtemp(prefix="prepared-")) / "socket"
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.prepared", address, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},
        cwd=Path(__file__).parents[1],
        start_new_session=True,
    )

    def end() -> None:
        server.kill()
        server.wait()
        shutil.rmtree(address.parent)

    atexit.register(end)
    deadline = time.monotonic() + 120
    while not address.exists():
        assert time.monotonic() < deadline, "no server of prepared processes"
        time.sleep(0.02)
    return str(address)


# --- the server -----------------------------------------------------------------------------------


def _serve(address: str, owner: int) -> None:
    """Fork for each connection. Returns in the forks only."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(f"{address}.new")
    listening.listen(100)
    Path(f"{address}.new").rename(address)
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    forks: dict[socket.socket, int] = {}
    while os.getppid() == owner:
        everything: list[Any] = [listening, ended, *forks]
        for readable in select.select(everything, [], [], 5.0)[0]:
            if readable is ended:
                os.read(ended, 4096)
                _tell_ends(forks)
            elif readable is listening:
                connection, _ = listening.accept()
                message, files, *_ = socket.recv_fds(connection, 1 << 20, _FILES)
                while message and not message.endswith(b"\n"):
                    message += connection.recv(1 << 20)
                if not message:  # whoever connected is gone
                    connection.close()
                    continue
                pid = os.fork()
                if not pid:
                    for inherited in (listening, connection, *forks):
                        inherited.close()
                    os.close(ended)
                    _become(json.loads(message), files, wake)
                    return
                for file in files:
                    os.close(file)
                connection.sendall(b"%d\n" % pid)
                forks[connection] = pid
            elif readable in forks:  # else it has ended just now
                _send_signals(readable, forks)
    os._exit(0)  # whoever started us is gone, and each fork with its connection


def _become(start: Mapping[str, Any], files: Sequence[int], wake: int) -> None:
    """Be as a process that was just started: files, environment, directory, signals."""
    signal.set_wakeup_fd(-1)
    os.close(wake)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(start["cwd"])
    os.environ.clear()
    os.environ.update(start["env"])
    time.tzset()
    sys.argv[1:] = start["arguments"]


def _send_signals(connection: socket.socket, forks: dict[socket.socket, int]) -> None:
    """Send the signals that were asked for; no connection, no process."""
    pid = forks[connection]
    try:
        received = connection.recv(4096)
    except OSError:
        received = b""
    for line in received.splitlines():
        os.kill(pid, int(line))  # it is reaped by us, after its end was told: it is still there
        with contextlib.suppress(OSError):
            connection.sendall(b"\n")
    if not received:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        del forks[connection]
        connection.close()


def _tell_ends(forks: dict[socket.socket, int]) -> None:
    for connection, pid in list(forks.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            del forks[connection]
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(OSError):
                connection.sendall(b"exit %d\n" % (code if code >= 0 else 128 - code))
            connection.close()


if __name__ == "__main__":
    import publisher.app
    import publisher.commands.backfill
    import publisher.commands.check
    import publisher.commands.coverage
    import publisher.commands.dead_letters.replay
    import publisher.commands.lateness
    import publisher.commands.preview
    import publisher.commands.state.rebuild
    import publisher.commands.status
    import publisher.commands.verify  # noqa: F401

    gc.collect()
    gc.freeze()
    _serve(sys.argv[1], int(sys.argv[2]))
    # A fork has come here, and goes on as `python -m publisher` does.
    runpy.run_module("publisher", run_name="__main__", alter_sys=True)

"""Serves prepared answers to one client process and reads that process's meters."""

import os
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE_SECS = 120
NO_ROWS = b'{"code":"404","msg":"Validate dates entered"}'


@dataclass(frozen=True)
class Run:
    """One process, from its start to its first request behind the last answer with rows."""

    start: float
    """Seconds from the start of the process to its first request."""
    wall: float
    """Seconds from there to the first request behind the rows: all of them are committed."""
    cpu: float
    """Seconds of user and system time in between, so start-up does not count."""
    peak_mib: float
    idle_mib: float
    """Memory after doing nothing for as long as asked."""
    idle_cpu: float
    """Seconds of CPU that doing nothing took."""


@dataclass
class Server:
    answers: list[bytes]
    pid: int = 0
    seen: list[tuple[float, float]] = field(default_factory=list)
    """Wall clock and CPU clock of the client at each request."""
    done: threading.Event = field(default_factory=threading.Event)

    def start(self) -> ThreadingHTTPServer:
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                answer(self)

            def handle(self) -> None:
                with suppress(ConnectionResetError):  # a client may close as it likes
                    super().handle()

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        number = len(self.seen)
        self.seen.append((time.monotonic(), cpu_seconds(self.pid)))
        behind = number >= len(self.answers)
        body = NO_ROWS if behind else self.answers[number]
        request.send_response(404 if behind else 200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
        if behind:
            self.done.set()


def measure(
    command: list[str], answers: list[bytes], environment: Mapping[str, str], idle: float = 0
) -> Run:
    served = Server(answers)
    server = served.start()
    url = {"WOLKVOX_URL": f"http://127.0.0.1:{server.server_port}"}
    began = time.monotonic()
    with subprocess.Popen(
        command, env=os.environ | environment | url, stderr=subprocess.DEVNULL
    ) as process:
        served.pid = process.pid
        try:
            if not served.done.wait(PATIENCE_SECS):
                raise SystemExit(f"{' '.join(command)} did not finish")
            peak, used = mib(process.pid, "VmHWM"), cpu_seconds(process.pid)
            time.sleep(idle)
            resting, idle_cpu = mib(process.pid, "VmRSS"), cpu_seconds(process.pid) - used
        finally:
            process.terminate()
    server.shutdown()
    server.server_close()
    first, last = served.seen[0], served.seen[len(answers)]
    wall, cpu = last[0] - first[0], last[1] - first[1]
    return Run(first[0] - began, wall, cpu, peak, resting, idle_cpu)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def mib(pid: int, name: str) -> float:
    """A size that the kernel keeps of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024

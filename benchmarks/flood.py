"""CPU per message of the publisher against the floor, side by side in one run.

    python -m benchmarks.flood [--rounds 5] [--windows 20] [--rows 10000]

A local server answers the first requests with prepared windows, of which every
fifth row stood in the window before, then with "no rows". CPU is what the
client process used between its first and its last answer, so start-up does not
count; real Kafka; the two alternate, the ratio is taken pair by pair.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson

from sandbox.kafka import ensure

TICKS = os.sysconf("SC_CLK_TCK")
WORDS = [
    "hola",
    "gracias",
    "factura",
    "pago",
    "ayuda",
    "pedido",
    "número",
    "mañana",
    "línea",
    "señor",
    "quiero",
    "saber",
]


def windows(count: int, rows: int) -> list[bytes]:
    """Answers of `rows` messages in conversations of eight; a fifth repeats the one before."""
    rng = random.Random(7)
    begin = datetime(2026, 11, 20, 8)  # noqa: DTZ001 - the report's local time
    answers, before = [], []
    for window in range(count):
        fresh = [
            _conversation(rng, window * rows + chat, begin + timedelta(minutes=5 * window))
            for chat in range((rows if not before else rows * 4 // 5) // 8)
        ]
        data = before + fresh
        rng.shuffle(data)
        answers.append(orjson.dumps({"code": 200, "error": None, "msg": "", "data": data}))
        before = fresh[: rows // 5 // 8]
    return answers


def _conversation(rng: random.Random, number: int, begin: datetime) -> dict[str, Any]:
    dates = sorted(begin + timedelta(seconds=rng.randrange(300)) for _ in range(8))
    return {
        "conn_id": str(180_000_000 + number),
        "agent_name": "Agente Uno",
        "customer_name": "Cliente Dos",
        "conversation": [
            {
                "channel": "whatsapp",
                "from": "AGENT" if turn % 2 else "CUSTOMER",
                "from_name": "Cliente Dos",
                "to_name": "chat_bot",
                "date": f"{date:%Y-%m-%d %H:%M:%S}",
                "message": " ".join(rng.choices(WORDS, k=10)),
                "customer_id": "1020304050",
                "customer_phone": "573001112233",
                "feeling": "neutral",
            }
            for turn, date in enumerate(dates)
        ],
    }


@dataclass
class Flood:
    """Serves the windows to one client process and reads its CPU clock."""

    answers: list[bytes]
    pid: int = 0
    asked: int = 0
    cpu: list[float] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def serve(self) -> ThreadingHTTPServer:
        flood = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                flood.answer(self)

            def handle(self) -> None:
                with suppress(ConnectionResetError):  # a client may close as it likes
                    super().handle()

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        number, self.asked = self.asked, self.asked + 1
        self.cpu.append(cpu_seconds(self.pid))
        last = number >= len(self.answers)
        body = b'{"code":"404","msg":"Validate dates entered"}' if last else self.answers[number]
        request.send_response(404 if last else 200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
        if last:
            self.done.set()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(command: list[str], answers: list[bytes], rows: int, kafka: str, name: str) -> float:
    """Microseconds of CPU per message."""
    flood = Flood(answers)
    server = flood.serve()
    environment = os.environ | {
        "WOLKVOX_URL": f"http://127.0.0.1:{server.server_port}",
        "WOLKVOX_SERVER": "0010",
        "WOLKVOX_TOKEN": "flood",
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        # The floor uses the topic that the warm-up has made; every publisher begins anew.
        "PUBLISHER_MESSAGES_TOPIC": f"flood.{'warm-up' if name == 'floor' else name}",
        "PUBLISHER_DEAD_LETTERS_TOPIC": "flood.dead-letters",
        "PUBLISHER_STATE_TOPIC": f"flood.state.{name}",
        "PUBLISHER_START": "-30d",
        "PUBLISHER_HTTP_PORT": "0",
        "PUBLISHER_HORIZON": "60d",
        "PUBLISHER_REREADS": "",
        "FLOOD_WINDOWS": str(len(answers)),
    }
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        flood.pid = process.pid
        if not flood.done.wait(120):
            raise SystemExit(f"{name} did not finish")
        peak = peak_mib(process.pid)
        process.terminate()
    server.shutdown()
    server.server_close()
    used = flood.cpu[len(answers)] - flood.cpu[0]
    per_message = used / (rows * len(answers)) * 1e6
    print(f"  {name:<12} {per_message:6.2f} µs/message   peak {peak:4.0f} MiB", flush=True)
    return per_message


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--rows", type=int, default=10_000)
    told = parser.parse_args()
    answers = windows(told.windows, told.rows)
    ratios = []
    with tempfile.TemporaryDirectory() as data, ensure(Path(data)) as kafka:
        ours = [sys.executable, "-m", "publisher", "run"]
        measure(ours, answers[:2], told.rows, kafka, "warm-up")  # makes the topics
        for number in range(told.rounds):
            print(f"round {number + 1}")
            floor = measure(
                [sys.executable, "-m", "benchmarks.floor"], answers, told.rows, kafka, "floor"
            )
            publisher = measure(ours, answers, told.rows, kafka, f"publisher.{number}")
            ratios.append(publisher / floor)
    every = sorted(round(ratio, 2) for ratio in ratios)
    print(f"publisher / floor: median {statistics.median(ratios):.2f}, all {every}")


if __name__ == "__main__":
    main()

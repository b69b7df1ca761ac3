"""Where a message's CPU goes: the publisher's own steps over the flood's answers, without Kafka.

    python -m benchmarks.steps [--runs 12] [--windows 20] [--rows 10000]

CPU of this thread per row of an answer, the best of all runs. Of five rows four are new.
"""

import argparse
import time
from collections import defaultdict
from datetime import UTC, datetime

from benchmarks.answers import windows
from publisher.events.deduplicate import Screen
from publisher.events.encode import Encoder, Provenance
from publisher.events.rows import chunks
from publisher.kafka.clients import BATCH_BYTES
from publisher.kafka.record_batch import pack
from publisher.state.ledger import Ledger
from publisher.wolkvox import schema
from publisher.wolkvox.timezone import Zone

PARTITIONS = 12
NOW = datetime.now(UTC)
ZONE = Zone("America/Bogota")


class Watch:
    """Seconds of CPU by step."""

    def __init__(self) -> None:
        self.steps: defaultdict[str, float] = defaultdict(float)
        self._last = time.thread_time()

    def __call__(self, step: str) -> None:
        """All since the last call was this step."""
        now = time.thread_time()
        self.steps[step] += now - self._last
        self._last = now


def run(answers: list[bytes]) -> dict[str, float]:
    ledger, watch = Ledger(), Watch()
    for body in answers:
        publish(body, ledger, watch)
        watch("take memory apart")
    return watch.steps


def publish(body: bytes, ledger: Ledger, watch: Watch) -> None:
    decoded = schema.decode(body)
    assert decoded is not None
    watch("decode")
    encoder = Encoder(Provenance("wv0010", "live", NOW), max_event_bytes=900_000)
    screen = Screen(ledger)
    for reading in chunks(decoded["data"], "wv0010", ZONE):
        watch("identify")
        fresh = screen.fresh(reading)
        watch("screen")
        encoder.add(fresh)
        watch("encode")
        del reading, fresh
    partitions: list[list[tuple[int, bytes]]] = [[] for _ in range(PARTITIONS)]
    for record in encoder.records():
        partitions[record[0] % PARTITIONS].append(record)
    watch("choose partitions")
    for records in partitions:
        pack(records, 0, "zstd", BATCH_BYTES)
    watch("pack and compress")
    ledger.add(screen.ids(), NOW, NOW)
    watch("remember")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--rows", type=int, default=10_000)
    told = parser.parse_args()
    answers = windows(told.windows, told.rows)
    runs = [run(answers) for _ in range(told.runs)]
    rows = told.windows * told.rows
    best = {step: min(one[step] for one in runs) / rows * 1e6 for step in runs[0]}
    for step, took in best.items():
        print(f"{step:<18} {took:5.2f} µs")
    print(f"{'together':<18} {sum(best.values()):5.2f} µs")


if __name__ == "__main__":
    main()

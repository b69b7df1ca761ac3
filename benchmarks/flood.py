"""The publisher beside a naive script and a floor: speed, CPU, memory, time to the first request.

    python -m benchmarks.flood [--rounds 5] [--windows 20] [--rows 10000] [--idle 30]

A local server answers the first requests with prepared windows, of which every
fifth row stood in the window before, then with "no rows". A message is a row of
an answer. Kafka is real. The three take turns, and ratios are taken within a
round: on a busy machine only they can be compared.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.answers import windows
from benchmarks.meter import Run, measure
from sandbox.kafka import ensure

FLOOR = [sys.executable, "-m", "benchmarks.floor"]
NAIVE = [sys.executable, "-m", "benchmarks.naive"]
PUBLISHER = [sys.executable, "-m", "publisher", "run"]
STARTS = 5


def environment(kafka: str, count: int, topic: str) -> dict[str, str]:
    """What all three need. A publisher begins anew where the topics are new."""
    return {
        "WOLKVOX_SERVER": "0010",
        "WOLKVOX_TOKEN": "flood",
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "PUBLISHER_MESSAGES_TOPIC": topic,
        "PUBLISHER_DEAD_LETTERS_TOPIC": f"{topic}.dead-letters",
        "PUBLISHER_STATE_TOPIC": f"{topic}.state",
        "PUBLISHER_START": "-30d",
        "PUBLISHER_HTTP_PORT": "0",
        "PUBLISHER_HORIZON": "60d",
        "PUBLISHER_REREADS": "",
        "FLOOD_WINDOWS": str(count),
    }


def flood(answers: list[bytes], rounds: int, idle: float, kafka: str) -> dict[str, list[Run]]:
    """The runs of each, round by round; the last publisher rests before it ends."""
    count = len(answers)
    measure(PUBLISHER, answers[:2], environment(kafka, 2, "flood.others"))  # makes their topic
    others = environment(kafka, count, "flood.others")
    runs: dict[str, list[Run]] = {"floor": [], "naive": [], "publisher": []}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        runs["floor"].append(measure(FLOOR, answers, others))
        runs["naive"].append(measure(NAIVE, answers, others))
        anew = environment(kafka, count, f"flood.{number}")
        rest = idle if number == rounds - 1 else 0
        runs["publisher"].append(measure(PUBLISHER, answers, anew, rest))
    return runs


def starts(kafka: str, topic: str) -> tuple[list[float], list[float]]:
    """Seconds to the first request: again, on the state of a flood; and with no topics there."""
    again = environment(kafka, 0, topic)
    first = [environment(kafka, 0, f"flood.first-{number}") for number in range(STARTS)]
    return (
        [measure(PUBLISHER, [], again).start for _ in range(STARTS)],
        [measure(PUBLISHER, [], told).start for told in first],
    )


def table(runs: dict[str, list[Run]], messages: int) -> Iterable[str]:
    """A line each: medians, and medians of the ratios to the floor of the same round."""

    def row(name: str, value: Callable[[Run], float]) -> tuple[float, float]:
        mine, floor = map(value, runs[name]), map(value, runs["floor"])
        pairs = [(one, one / other) for one, other in zip(mine, floor, strict=True)]
        return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)

    yield "            messages/s  to floor   CPU µs  to floor  peak MiB"
    for name in runs:
        speed, faster = row(name, lambda run: messages / run.wall)
        cpu, dearer = row(name, lambda run: run.cpu / messages * 1e6)
        peak, _ = row(name, lambda run: run.peak_mib)
        yield f"{name:<11} {speed:>10,.0f} {faster:>9.2f} {cpu:>8.1f} {dearer:>9.2f} {peak:>9.0f}"
    for name in ("naive", "publisher"):
        pairs = zip(runs[name], runs["floor"], strict=True)
        every = ", ".join(f"{ratio:.2f}" for ratio in sorted(a.cpu / b.cpu for a, b in pairs))
        yield f"CPU, {name} to floor, every round: {every}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--idle", type=float, default=30)
    told = parser.parse_args()
    answers = windows(told.windows, told.rows)
    with tempfile.TemporaryDirectory() as data, ensure(Path(data)) as kafka:
        runs = flood(answers, told.rounds, told.idle, kafka)
        again, first = starts(kafka, f"flood.{told.rounds - 1}")
    messages = told.rows * told.windows
    print(f"{messages:,} messages in {told.windows} answers, medians of {told.rounds} rounds")
    print(*table(runs, messages), sep="\n")
    rest = runs["publisher"][-1]
    print(
        f"publisher at rest for {told.idle:g} s: {rest.idle_mib:.0f} MiB, {rest.idle_cpu:.2f} s CPU"
    )
    for name, took in ("restart", again), ("very first start, makes its topics", first):
        print(f"publisher's first request, {name}: {statistics.median(took):.2f} s, of {len(took)}")


if __name__ == "__main__":
    main()

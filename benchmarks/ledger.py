"""Bytes an id and time a look-up of the ledger at ten million ids.

python -m benchmarks.ledger [--ids 10000000]
"""

import argparse
import random
import time
from array import array
from datetime import UTC, datetime, timedelta
from pathlib import Path

from publisher.state.ledger import Ledger

HOURS = 31 * 24


def rss_mib() -> float:
    """Memory of this process now."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ids", type=int, default=10_000_000)
    count = parser.parse_args().ids
    rng = random.Random(7)
    begin = datetime(2026, 11, 1, tzinfo=UTC)
    ledger, sample = Ledger(), []
    empty = rss_mib()
    each = count // HOURS
    for number in range(HOURS):
        at = begin + timedelta(hours=number)
        hour = f"{at:%Y-%m-%d %H}"
        # Twelve windows fill an hour, as twelve polls do.
        for _ in range(12):
            new = [rng.getrandbits(64) for _ in range(each // 12)]
            ledger.add({hour: array("Q", sorted(new))}, at, at)
            sample += [(hour, id_) for id_ in new[:12]]
    grown = rss_mib() - empty
    print(f"{len(ledger):,} ids: {ledger.size_bytes / len(ledger):.2f} bytes an id in its arrays,")
    print(f"  {grown * 1024 * 1024 / len(ledger):.2f} bytes an id of the process's memory")
    by_hour: dict[str, list[int]] = {}
    for hour, id_ in sample:
        by_hour.setdefault(hour, []).append(id_)
    cold = list(by_hour.items())
    warm = cold[-1:] * HOURS
    for size in (12, 144, 10_000):
        for where, hours in ("each hour once", cold), ("one hour again and again", warm):
            took = looked_up(ledger, hours, size, rng)
            print(f"look-up, windows of {size:6,} ids, {where}: {took:.2f} µs an id")


def looked_up(
    ledger: Ledger, hours: list[tuple[str, list[int]]], size: int, rng: random.Random
) -> float:
    """µs an id; half of each window known, half not, as in a poll that reads its overlap again."""
    asked = took = 0.0
    for hour, known in hours:
        ids = {*known[: size // 2], *(rng.getrandbits(64) for _ in range(size // 2))}
        began = time.process_time()
        ledger.published_ids(hour, ids)
        took += time.process_time() - began
        asked += len(ids)
    return took / asked * 1e6


if __name__ == "__main__":
    main()

"""What revisions cost: bytes an id beside the ledger, and time a row that is read again.

python -m benchmarks.fingerprints [--ids 10000000]
"""

import argparse
import random
import time
from array import array
from datetime import UTC, datetime, timedelta

from benchmarks.ledger import HOURS, rss_mib
from publisher.events.revisions import Reviser
from publisher.events.rows import CHUNK, read_rows
from publisher.state.checkpoint import Entry
from publisher.state.fingerprints import Fingerprints, Run, unpacked
from publisher.state.journal import journal_parts
from publisher.state.ledger import Ledger
from publisher.wolkvox.timezone import Zone

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


def loop_state(count: int) -> None:
    """Both together, filled by twelve windows an hour."""
    rng = random.Random(7)
    ledger, fingerprints = Ledger(), Fingerprints()
    empty = rss_mib()
    each = count // HOURS // 12
    for number in range(HOURS):
        at = BEGIN + timedelta(hours=number)
        hour = f"{at:%Y-%m-%d %H}"
        for _ in range(12):
            new = {rng.getrandbits(64): rng.getrandbits(32) << 16 for _ in range(each)}
            ledger.add({hour: array("Q", sorted(new))}, at, at)
            fingerprints.remember({hour: new})
    grown = (rss_mib() - empty) * 1024 * 1024
    held = ledger.size_bytes + fingerprints.size_bytes
    print(f"{len(ledger):,} ids: {held / len(ledger):.2f} bytes an id in the arrays of both,")
    print(f"  {grown / len(ledger):.2f} bytes an id of the process's memory")


def restore(count: int) -> None:
    """Out of the journal, windows of an hour."""
    rng = random.Random(8)
    each = count // HOURS
    values = []
    for number in range(HOURS):
        at = BEGIN + timedelta(hours=number)
        told = {
            f"{at:%Y-%m-%d %H}": {
                rng.getrandbits(64): rng.getrandbits(32) << 16 for _ in range(each)
            }
        }
        entry = Entry(number, "live", at, at, at, rows=0, new=0, duplicate=0, rejected=0)
        values += [part.value or b"" for part in journal_parts("wv0010", entry, {}, told)]
    size = sum(map(len, values))
    began = time.process_time()
    runs: dict[str, list[tuple[int, Run]]] = {}
    for sequence, value in enumerate(values):
        for bucket, run in unpacked(value):
            runs.setdefault(bucket, []).append((sequence, run))
    found = Fingerprints.restored(runs)
    took = time.process_time() - began
    print(f"restore: {took / len(found) * 1e6:.2f} µs and {size / len(found):.1f} bytes a message")


def rows(count: int) -> None:
    """Windows that are read again: nothing has changed, or every tenth row has."""
    rng = random.Random(9)

    def told(feelings: list[str]) -> list[dict[str, object]]:
        return [
            {
                "conn_id": str(186_000_000 + number),
                "agent_name": "Luis Perez",
                "customer_name": "Ana Maria",
                "conversation": [
                    {
                        "channel": "whatsapp",
                        "from": "CUSTOMER",
                        "from_name": "Ana",
                        "to_name": "chat_bot",
                        "date": f"2026-11-20 10:{line:02}:{number % 60:02}",
                        "message": f"message {number} {line} of the benchmark, of usual length",
                        "customer_id": "123",
                        "customer_phone": "573001112233",
                        "feeling": feelings[number * 10 + line],
                    }
                    for line in range(10)
                ],
            }
            for number in range(count // 10)
        ]

    neutral = ["neutral"] * count
    changed = [rng.choice(["happy"] + ["neutral"] * 9) for _ in neutral]
    zone = Zone("America/Bogota")
    first = read_rows(told(neutral), "wv0010", zone).rows
    ledger, fingerprints = Ledger(), Fingerprints()
    reviser = Reviser("wv0010", ledger, fingerprints, lenient=False)
    reviser.add(first, first)
    found = reviser.revised()
    fingerprints.remember(found.versions)
    ledger.add(
        {hour: array("Q", sorted(ids)) for hour, ids in found.versions.items()}, BEGIN, BEGIN
    )
    for name, feelings in (("nothing", neutral), ("every tenth", changed)):
        again = read_rows(told(feelings), "wv0010", zone).rows
        best = 1e9
        for _ in range(7):
            began = time.process_time()
            reviser = Reviser("wv0010", ledger, fingerprints, lenient=False)
            for at in range(0, count, CHUNK):
                reviser.add(again[at : at + CHUNK], ())
            revised = reviser.revised()
            best = min(best, time.process_time() - began)
        print(
            f"{count:,} rows read again, {name} changed: {best / count * 1e6:.2f} µs a row,"
            f" {len(revised.rows):,} revisions"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ids", type=int, default=10_000_000)
    count = parser.parse_args().ids
    rows(100)
    rows(10_000)
    loop_state(count)
    restore(count // 10)


if __name__ == "__main__":
    main()

"""`python -m sandbox.kafka`: a broker, or a cluster of some, in the foreground."""

import argparse
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from sandbox.kafka.broker import Broker, BrokerError
from sandbox.kafka.cluster import Cluster
from sandbox.kafka.install import NoKafka, cache


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.kafka", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--port", type=int, default=9092, help="default: %(default)s; 0: any")
    parser.add_argument(
        "--brokers", type=int, default=1, help="several: ports count up from --port (default: 1)"
    )
    chosen = parser.parse_args()

    ended = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        ended.set()

    try:
        with _kafka(chosen.brokers, chosen.data_dir, chosen.port or None) as kafka:
            signal.signal(signal.SIGTERM, end)
            signal.signal(signal.SIGINT, end)
            print(f"Kafka ready at {kafka.bootstrap} (Ctrl-C ends it)", flush=True)
            # Brokers of a cluster may be killed by hand, to see what happens.
            running = kafka.controller if isinstance(kafka, Cluster) else kafka
            while running.running and not ended.wait(0.5):
                pass
            if not ended.is_set():
                print(f"Kafka ended by itself; see {running.log}", file=sys.stderr)
                return 1
    except (BrokerError, NoKafka) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while it was starting
        return 130
    return 0


def _kafka(brokers: int, data_dir: Path | None, port: int | None) -> Broker | Cluster:
    if brokers > 1:
        data_dir = data_dir or cache() / f"kafka-data-{brokers}"
        return Cluster(data_dir, count=brokers, port=port)
    return Broker(data_dir or cache() / "kafka-data", port=port)


if __name__ == "__main__":
    sys.exit(main())

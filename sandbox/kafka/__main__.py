"""`python -m sandbox.kafka`: one broker in the foreground."""

import argparse
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from sandbox.kafka.broker import Broker, BrokerError
from sandbox.kafka.install import NoKafka, cache


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.kafka", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=cache() / "kafka-data")
    parser.add_argument("--port", type=int, default=9092, help="default: %(default)s; 0: any")
    chosen = parser.parse_args()

    ended = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        ended.set()

    try:
        with Broker(chosen.data_dir, port=chosen.port or None) as broker:
            signal.signal(signal.SIGTERM, end)
            signal.signal(signal.SIGINT, end)
            print(f"Kafka ready at {broker.bootstrap} (Ctrl-C ends it)", flush=True)
            while broker.running and not ended.wait(0.5):
                pass
            if not ended.is_set():
                print(f"Kafka ended by itself; see {broker.log}", file=sys.stderr)
                return 1
    except (BrokerError, NoKafka) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while it was starting
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Judges what a consumer reads against what the simulated API has shown, as the tests do.

    python -m deploy.judge API_URL BOOTSTRAP_SERVERS OPERATION

Waits up to a minute until all that was shown by the start is published. Ends with 0 when every row
is there once, unchanged and in order, and nothing else; else with 1. One line says what was found.
"""

import asyncio
import contextlib
import sys
import time
from typing import Any

import aiohttp
from aiokafka.errors import KafkaError

from sandbox.consume import Event, Reader
from tests.harness import Api, Differences, compare

PATIENCE = 60.0
"""Seconds."""


async def main(url: str, bootstrap: str, operation: str) -> int:
    began = time.time()
    events: list[Event] = []
    elsewhere: Any = None  # its process is a container's, which the judge does not need
    async with aiohttp.ClientSession() as session, Reader(bootstrap) as reader:
        api = Api(elsewhere, session, url, token="")
        promised = [row for row in await api.truth() if row["_visible_at"] <= began]
        lost = ["all"]
        while lost and time.time() < began + PATIENCE:
            with contextlib.suppress(KafkaError, OSError):  # a broker that was killed comes back
                events += await reader.to_end()
                lost = compare(promised, events, operation).lost
            await asyncio.sleep(1)
        # The events may hold what became visible meanwhile, so the truth is asked again.
        found: Differences = compare(await api.truth(), events, operation)
    found.lost, found.promised = lost, len(promised)
    sys.stdout.write(f"{found}\n")
    return 0 if found.none else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))

"""`make demo`: Kafka, a simulated API, the publisher, and a consumer that prints events.

Ten minutes of history first, then a few messages a second. Ctrl-C ends everything; so does
SIGTERM, or the time that `DEMO_SECONDS` gives. Where no Kafka can be had, the publisher's
preview shows what would be published. Exit code 1 when something could not run.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import uuid4

import aiohttp

from sandbox.consume import Reader
from sandbox.kafka import BrokerError, NoKafka, ensure
from sandbox.processes import Child, ChildError
from sandbox.screen import Numbers, Part, Screen, screen

WORLD: Final = {
    "hypothesis": "H2",  # messages come one by one
    "rate": "1500",
    "history": "10m",
    "min-messages": "3",
    "max-messages": "9",
    "duration": "90s",
    "twins": "0.02",
    "placeholders": "0.02",
    "listed-twice": "0.02",
    "late": "0.08",
    "latest": "45s",
    "inline-media": "0.0",
}
SETTINGS: Final = {
    "WOLKVOX_SERVER": "0010",
    "WOLKVOX_TOKEN": "demo-token",
    "PUBLISHER_POLL_EVERY": "1s",
    "PUBLISHER_OVERLAP": "5s",
    "PUBLISHER_REREADS": "10s,40s",
    "PUBLISHER_START": "-10m",
    "PUBLISHER_HTTP_PORT": "0",
    "PUBLISHER_LOG_FORMAT": "json",
}
_STARTS_SECS: Final = 30.0
_NUMBERS_EVERY_SECS: Final = 0.5
_PREVIEWED: Final = 20
"""Events that are enough to see what they are like."""


class DemoError(Exception):
    """A part of the demo has ended by itself; the text is for a person."""


async def show(bootstrap: str, shown: Screen, folder: Path) -> tuple[Numbers, int]:
    """Run everything besides Kafka until somebody asks for the end. Raises DemoError.

    The publisher's last numbers, and how many events the consumer saw.
    """
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    if seconds := os.environ.get("DEMO_SECONDS"):
        loop.call_later(float(seconds), over.set)
    # A Kafka that was given may hold the topics of others, or of an earlier demo.
    prefix = f"demo-{uuid4().hex[:6]}." if os.environ.get("KAFKA_BOOTSTRAP_SERVERS") else ""
    topic = f"{prefix}wolkvox.messages"
    with contextlib.ExitStack() as stack:
        with shown.busy("Starting the simulated API and the publisher"):
            api = stack.enter_context(_api(folder))
            url = (await api.said(r"ready at (http://\S+)", _STARTS_SECS))[1]
            publisher = stack.enter_context(
                Child(
                    [sys.executable, "-m", "publisher", "run"],
                    folder / "publisher.log",
                    _environment(bootstrap, url, prefix),
                )
            )
            port = (await publisher.said(r'"http_port":(\d+)', _STARTS_SECS))[1]
        pages = f"http://127.0.0.1:{port}"
        shown.header(
            [
                Part("Kafka", bootstrap, f"topic {topic}"),
                Part("API", url, "simulated; 10 minutes of history, then live", api.pid),
                Part("publisher", pages, "also /metrics; a poll each second", publisher.pid),
                Part("its log", str(publisher.log), "while the demo runs"),
            ]
        )
        reader = Reader(bootstrap, topic)
        async with reader:
            numbers, seen = await _watch(shown, reader, pages, publisher, over)
            with shown.busy("Ending the publisher and the simulated API"):
                # The publisher first: its last step needs the others.
                await publisher.stop()
                await api.stop()
            # While it ended it went on publishing.
            news = re.findall(r'"new":(\d+)', publisher.output)
            seen += len(await reader.to_end())
        return replace(numbers, published=sum(map(int, news))), seen


async def preview(folder: Path) -> int:
    """Print what would be published, as the publisher's own command does; its exit code."""
    with _api(folder) as api:
        url = (await api.said(r"ready at (http://\S+)", _STARTS_SECS))[1]
        ours = [f"--last={WORLD['history']}", f"--limit={_PREVIEWED}", "--show-text"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "publisher", "preview", *ours),
            env=_environment("localhost:9092", url, ""),
        )
        return await process.wait()


def _api(folder: Path) -> Child:
    world = [f"--{name}={value}" for name, value in WORLD.items()]
    command = [sys.executable, "-m", "sandbox.wolkvox", "--port=0", *world]
    return Child(command, folder / "api.log")


async def _watch(
    shown: Screen, reader: Reader, pages: str, publisher: Child, over: asyncio.Event
) -> tuple[Numbers, int]:
    """Show events and numbers until the end is asked for."""
    numbers, seen = Numbers(), 0

    async def consume() -> None:
        nonlocal seen
        while not over.is_set():
            found = await reader.more()
            seen += len(found)
            # The topic has several partitions; people read by time.
            shown.events(sorted(found, key=lambda event: str(event.value["occurred_at"])))

    async def ask() -> None:
        nonlocal numbers
        limits = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=limits) as session:
            ending = False
            while not ending:
                ending = over.is_set()  # then once more, for the last numbers
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"{pages}/metrics") as response:
                        numbers = _numbers(await response.text())
                    shown.numbers(numbers)
                    async with session.get(f"{pages}/readyz") as response:
                        told = "" if response.ok else (await response.text()).strip()
                    shown.problem("" if told.endswith("yet") else told)
                if publisher.exit_code is not None:
                    raise DemoError(_last_words(publisher))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), _NUMBERS_EVERY_SECS)

    tasks = [asyncio.create_task(consume()), asyncio.create_task(ask())]
    try:
        await asyncio.gather(*tasks)
    finally:
        over.set()
        await asyncio.wait(tasks)
        shown.end()
    return numbers, seen


def _environment(bootstrap: str, url: str, prefix: str) -> dict[str, str]:
    """Ours alone: what the environment says to a publisher is meant for another one."""
    groups = ("WOLKVOX_", "KAFKA_", "PUBLISHER_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(groups)}
    return {
        **env,
        **SETTINGS,
        "WOLKVOX_URL": url,
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "PUBLISHER_MESSAGES_TOPIC": f"{prefix}wolkvox.messages",
        "PUBLISHER_DEAD_LETTERS_TOPIC": f"{prefix}wolkvox.messages.dead-letters",
        "PUBLISHER_STATE_TOPIC": f"{prefix}wolkvox.publisher.state",
        "PUBLISHER_TRANSACTIONAL_ID": f"{prefix}wolkvox-publisher",
    }


def _numbers(metrics: str) -> Numbers:
    def total(name: str, label: str = "") -> float:
        found = re.findall(
            rf"^wolkvox_publisher_{name}{{[^}}]*{label}[^}}]*}} (\S+)$", metrics, re.MULTILINE
        )
        return sum(map(float, found))

    lag = re.search(r"^wolkvox_publisher_lag_seconds{[^}]*} (\S+)$", metrics, re.MULTILINE)
    return Numbers(
        published=int(total("messages_published_total")),
        late=int(total("messages_published_total", 'pass="reread"')),
        duplicates=int(total("messages_duplicate_total")),
        requests=int(total("requests_total")),
        lag_seconds=float(lag[1]) if lag else None,
    )


def _last_words(publisher: Child) -> str:
    lines = publisher.output.splitlines()[-3:]
    told = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError, AttributeError):
            fields = json.loads(line)
            line = fields.get("problem") or fields.get("event") or line  # noqa: PLW2901
        told.append(line)
    return f"the publisher has ended ({publisher.exit_code}): {' | '.join(told)}"


def main() -> int:
    """Run the demo; the exit code."""
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())  # the publisher tells it better
    # Until the event loop takes the signals over, both end us the way Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with screen() as shown:
            with contextlib.ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="demo-")))
                try:
                    with shown.busy("Starting Kafka"):
                        bootstrap = stack.enter_context(ensure())
                except NoKafka as error:
                    print(f"{error}. Without Kafka, the preview:", file=sys.stderr)
                    return asyncio.run(preview(folder))
                numbers, seen = asyncio.run(show(bootstrap, shown, folder))
                stack.enter_context(shown.busy("Ending Kafka"))
            shown.farewell(numbers, seen)
    except KeyboardInterrupt:
        return 0
    except (BrokerError, ChildError, DemoError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

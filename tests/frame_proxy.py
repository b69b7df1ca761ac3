"""Proxies before Kafka's brokers by which requests of transactions arrive late, twice or never.

A `FrameProxy` stands before one broker, whose `advertised.listeners` must name the proxy's port.
`Faults` decides over the requests of all of them: what happens to each one (`Fate`), and when the
copies that it holds back are delivered. A copy is delivered while the answer to some later request
of the client is held, so what arrives late arrives at a known place and not at some time.
PLAINTEXT only.
"""

import asyncio
import contextlib
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from sandbox.kafka import config

PRODUCE: Final = 0
INIT_PRODUCER_ID: Final = 22
ADD_PARTITIONS: Final = 24
END_TXN: Final = 26
TRANSACTIONAL: Final = {
    PRODUCE: "Produce",
    INIT_PRODUCER_ID: "InitProducerId",
    ADD_PARTITIONS: "AddPartitionsToTxn",
    END_TXN: "EndTxn",
}


class Fate(Enum):
    """What happens to a request."""

    PASSED = auto()
    LATE = auto()
    """Held back, and the connection is lost; a copy arrives later."""
    TWICE = auto()
    """Arrives, and once more later."""
    DROPPED = auto()
    """Never arrives, and the connection is lost."""
    UNANSWERED = auto()
    """Arrives, and the connection is lost before the answer."""


@dataclass(eq=False)
class Copy:
    """A request that is to arrive later."""

    key: int
    frame: bytes
    port: int
    """Of the broker that it was meant for."""
    behind: int
    """So many more answers to requests of the kind `Faults.clock` come first."""


def passed(_key: int, _frame: bytes) -> Fate:
    """Nothing happens to any request."""
    return Fate.PASSED


def _nothing(_: Copy) -> None:
    pass


@dataclass
class Faults:
    """Without a change nothing happens to any request."""

    decide: Callable[[int, bytes], Fate] = passed
    """The fate of a request with this API key."""
    clock: int = PRODUCE
    """A copy is delivered behind the broker's answer to a request of this kind, before the client
    sees that answer."""
    behind: int = 1
    """Behind how many of these answers a copy is delivered."""
    on_late: Callable[[Copy], None] = _nothing
    """Called when a copy was delivered."""
    held: list[Copy] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """How often which request had which fate, and how many copies were delivered."""

    def fate(self, key: int, frame: bytes, port: int) -> Fate:
        fate = self.decide(key, frame)
        self.counts[f"{TRANSACTIONAL[key]} {fate.name.lower()}"] += 1
        if fate in (Fate.LATE, Fate.TWICE):
            self.held.append(Copy(key, frame, port, self.behind))
        return fate

    async def answered(self, key: int) -> None:
        """Deliver what is due behind the answer to such a request."""
        if key != self.clock:
            return
        for copy in self.held:
            copy.behind -= 1
        for copy in [copy for copy in self.held if copy.behind <= 0]:
            if copy in self.held:
                await self.deliver(copy)

    async def deliver(self, copy: Copy) -> None:
        """Send it to its broker, and wait for the answer, which the client never sees."""
        self.held.remove(copy)
        with contextlib.suppress(OSError, EOFError):  # the broker is away: it is lost
            reader, writer = await asyncio.open_connection("127.0.0.1", copy.port)
            writer.write(copy.frame)
            await _frame(reader)
            writer.close()
        self.counts[f"{TRANSACTIONAL[copy.key]} delivered late"] += 1
        self.on_late(copy)


class FrameProxy:
    """Before one broker on 127.0.0.1."""

    def __init__(self, faults: Faults, upstream: int) -> None:
        self._faults = faults
        self._upstream = upstream
        self._clients: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, until one of its ends or a fate ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.close()
            return
        keys: deque[int] = deque()
        """Of the requests whose answers are still to come, in order."""
        answers = asyncio.create_task(self._answers(up_reader, writer, keys))
        try:
            while await self._request(await _frame(reader), up_writer, keys, answers):
                pass
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            answers.cancel()
            up_writer.close()
            writer.close()

    async def _request(
        self,
        frame: bytes,
        up_writer: asyncio.StreamWriter,
        keys: deque[int],
        answers: "asyncio.Task[None]",
    ) -> bool:
        """Pass a request on, or not; False = the connection is lost now."""
        key, version = struct.unpack_from(">hh", frame, 4)
        fate = Fate.PASSED
        # Brokers come this way, too, to ask whether partitions were added (version 4 and more).
        if key in TRANSACTIONAL and (key, version > 3) != (ADD_PARTITIONS, True):
            fate = self._faults.fate(key, frame, self._upstream)
        if fate is Fate.UNANSWERED:
            answers.cancel()
        if fate not in (Fate.LATE, Fate.DROPPED):
            keys.append(key)
            up_writer.write(frame)
            await up_writer.drain()
        return fate in (Fate.PASSED, Fate.TWICE)

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keys: deque[int]
    ) -> None:
        try:
            while True:
                frame = await _frame(reader)
                key = keys.popleft()
                await self._faults.answered(key)
                writer.write(frame)
                await writer.drain()
        except (OSError, EOFError):
            writer.close()

    async def close(self) -> None:
        for task in self._clients:
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients, timeout=5)


@asynccontextmanager
async def proxied(faults: Faults, ports: dict[int, int]) -> AsyncIterator[None]:
    """Proxies for the time of the block: our port -> the port of the broker behind it."""
    proxies = {port: FrameProxy(faults, upstream) for port, upstream in ports.items()}
    servers = [
        await asyncio.start_server(proxy.serve, "127.0.0.1", port)
        for port, proxy in proxies.items()
    ]
    try:
        yield
    finally:
        for server in servers:
            server.close()
        for proxy in proxies.values():
            await proxy.close()


def free_port() -> int:
    return config.free_ports().plaintext


async def _frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(4)
    return head + await reader.readexactly(struct.unpack(">i", head)[0])


def producer_of(frame: bytes) -> tuple[int, int]:
    """Producer id and epoch in an EndTxn or AddPartitionsToTxn request of version 0."""
    at = 4 + 8
    for _ in range(2):  # client id, transactional id
        (length,) = struct.unpack_from(">h", frame, at)
        at += 2 + max(length, 0)
    producer_id, epoch = struct.unpack_from(">qh", frame, at)
    return producer_id, epoch

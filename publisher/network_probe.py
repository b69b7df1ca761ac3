"""The way to a server below HTTP and Kafka: its name, its port, a proxy before it."""

import asyncio
import socket
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

NAME_SECONDS: Final = 3.0
KNOCK_SECONDS: Final = 3.0


async def addresses(host: str) -> list[str]:
    """The addresses behind a name. Raises OSError (TimeoutError is one), or UnicodeError.

    A look-up that hangs keeps its thread, and so the process, for longer than its time here.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(NAME_SECONDS):
        addresses = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in addresses))


async def knock(host: str, port: int) -> None:
    """Open a TCP connection and close it again. Raises OSError (TimeoutError is one)."""
    async with asyncio.timeout(KNOCK_SECONDS):
        _, writer = await asyncio.open_connection(host, port)
    writer.close()


def has_proxy(url: str) -> bool:
    """Whether the environment sends requests for this URL through a proxy."""
    parts = urlsplit(url)
    return parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")

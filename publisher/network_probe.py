"""Probes the network path to a server: its name, its port, and a proxy before it.

The probes work below HTTP and Kafka. So they show whether a failure lies in the network or in what
the server answers.
"""

import asyncio
import socket
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

NAME_SECONDS: Final = 3.0
"""How long looking up a name may take."""
KNOCK_SECONDS: Final = 3.0
"""How long opening a connection may take."""


async def addresses(host: str) -> list[str]:
    """Return the addresses behind a name. Raises OSError (TimeoutError is one), or UnicodeError.

    A look-up that hangs is given up here after `NAME_SECONDS`. But its thread lives on and keeps
    the process alive longer.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(NAME_SECONDS):
        entries = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in entries))


async def knock(host: str, port: int) -> None:
    """Open a TCP connection and close it again. Raises OSError (TimeoutError is one)."""
    async with asyncio.timeout(KNOCK_SECONDS):
        _, writer = await asyncio.open_connection(host, port)
    writer.close()


def has_proxy(url: str) -> bool:
    """Whether the environment sends requests for this URL through a proxy."""
    parts = urlsplit(url)
    return parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")

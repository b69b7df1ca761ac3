"""Serves `/metrics`, `/healthz`, `/readyz`, `/status`, and a page for people at `/`.

No answer holds anything from a message, and no request changes anything.
`/healthz` says whether this process works: if it fails, a restart helps. `/readyz` also says
whether what the process needs works: if only `/readyz` fails, a restart does not help.
"""

import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from publisher.errors import SettingsError
from publisher.model import Instant
from publisher.telemetry import page, status_document
from publisher.telemetry.current_status import Status
from publisher.telemetry.health import Liveness

if TYPE_CHECKING:
    from aiohttp import web


@asynccontextmanager
async def serve(
    port: int,
    *,
    registry: CollectorRegistry,
    liveness: Liveness,
    status: Status,
    now: Callable[[], Instant],
) -> AsyncIterator[int]:
    """Answer requests on all addresses of the machine, within the block; gives the port.

    `port` 0 means a free port. Raises SettingsError if the port cannot be used.
    """
    from aiohttp import web  # noqa: PLC0415 - the first request to the API should not wait for it

    async def metrics(request: "web.Request") -> "web.Response":
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def healthz(_: "web.Request") -> "web.Response":
        return lines(liveness.complaints())

    async def readyz(_: "web.Request") -> "web.Response":
        return lines(status.missing())

    async def index(_: "web.Request") -> "web.Response":
        html = page.render(status, liveness.overdue(), now())
        return web.Response(text=html, content_type="text/html", headers=page.HEADERS)

    async def standing(_: "web.Request") -> "web.Response":
        report = status_document.of_service(status, liveness.overdue(), now())
        headers = {"Cache-Control": "no-store"}
        body = status_document.as_json(report)
        return web.Response(body=body, content_type="application/json", headers=headers)

    def lines(problems: list[str]) -> "web.Response":
        text = "".join(f"{problem}\n" for problem in problems or ["ok"])
        return web.Response(text=text, status=503 if problems else 200)

    app = web.Application()
    app.router.add_get("/", index)
    app.router.add_get("/status", standing)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    listener = _listen(port)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    try:
        await runner.setup()
        await web.SockSite(runner, listener).start()
        bound: int = listener.getsockname()[1]
        yield bound
    finally:
        await runner.cleanup()
        listener.close()


def _listen(port: int) -> socket.socket:
    """Listen on IPv6 and IPv4 through a single socket, so that port 0 means a single port."""
    try:
        if socket.has_dualstack_ipv6():
            try:
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:  # IPv6 is compiled in, but switched off
                    raise
        return socket.create_server(("", port))
    except OSError as error:
        problem = {
            errno.EADDRINUSE: "is taken (address in use): choose another one",
            errno.EACCES: "is not for us (permission denied): choose one above 1023",
        }.get(error.errno or 0) or f"cannot be used ({os.strerror(error.errno or errno.EIO)})"
        raise SettingsError([f"PUBLISHER_HTTP_PORT: port {port} {problem}"]) from None

"""The HTTP client of the reports API: it sends one GET, returns one answer and decides nothing.

Rules of this file:
- At most one request per token is on the wire. Neither this file nor aiohttp below it
  sends a request twice.
- Whatever the server answers is an Answer, with any status. Whatever keeps an answer
  from being complete is a Transient.
- No text repeats an exception, a header or a body. They may hold the token, the
  password of a proxy, or private messages.
"""

import asyncio
import errno
import os
import ssl
import time
from collections.abc import Callable
from io import BytesIO
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.client_middlewares import ClientHandlerType

from publisher.errors import Reason, Stage, Transient
from publisher.model import Answer, Instant, Request
from publisher.wolkvox.responses import SERVER_LIMIT

CONNECT_LIMIT: Final = 10.0
"""Seconds for the DNS lookup, TCP and TLS together."""
TOTAL_LIMIT: Final = SERVER_LIMIT.total_seconds()
"""Seconds from sending to the last byte. The server ends a call after the same time."""

_REPORTS: Final = "/api/v2/reports_manager.php"
_INFORMATION: Final = "/api/v2/information.php"
_INFORMATION_BYTES: Final = 65_536
"""The answer holds three numbers. A longer body is something else."""
_ADDRESS: Final = "check WOLKVOX_SERVER or WOLKVOX_URL"
_ALLOW_LIST: Final = (
    "check WOLKVOX_SERVER or WOLKVOX_URL, and that the vendor's allow-list of client addresses"
    " holds the one this machine goes out with"
)


def open_session(
    *,
    total_limit: float = TOTAL_LIMIT,
    connect_limit: float = CONNECT_LIMIT,
    connected: Callable[[], None] | None = None,
) -> aiohttp.ClientSession:
    """Return the session that all requests share, for `async with`.

    Both limits are in seconds. Proxies come from the usual environment variables
    (HTTPS_PROXY, NO_PROXY). The session calls `connected` each time a connection is
    established, TLS included.
    """
    traces = []
    if connected:
        trace = aiohttp.TraceConfig()

        async def connection_stands(*_: object) -> None:
            connected()

        trace.on_connection_create_end.append(connection_stands)
        traces.append(trace)
    return aiohttp.ClientSession(
        # The server closes idle connections after 5 s and we poll every 5 minutes: a kept
        # connection would always be dead.
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept": "application/json", "Accept-Encoding": "gzip"},
        middlewares=(_send_once,),
        timeout=aiohttp.ClientTimeout(total=total_limit, connect=connect_limit),
        trace_configs=traces,
        trust_env=True,
    )


class HttpSource:
    """Reads the report of one operation. It implements `context.Source`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        token: str,
        now: Callable[[], Instant],
    ) -> None:
        self._session = session
        self._url = base_url.rstrip("/")
        self._where = host_and_port(base_url)
        self._headers = {"wolkvox-token": token}
        self._now = now
        self._in_flight = asyncio.Lock()

    async def read(self, request: Request) -> Answer:
        """Send the request once. A second caller waits until the first has its answer.

        Raises Transient when no complete answer arrives. When it is cancelled, it closes
        the connection; the server may then still be busy with the request for a while.
        """
        params = {"api": "chat_2", "date_ini": request.date_ini, "date_end": request.date_end}
        return await self._get(_REPORTS, params, request.max_bytes)

    async def token_info(self) -> Answer:
        """Ask for the daily quota, in the same way and never beside another request."""
        return await self._get(_INFORMATION, {"api": "token_info"}, _INFORMATION_BYTES)

    async def _get(self, path: str, params: dict[str, str], max_bytes: int) -> Answer:
        async with self._in_flight:
            try:
                return await self._ask(path, params, max_bytes)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                # `from None`, because a traceback prints the text of the cause.
                raise transient(error, self._where) from None

    async def _ask(self, path: str, params: dict[str, str], max_bytes: int) -> Answer:
        sent_at, began_at = self._now(), time.monotonic()
        async with self._session.get(
            self._url + path, params=params, headers=self._headers, allow_redirects=False
        ) as response:
            received_at = self._now()
            body = await _read(response.content, max_bytes)
            return Answer(
                status=response.status,
                headers={name.lower(): value for name, value in response.headers.items()},
                body=b"" if body is None else body,
                sent_at=sent_at,
                received_at=received_at,
                took=time.monotonic() - began_at,
                oversized=body is None,
            )


_TURN_BYTES: Final = 1024 * 1024
"""After so many bytes of an answer the other tasks get a turn."""


async def _read(content: aiohttp.StreamReader, max_bytes: int) -> bytes | None:
    """Return the decompressed body, or None when it is longer than `max_bytes`.

    A longer body is still read to its end. Only then has the server finished the
    request, and only then we may ask for less. aiohttp inflates at most one buffer ahead
    of the reader, so a decompression bomb is never in memory at once.
    """
    body = BytesIO()  # its getvalue() does not copy; joining parts would
    read_bytes = yielded_bytes = 0
    while chunk := await content.readany():
        read_bytes += len(chunk)
        if read_bytes > max_bytes:
            body.close()
        else:
            body.write(chunk)
        # While there is more to inflate, readany() returns without letting other tasks run: a bomb
        # of 1 GB blocked the loop for 0.8 s.
        if read_bytes - yielded_bytes > _TURN_BYTES:
            yielded_bytes = read_bytes
            await asyncio.sleep(0)
    return None if read_bytes > max_bytes else body.getvalue()


class _AnswerLostError(aiohttp.ClientError):
    """The connection ended after the request was sent."""


async def _send_once(
    request: aiohttp.ClientRequest, handler: ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a GET again by itself.

    aiohttp silently repeats a GET when the connection, even a fresh connection, ends
    before the answer. The server may still be busy with the first request, and it
    refuses two at once. An error that aiohttp does not retry passes through unchanged;
    an error that it would retry becomes `_AnswerLostError`.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise  # nothing was sent, and aiohttp does not retry it
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        raise _AnswerLostError from None


def transient(error: Exception, where: str) -> Transient:
    """Translate an error of aiohttp or the system. `where` is the server's host:port."""
    match error:
        case aiohttp.ClientProxyConnectionError():
            return _unreachable(
                f"cannot reach the proxy on the way to {where}: {_cause(error.os_error)};"
                " check HTTPS_PROXY and NO_PROXY"
            )
        case aiohttp.ClientHttpProxyError():
            return _unreachable(
                f"the proxy on the way to {where} refuses (HTTP {error.status}):"
                " check HTTPS_PROXY and NO_PROXY"
            )
        case aiohttp.ClientConnectorDNSError():
            return unknown_name(where)
        case aiohttp.ClientConnectorCertificateError():
            return _unreachable(
                f"cannot trust {where}: {_certificate(error.certificate_error)}; {_ADDRESS},"
                " and the certificate authorities of this machine (SSL_CERT_FILE)"
            )
        case aiohttp.ClientSSLError():
            return _unreachable(f"cannot reach {where}: TLS cannot be agreed on; {_ADDRESS}")
        case aiohttp.ClientConnectorError():
            return no_connection(where, error.os_error)
        case aiohttp.ConnectionTimeoutError():
            return no_connection(where, TimeoutError())
        case aiohttp.ServerFingerprintMismatch():
            return _unreachable(f"cannot trust {where}: another certificate; {_ADDRESS}")
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError() | UnicodeError():
            return _unreachable(f"cannot reach {where}: no address that can be asked; {_ADDRESS}")
        case TimeoutError() if error.errno is None:  # with a number it comes from the system
            return Transient(
                Stage.READ,
                Reason.TIMEOUT,
                f"{where} did not finish its answer in time",
                retry_after=SERVER_LIMIT.total_seconds(),
            )
        case aiohttp.ClientPayloadError():
            return _lost(f"the answer of {where} was cut, or cannot be decompressed")
        case aiohttp.ClientResponseError():
            return _lost(f"the answer of {where} is not HTTP; {_ADDRESS}")
        case _:
            return _lost(f"{where} closed the connection before its answer was whole")


def unknown_name(where: str) -> Transient:
    return _unreachable(
        f"cannot reach {where}: its name is not known here (DNS); {_ADDRESS},"
        " and the name servers of this machine"
    )


def no_connection(where: str, error: OSError) -> Transient:
    return _unreachable(f"cannot reach {where}: {_cause(error)}; {_ALLOW_LIST}")


def _unreachable(text: str) -> Transient:
    return Transient(Stage.READ, Reason.UNREACHABLE, text)


def _lost(text: str) -> Transient:
    return Transient(Stage.READ, Reason.CONNECTION_LOST, text)


def _cause(error: OSError) -> str:
    """Name the cause in the system's words. The exception's own text might reveal secrets."""
    if isinstance(error, TimeoutError):  # from the system, or from our own limit
        return "no connection in time"
    match error.errno:
        case errno.ECONNREFUSED:
            return "the connection was refused"
        case int(number) if number in errno.errorcode:
            return os.strerror(number)
        case _:
            return "the connection failed"


def _certificate(error: Exception) -> str:
    """Name the fault in OpenSSL's words. They come from its table and hold at most a host name."""
    words = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else ""
    return f"its certificate is refused ({words})" if words else "its certificate is refused"


def host_and_port(base_url: str) -> str:
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

"""The way to the reports API: one GET, one answer, no decisions.

Rules of this file:
- One request in flight per token, on the wire and not only in our minds: nothing
  here or below sends a request twice.
- What the server says, whatever its status, is an Answer. Everything that keeps
  an answer from being whole is a Transient.
- No text repeats an exception, a header or a body: they may hold the token, the
  password of a proxy, or what people wrote to each other.
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
"""Seconds for name, TCP and TLS together."""
TOTAL_LIMIT: Final = SERVER_LIMIT.total_seconds()
"""Seconds from sending to the last byte: the server ends a call after as many."""

_REPORTS: Final = "/api/v2/reports_manager.php"
_INFORMATION: Final = "/api/v2/information.php"
_INFORMATION_BYTES: Final = 65_536
"""Three numbers; more is something else."""
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
    """Everything that requests share, for `async with`; limits in seconds.

    Proxies come from the usual environment variables (HTTPS_PROXY, NO_PROXY).
    `connected` is called once a connection stands, TLS included.
    """
    traces = []
    if connected:
        trace = aiohttp.TraceConfig()

        async def stands(*_: object) -> None:
            connected()

        trace.on_connection_create_end.append(stands)
        traces.append(trace)
    return aiohttp.ClientSession(
        # The server closes idle connections after 5 s and we come every 5 minutes: a kept
        # connection would always be a dead one.
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept": "application/json", "Accept-Encoding": "gzip"},
        middlewares=(_send_once,),
        timeout=aiohttp.ClientTimeout(total=total_limit, connect=connect_limit),
        trace_configs=traces,
        trust_env=True,
    )


class HttpSource:
    """The report of one operation; fits `context.Source`."""

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
        """Ask once; a second caller waits until the first has its answer.

        Raises Transient when there is no whole answer. Cancelled, it closes the
        connection; the server may then be busy with the question for a while.
        """
        params = {"api": "chat_2", "date_ini": request.date_ini, "date_end": request.date_end}
        return await self._get(_REPORTS, params, request.max_bytes)

    async def token_info(self) -> Answer:
        """Ask for the daily quota, likewise; never beside another request."""
        return await self._get(_INFORMATION, {"api": "token_info"}, _INFORMATION_BYTES)

    async def _get(self, path: str, params: dict[str, str], max_bytes: int) -> Answer:
        async with self._in_flight:
            try:
                return await self._ask(path, params, max_bytes)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                # `from None`, because tracebacks print the text of causes.
                raise transient(error, self._where) from None

    async def _ask(self, path: str, params: dict[str, str], max_bytes: int) -> Answer:
        sent_at, began = self._now(), time.monotonic()
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
                took=time.monotonic() - began,
                oversized=body is None,
            )


_TURN: Final = 1024 * 1024
"""Bytes of an answer that are taken before others get their turn."""


async def _read(content: aiohttp.StreamReader, max_bytes: int) -> bytes | None:
    """Return the decompressed body, or None when it is longer than `max_bytes`.

    Too long a body is still read to its end: only then is the server done with
    us, and may be asked for less. aiohttp inflates at most a buffer's worth ahead
    of the reader, so whatever a few bytes blow up to is never in memory at once.
    """
    kept = BytesIO()  # its getvalue() does not copy; joining parts would
    size = yielded_at = 0
    while chunk := await content.readany():
        size += len(chunk)
        if size > max_bytes:
            kept.close()
        else:
            kept.write(chunk)
        # While there is more to inflate, readany() returns without letting others run: a bomb of
        # 1 GB held up the loop for 0.8 s at once.
        if size - yielded_at > _TURN:
            yielded_at = size
            await asyncio.sleep(0)
    return None if size > max_bytes else kept.getvalue()


class _AnswerLostError(aiohttp.ClientError):
    """The connection ended after the request was sent."""


async def _send_once(
    request: aiohttp.ClientRequest, handler: ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a GET again by itself.

    It does so, without a word, when a connection ends before the answer, even a
    fresh one. The server may be busy with the first request all the while, and
    two at once are what it refuses. An error of another class is passed on.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise  # nothing was sent, and aiohttp leaves it at that
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        raise _AnswerLostError from None


def transient(error: Exception, where: str) -> Transient:
    """Say what an error of aiohttp or the system means; `where` is the server's host:port."""
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
        case TimeoutError() if error.errno is None:  # with a number it is the system's
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
    """In the words of the system's table; an exception's own text may say more than it should."""
    if isinstance(error, TimeoutError):  # the system's, or ours
        return "no connection in time"
    match error.errno:
        case errno.ECONNREFUSED:
            return "the connection was refused"
        case int(number) if number in errno.errorcode:
            return os.strerror(number)
        case _:
            return "the connection failed"


def _certificate(error: Exception) -> str:
    """OpenSSL's own words: of its table, with at most a host name in them."""
    words = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else ""
    return f"its certificate is refused ({words})" if words else "its certificate is refused"


def host_and_port(base_url: str) -> str:
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

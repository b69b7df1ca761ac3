"""The real client against real servers on loopback, most of them badly behaved."""

import asyncio
import contextlib
import gzip
import logging
import socket
import ssl
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.client_exceptions import UnixClientConnectorError
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from publisher.errors import Reason, Stage, Transient
from publisher.model import Answer, Request
from publisher.wolkvox import responses
from publisher.wolkvox.client import HttpSource, open_session, transient
from sandbox.kafka.tls import issue

TOKEN = "0123456789abcdef-the-token"
SECRET = "Ana dijo: hola"
ASKED = Request("20261120100000", "20261120100500", max_bytes=1_000_000)
NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Keeps the head of every request it was sent."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.heads: list[str] = []
        self.busy = 0
        self.most_busy = 0


@asynccontextmanager
async def serving(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server that speaks whatever the handler writes, after having read a request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            server.heads.append(head.decode("latin-1"))
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
            await handler(reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            server.busy -= 1
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    server = Server(listener.sockets[0].getsockname()[1])
    if context:
        server.url = server.url.replace("http:", "https:")
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


def saying(*parts: bytes) -> Handler:
    """Write these bytes and close the connection."""

    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return handler


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Say nothing until the client goes away."""
    await reader.read()


def http(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


@asynccontextmanager
async def asking(
    url: str, total_limit: float = 20.0, connect_limit: float = 5.0
) -> AsyncIterator[HttpSource]:
    async with open_session(total_limit=total_limit, connect_limit=connect_limit) as session:
        yield HttpSource(session, url, TOKEN, lambda: NOON)


async def read(handler: Handler, request: Request = ASKED) -> Answer:
    async with serving(handler) as server, asking(server.url) as source:
        return await source.read(request)


async def failure(url: str, total_limit: float = 20.0, connect_limit: float = 5.0) -> Transient:
    """What reading raises; says nothing that is a secret, not even to who prints it whole."""
    async with asking(url, total_limit, connect_limit) as source:
        with pytest.raises(Transient) as caught:
            await source.read(ASKED)
    error = caught.value
    assert error.stage is Stage.READ
    printed = "".join(traceback.format_exception(error)) + repr(error)
    assert TOKEN not in printed
    assert SECRET not in printed
    return error


async def failing(handler: Handler, total_limit: float = 20.0) -> Transient:
    async with serving(handler) as server:
        error = await failure(server.url, total_limit)
    assert server.url.removeprefix("http://") in str(error)
    return error


# --- answers


async def test_it_asks_for_the_window_with_the_token_in_a_header() -> None:
    async with serving(saying(http(b"{}"))) as server, asking(server.url + "/") as source:
        await source.read(ASKED)
    [head] = server.heads
    line, *headers = head.splitlines()
    assert line == (
        "GET /api/v2/reports_manager.php"
        "?api=chat_2&date_ini=20261120100000&date_end=20261120100500 HTTP/1.1"
    )
    assert f"wolkvox-token: {TOKEN}" in headers
    assert not any(header.lower().startswith("cookie") for header in headers)


async def test_an_answer_carries_what_was_said_and_when() -> None:
    answer = await read(saying(http(b'{"code":200}', "Date: Fri, 20 Nov 2026 12:00:01 GMT")))
    assert answer.status == 200
    assert answer.body == b'{"code":200}'
    assert answer.headers["date"] == "Fri, 20 Nov 2026 12:00:01 GMT"
    assert (answer.sent_at, answer.received_at) == (NOON, NOON)
    assert 0 < answer.took < 20
    assert not answer.oversized
    assert responses.server_time(answer) == NOON + timedelta(seconds=1)


@pytest.mark.parametrize("status", ["403 Forbidden", "404 Not Found", "429 Slow", "500 Oops"])
async def test_an_error_status_is_an_answer_with_its_body(status: str) -> None:
    answer = await read(saying(http(b'{"msg":"no"}', "Retry-After: 7", status=status)))
    assert (str(answer.status), answer.body) == (status[:3], b'{"msg":"no"}')
    assert answer.headers["retry-after"] == "7"


async def test_an_empty_body_is_an_answer() -> None:
    assert (await read(saying(http(b"")))).body == b""


async def test_a_chunked_body_is_put_together() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await read(saying(head, b"3\r\nabc\r\n", b"2\r\nde\r\n", b"0\r\n\r\n"))
    assert answer.body == b"abcde"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_compressed_body_is_decompressed(encoding: str) -> None:
    async def page(request: web.Request) -> web.Response:
        response = web.Response(body=b'{"data":[]}' * 1000)
        response.enable_compression(web.ContentCoding(encoding))
        return response

    async with real_server(page) as url, asking(url) as source:
        answer = await source.read(ASKED)
    assert answer.body == b'{"data":[]}' * 1000


async def test_cookies_are_not_kept() -> None:
    async with (
        serving(saying(http(b"{}", "Set-Cookie: PHPSESSID=x; Path=/"))) as server,
        asking(server.url) as source,
    ):
        await source.read(ASKED)
        await source.read(ASKED)
    assert len(server.heads) == 2
    assert not any("cookie" in head.lower() for head in server.heads)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_the_token_stays_here(status: int) -> None:
    async with serving(saying(http(b"{}"))) as elsewhere:
        redirect = http(b"", f"Location: {elsewhere.url}/", status=f"{status} Elsewhere")
        answer = await read(saying(redirect))
    assert answer.status == status
    assert elsewhere.heads == []


# --- budgets


async def test_a_body_of_exactly_the_budget_is_kept_and_one_more_byte_is_not() -> None:
    def request(size: int) -> Request:
        return Request("1", "2", max_bytes=size)

    answer = await read(saying(http(b"x" * 1000)), request(1000))
    assert (len(answer.body), answer.oversized) == (1000, False)
    answer = await read(saying(http(b"x" * 1001)), request(1000))
    assert (answer.body, answer.oversized) == (b"", True)


async def test_a_body_over_the_budget_is_read_to_its_end() -> None:
    finished = False

    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal finished
        writer.write(http(b"", length=64 << 20))
        for _number in range(64):
            writer.write(b"x" * (1 << 20))
            await writer.drain()
        finished = True

    answer = await read(handler)
    assert answer.oversized
    assert finished


async def test_a_gzip_bomb_does_not_grow_memory() -> None:
    bomb = gzip.compress(bytes(128 << 20))
    body = http(bomb, "Content-Encoding: gzip")
    async with serving(saying(body)) as server, asking(server.url) as source:
        tracemalloc.start()
        try:
            answer = await source.read(ASKED)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert answer.oversized
    assert peak < 10 << 20


async def test_a_bomb_that_never_ends_is_given_up_like_any_slow_answer() -> None:
    piece = gzip.compress(bytes(16 << 20))

    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()

    error = await failing(handler, total_limit=0.5)
    assert error.reason is Reason.TIMEOUT


# --- failures on the way


async def test_a_refused_connection_names_the_address_and_the_settings() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        error = await failure(f"http://127.0.0.1:{port}")
    assert error.reason is Reason.UNREACHABLE
    assert f"127.0.0.1:{port}: the connection was refused" in str(error)
    assert "WOLKVOX_URL" in str(error)
    assert "allow-list" in str(error)


async def test_an_unknown_name_is_told_as_such() -> None:
    error = await failure("https://wv0010.invalid")
    assert error.reason is Reason.UNREACHABLE
    assert "wv0010.invalid:443: its name is not known here (DNS)" in str(error)
    assert "WOLKVOX_SERVER" in str(error)


async def test_a_server_that_takes_no_connection_is_told_from_a_slow_answer() -> None:
    """A full backlog: the kernel leaves the handshake unanswered, like a firewall."""
    with socket.socket() as deaf, contextlib.ExitStack() as waiting:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(deaf.getsockname())
        error = await failure(f"http://127.0.0.1:{deaf.getsockname()[1]}", connect_limit=0.3)
    assert error.reason is Reason.UNREACHABLE
    assert "no connection in time" in str(error)
    assert "allow-list" in str(error)


async def test_a_certificate_of_nobody_we_trust_is_refused(tmp_path: Path) -> None:
    files = issue(tmp_path, "nobody")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.server)
    async with serving(saying(http(b"{}")), context) as server:
        error = await failure(server.url)
    assert server.heads == []
    assert error.reason is Reason.UNREACHABLE
    assert "its certificate is refused (" in str(error)
    assert "SSL_CERT_FILE" in str(error)


async def test_a_server_without_tls_is_told_as_such() -> None:
    async def shrug(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"what?", status="400 Bad Request"))
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(shrug, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        error = await failure(f"https://127.0.0.1:{port}")
    assert error.reason is Reason.UNREACHABLE
    assert "TLS cannot be agreed on" in str(error)


async def test_a_server_that_does_not_answer_in_time() -> None:
    error = await failing(silent, total_limit=0.3)
    assert error.reason is Reason.TIMEOUT
    assert error.retry_after == responses.SERVER_LIMIT.total_seconds()


async def test_a_body_that_does_not_end_in_time() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"{", length=100))
        await reader.read()

    error = await failing(handler, total_limit=0.3)
    assert error.reason is Reason.TIMEOUT
    assert error.retry_after == responses.SERVER_LIMIT.total_seconds()


SECRET_BYTES = SECRET.encode()
LOST = {
    "closed at once": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "cut body": http(SECRET_BYTES, length=1000),
    "cut chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" + SECRET_BYTES,
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + SECRET_BYTES + b"\r\n",
    "not gzip": http(SECRET_BYTES, "Content-Encoding: gzip"),
    "damaged gzip": http(
        gzip.compress(SECRET_BYTES * 50)[:-8] + b"\0" * 8, "Content-Encoding: gzip"
    ),
    "unknown encoding": http(b"\x28\xb5\x2f\xfd" + SECRET_BYTES, "Content-Encoding: zstd"),
    "not HTTP": SECRET_BYTES + b"\r\n\r\n",
    "binary": bytes(range(256)),
    "no number for a length": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n" + SECRET_BYTES,
    "endless status line": b"HTTP/1.1 200 " + b"x" * 100_000,
    "endless header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    "header without a name": b"HTTP/1.1 200 OK\r\n: " + SECRET_BYTES + b"\r\n\r\n",
}


@pytest.mark.parametrize("said", LOST.values(), ids=LOST.keys())
async def test_an_answer_that_is_not_whole_is_lost(said: bytes) -> None:
    error = await failing(saying(said))
    assert error.reason is Reason.CONNECTION_LOST
    assert error.retry_after is None


async def test_a_lost_request_is_not_sent_again_behind_our_back() -> None:
    async with serving(saying()) as server:
        await failure(server.url)
    assert len(server.heads) == 1


async def test_a_reset_is_a_lost_connection_and_not_sent_again() -> None:
    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock: socket.socket = writer.get_extra_info("socket")
        linger_zero = (1).to_bytes(4, "little") + bytes(4)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
        writer.transport.abort()

    async with serving(reset) as server:
        error = await failure(server.url)
    assert error.reason is Reason.CONNECTION_LOST
    assert len(server.heads) == 1


async def test_a_proxy_that_is_away_or_refuses_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = f"http://user:{SECRET.replace(' ', '')}@127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("HTTPS_PROXY", away)
        monkeypatch.setenv("https_proxy", away)
        error = await failure("https://wv0010.invalid")
    assert error.reason is Reason.UNREACHABLE
    assert "proxy on the way to wv0010.invalid:443: the connection was refused" in str(error)
    assert "HTTPS_PROXY" in str(error)
    assert "user" not in str(error)

    async with serving(saying(http(b"", status="407 Who are you"))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("https_proxy", proxy.url)
        error = await failure("https://wv0010.invalid")
    assert error.reason is Reason.UNREACHABLE
    assert "refuses (HTTP 407)" in str(error)
    assert TOKEN not in "".join(proxy.heads)


async def test_an_address_that_is_none_is_told_as_such() -> None:
    error = await failure("http://a..b")
    assert error.reason is Reason.UNREACHABLE
    assert "WOLKVOX_URL" in str(error)


# --- one at a time


async def test_two_reads_at_once_are_one_request_after_the_other() -> None:
    async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0)
        writer.write(http(b"{}"))

    async with serving(slow) as server, asking(server.url) as source:
        answers = await asyncio.gather(*(source.read(ASKED) for _ in range(5)))
    assert [answer.status for answer in answers] == [200] * 5
    assert server.most_busy == 1


async def test_a_cancelled_read_passes_on_and_leaves_a_usable_source() -> None:
    asked = asyncio.Event()
    gone = asyncio.Event()

    async def first_hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if asked.is_set():
            writer.write(http(b"{}"))
            return
        writer.write(http(b"{", length=100))
        asked.set()
        await reader.read()
        gone.set()

    async with serving(first_hang) as server, asking(server.url) as source:
        task = asyncio.create_task(source.read(ASKED))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone.wait()  # our end is closed: nothing of it is left in flight
        assert (await source.read(ASKED)).status == 200


# --- completeness


def every(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(sub for child in kind.__subclasses__() for sub in every(child))]


def made(kind: type[Exception]) -> Exception:
    """An instance whose texts hold secrets, made the way aiohttp makes it."""
    key = ConnectionKey("host", 443, True, True, None, None, None)
    headers = CIMultiDictProxy(CIMultiDict({"wolkvox-token": TOKEN}))
    info = RequestInfo(URL("http://host/" + TOKEN), "GET", headers, URL("http://host"))
    if issubclass(kind, aiohttp.ClientResponseError):
        return kind(info, (), status=400, message=SECRET, headers=headers)
    if issubclass(kind, UnixClientConnectorError):
        return kind("path", key, OSError(111, SECRET))
    if issubclass(kind, aiohttp.ClientConnectorError):
        return kind(key, OSError(111, SECRET))
    if issubclass(kind, aiohttp.ServerFingerprintMismatch):
        return kind(SECRET_BYTES, SECRET_BYTES, "host", 443)
    return kind(SECRET + TOKEN)


KINDS = sorted(set(every(aiohttp.ClientError)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_of_aiohttp_is_a_transient_that_says_no_secret(kind: type[Exception]) -> None:
    error = transient(made(kind), "host:443")
    assert error.stage is Stage.READ
    assert error.reason in {Reason.UNREACHABLE, Reason.TIMEOUT, Reason.CONNECTION_LOST}
    assert "host:443" in str(error)
    assert TOKEN not in str(error)
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), Reason.TIMEOUT),
        (aiohttp.SocketTimeoutError(), Reason.TIMEOUT),
        (TimeoutError(110, SECRET), Reason.CONNECTION_LOST),
        (ConnectionResetError(104, SECRET), Reason.CONNECTION_LOST),
        (OSError(5, SECRET), Reason.CONNECTION_LOST),
        (OSError(SECRET), Reason.CONNECTION_LOST),
        (ValueError(SECRET), Reason.CONNECTION_LOST),
        (UnicodeError(SECRET), Reason.UNREACHABLE),
    ],
    ids=repr,
)
def test_errors_of_the_system_are_told_apart(error: Exception, reason: Reason) -> None:
    told = transient(error, "host:443")
    assert told.reason is reason
    assert SECRET not in str(told)


async def test_nothing_is_logged_that_holds_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for said in LOST.values():
            await failing(saying(said))
    assert TOKEN not in caplog.text
    assert SECRET not in caplog.text


@asynccontextmanager
async def real_server(
    handler: Callable[[web.Request], Awaitable[web.Response]],
) -> AsyncIterator[str]:
    """Serve with aiohttp, for answers that are well formed."""
    app = web.Application()
    app.router.add_get("/api/v2/reports_manager.php", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()

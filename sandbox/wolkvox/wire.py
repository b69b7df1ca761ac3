"""How an answer travels: chunked as the live API's (wolkvox-api.md, section 2), or badly.

The sending half of the faults; what is sent was decided elsewhere.
"""

import asyncio
import contextlib
import functools
import gzip
import socket
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiohttp import web

from sandbox.wolkvox.faults import Fault

HEADERS = {
    "Content-Type": "application/json; charset=utf-8",
    "Server": "Apache",
    "Cache-Control": "no-store",
}


@dataclass(slots=True)
class Answer:
    """What is to be sent: the body in pieces, and how many messages it shows."""

    kind: str
    status: int
    pieces: Sequence[bytes]
    headers: dict[str, str] = field(default_factory=dict)
    rows: int = 0


async def send(
    request: web.Request, answer: Answer, headers: dict[str, str], fault: Fault | None
) -> web.StreamResponse:
    """Send an answer in the manner of a fault, and return what the server is to end it with.

    On a closed connection, by a fault or by an impatient client, that end is dropped silently.
    """
    kind = fault.kind if fault else ""
    options = fault.options if fault else {}
    headers = HEADERS | headers | answer.headers
    pieces = answer.pieces
    if kind in ("reset", "closed"):
        _hang_up(request, kind)
        return web.Response()
    if kind == "slow_headers":
        await asyncio.sleep(options["delay"])
    if kind == "gzip":
        headers["Content-Encoding"] = "gzip"
        pieces = [gzip.compress(b"".join(pieces), 1)]
    elif kind == "gzip_bomb":
        headers["Content-Encoding"] = "gzip"
        pieces = await asyncio.to_thread(_bomb, options["megabytes"])
    elif kind in ("slow_body", "broken_transfer"):
        pieces = _cut_up(b"".join(pieces), options.get("pieces", 10))
    elif kind in ("cut_body", "empty_body"):
        # A whole HTTP answer, so that only its content tells.
        return web.Response(body=b"".join(pieces), status=answer.status, headers=headers)

    response = web.StreamResponse(status=answer.status, headers=headers)
    response.enable_chunked_encoding()
    last = int(len(pieces) * options["share"]) if kind == "broken_transfer" else len(pieces)
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        for piece in pieces[:last]:
            if kind == "slow_body":
                await asyncio.sleep(options["delay"] / len(pieces))
            if piece:
                await response.write(piece)
        if kind == "broken_transfer":
            _hang_up(request, "closed")
        else:
            await response.write_eof()
    return response


def _hang_up(request: web.Request, kind: str) -> None:
    """Close the connection; with a pending linger of zero the kernel says RST instead of FIN."""
    transport = request.transport
    if transport is None:
        return
    if kind == "reset":
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()


def _cut_up(body: bytes, pieces: int) -> list[bytes]:
    size = max(1, -(-len(body) // pieces))
    return [body[begin : begin + size] for begin in range(0, len(body), size)]


@functools.lru_cache(maxsize=4)
def _bomb(megabytes: int) -> list[bytes]:
    """Return a gzip stream, about 1 kB per MB, of valid JSON that is mostly blanks.

    After a full flush the compressor remembers nothing, so one compressed block of blanks can be
    repeated; only the check sum needs all the blanks.
    """
    head, blanks, tail = b'{"code":200,"error":null,"msg":"', b" " * 1_000_000, b'","data":[]}'
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)

    def packed(text: bytes) -> bytes:
        return packer.compress(text) + packer.flush(zlib.Z_FULL_FLUSH)

    first, block = packed(head), packed(blanks)
    end = packer.compress(tail) + packer.flush(zlib.Z_FINISH)
    check = zlib.crc32(head)
    for _ in range(megabytes):
        check = zlib.crc32(blanks, check)
    size = len(head) + megabytes * len(blanks) + len(tail)
    trailer = struct.pack("<II", zlib.crc32(tail, check), size & 0xFFFFFFFF)
    return [
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + first,
        *[block] * megabytes,
        end + trailer,
    ]

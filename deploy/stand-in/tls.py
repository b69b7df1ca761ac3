"""The simulated API under the name of a real account's server: TLS in front of `wolkvox:8089`."""

import asyncio
import ssl
import sys
from asyncio import StreamReader, StreamWriter


async def copy(source: StreamReader, target: StreamWriter) -> None:
    while piece := await source.read(65_536):
        target.write(piece)
        await target.drain()
    target.close()


async def relay(reader: StreamReader, writer: StreamWriter) -> None:
    answers, requests = await asyncio.open_connection("wolkvox", 8089)
    await asyncio.gather(copy(reader, requests), copy(answers, writer), return_exceptions=True)


async def main() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*sys.argv[1:])
    server = await asyncio.start_server(relay, port=443, ssl=context)
    await server.serve_forever()


asyncio.run(main())

"""Passes TCP connections on to a Unix socket, for clients that know no others: relay.py SOCKET. Prints its port."""

import asyncio
import sys


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def main():
    async def pass_on(reader, writer):
        there_reader, there_writer = await asyncio.open_unix_connection(sys.argv[1])
        await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())

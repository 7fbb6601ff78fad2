"""Proxies between the roles and their services, to be cut: each connection of a role goes over a link of its own."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from types import TracebackType

_CHUNK_BYTES = 65536


class Link:
    """One TCP proxy on `port`. Made by `Links.add`; its methods are called from any thread.

    cut(silent=True): nothing gets through and nobody is told, as when packets are dropped; what was sent meanwhile
    arrives after `mend`, as TCP sends it again. silent=False: connections are reset and new ones too.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, to_port: int) -> None:
        self.port = 0
        self._loop = loop
        self._to_port = to_port
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def cut(self, *, silent: bool) -> None:
        """Nothing gets through from now on."""
        self._loop.call_soon_threadsafe(self._flows.clear if silent else self._refuse)

    def mend(self) -> None:
        """All is well again; connections that were reset are not."""
        self._loop.call_soon_threadsafe(self._mend)

    async def listen(self) -> None:
        """Take connections."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Reset everything."""
        assert self._server is not None
        self._server.close()
        self._refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _refuse(self) -> None:
        self._refuses = True
        for writer in self._open:
            writer.transport.abort()

    def _mend(self) -> None:
        self._refuses = False
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        server: asyncio.StreamWriter | None = None
        try:
            await self._flows.wait()
            if not self._refuses:
                back, server = await asyncio.open_connection("127.0.0.1", self._to_port)
                self._open.add(server)
                pumps = [asyncio.create_task(self._pump(reader, server)), asyncio.create_task(self._pump(back, writer))]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass  # the service is away: so is this connection
        finally:
            for end in filter(None, (writer, server)):
                self._open.discard(end)
                end.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(_CHUNK_BYTES):
                await self._flows.wait()
                sink.write(data)
                await sink.drain()


class Links:
    """The links, all in one thread with a loop. Use it as a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._links: list[Link] = []

    def add(self, to_port: int) -> Link:
        """A link to a loopback port, open."""
        link = Link(self._loop, to_port)
        asyncio.run_coroutine_threadsafe(link.listen(), self._loop).result(5)
        self._links.append(link)
        return link

    def __enter__(self) -> Links:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in self._links:
            asyncio.run_coroutine_threadsafe(link.close(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

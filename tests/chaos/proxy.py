"""A TCP proxy per link, which cuts connections, leaves them half open, or loses what is answered."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Link:
    """One service's way to one target. Everything passes until a fault is asked for."""

    def __init__(self, target_port: int, target_host: str = "127.0.0.1") -> None:
        self._target = (target_host, target_port)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._loses_requests = self._loses_replies = 0
        self._busy: list[str] = []
        self._awaited: list[tuple[bytes, asyncio.Future[None]]] = []
        self.cut_connections = 0

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._drop()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def cut(self) -> int:
        """End every connection at once; returns how many there were."""
        count = self._drop()
        self.cut_connections += count
        return count

    async def half_open(self, for_s: float) -> None:
        """Swallow all bytes, also of new connections; then cut."""
        self._loses_requests += 1
        self._loses_replies += 1
        try:
            await asyncio.sleep(for_s)
        finally:
            self._loses_requests -= 1
            self._loses_replies -= 1
            self.cut()

    async def lose_replies(self, for_s: float) -> None:
        """Requests arrive and are acted upon, replies are lost; then cut."""
        self._loses_replies += 1
        try:
            await asyncio.sleep(for_s)
        finally:
            self._loses_replies -= 1
            self.cut()

    async def busy(self, for_s: float, status: str) -> None:
        """Answer HTTP requests with a status such as `503 Service Unavailable` instead of passing them on."""
        self._busy.append(status)
        try:
            await asyncio.sleep(for_s)
        finally:
            self._busy.remove(status)
            self.cut()

    async def request(self, beginning: bytes) -> None:
        """Wait until bytes that begin so are on their way to the target."""
        seen: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited.append((beginning, seen))
        try:
            await seen
        finally:
            self._awaited = [each for each in self._awaited if each[1] is not seen]

    def _tell(self, data: bytes) -> None:
        for beginning, seen in self._awaited:
            if data.startswith(beginning) and not seen.done():
                seen.set_result(None)

    def _drop(self) -> int:
        writers = list(self._open)
        self._open.clear()
        for writer in writers:
            writer.transport.abort()
        return len(writers) // 2

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, far_writer}
        pumps = self._pump(reader, far_writer, writer), self._pump(far_reader, writer)
        for pump in pumps:
            task = asyncio.ensure_future(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamWriter | None = None
    ) -> None:
        """`back`: the way to the client, given on the way to the target."""
        with suppress(OSError):
            while data := await reader.read(65_536):
                if self._loses_replies if back is None else self._loses_requests:
                    continue
                if back is not None:
                    self._tell(data)
                    if self._busy:
                        back.write(_answer(self._busy[-1]))
                        await back.drain()
                        continue
                writer.write(data)
                await writer.drain()
        self._open.discard(writer)
        writer.close()


def _answer(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}".encode()

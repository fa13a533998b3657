"""The proxy passes bytes, cuts, swallows both ways, and loses replies while requests arrive."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chaos.proxy import Link

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """Answers every byte with itself and remembers what came."""

    def __init__(self) -> None:
        self.received = b""
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while data := await reader.read(1000):
                self.received += data
                writer.write(data)
        except OSError:
            pass
        writer.close()

    def close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, int]]:
    made = Echo()
    yield made, await made.start()
    made.close()


@pytest.fixture
async def link(echo: tuple[Echo, int]) -> AsyncIterator[Link]:
    made = Link(echo[1])
    await made.start()
    yield made
    await made.close()


async def ask(streams: Streams, data: bytes) -> bytes:
    """The reply, empty when the connection ended."""
    streams[1].write(data)
    try:
        return await asyncio.wait_for(streams[0].read(1000), 5)
    except OSError:
        return b""


async def dial(link: Link) -> Streams:
    return await asyncio.open_connection("127.0.0.1", link.port)


async def test_bytes_pass_both_ways(link: Link) -> None:
    client = await dial(link)
    assert await ask(client, b"one") == b"one"
    client[1].close()


async def test_a_cut_ends_the_connections_and_new_ones_work(link: Link) -> None:
    client = await dial(link)
    await ask(client, b"one")
    assert link.cut() == 1
    assert await ask(client, b"two") == b""
    assert link.cut_connections == 1
    client[1].close()
    again = await dial(link)
    assert await ask(again, b"three") == b"three"
    again[1].close()


async def test_half_open_swallows_requests_and_then_cuts(link: Link, echo: tuple[Echo, int]) -> None:
    client = await dial(link)
    await ask(client, b"one")
    fault = asyncio.create_task(link.half_open(0.2))
    await asyncio.sleep(0)
    assert await ask(client, b"two") == b""
    await fault
    assert echo[0].received == b"one"
    client[1].close()


async def test_lost_replies_reach_the_target_and_then_the_connection_is_cut(link: Link, echo: tuple[Echo, int]) -> None:
    client = await dial(link)
    await ask(client, b"one")
    fault = asyncio.create_task(link.lose_replies(0.2))
    await asyncio.sleep(0)
    assert await ask(client, b"two") == b""
    await fault
    assert echo[0].received == b"onetwo"
    client[1].close()


async def test_a_busy_target_never_sees_the_request(link: Link, echo: tuple[Echo, int]) -> None:
    client = await dial(link)
    fault = asyncio.create_task(link.busy(0.2, "503 Service Unavailable"))
    await asyncio.sleep(0)
    assert (await ask(client, b"POST /order")).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    await fault
    assert echo[0].received == b""
    client[1].close()


async def test_a_request_is_told_before_it_is_answered(link: Link) -> None:
    client = await dial(link)
    order = asyncio.create_task(link.request(b"POST"))
    await ask(client, b"GET")
    assert not order.done()
    await ask(client, b"POST /order")
    await asyncio.wait_for(order, 5)
    client[1].close()


async def test_a_target_that_is_gone_ends_the_client(link: Link, echo: tuple[Echo, int]) -> None:
    echo[0].close()
    client = await dial(link)
    assert await ask(client, b"one") == b""
    client[1].close()

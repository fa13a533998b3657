"""The real services, two instances each, under faults at every await: the same decisions, verdicts and fills."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from chaos.failpoints import NO_FAULTS, Faults
from chaos.kit_line import clean, quick_kit
from chaos.server import Server, running
from chaos.service_line import Result, play
from quantum_common.bus import RedisBus

SYMBOLS, BARS = 6, 15

Connect = Callable[[], RedisBus]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as made, quick_kit():
        yield made


@pytest.fixture(scope="module")
def connect(server: Server) -> Connect:
    return lambda: RedisBus.connect(server.url)


@pytest.fixture(scope="module")
def quiet(connect: Connect) -> Result:
    async def run() -> Result:
        async with clean(connect):
            return await play(connect, symbols=SYMBOLS, bars=BARS, faults=NO_FAULTS)

    result = asyncio.run(run())
    assert result.good, result
    assert result.approvals > 10
    assert result.fills > 10
    return result


@pytest.mark.parametrize("partitions", [1, 4])
async def test_kills_pauses_and_cuts_at_every_await_leave_the_digest_of_the_quiet_run(
    connect: Connect, quiet: Result, partitions: int
) -> None:
    faults = Faults(partitions, 0.02, 60)
    async with clean(connect):
        result = await play(connect, symbols=SYMBOLS, bars=BARS, partitions=partitions, faults=faults)
    assert result.good, result
    assert result.digest == quiet.digest
    assert result.kills >= 3


async def test_a_server_killed_in_the_middle_of_bars_forgets_nothing(
    server: Server, connect: Connect, quiet: Result
) -> None:
    async def kill() -> None:
        await asyncio.sleep(0.005)
        await asyncio.to_thread(server.kill)

    before = server.kills
    async with clean(connect):
        result = await play(
            connect,
            symbols=SYMBOLS,
            bars=BARS,
            faults=NO_FAULTS,
            on_bar=lambda bar: kill() if bar % 5 == 2 else None,
        )
    assert result.good, result
    assert result.digest == quiet.digest
    assert server.kills - before == 3

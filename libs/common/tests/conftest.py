"""Both buses: the one in memory, and the real one on a server of its own."""

from collections.abc import AsyncIterator, Iterator

import pytest

from quantum_common.bus import Bus, MemoryBus, RedisBus
from quantum_common.testing import running_server


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(params=["memory", "redis"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    if request.param == "memory":
        yield MemoryBus()
        return
    bus = RedisBus.connect(request.getfixturevalue("server_url"))
    await bus._redis.flushall()
    yield bus
    await bus.close()

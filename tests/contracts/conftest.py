"""A real server for this folder."""

from collections.abc import AsyncIterator, Iterator

import pytest

from quantum_common.bus import RedisBus
from quantum_common.testing import running_server


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
async def bus(server_url: str) -> AsyncIterator[RedisBus]:
    bus = RedisBus.connect(server_url)
    await bus._redis.flushall()
    await bus._redis.function_flush()
    yield bus
    await bus.close()

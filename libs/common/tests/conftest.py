"""Every bus: the one in memory, and the real one on a server and on a cluster of its own."""

from collections.abc import AsyncIterator, Iterator

import pytest

from quantum_common.bus import Bus, MemoryBus, RedisBus
from quantum_common.testing import RunningCluster, running_cluster, running_server


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(params=["memory", "redis", "cluster"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    if request.param == "memory":
        yield MemoryBus()
        return
    real = request.param == "redis"
    url = request.getfixturevalue("server_url") if real else request.getfixturevalue("cluster").url
    bus = RedisBus.connect(url)
    await bus._redis.flushall()
    yield bus
    await bus.close()

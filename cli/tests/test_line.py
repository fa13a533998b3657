"""What is in flight between two slots is seen, whenever it moves; on a cluster, where a look has several parts."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from quantum_cli.line import Line
from quantum_common.bus import Output, RedisBus, StateWrite, Status, Unit
from quantum_common.contracts import ALLOCATIONS, DECISIONS, EXECUTIONS, FEATURES, PREDICTIONS, Keys
from quantum_common.testing import RunningCluster, running_cluster

KEYS = Keys(partitions=2)
DECISION_STREAM, ALLOCATION_STREAM = "{p01}:decisions", "{paper}:allocations"
SLOTS = 3  # {p00}, {p01}, {paper}

Step = Callable[[], Awaitable[None]]


class Interrupted:
    """A client that lets something else happen before the n-th transaction of a look."""

    def __init__(self, client: Any, before: int, happens: Step) -> None:
        self._client, self._left, self._happens = client, before, happens

    def pipeline(self, transaction: bool) -> Any:
        pipeline = self._client.pipeline(transaction=transaction)
        execute = pipeline.execute

        async def interrupted() -> Any:
            if self._left == 0:
                await self._happens()
            self._left -= 1
            return await execute()

        pipeline.execute = interrupted
        return pipeline


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
async def bus(cluster: RunningCluster) -> AsyncIterator[RedisBus]:
    """Every group is there and has read all there is, which is nothing."""
    bus = RedisBus.connect(cluster.url)
    await bus._redis.flushall()
    for spec in (FEATURES, PREDICTIONS, DECISIONS, ALLOCATIONS, EXECUTIONS):
        for stream in KEYS.all_streams(spec):
            for group in spec.consumers:
                await bus.ensure_group(stream, group)
    yield bus
    await bus.close()


async def taken_in(bus: RedisBus, stream: str, group: str, *outputs: Output) -> None:
    entries = await bus.read([stream], group, "1", count=10, block_ms=100)
    unit = Unit(inputs=entries, outputs=outputs)
    if group != "recorder-svc":
        unit = Unit(inputs=entries, outputs=outputs, states=[StateWrite(f"{{paper}}:state:{group}", 0, b"s")])
    assert await bus.commit([unit]) == [Status.OK]


@pytest.mark.parametrize("before", range(SLOTS))
async def test_a_decision_that_becomes_a_verdict_during_a_look_is_seen_in_one_of_the_two_places(
    bus: RedisBus, before: int
) -> None:
    await bus.append(DECISION_STREAM, b"decision")
    await taken_in(bus, DECISION_STREAM, "recorder-svc")

    async def hop() -> None:
        await taken_in(bus, DECISION_STREAM, "governer-svc", Output(ALLOCATION_STREAM, b"verdict"))

    interrupted: Any = Interrupted(bus._redis, before, hop)
    assert (await Line(interrupted, KEYS).look()).in_flight


@pytest.mark.parametrize("before", range(SLOTS))
async def test_features_published_during_a_look_are_seen_or_their_time_is_not(bus: RedisBus, before: int) -> None:

    async def publish() -> None:
        await bus.append("{p01}:features", b"features")
        await bus.commit([Unit(writes=[("HSET", KEYS.features_progress(), "looked_ms", 7, "published", 1)])])

    interrupted: Any = Interrupted(bus._redis, before, publish)
    state = await Line(interrupted, KEYS).look()
    assert state.in_flight or state.looked_ms < 7


async def test_a_look_has_every_number_and_names_what_is_behind(bus: RedisBus) -> None:
    line = Line(bus._redis, KEYS)
    assert (await line.look()).in_flight == ()
    await bus.commit(
        [
            Unit(states=[StateWrite("{paper}:state:executor-svc", 0, b"s", {"acknowledged_trade_id": 5})]),
            Unit(writes=[("HSET", KEYS.features_progress(), "looked_ms", 7, "published", 2)]),
        ]
    )
    state = await line.look()
    assert (state.in_flight, state.looked_ms, state.published, state.acknowledged_trade_id) == ((), 7, 2, 5)
    await bus.append(ALLOCATION_STREAM, b"verdict")
    await taken_in(bus, ALLOCATION_STREAM, "recorder-svc")
    assert (await line.look()).in_flight == ("{paper}:allocations: executor-svc has 0 pending, 1 unread",)

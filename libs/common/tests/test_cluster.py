"""What a cluster does that one server does not: redirections, masters lost one by one, functions per node."""

from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio.connection import SSLConnection
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError

from quantum_common.bus import BusUnavailable, Output, RedisBus, Status, Unit, connect_client
from quantum_common.bus.cluster import ClusterClient, key_of
from quantum_common.bus.server_check import WrongServer, check_server
from quantum_common.testing import RunningCluster, eventually

SLOTS_OF_KEYS = ("{p00}:in", "{p01}:in", "{p02}:in", "{p03}:in", "{paper}:in", "{ctl}:in")


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("redis+cluster://one", [("one", 6379)]),
        ("redis+cluster://u:p%40ss@one:7001,two:7002,[::1]:7003/0", [("one", 7001), ("two", 7002), ("::1", 7003)]),
        ("rediss+cluster://:p%40ss@one:7001?ssl_ca_certs=/ca.pem", [("one", 7001)]),
    ],
)
async def test_the_url_names_nodes_and_what_holds_for_all_of_them(url: str, addresses: list[tuple[str, int]]) -> None:
    client = connect_client(url)
    assert isinstance(client, ClusterClient)
    assert client._first == addresses
    for host, port in addresses:
        pool = client._node((host, port)).connection_pool
        assert (pool.connection_kwargs["host"], pool.connection_kwargs["port"]) == (host, port)
        assert pool.connection_kwargs.get("password") == ("p@ss" if "@" in url else None)
        assert (pool.connection_class is SSLConnection) == url.startswith("rediss")


@pytest.mark.parametrize("url", ["redis+cluster://", "redis+cluster://one:7001,", "redis+cluster://one:7001/3"])
def test_a_url_that_means_no_cluster_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="cluster"):
        connect_client(url)


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("XADD", "a", "*", "e", b"x"), "a"),
        (("XINFO GROUPS", "a"), "a"),
        (("XGROUP", "CREATE", "a", "g", "0"), "a"),
        (("FCALL", "f", 2, "a", "b", b"x"), "a"),
        (("XREADGROUP", b"GROUP", "STREAMS", "c", b"COUNT", 1, b"STREAMS", "a", ">"), "a"),
        (("XREAD", b"COUNT", 1, b"STREAMS", b"a", "0"), "a"),
        (("FUNCTION LOAD", "code"), None),
    ],
)
def test_a_command_goes_where_its_first_key_is(command: Sequence[Any], key: str | None) -> None:
    assert key_of(command) == key


class Node:
    """Answers with a layout of one node, and with what a test wants to anything else."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.sent = list(answers), 0

    async def execute_command(self, *args: Any, **_: Any) -> Any:
        if args[0] == "CLUSTER SLOTS":
            return [[0, 16_383, [b"one", 1, b"id"]]]
        self.sent += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("answers", "sent"),
    [
        ([RedisConnectionError("the reply was lost")], 1),
        ([TryAgainError("")], 1),
        ([ClusterDownError("")], 1),
        ([AskError("1 one:1")], 1),
        ([MovedError("1 one:1"), MovedError("1 one:1")], 2),
    ],
)
async def test_a_command_is_sent_again_only_when_the_node_said_that_it_belongs_elsewhere(
    answers: list[Exception], sent: int
) -> None:
    node: Any = Node(*answers)
    bus = RedisBus(ClusterClient([("one", 1)], lambda host, port: node))
    with pytest.raises(BusUnavailable):
        await bus.append("a", b"x")
    assert node.sent == sent


async def test_a_client_with_an_old_layout_still_reaches_every_slot(cluster: RunningCluster) -> None:
    bus = RedisBus.connect(cluster.url)
    await bus._redis.flushall()
    wrong = ("127.0.0.1", cluster.masters[0].port)
    for call in ("append", "stream_infos"):
        bus._redis._masters = [wrong] * 16_384
        for stream in SLOTS_OF_KEYS:
            if call == "append":
                await bus.append(stream, b"x")
        assert {info.length for info in (await bus.stream_infos(SLOTS_OF_KEYS)).values()} == {1}
    await bus.close()


async def test_a_transaction_is_of_one_slot(cluster: RunningCluster) -> None:
    client: Any = connect_client(cluster.url)
    pipeline = client.pipeline(transaction=True)
    pipeline.hset("{p00}:a", "n", 1)
    pipeline.hget("{p00}:a", "n")
    assert (await pipeline.execute())[1] == b"1"
    for key in ("{p00}:a", "{p01}:a"):
        pipeline.hget(key, "n")
    with pytest.raises(ValueError, match="one slot"):
        await pipeline.execute()
    await client.aclose()


async def test_a_master_that_lost_the_function_library_gets_it_again(cluster: RunningCluster) -> None:
    bus = RedisBus.connect(cluster.url)
    units = [Unit(outputs=[Output(stream, b"x")]) for stream in SLOTS_OF_KEYS]
    assert set(await bus.commit(units)) == {Status.OK}
    cluster.masters[1].ask("FUNCTION", "FLUSH")
    assert set(await bus.commit(units)) == {Status.OK}
    await bus.close()


async def test_a_master_with_settings_of_its_own_is_found_out(cluster: RunningCluster) -> None:
    bus = RedisBus.connect(cluster.url)
    check_server(await bus.server_facts())
    for master in cluster.masters:
        master.ask("CONFIG", "SET", "appendfsync", "everysec")
        with pytest.raises(WrongServer, match="appendfsync everysec"):
            check_server(await bus.server_facts())
        master.ask("CONFIG", "SET", "appendfsync", "always")
    await bus.close()


async def test_a_killed_master_is_unavailable_until_it_is_back_with_all_it_acknowledged(
    cluster: RunningCluster,
) -> None:
    bus = RedisBus.connect(cluster.url)
    await bus._redis.flushall()
    for stream in SLOTS_OF_KEYS:
        await bus.append(stream, b"before")
    killed = cluster.master_of("{p01}:in")
    killed.kill()
    for _ in range(2):
        with pytest.raises(BusUnavailable):
            await bus.append("{p01}:in", b"lost")
    killed.start()

    async def every_slot_answers() -> bool:
        try:
            return {info.length for info in (await bus.stream_infos(SLOTS_OF_KEYS)).values()} == {1}
        except BusUnavailable:
            return False

    await eventually(every_slot_answers, within_s=10)
    await bus.close()


async def test_a_cluster_that_nobody_answers_for_is_unavailable() -> None:
    bus = RedisBus.connect("redis+cluster://127.0.0.1:1,127.0.0.1:2")
    with pytest.raises(BusUnavailable, match="layout"):
        await bus.append("a", b"x")
    await bus.close()

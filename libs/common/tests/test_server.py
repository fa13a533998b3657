"""What the server must be, and what happens when it is full, emptied, or lost a group."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from quantum_common.bus import (
    Bus,
    BusUnavailable,
    Consumer,
    Lease,
    MemoryBus,
    Output,
    Received,
    RedisBus,
    ServerFull,
    StateWrite,
    Status,
    Unit,
    Watermark,
    redis_bus,
    run_consumer,
)
from quantum_common.bus.server_check import WrongServer, check_server
from quantum_common.contracts import Look, Producer, encode, envelope
from quantum_common.service import FleetSettings, Service, Stop, build_app
from quantum_common.testing import eventually, free_port, running_server

IN, OUT, GROUP = "{ctl}:control", "{ctl}:out", "worker"
GOOD = {"version": "7.2.4", "appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


def event(number: int) -> bytes:
    return encode(
        envelope(Look("clock", number), producer=Producer("test", "1", "0"), produced_at_ms=0, natural_key=str(number))
    )


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"version": "6.2.14"}, "version 6.2.14"),
        ({"appendonly": "no"}, "`appendonly yes`"),
        ({"appendfsync": "everysec"}, "CONFIG SET appendfsync always"),
        ({"maxmemory-policy": "allkeys-lru"}, "`maxmemory-policy noeviction`"),
    ],
)
def test_a_wrong_server_is_refused_with_the_setting_and_its_fix(changed: dict[str, str], named: str) -> None:
    assert check_server(GOOD) == []
    with pytest.raises(WrongServer, match=named):
        check_server({**GOOD, **changed})


def test_what_the_server_does_not_tell_is_named() -> None:
    assert check_server({"version": "8.0.0", "appendonly": "yes"}) == ["appendfsync", "maxmemory-policy"]


async def test_the_fleets_own_server_is_as_it_must_be(bus: Bus) -> None:
    assert check_server(await bus.server_facts()) == []


async def test_a_user_who_may_not_read_the_configuration_gets_what_info_tells(server_url: str) -> None:
    admin = RedisBus.connect(server_url)
    await admin._redis.execute_command("ACL", "SETUSER", "svc", "on", ">pw", "~*", "+@all", "-config")
    bus = RedisBus.connect(server_url.replace("redis://", "redis://svc:pw@"))
    facts = await bus.server_facts()
    assert check_server(facts) == ["appendfsync"]
    assert facts["appendonly"] == "yes"
    await admin._redis.execute_command("ACL", "DELUSER", "svc")
    await bus.close()
    await admin.close()


PROGRAM = """
from typing import ClassVar
from quantum_common.bus import RedisBus
from quantum_common.service import FleetSettings, Service, run

class Settings(FleetSettings):
    service: ClassVar[str] = "probe"

async def loop(stop, beat):
    print("works", flush=True)
    await stop.wait(30)

def make():
    settings = Settings()
    return Service(settings, {"loop": loop}, bus=RedisBus.connect(settings.redis_url.get_secret_value()))

run(make)
"""


def process(url: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "QT_REDIS_URL": url, "QT_PORT": str(free_port()), "QT_LOG_LEVEL": "ERROR"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_service_on_a_server_that_would_lose_writes_ends_with_one_line(tmp_path: Path) -> None:
    with running_server(tmp_path, appendfsync="everysec") as url:
        out, said = process(url).communicate(timeout=20)
    assert out == "", "no loop may work before the server is known"
    assert said.splitlines() == [
        "probe stopped: the server has appendfsync everysec, with which a kill loses up to a second of acknowledged "
        "writes: put `appendfsync always` into its configuration (at once: CONFIG SET appendfsync always)"
    ]


class Settings(FleetSettings):
    service: ClassVar[str] = "probe"


class Unreachable(MemoryBus):
    problem = True

    async def server_facts(self) -> dict[str, str]:
        if self.problem:
            raise ServerFull("later")
        return GOOD


async def reasons(service: Service) -> list[str]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(service)), base_url="http://x") as client:
        return (await client.get("/health/ready")).json()["reasons"]


async def test_a_service_waits_for_a_server_that_cannot_be_asked_yet() -> None:
    from quantum_common.service.process import serve

    bus, worked = Unreachable(), asyncio.Event()

    async def loop(stop: Stop, beat: object) -> None:
        worked.set()
        await stop.wait()

    service, stop = Service(Settings(port=free_port()), {"loop": loop}, bus=bus), Stop()
    serving = asyncio.create_task(serve(service, stop))
    await eventually(lambda: service.bus_problem)
    assert await reasons(service) == ["bus: the server is full: free memory or raise maxmemory"]
    assert not worked.is_set()
    bus.problem = False
    await eventually(worked.is_set)
    assert await reasons(service) == []
    stop.request()
    await serving


class Full:
    """A server of which a test decides whether it is full."""

    def __init__(self, url: str) -> None:
        self.bus = RedisBus.connect(url)

    async def fill(self) -> None:
        used = (await self.bus._redis.info("memory"))["used_memory"]
        await self.bus._redis.config_set("maxmemory", used // 2)

    async def free(self) -> None:
        await self.bus._redis.config_set("maxmemory", 0)


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[Full]:
    with running_server(tmp_path) as url:
        found = Full(url)
        yield found
        await found.bus.close()


async def test_a_full_server_takes_nothing_by_half_and_acknowledges_all_the_same(full: Full) -> None:
    bus = full.bus
    await bus.ensure_group(IN, GROUP)
    for number in range(3):
        await bus.append(IN, event(number))
    entries = await bus.read([IN], GROUP, "1", count=10, block_ms=10)
    await bus.commit([Unit(outputs=[Output(OUT, b"before")])])
    await full.fill()
    whole = Unit(
        inputs=entries[:1],
        states=[StateWrite("{ctl}:state:x", 0, b"s")],
        watermarks=[Watermark(OUT, "worker", "BTCUSDT", 1)],
        writes=[("HINCRBY", "{ctl}:counters:x", "n", 1)],
        outputs=[Output(OUT, b"x")],
    )
    with pytest.raises(ServerFull):
        await bus.commit([whole])
    assert (await bus.state("{ctl}:state:x")).version == 0
    assert await bus.counters("{ctl}:counters:x") == {}
    assert [entry.data for entry in await bus.newest(OUT, 10)] == [b"before"]
    assert (await bus.stream_infos([IN]))[IN].groups[GROUP].pending == 3
    await bus.ensure_group(IN, GROUP)
    assert await bus.lease("{ctl}:lease:x", "me", 1000) > 0
    assert await bus.commit([Unit(inputs=entries[1:])]) == [Status.OK]
    [letter] = await bus.newest(OUT, 1)
    assert await bus.commit([Unit(writes=[("XDEL", OUT, letter.entry_id)])]) == [Status.OK]
    assert await bus.trim(IN, [GROUP], 1) == 0, "the first is pending still"
    await full.free()
    assert await bus.commit([whole]) == [Status.OK]
    assert await bus.trim(IN, [GROUP], 1) == 2


async def test_a_consumer_on_a_full_server_says_so_and_goes_on_by_itself_without_loss(full: Full) -> None:
    bus, stop, gate = full.bus, Stop(), asyncio.Event()
    consumer = Consumer(bus, [IN], GROUP, "1")

    async def handle(batch: list[Received]) -> None:
        await gate.wait()
        for received in batch:
            mark = Watermark(OUT, GROUP, "BTCUSDT", received.event.payload.market_ts_ms)
            await consumer.commit(
                [Unit([received.entry], outputs=[Output(OUT, received.entry.data)], watermarks=[mark])]
            )

    for number in range(20):
        await bus.append(IN, event(number))
    service = Service(Settings(), {}, consumers=[consumer])
    running = asyncio.create_task(
        run_consumer(consumer, handle, stopping=lambda: stop.requested, beat=lambda: None, block_ms=20)
    )
    await asyncio.sleep(0.1)
    await full.fill()
    gate.set()
    await eventually(lambda: consumer.problem)
    assert await reasons(service) == ["bus: the server is full: free memory or raise maxmemory"]
    await full.free()
    await eventually(lambda: consumer.problem is None)

    async def done() -> bool:
        return (await bus.stream_infos([IN]))[IN].groups[GROUP].pending == 0

    await eventually(done)
    stop.request()
    await running
    assert [entry.data for entry in reversed(await bus.newest(OUT, 100))] == [event(number) for number in range(20)]
    assert await reasons(service) == []


async def test_f02_a_group_lost_at_any_call_is_made_again_and_hands_everything_out(server_url: str) -> None:
    """Somebody may destroy it between any two calls of a consumer; none of them may crash the loop."""
    bus = RedisBus.connect(server_url)
    await bus._redis.flushall()
    await bus.append(IN, event(1))
    assert await bus.read_own_pending(IN, GROUP, "1", "0", 10) == ([], None)
    await bus.take_over(IN, GROUP, "1")
    await bus._redis.xgroup_destroy(IN, GROUP)
    assert await bus.claim(IN, GROUP, "1", min_idle_ms=0, count=10) == []
    await bus._redis.xgroup_destroy(IN, GROUP)
    assert await bus.retire(IN, GROUP, idle_ms=0) == 0
    entries = await bus.read([IN], GROUP, "1", count=10, block_ms=10) or await bus.read(
        [IN], GROUP, "1", count=10, block_ms=10
    )
    await bus._redis.xgroup_destroy(IN, GROUP)
    assert await bus.commit([Unit(inputs=entries, outputs=[Output(OUT, b"x")])]) == [Status.LOST]
    assert await bus.newest(OUT, 1) == []
    assert (
        len(
            await bus.read([IN], GROUP, "1", count=10, block_ms=10)
            or await bus.read([IN], GROUP, "1", count=10, block_ms=10)
        )
        == 1
    )
    await bus.close()


async def test_an_older_and_a_newer_library_of_functions_work_beside_each_other(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rolling redeploy: both kinds of instances commit to the same states and streams."""
    bus = RedisBus.connect(server_url)
    await bus._redis.flushall()
    names = {"old": "quantum_commit_000000000000", "new": redis_bus._NAME}
    for version in range(6):
        kind = ("old", "new")[version % 2]
        with monkeypatch.context() as patch:
            patch.setattr(redis_bus, "_LIBRARY", redis_bus._LIBRARY.replace(redis_bus._NAME, names[kind]))
            patch.setattr(redis_bus, "_NAME", names[kind])
            unit = Unit(states=[StateWrite("{ctl}:state:x", version, kind.encode())], outputs=[Output(OUT, b"x")])
            assert await bus.commit([unit]) == [Status.OK]
            assert await bus.commit([unit]) == [Status.STALE]
    assert len(await bus.newest(OUT, 10)) == 6
    libraries = {row[1].decode() for row in await bus._redis.function_list()}
    assert libraries >= set(names.values())
    await bus._redis.function_delete(names["old"])
    await bus.close()


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    ],
)
async def test_a_server_that_takes_no_writes_at_the_moment_condemns_no_entry(
    server_url: str, spoil: tuple[str, ...], mend: tuple[str, ...]
) -> None:
    bus = RedisBus.connect(server_url)
    await bus._redis.flushall()
    unit = Unit(outputs=[Output("{p00}:out", b"x")])
    await bus.commit([unit])
    await bus._redis.execute_command(*spoil)
    try:
        with pytest.raises(BusUnavailable):
            await bus.commit([unit])
    finally:
        await bus._redis.execute_command(*mend)
    assert await bus.commit([unit]) == [Status.OK]
    await bus.close()


async def test_a_read_that_waits_while_its_server_is_made_a_replica_ends_no_process(server_url: str) -> None:
    bus, admin = RedisBus.connect(server_url), RedisBus.connect(server_url)
    await bus.ensure_group(IN, GROUP)
    reading = asyncio.create_task(bus.read([IN], GROUP, "1", count=1, block_ms=5_000))
    await asyncio.sleep(0.1)
    try:
        await admin._redis.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(BusUnavailable, match="UNBLOCKED"):
            await reading
    finally:
        await admin._redis.execute_command("REPLICAOF", "NO", "ONE")
    await bus.close()
    await admin.close()


async def test_a_server_that_runs_a_long_script_is_waited_for(server_url: str) -> None:
    bus, admin = RedisBus.connect(server_url), RedisBus.connect(server_url)
    await bus.ensure_group(IN, GROUP)
    await admin._redis.config_set("busy-reply-threshold", 50)
    script = asyncio.create_task(admin._redis.eval("while true do end", 0))
    await asyncio.sleep(0.3)
    try:
        with pytest.raises(BusUnavailable, match="BUSY"):
            await bus.read([IN], GROUP, "1", count=1, block_ms=10)
    finally:
        await bus._redis.script_kill()
        await asyncio.wait([script])
        await admin._redis.config_set("busy-reply-threshold", 5_000)
    assert script.exception() is not None
    await bus.close()
    await admin.close()


async def test_an_instance_that_stands_by_forgets_the_trouble_it_had_while_it_worked() -> None:
    bus, stop = MemoryBus(), Stop()
    consumer = Consumer(bus, [IN], GROUP, "1", lease=Lease(bus, "{ctl}:lease:worker", "1"))
    consumer.problem = "bus unavailable: from the outage in which it lost the lease"
    await bus.lease("{ctl}:lease:worker", "another", 60_000)

    async def handle(batch: object) -> None:
        raise AssertionError("it does not work")

    running = asyncio.create_task(
        run_consumer(consumer, handle, stopping=lambda: stop.requested, beat=lambda: None, block_ms=20)
    )
    await eventually(lambda: consumer.problem is None)
    stop.request()
    await running

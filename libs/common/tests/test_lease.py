"""One worker at a time, a successor within seconds, and a zombie that can write nothing."""

import asyncio
import contextlib
import time
from collections.abc import Sequence

import pytest

from quantum_common.bus import (
    Bus,
    BusUnavailable,
    Consumer,
    Lease,
    Output,
    Received,
    RedisBus,
    StateWrite,
    Status,
    Unit,
    run_consumer,
)
from quantum_common.contracts import Look, Producer, decode, encode, envelope
from quantum_common.testing import eventually

KEY, IN, OUT, GROUP = "{ctl}:lease:worker", "{ctl}:control", "{ctl}:out", "worker"
PRODUCER = Producer("test", "1", "0")


def event(number: int) -> bytes:
    return encode(envelope(Look("clock", number), producer=PRODUCER, produced_at_ms=0, natural_key=str(number)))


async def numbers(bus: Bus, stream: str = OUT) -> list[int]:
    return [decode(entry.data).payload.market_ts_ms for entry in reversed(await bus.newest(stream, 1000))]


async def test_one_owner_at_a_time_and_every_new_one_has_a_greater_token(bus: Bus) -> None:
    assert await bus.lease_token(KEY) == 0
    first = await bus.lease(KEY, "a", 300)
    assert await bus.lease(KEY, "b", 300) == 0
    assert await bus.lease(KEY, "a", 300) == first == await bus.lease_token(KEY)
    await asyncio.sleep(0.35)
    second = await bus.lease(KEY, "b", 300)
    assert second > first > 0
    assert await bus.lease(KEY, "a", 300) == 0


async def test_a_lease_given_back_is_free_at_once_and_only_its_owner_can_give_it_back(bus: Bus) -> None:
    first = await bus.lease(KEY, "a", 60_000)
    assert await bus.lease(KEY, "b", 0) == 0
    assert await bus.lease(KEY, "b", 60_000) == 0
    await bus.lease(KEY, "a", 0)
    assert await bus.lease(KEY, "b", 60_000) > first


async def test_a_server_that_lost_its_data_gives_out_no_token_twice(bus: Bus) -> None:
    first = await bus.lease(KEY, "a", 10)
    await bus.commit([Unit(writes=[("DEL", KEY)])])
    await asyncio.sleep(0.01)
    assert await bus.lease(KEY, "b", 10) > first


async def test_f13_what_an_owner_commits_after_another_took_over_is_refused_whole(bus: Bus) -> None:
    zombie, successor = Lease(bus, KEY, "1", ttl_ms=100), Lease(bus, KEY, "2")
    assert await zombie.renew()
    unit = Unit(states=[StateWrite("{ctl}:state", 0, b"zombie")], outputs=[Output(OUT, event(1))])
    await asyncio.sleep(0.15)
    assert not zombie.held
    assert await successor.renew()
    assert await bus.commit([zombie.fence(unit), successor.fence(unit)]) == [Status.FENCED, Status.OK]
    assert await numbers(bus) == [1]
    assert not await zombie.still_mine()
    assert await successor.still_mine()
    assert not await zombie.renew()
    assert zombie.elsewhere


async def test_an_expired_lease_that_nobody_took_is_still_good(bus: Bus) -> None:
    slow = Lease(bus, KEY, "1", ttl_ms=50)
    await slow.renew()
    await asyncio.sleep(0.1)
    assert not slow.held
    assert await bus.commit([slow.fence(Unit(outputs=[Output(OUT, event(1))]))]) == [Status.OK]
    token = slow.token
    assert await slow.renew()
    assert slow.token == token


async def test_what_is_written_in_another_slot_carries_no_fence(bus: Bus) -> None:
    lease = Lease(bus, KEY, "1")
    await lease.renew()
    assert lease.fence(Unit(outputs=[Output("{p00}:out", b"")])).fence is None
    assert lease.fence(Unit(outputs=[Output(OUT, b"")])).fence is not None


class Worker:
    """A service instance with a lease: it copies numbers, and holds odd ones back until it is told to let go."""

    def __init__(self, bus: Bus, instance: str) -> None:
        self.bus = bus
        self.lease = Lease(bus, KEY, instance)
        self.consumer = Consumer(bus, [IN], GROUP, instance, lease=self.lease)
        self.starts = 0
        self.stopping = False
        self.frozen = asyncio.Event()
        self.frozen.set()
        self.held: list[Received] = []
        self.task = asyncio.create_task(
            run_consumer(
                self.consumer,
                self.handle,
                stopping=lambda: self.stopping,
                beat=lambda: None,
                block_ms=50,
                on_start=self.start,
            )
        )

    async def start(self) -> None:
        self.starts += 1
        self.held.clear()

    async def handle(self, batch: Sequence[Received]) -> None:
        await self.frozen.wait()  # a pause between reading and committing
        units = [Unit(inputs=[each.entry], outputs=[Output(OUT, encode(each.event))]) for each in batch]
        if units:
            self.statuses = await self.consumer.commit(units)

    async def stop(self) -> None:
        self.stopping = True
        self.frozen.set()
        await self.task


async def test_of_two_instances_one_works_and_the_other_goes_on_when_it_stops(bus: Bus) -> None:
    first = Worker(bus, "1")
    await eventually(lambda: first.lease.held)
    second = Worker(bus, "2")
    await bus.append(IN, event(1))
    await eventually(lambda: numbers_are(bus, [1]))
    assert (first.starts, second.starts) == (1, 0)
    await first.stop()
    await bus.append(IN, event(2))
    await eventually(lambda: numbers_are(bus, [1, 2]), within_s=2)
    assert second.starts == 1
    await second.stop()


async def numbers_are(bus: Bus, expected: list[int]) -> bool:
    return await numbers(bus) == expected


async def test_f13_a_successor_takes_all_that_is_pending_first_and_the_paused_one_writes_nothing(bus: Bus) -> None:
    first = Worker(bus, "1")
    await eventually(lambda: first.lease.held)
    first.frozen.clear()
    first.lease._bus = Silent()  # a paused process renews nothing either
    for number in (1, 2, 3):
        await bus.append(IN, event(number))
    await eventually(lambda: pending(bus, 3))
    paused_at = time.monotonic()
    second = Worker(bus, "2")
    await bus.append(IN, event(4))
    await eventually(lambda: numbers_are(bus, [1, 2, 3, 4]), within_s=4)
    assert time.monotonic() - paused_at <= 3.0
    first.lease._bus = bus
    first.frozen.set()
    await eventually(lambda: first.lease.elsewhere)
    assert set(first.statuses) == {Status.FENCED}
    await first.stop()
    await second.stop()
    assert await numbers(bus) == [1, 2, 3, 4]


class Silent:
    """A server that the owner does not reach."""

    async def lease(self, key: str, owner: str, ttl_ms: int) -> int:
        raise BusUnavailable("paused")


async def pending(bus: Bus, count: int) -> bool:
    groups = (await bus.stream_infos([IN]))[IN].groups
    return GROUP in groups and groups[GROUP].pending == count


async def test_entries_of_several_slots_come_as_they_arrive_and_none_is_lost_at_a_restart(bus: Bus) -> None:
    streams = ["{p00}:features", "{p01}:features", "{acct}:executions"]
    consumer = Consumer(bus, streams, GROUP, "1")
    await consumer.start()
    assert await consumer._new(20) == []
    for stream in streams:
        await bus.append(stream, stream.encode())
        started = time.monotonic()
        found = await consumer._new(2000)
        assert [entry.stream for entry in found] == [stream]
        assert time.monotonic() - started < 0.5
    reading = asyncio.create_task(consumer._new(2000))
    await asyncio.sleep(0.02)
    await bus.append(streams[0], b"late")
    await reading
    await bus.append(streams[1], b"handed over to a read that nobody asks for any more")
    await consumer.stop()
    again = Consumer(bus, streams, GROUP, "1")
    await again.start()
    left = []
    while page := await again._left():
        left += page
    assert len(left) == 5


async def test_f03_a_consumer_that_is_gone_is_forgotten_only_when_it_holds_nothing(server_url: str) -> None:
    bus = RedisBus.connect(server_url)
    await bus._redis.flushall()
    await bus.ensure_group(IN, GROUP)
    for number in range(2):
        await bus.append(IN, event(number))
    for name in ("holds", "done"):
        entries = await bus.read([IN], GROUP, name, count=1, block_ms=10)
        if name == "done":
            await bus.commit([Unit(inputs=entries)])
    assert await bus.retire(IN, GROUP, idle_ms=60_000) == 0
    assert await bus.retire(IN, GROUP, idle_ms=0) == 1
    consumers = await bus._redis.xinfo_consumers(IN, GROUP)
    assert [(row["name"], row["pending"]) for row in consumers] == [(b"holds", 1)]
    await bus.close()


@pytest.mark.parametrize("lost", ["library", "everything"])
async def test_a_server_without_the_function_library_gets_it_again(server_url: str, lost: str) -> None:
    bus = RedisBus.connect(server_url)
    await bus.commit([Unit(outputs=[Output(OUT, event(1))])])
    await bus._redis.function_flush()
    if lost == "everything":
        await bus._redis.flushall()
    assert await bus.commit([Unit(outputs=[Output(OUT, event(2))])]) == [Status.OK]
    await bus._redis.function_flush()
    assert await bus.lease(KEY, "a", 100) > 0
    await bus.close()


@pytest.mark.parametrize("why", ["lapsed", "stopping"])
async def test_nothing_is_read_after_a_start_that_the_lapse_of_the_lease_or_a_stop_cut_short(
    bus: Bus, why: str
) -> None:
    lease = Lease(bus, KEY, "1")
    consumer = Consumer(bus, [IN], GROUP, "1", lease=lease)
    calls: list[str] = []

    async def start() -> None:
        calls.append("start")
        if len(calls) == 1 and why == "lapsed":
            lease._until = 0.0  # as after a pause; nobody else wants it, so it comes back under the same token
        if len(calls) == 1 and why == "stopping":
            calls.append("stop")

    async def handle(batch: Sequence[Received]) -> None:
        calls.extend(["handle", "stop"])

    await run_consumer(
        consumer, handle, stopping=lambda: "stop" in calls, beat=lambda: None, block_ms=500, on_start=start
    )
    assert calls == (["start", "start", "handle", "stop"] if why == "lapsed" else ["start", "stop"])


async def test_an_owner_whose_work_fails_ends_though_its_renewal_swallows_the_cancellation() -> None:
    lease = Lease(Deaf(), KEY, "1")

    async def work() -> None:
        async with lease.keep(lambda: False):
            await asyncio.sleep(0.01)
            raise ValueError

    task = asyncio.create_task(work())
    done, _ = await asyncio.wait([task], timeout=2)
    assert done
    assert isinstance(task.exception(), ExceptionGroup)


class Deaf:
    """A client that goes on when it is cancelled."""

    async def lease(self, key: str, owner: str, ttl_ms: int) -> int:
        if ttl_ms:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
        return ttl_ms

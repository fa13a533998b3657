"""Whatever the order of deliveries, claims, commits and crashes: every input takes effect once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantum_common.bus import Bus, Entry, MemoryBus, Output, RedisBus, StateWrite, Status, Unit, Watermark

IN, OUT, TALLY, ELSEWHERE, GROUP = "{a}:in", "{a}:out", "{a}:tally", "{b}:out", "worker"

Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "read", "claim", "take_over", "prepare", "commit", "commit_twice", "crash"]),
        st.integers(0, 2),
    ),
    max_size=60,
)


class Instance:
    """A consumer that reads, prepares a unit from the state it saw, and commits it: three moments, not one."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.bus, self.name = bus, name
        self.held: list[Entry] = []
        self.units: list[Unit] = []

    async def prepare(self) -> None:
        """The tally counts inputs by their data; its version is the one seen now."""
        state = await self.bus.state(TALLY)
        tally: dict[str, int] = msgspec.json.decode(state.data) if state.data else {}
        fresh = {entry[:2]: entry for entry in self.held}.values()
        for entry in fresh:
            tally[entry.data.decode()] = tally.get(entry.data.decode(), 0) + 1
        self.units = [
            Unit(
                inputs=list(fresh),
                states=[StateWrite(TALLY, state.version, msgspec.json.encode(tally))],
                outputs=[Output(OUT, entry.data) for entry in fresh],
            ),
            *(
                Unit(
                    watermarks=[Watermark(ELSEWHERE, GROUP, entry.data.decode(), 1)],
                    outputs=[Output(ELSEWHERE, entry.data)],
                )
                for entry in fresh
            ),
        ]

    async def commit(self) -> None:
        """First what lies in another slot, as a hop between slots does; then the rest with the acknowledgement."""
        if self.units:
            mine, *elsewhere = self.units
            if elsewhere:
                await self.bus.commit(elsewhere)
            if (await self.bus.commit([mine]))[0] is not Status.STALE:
                self.held.clear()
                self.units.clear()

    async def restart(self) -> None:
        self.held, self.units = [], []
        page, _ = await self.bus.read_own_pending(IN, GROUP, self.name, "0", 1000)
        self.held = page

    async def finish(self) -> None:
        """What a new owner does: take over all that is pending, then read what is left."""
        await self.bus.take_over(IN, GROUP, self.name)
        await self.restart()
        self.held += await self.bus.read([IN], GROUP, self.name, count=1000, block_ms=1)
        if self.held:
            await self.prepare()
            await self.commit()


async def play(bus: Bus, steps: Sequence[Step]) -> None:
    await bus.ensure_group(IN, GROUP)
    instances = [Instance(bus, str(number)) for number in range(3)]
    written = 0
    for step, number in steps:
        instance = instances[number]
        match step:
            case "write":
                written += 1
                await bus.append(IN, b"%d" % written)
            case "read":
                instance.held += await bus.read([IN], GROUP, instance.name, count=2, block_ms=1)
            case "claim":
                instance.held += await bus.claim(IN, GROUP, instance.name, min_idle_ms=0, count=3)
            case "take_over":
                await bus.take_over(IN, GROUP, instance.name)
                await instance.restart()
            case "prepare":
                await instance.prepare()
            case "commit":
                await instance.commit()
            case "commit_twice":  # the reply was lost
                units = list(instance.units)
                await instance.commit()
                if units:
                    await bus.commit(units)
            case "crash":
                await instance.restart()
    await instances[0].finish()
    expected = Counter(f"{number}".encode() for number in range(1, written + 1))
    for stream in (OUT, ELSEWHERE):
        assert Counter(entry.data for entry in await bus.newest(stream, 1000)) == expected, stream
    tally = (await bus.state(TALLY)).data
    assert {key.encode(): count for key, count in (msgspec.json.decode(tally) if tally else {}).items()} == expected
    assert (await bus.stream_infos([IN]))[IN].groups[GROUP].pending == 0


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_any_interleaving_gives_every_input_one_effect(steps: list[Step]) -> None:
    asyncio.run(play(MemoryBus(), steps))


@given(steps=STEPS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_interleaving_gives_every_input_one_effect_on_a_server(server_url: str, steps: list[Step]) -> None:
    async def run() -> None:
        bus = RedisBus.connect(server_url)
        await bus._redis.flushall()
        await play(bus, steps)
        await bus.close()

    asyncio.run(run())

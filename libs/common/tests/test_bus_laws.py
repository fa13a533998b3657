"""Whatever the order of deliveries, claims, commits and crashes: every input takes effect once.

Inputs are of three kinds, each guarded by one thing alone: outputs in the inputs' own slot (by the inputs that are
still pending), a state in another slot (by its version), outputs in another slot (by a watermark).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantum_common.bus import Bus, Entry, MemoryBus, Output, RedisBus, StateWrite, Status, Unit, Watermark

IN, GROUP, TALLY = "{a}:in", "worker", "{b}:tally"
OUTS = PENDING, VERSION, WATERMARK = "{a}:out", "{b}:counted", "{b}:relayed"

Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "read", "prepare", "commit", "turn", "claim", "repeat", "crash"]),
        st.integers(0, 1),
    ),
    min_size=8,
    max_size=60,
)


class Instance:
    """A consumer that reads, prepares units from the state it saw, and commits them: three moments, not one."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.bus, self.name = bus, name
        self.held: dict[str, Entry] = {}
        self.units: list[Unit] = []
        self.committed: list[Unit] = []

    def hold(self, entries: Sequence[Entry]) -> None:
        self.held |= {entry.entry_id: entry for entry in entries}

    async def read(self) -> None:
        self.hold(await self.bus.read([IN], GROUP, self.name, count=3, block_ms=0))

    async def claim(self) -> None:
        self.hold(await self.bus.claim(IN, GROUP, self.name, min_idle_ms=0, count=3))

    async def prepare(self) -> None:
        state = await self.bus.state(TALLY)
        seen: list[bytes] = msgspec.json.decode(state.data, type=list[bytes]) if state.data else []
        by_kind: dict[str, list[Entry]] = {stream: [] for stream in OUTS}
        for entry in self.held.values():
            by_kind[OUTS[int(entry.data) % 3]].append(entry)
        counted = [entry.data for entry in by_kind[VERSION] if entry.data not in seen]
        self.units = [
            *(Unit(inputs=[each], outputs=[Output(PENDING, each.data)]) for each in by_kind[PENDING]),
            *(
                Unit(
                    inputs=[each],
                    watermarks=[Watermark(WATERMARK, GROUP, each.data.decode(), 1)],
                    outputs=[Output(WATERMARK, each.data)],
                )
                for each in by_kind[WATERMARK]
            ),
        ]
        if by_kind[VERSION]:
            write = StateWrite(TALLY, state.version, msgspec.json.encode([*seen, *counted]))
            outputs = [Output(VERSION, data) for data in counted]
            self.units.append(Unit(inputs=by_kind[VERSION], states=[write], outputs=outputs))

    async def commit(self) -> None:
        if not self.units:
            return
        statuses = await self.bus.commit(self.units)
        for unit, status in zip(self.units, statuses, strict=True):
            if status is not Status.STALE:
                for entry in unit.inputs:
                    self.held.pop(entry.entry_id, None)
        self.committed, self.units = self.units, []

    async def turn(self) -> None:
        await self.read()
        await self.prepare()
        await self.commit()

    async def repeat(self) -> None:
        """The reply to the last commit was lost: it is sent again."""
        if self.committed:
            await self.bus.commit(self.committed)

    async def crash(self) -> None:
        self.held, self.units, self.committed = {}, [], []
        self.hold((await self.bus.read_own_pending(IN, GROUP, self.name, "0", 1000))[0])

    async def finish(self) -> None:
        """What a new owner does: take over all that is pending, then read what is left."""
        await self.bus.take_over(IN, GROUP, self.name)
        await self.crash()
        self.hold(await self.bus.read([IN], GROUP, self.name, count=1000, block_ms=0))
        await self.prepare()
        await self.commit()


async def play(bus: Bus, steps: Sequence[Step]) -> None:
    await bus.ensure_group(IN, GROUP)
    instances = [Instance(bus, str(number)) for number in range(2)]
    written = 0
    for step, number in steps:
        if step == "write":
            await bus.append(IN, b"%d" % written)
            written += 1
        else:
            await getattr(instances[number], step)()
    await instances[0].finish()
    for kind, stream in enumerate(OUTS):
        expected = Counter(b"%d" % number for number in range(written) if number % 3 == kind)
        assert Counter(entry.data for entry in await bus.newest(stream, 1000)) == expected, stream
    assert (await bus.stream_infos([IN]))[IN].groups[GROUP].pending == 0


@given(STEPS)
@settings(max_examples=400, deadline=None)
def test_any_interleaving_gives_every_input_one_effect(steps: list[Step]) -> None:
    asyncio.run(play(MemoryBus(), steps))


@given(steps=STEPS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_interleaving_gives_every_input_one_effect_on_a_server(server_url: str, steps: list[Step]) -> None:
    async def run() -> None:
        bus = RedisBus.connect(server_url)
        await bus._redis.flushall()
        await play(bus, steps)
        await bus.close()

    asyncio.run(run())

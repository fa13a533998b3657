"""Two versions of the commit function on one server: clients of both work on the same streams and states."""

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

import pytest

from contracts.builders import BAR_MS, BTC, HOUR_MS, features
from contracts.previous_client import NAME, PreviousClient
from quantum_common.bus import Entry, Output, RedisBus, StateWrite, Unit, Watermark
from quantum_common.contracts import FEATURES, PREDICTIONS, Keys, decode, encode

KEYS = Keys()
IN, OUT = KEYS.stream(FEATURES, BTC), KEYS.stream(PREDICTIONS, BTC)
STATE = KEYS.state("worker", BTC)
BARS = 60

Commit = Callable[[list[Unit]], Awaitable[list[str]]]


class Worker:
    """Counts bars in a versioned state and passes each on, through the commit of its version."""

    def __init__(self, name: str, bus: RedisBus, commit: Commit) -> None:
        self.name, self._bus, self._commit = name, bus, commit

    async def read(self, count: int) -> list[Entry]:
        return await self._bus.read([IN], "worker", self.name, count=count, block_ms=10)

    async def claim(self) -> list[Entry]:
        return await self._bus.claim(IN, "worker", self.name, min_idle_ms=0, count=1000)

    async def version(self) -> int:
        return (await self._bus.state(STATE)).version

    async def unit(self, entry: Entry, read_version: int | None = None) -> Unit:
        version = await self.version() if read_version is None else read_version
        return Unit(
            inputs=[entry],
            states=[StateWrite(STATE, version, b"%d bars" % (version + 1))],
            watermarks=[Watermark(OUT, "worker", BTC, decode(entry.data).bar_ts_ms)],
            writes=[("HINCRBY", KEYS.counters("worker"), self.name, 1)],
            outputs=[Output(OUT, entry.data)],
        )

    async def do(self, entry: Entry, read_version: int | None = None) -> str:
        (status,) = await self._commit([await self.unit(entry, read_version)])
        return str(status)


@pytest.fixture
def workers(bus: RedisBus) -> tuple[Worker, Worker]:
    """Of version N−1 and of today."""
    return Worker("old", bus, PreviousClient(bus._redis).commit), Worker("new", bus, bus.commit)  # type: ignore[arg-type]


async def put(bus: RedisBus, bars: int) -> None:
    await bus.ensure_group(IN, "worker")
    for number in range(bars):
        await bus.append(IN, encode(features(bar_ms=BAR_MS + number * HOUR_MS)))


async def libraries(bus: RedisBus) -> set[str]:
    rows: list[list[Any]] = await bus._redis.function_list()
    return {row[row.index(b"library_name") + 1].decode() for row in rows}


async def outcome(bus: RedisBus) -> tuple[list[int], int, int]:
    """Bars passed on, in order; bars in the state; entries still pending."""
    passed = [decode(entry.data).bar_ts_ms for entry in reversed(await bus.newest(OUT, 10_000))]
    info = (await bus.stream_infos([IN]))[IN]
    return passed, (await bus.state(STATE)).version, info.groups["worker"].pending


def expected(bars: int) -> tuple[list[int], int, int]:
    return [BAR_MS + number * HOUR_MS for number in range(bars)], bars, 0


async def test_the_libraries_stand_side_by_side_because_their_names_carry_their_content(
    bus: RedisBus, workers: tuple[Worker, Worker]
) -> None:
    await put(bus, 2)
    for worker in workers:
        (entry,) = await worker.read(1)
        assert await worker.do(entry) == "OK"
    source = (files("quantum_common.bus") / "functions.lua").read_bytes()
    today = "quantum_commit_" + hashlib.sha256(source).hexdigest()[:12]
    assert await libraries(bus) == {NAME, today}
    assert today != NAME


async def test_old_and_new_take_turns_and_nothing_is_lost_or_doubled(
    bus: RedisBus, workers: tuple[Worker, Worker]
) -> None:
    await put(bus, BARS)
    for number in range(BARS):
        worker = workers[number % 2]
        (entry,) = await worker.read(1)
        assert await worker.do(entry) == "OK"
    assert await outcome(bus) == expected(BARS)
    assert await bus.counters(KEYS.counters("worker")) == {"old": BARS // 2, "new": BARS // 2}


@pytest.mark.parametrize("first", [0, 1])
async def test_who_read_the_state_before_the_other_version_wrote_it_must_redo(
    bus: RedisBus, workers: tuple[Worker, Worker], first: int
) -> None:
    await put(bus, 2)
    quick, slow = workers[first], workers[1 - first]
    (one,), (two,) = await quick.read(1), await slow.read(1)
    seen = await slow.version()
    assert await quick.do(one) == "OK"
    assert await slow.do(two, seen) == "STALE"
    assert await slow.do(two) == "OK"
    assert await outcome(bus) == expected(2)


@pytest.mark.parametrize("first", [0, 1])
async def test_what_the_other_version_took_over_is_lost_to_who_had_it(
    bus: RedisBus, workers: tuple[Worker, Worker], first: int
) -> None:
    await put(bus, BARS)
    stopped, heir = workers[first], workers[1 - first]
    held = await stopped.read(BARS)
    taken = await heir.claim()
    assert [entry.entry_id for entry in taken] == [entry.entry_id for entry in held]
    for mine, theirs in zip(taken, held, strict=True):
        assert await stopped.do(theirs) == "LOST"
        assert await heir.do(mine) == "OK"
        assert await stopped.do(theirs) == "LOST"
    assert await outcome(bus) == expected(BARS)


@pytest.mark.parametrize("first", [0, 1])
async def test_outputs_of_one_version_are_refused_from_the_other(
    bus: RedisBus, workers: tuple[Worker, Worker], first: int
) -> None:
    """The same bar twice on the input, as after a lost reply of a cross-slot hop."""
    await put(bus, 1)
    await put(bus, 1)
    quick, late = workers[first], workers[1 - first]
    (one,), (again,) = await quick.read(1), await late.read(1)
    assert await quick.do(one) == "OK"
    assert await late.do(again) == "DUP"
    assert await outcome(bus) == expected(1)

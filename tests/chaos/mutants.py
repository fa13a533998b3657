"""The commit with one of its guards taken out: what the suite must be able to see.

Switches of the suite alone: a changed function library, under a name of its own because its content differs.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from quantum_common.bus import RedisBus, Status, Unit, redis_bus

GUARDS = {
    "no pending check": "if not mine[id] then return 'LOST' end",
    "no version check": "if tonumber(version) ~= state[2] then return 'STALE' end",
    "no watermark": "if position and tonumber(position) >= mark[3] then return 'DUP' end",
}
MULTI = "MULTI instead of commit"
MUTANTS = (*GUARDS, MULTI)


@contextlib.contextmanager
def mutant(name: str) -> Iterator[None]:
    """The bus without a guard, for as long as the context lasts. Empty name: the bus as it is."""
    before = redis_bus._SOURCE, redis_bus._NAME, redis_bus._LIBRARY, RedisBus._commit
    try:
        if name == MULTI:
            RedisBus._commit = _multi  # type: ignore[method-assign]
        elif name:
            assert GUARDS[name] in redis_bus._SOURCE, f"functions.lua has no guard {GUARDS[name]!r} any more"
            _use(redis_bus._SOURCE.replace(GUARDS[name], ""))
        yield
    finally:
        redis_bus._SOURCE, redis_bus._NAME, redis_bus._LIBRARY, RedisBus._commit = before  # type: ignore[method-assign]


def _use(source: str) -> None:
    name = "quantum_mutant_" + hashlib.sha256(source.encode()).hexdigest()[:12]
    redis_bus._SOURCE, redis_bus._NAME = source, name
    redis_bus._LIBRARY = f"#!lua name={name}\n" + source.replace("@NAME@", name)


async def _multi(self: Any, units: Sequence[Unit], slot: str) -> list[Status]:
    """What one would write without a function: atomic, but nothing is looked at first."""
    pipeline = self._redis.pipeline(transaction=True)
    for unit in units:
        for state in unit.states:
            pipeline.hset(state.key, mapping={"v": state.read_version + 1, "s": state.data, **state.fields})
        for mark in unit.watermarks:
            pipeline.hset(mark.key, f"{mark.service}|{mark.symbol}", mark.position)
        for write in unit.writes:
            pipeline.execute_command(*write)
        for output in unit.outputs:
            pipeline.xadd(output.stream, {"e": output.data})
        for entry in unit.inputs:
            if redis_bus.tag_of(entry.stream) == slot:
                pipeline.xack(entry.stream, entry.group, entry.entry_id)
    await redis_bus.reach(pipeline.execute())
    return [Status.OK] * len(units)

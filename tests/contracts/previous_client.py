"""How version N−1 speaks to its own commit function, frozen: a process that a redeploy has not replaced yet."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgpack
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from quantum_common.bus import Unit

SOURCE = (Path(__file__).parent / "previous" / "functions.lua").read_text()
NAME = "quantum_commit_" + hashlib.sha256(SOURCE.encode()).hexdigest()[:12]


class PreviousClient:
    """Only the commit: reading is plain XREADGROUP in every version."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    async def commit(self, units: list[Unit]) -> list[str]:
        wired = [_wire(unit) for unit in units]
        keys = sorted({key for unit in wired for key in _keys(unit)})
        payload = msgpack.packb(wired, use_bin_type=False)
        try:
            reply = await self._redis.fcall(NAME, len(keys), *keys, payload)
        except ResponseError as error:
            if "Function not found" not in str(error):
                raise
            await self._redis.function_load(f"#!lua name={NAME}\n" + SOURCE.replace("@NAME@", NAME))
            reply = await self._redis.fcall(NAME, len(keys), *keys, payload)
        return [status.decode() for status in reply]


def _wire(unit: Unit) -> list[Any]:
    inputs: dict[tuple[str, str, str], list[str]] = {}
    for entry in unit.inputs:
        inputs.setdefault((entry.stream, entry.group, entry.consumer), []).append(entry.entry_id)
    return [
        [[*key, ids] for key, ids in inputs.items()],
        [[state.key, state.read_version, ["s", state.data]] for state in unit.states],
        [[mark.key, f"{mark.service}|{mark.symbol}", mark.position] for mark in unit.watermarks],
        [list(write) for write in unit.writes],
        [list(output) for output in unit.outputs],
        unit.alone,
    ]


def _keys(unit: list[Any]) -> list[str]:
    inputs, states, marks, writes, outputs, _ = unit
    return [row[0] for row in (*inputs, *states, *marks, *outputs)] + [row[1] for row in writes]

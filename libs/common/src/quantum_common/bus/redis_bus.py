"""The bus on a server or cluster: plain redis.asyncio with hiredis, and one server-side function for the commit."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import msgpack
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from quantum_common.bus.client import Client, connect_client
from quantum_common.bus.cluster import ClusterClient
from quantum_common.bus.port import (
    BusUnavailable,
    Entry,
    GroupInfo,
    ServerFull,
    State,
    Status,
    StreamInfo,
    Unit,
    tag_of,
)
from quantum_common.bus.server_check import REQUIRED

log = logging.getLogger(__name__)

_SOURCE = (files("quantum_common.bus") / "functions.lua").read_text()
_NAME = "quantum_commit_" + hashlib.sha256(_SOURCE.encode()).hexdigest()[:12]
"""The name carries the content, so that old and new code coexist in a rolling redeploy."""
_LIBRARY = f"#!lua name={_NAME}\n" + _SOURCE.replace("@NAME@", _NAME)
_MAX_INPUTS = 512  # Lua's unpack fails near 8,000 values


class RedisBus:
    """Redis ≥ 7.0 or Valkey ≥ 8, one server or a cluster. `connect` builds the client; the first call reaches out."""

    def __init__(self, client: Client) -> None:
        self._redis: Any = client  # its annotations are unions over both protocols

    @classmethod
    def connect(cls, url: str) -> RedisBus:
        """URLs as `connect_client` takes them."""
        return cls(connect_client(url))

    async def ensure_group(self, stream: str, group: str) -> None:
        try:
            await reach(self._redis.execute_command("XGROUP", "CREATE", stream, group, "0", "MKSTREAM"))
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        except ServerFull:  # it refuses the command before it looks; what has its group goes on, or nothing drains
            if group not in (await self.stream_infos([stream]))[stream].groups:
                raise

    async def read(
        self, streams: Sequence[str], group: str, consumer: str, *, count: int, block_ms: int
    ) -> list[Entry]:
        try:
            reply = await reach(
                self._redis.xreadgroup(
                    group, consumer, dict.fromkeys(streams, ">"), count=count, block=block_ms or None
                )
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            for stream in streams:
                await self.ensure_group(stream, group)
            return []
        return _entries(reply, group, consumer)

    async def read_own_pending(
        self, stream: str, group: str, consumer: str, after_id: str, count: int
    ) -> tuple[list[Entry], str | None]:
        try:
            reply = await reach(self._redis.xreadgroup(group, consumer, {stream: after_id}, count=count))
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            return [], None
        rows = [entry_id for _, entries in reply or [] for entry_id, _ in entries]
        return _entries(reply, group, consumer), _text(rows[-1]) if rows else None

    async def claim(self, stream: str, group: str, consumer: str, *, min_idle_ms: int, count: int) -> list[Entry]:
        try:
            reply = await reach(self._redis.xautoclaim(stream, group, consumer, min_idle_time=min_idle_ms, count=count))
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.ensure_group(stream, group)
            return []
        return _entries([(stream.encode(), reply[1])], group, consumer)

    async def take_over(self, stream: str, group: str, consumer: str) -> None:
        try:
            await self._function("_take_over", [stream], group, consumer)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.ensure_group(stream, group)

    async def retire(self, stream: str, group: str, *, idle_ms: int) -> int:
        return int(await self._function("_retire", [stream], group, idle_ms))

    async def lease(self, key: str, owner: str, ttl_ms: int) -> int:
        return int(await self._function("_lease", [key], owner, ttl_ms))

    async def lease_token(self, key: str) -> int:
        return int(await reach(self._redis.hget(key, "token")) or 0)

    async def commit(self, units: Sequence[Unit]) -> list[Status]:
        statuses: dict[int, Status] = {}
        by_slot: dict[str, list[int]] = {}
        for number, unit in enumerate(units):
            by_slot.setdefault(unit.slot, []).append(number)
        for slot, numbers in by_slot.items():
            here = [units[number] for number in numbers]
            replies = await self._commit(here, slot)
            statuses.update(zip(numbers, replies, strict=True))
            await self._ack_elsewhere(here, replies, slot)
        return [statuses[number] for number in range(len(units))]

    async def _commit(self, units: Sequence[Unit], slot: str) -> list[Status]:
        wired = [_wire(unit, slot) for unit in units]
        keys = sorted({key for unit in wired for key in _keys(unit)})
        payload = msgpack.packb(wired, use_bin_type=False)  # the server's Lua knows no bin type
        function = "_acknowledge" if all(unit.frees for unit in units) else ""
        # A missing group means the server lost its data: the entries are gone with it.
        return [
            Status.LOST if status == b"NOGROUP" else Status(status.decode())
            for status in await self._function(function, keys, payload)
        ]

    async def _function(self, suffix: str, keys: Sequence[str], *arguments: bytes | str | int) -> Any:
        """Call a function of the library, which is loaded where it is missing."""
        call = ("FCALL", _NAME + suffix, len(keys), *keys, *arguments)
        try:
            return await reach(self._redis.execute_command(*call))
        except ResponseError as error:
            if "Function not found" not in str(error):
                raise
            await self.load_functions()
            return await reach(self._redis.execute_command(*call))

    async def load_functions(self) -> None:
        """Have this version's functions on the server; BusUnavailable where this user may not load them."""
        try:
            await reach(self._redis.function_load(_LIBRARY))
        except NoPermissionError as error:
            raise BusUnavailable(
                f"the server lacks the functions {_NAME} of this version: run `quantum redis-setup` as its admin"
            ) from error
        except ResponseError as error:
            if "already exists" not in str(error):
                raise

    async def _ack_elsewhere(self, units: Sequence[Unit], statuses: Sequence[Status], slot: str) -> None:
        acks: dict[tuple[str, str], list[str]] = {}
        for unit, status in zip(units, statuses, strict=True):
            if status is Status.OK or (status is Status.DUP and unit.alone):
                for entry in unit.inputs:
                    if tag_of(entry.stream) != slot:
                        acks.setdefault((entry.stream, entry.group), []).append(entry.entry_id)
        for (stream, group), ids in acks.items():
            await reach(self._redis.xack(stream, group, *ids))

    async def state(self, key: str) -> State:
        fields: dict[bytes, bytes] = await reach(self._redis.hgetall(key))
        if not fields:
            return State(0, None, {})
        version, data = int(fields.pop(b"v")), fields.pop(b"s", None)
        return State(version, data, {name.decode(): value.decode() for name, value in fields.items()})

    async def counters(self, key: str) -> dict[str, int]:
        return {name.decode(): int(value) for name, value in (await reach(self._redis.hgetall(key))).items()}

    async def vectors(self, requests: Sequence[tuple[str, int, int]]) -> list[list[bytes]]:
        pipeline = self._redis.pipeline(transaction=False)
        for key, highest, count in requests:
            pipeline.execute_command("ZRANGE", key, highest, "-inf", "BYSCORE", "REV", "LIMIT", 0, count)
        return [list(reversed(members)) for members in await reach(pipeline.execute())]

    async def tail(self, positions: Mapping[str, str], *, count: int, block_ms: int | None) -> list[Entry]:
        by_slot: dict[str, dict[str, str]] = {}
        for stream, after_id in positions.items():
            by_slot.setdefault(tag_of(stream), {})[stream] = after_id
        if block_ms is not None and len(by_slot) > 1:
            raise ValueError(f"a tail that waits reads one slot, not {sorted(by_slot)}")
        return [
            entry
            for streams in by_slot.values()
            for entry in _entries(await reach(self._redis.xread(streams, count=count, block=block_ms)), "", "")
        ]

    async def newest(self, stream: str, count: int) -> list[Entry]:
        return _entries([(stream.encode(), await reach(self._redis.xrevrange(stream, count=count)))], "", "")

    async def append(self, stream: str, data: bytes) -> str:
        entry_id: bytes = await reach(self._redis.xadd(stream, {"e": data}, maxlen=10_000, approximate=True))
        return entry_id.decode()

    async def stream_infos(self, streams: Sequence[str]) -> dict[str, StreamInfo]:
        pipeline = self._redis.pipeline(transaction=False)
        for stream in streams:
            pipeline.xinfo_stream(stream)
            pipeline.xinfo_groups(stream)
        replies = await reach(pipeline.execute(raise_on_error=False))
        return {
            stream: _stream_info(replies[2 * number], replies[2 * number + 1]) for number, stream in enumerate(streams)
        }

    async def oldest_pending(self, stream: str, group: str) -> str | None:
        try:
            return await self._oldest_pending(stream, group)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            return None

    async def _oldest_pending(self, stream: str, group: str) -> str | None:
        found = await reach(self._redis.xpending(stream, group))
        return _text(found["min"]) if found["pending"] else None

    async def trim(self, stream: str, groups: Sequence[str], keep: int) -> int | None:
        info = (await self.stream_infos([stream]))[stream]
        if any(group not in info.groups for group in groups):
            return None
        if info.length <= keep:
            return 0
        needed = []
        for group in groups:
            try:
                oldest = await self._oldest_pending(stream, group)
            except ResponseError as error:  # lost since: what it had in hand is not known any more
                if "NOGROUP" not in str(error):
                    raise
                return None
            needed.append(oldest or info.groups[group].last_delivered_id)
        newest = await reach(self._redis.xrevrange(stream, count=keep))
        needed.append(_text(newest[-1][0]) if newest else "0-0")
        return int(await reach(self._redis.xtrim(stream, minid=min(needed, key=_id_order), approximate=False)))

    async def server_facts(self) -> dict[str, str]:
        """From INFO, and from CONFIG where the user may read it. Of a cluster those of a master, with the settings of
        any other that are not as REQUIRED."""
        is_cluster = isinstance(self._redis, ClusterClient)
        first, *others = await reach(self._redis.masters()) if is_cluster else [self._redis]
        facts = await self._facts_of(first)
        for other in others:
            found = await self._facts_of(other)
            facts |= {name: found[name] for name, (value, _) in REQUIRED.items() if found.get(name, value) != value}
        return facts

    async def _facts_of(self, server: Any) -> dict[str, str]:
        facts: dict[str, str] = {}
        for call in (_info_facts, _config_facts):
            try:
                facts |= await call(server)
            except ResponseError as error:
                log.debug("the server does not tell its settings: %s", error)
        return facts

    async def close(self) -> None:
        await self._redis.aclose()


NOT_NOW = ("MISCONF", "NOREPLICAS", "READONLY", "You can't write against a read only replica", "UNBLOCKED", "BUSY ")
"""A disk that takes no append-only file, a master without replicas, a server made a replica (which also ends the reads
that wait there), a long script: no fault of an entry."""


async def reach(call: Awaitable[Any]) -> Any:
    """The call's reply. BusUnavailable when the server cannot be reached, or does not do it at the moment; its other
    refusals (ResponseError) pass."""
    try:
        return await call
    except OutOfMemoryError as error:
        raise ServerFull(f"{type(error).__name__}: {error}") from error
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        raise BusUnavailable(f"{type(error).__name__}: {error}") from error
    except ResponseError as error:
        if not str(error).startswith(NOT_NOW):
            raise
        raise BusUnavailable(str(error)) from error
    except RuntimeError as error:  # what uvloop says when the other side closed between connecting and writing
        if "handler is closed" not in str(error):
            raise
        raise BusUnavailable(str(error)) from error


async def _info_facts(server: Any) -> dict[str, str]:
    info = await reach(server.info())
    found = {
        "version": info.get("redis_version"),  # Valkey names here the Redis version it is compatible with
        "appendonly": {0: "no", 1: "yes"}.get(info.get("aof_enabled")),
        "maxmemory-policy": info.get("maxmemory_policy"),
        "maxmemory": info.get("maxmemory"),
        "used_memory": info.get("used_memory"),
    }
    return {name: str(value) for name, value in found.items() if value is not None}


async def _config_facts(server: Any) -> dict[str, str]:
    found = [await reach(server.config_get(name)) for name in REQUIRED]
    return {_text(name): _text(value) for row in found for name, value in row.items()}


def _stream_info(info: Any, groups: Any) -> StreamInfo:
    for reply in (info, groups):
        if isinstance(reply, ResponseError) and "no such key" in str(reply):
            return StreamInfo("0-0", 0)
        if isinstance(reply, Exception):
            raise reply
    return StreamInfo(
        _text(info["last-generated-id"]),
        int(info["length"]),
        {
            _text(row["name"]): GroupInfo(
                _text(row["name"]), int(row["pending"]), row.get("lag"), _text(row["last-delivered-id"])
            )
            for row in groups
        },
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _id_order(entry_id: str) -> tuple[int, int]:
    high, _, low = entry_id.partition("-")
    return int(high), int(low)


def _wire(unit: Unit, slot: str) -> list[Any]:
    """The unit as functions.lua reads it; inputs of other slots are acknowledged afterwards."""
    inputs: dict[tuple[str, str, str], list[str]] = {}
    for entry in unit.inputs:
        if tag_of(entry.stream) == slot:
            inputs.setdefault((entry.stream, entry.group, entry.consumer), []).append(entry.entry_id)
    if sum(map(len, inputs.values())) > _MAX_INPUTS:
        raise ValueError(f"a unit takes at most {_MAX_INPUTS} inputs")
    return [
        [[*key, sorted(ids, key=_id_order)] for key, ids in inputs.items()],
        [[state.key, state.read_version, _fields(state.data, state.fields)] for state in unit.states],
        [[mark.key, f"{mark.service}|{mark.symbol}", mark.position] for mark in unit.watermarks],
        [list(write) for write in unit.writes],
        [list(output) for output in unit.outputs],
        unit.alone,
        list(unit.fence or ()),
    ]


def _fields(data: bytes, extra: Mapping[str, str | int]) -> list[str | bytes]:
    flat: list[str | bytes] = ["s", data]
    for name, value in extra.items():
        flat += [name, str(value)]
    return flat


def _keys(unit: list[Any]) -> list[str]:
    inputs, states, marks, writes, outputs, _, fence = unit
    return [*(row[0] for row in (*inputs, *states, *marks, *outputs)), *(row[1] for row in writes), *fence[:1]]


def _entries(reply: Any, group: str, consumer: str) -> list[Entry]:
    rows = reply.items() if isinstance(reply, dict) else reply or []
    return [
        Entry(_text(stream), _text(entry_id), fields.get(b"e", b""), group, consumer)
        for stream, entries in rows
        for entry_id, fields in entries
        if fields is not None  # trimmed while pending
    ]

"""The bus in memory, with the semantics of the real one. For tests of cores and apps; nothing survives it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from quantum_common.bus.port import (
    Entry,
    GroupInfo,
    State,
    Status,
    StreamInfo,
    Unit,
    tag_of,
)


@dataclass
class _Pending:
    consumer: str
    delivered_at: float


@dataclass
class _Group:
    last: int = 0
    pending: dict[int, _Pending] = field(default_factory=dict)


@dataclass
class _Stream:
    """Entries by sequence number; the id of number n is `n-0`."""

    entries: dict[int, bytes] = field(default_factory=dict)
    last: int = 0
    groups: dict[str, _Group] = field(default_factory=dict)


class MemoryBus:
    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        self._hashes: dict[str, dict[str, bytes]] = {}
        self._sorted: dict[str, dict[bytes, float]] = {}
        self._changed = asyncio.Condition()

    def _stream(self, name: str) -> _Stream:
        return self._streams.setdefault(name, _Stream())

    async def ensure_group(self, stream: str, group: str) -> None:
        self._stream(stream).groups.setdefault(group, _Group())

    async def read(
        self, streams: Sequence[str], group: str, consumer: str, *, count: int, block_ms: int
    ) -> list[Entry]:
        for stream in streams:
            await self.ensure_group(stream, group)
        return await self._wait(lambda: self._take_new(streams, group, consumer, count), block_ms)

    def _take_new(self, streams: Sequence[str], group: str, consumer: str, count: int) -> list[Entry]:
        taken = []
        for name in streams:
            stream = self._stream(name)
            state = stream.groups[group]
            for number in [number for number in stream.entries if number > state.last][:count]:
                state.last = number
                state.pending[number] = _Pending(consumer, time.monotonic())
                taken.append(Entry(name, f"{number}-0", stream.entries[number], group, consumer))
        return taken

    async def read_own_pending(
        self, stream: str, group: str, consumer: str, after_id: str, count: int
    ) -> tuple[list[Entry], str | None]:
        state = self._stream(stream).groups.get(group, _Group())
        after = _number(after_id)
        mine = [n for n, row in sorted(state.pending.items()) if row.consumer == consumer and n > after]
        page = mine[:count]
        return [self._entry(stream, n, group, consumer) for n in page], f"{page[-1]}-0" if page else None

    async def claim(self, stream: str, group: str, consumer: str, *, min_idle_ms: int, count: int) -> list[Entry]:
        await self.ensure_group(stream, group)
        now = time.monotonic()
        pending = self._stream(stream).groups[group].pending
        idle = [n for n, row in sorted(pending.items()) if (now - row.delivered_at) * 1000 >= min_idle_ms][:count]
        for number in idle:
            pending[number] = _Pending(consumer, now)
        return [self._entry(stream, number, group, consumer) for number in idle]

    async def take_over(self, stream: str, group: str, consumer: str) -> None:
        for row in self._stream(stream).groups[group].pending.values():
            row.consumer = consumer

    async def retire(self, stream: str, group: str, *, idle_ms: int) -> int:
        return 0  # consumers exist only as names of pending entries

    async def lease(self, key: str, owner: str, ttl_ms: int) -> int:
        found = self._hashes.setdefault(key, {})
        now_ms = time.time_ns() // 1_000_000
        mine = found.get("owner") == owner.encode()
        if ttl_ms == 0:
            if mine:
                found |= {"owner": b"", "until_ms": b"0"}
            return 0
        if not mine and int(found.get("until_ms", b"0")) > now_ms:
            return 0
        token = int(found.get("token", b"0"))
        token = token if mine else max(token + 1, now_ms)
        found |= {"owner": owner.encode(), "token": b"%d" % token, "until_ms": b"%d" % (now_ms + ttl_ms)}
        return token

    async def lease_token(self, key: str) -> int:
        return int(self._hashes.get(key, {}).get("token", b"0"))

    def _entry(self, stream: str, number: int, group: str, consumer: str) -> Entry:
        return Entry(stream, f"{number}-0", self._stream(stream).entries[number], group, consumer)

    async def commit(self, units: Sequence[Unit]) -> list[Status]:
        statuses = []
        for unit in units:
            status = self._check(unit)
            if status is Status.OK:
                self._write(unit)
            if status is Status.OK or (status is Status.DUP and unit.alone):
                for entry in unit.inputs:
                    self._stream(entry.stream).groups[entry.group].pending.pop(_number(entry.entry_id), None)
            statuses.append(status)
        async with self._changed:
            self._changed.notify_all()
        return statuses

    def _check(self, unit: Unit) -> Status:
        slot, fence = unit.slot, unit.fence
        if fence and int(self._hashes.get(fence.key, {}).get("token", b"0")) != fence.token:
            return Status.FENCED
        for entry in unit.inputs:
            if tag_of(entry.stream) != slot:
                continue
            group = self._stream(entry.stream).groups.get(entry.group, _Group())
            row = group.pending.get(_number(entry.entry_id))
            if row is None or row.consumer != entry.consumer:
                return Status.LOST
        for state in unit.states:
            if int(self._hashes.get(state.key, {}).get("v", b"0")) != state.read_version:
                return Status.STALE
        newest: dict[tuple[str, str], int] = {}
        for mark in unit.watermarks:
            name = f"{mark.service}|{mark.symbol}"
            position = newest.get((mark.key, name), self._hashes.get(mark.key, {}).get(name))
            if position is not None and int(position) >= mark.position:
                return Status.DUP
            newest[mark.key, name] = mark.position
        return Status.OK

    def _write(self, unit: Unit) -> None:
        for state in unit.states:
            target = self._hashes.setdefault(state.key, {})
            target |= {"v": str(state.read_version + 1).encode(), "s": state.data}
            target |= {name: str(value).encode() for name, value in state.fields.items()}
        for mark in unit.watermarks:
            self._hashes.setdefault(mark.key, {})[f"{mark.service}|{mark.symbol}"] = str(mark.position).encode()
        for command, key, *arguments in unit.writes:
            self._apply(str(command), str(key), arguments)
        for output in unit.outputs:
            self._add(output.stream, output.data)

    def _apply(self, command: str, key: str, arguments: Sequence[str | bytes | int | float]) -> None:
        match command.upper(), list(arguments):
            case "HINCRBY", [name, step]:
                target = self._hashes.setdefault(key, {})
                target[str(name)] = str(int(target.get(str(name), b"0")) + int(step)).encode()
            case "HSET", [*pairs]:
                names, values = pairs[::2], pairs[1::2]
                self._hashes.setdefault(key, {}).update(
                    (str(name), _bytes(value)) for name, value in zip(names, values, strict=True)
                )
            case "ZADD", [score, member]:
                self._sorted.setdefault(key, {})[_bytes(member)] = float(score)
            case "ZREMRANGEBYRANK", [start, stop]:
                ranked = sorted(self._sorted.get(key, {}).items(), key=lambda row: (row[1], row[0]))
                size = len(ranked)
                first, last = (int(i) + size if int(i) < 0 else int(i) for i in (start, stop))
                for member, _ in ranked[max(first, 0) : max(last + 1, 0)]:
                    del self._sorted[key][member]
            case "XDEL", [*entry_ids]:
                for entry_id in entry_ids:
                    self._stream(key).entries.pop(_number(str(entry_id)), None)
            case "DEL", []:
                self._hashes.pop(key, None)
                self._sorted.pop(key, None)
            case _:
                raise ValueError(f"MemoryBus does not know {command} with {len(arguments)} arguments")

    def _add(self, name: str, data: bytes) -> str:
        stream = self._stream(name)
        stream.last += 1
        stream.entries[stream.last] = data
        return f"{stream.last}-0"

    async def state(self, key: str) -> State:
        fields = dict(self._hashes.get(key, {}))
        if not fields:
            return State(0, None, {})
        version, data = int(fields.pop("v")), fields.pop("s", None)
        return State(version, data, {name: value.decode() for name, value in fields.items()})

    async def counters(self, key: str) -> dict[str, int]:
        return {name: int(value) for name, value in self._hashes.get(key, {}).items()}

    async def vectors(self, requests: Sequence[tuple[str, int, int]]) -> list[list[bytes]]:
        found = []
        for key, highest, count in requests:
            rows = sorted((score, member) for member, score in self._sorted.get(key, {}).items() if score <= highest)
            found.append([member for _, member in rows[-count:]])
        return found

    async def tail(self, positions: Mapping[str, str], *, count: int, block_ms: int | None) -> list[Entry]:
        if block_ms is not None and len({tag_of(stream) for stream in positions}) > 1:
            raise ValueError(f"a tail that waits reads one slot, not {sorted(positions)}")

        def after() -> list[Entry]:
            return [
                Entry(name, f"{number}-0", data)
                for name, position in positions.items()
                for number, data in list(self._stream(name).entries.items())
                if number > _number(position)
            ][:count]

        return after() if block_ms is None else await self._wait(after, block_ms)

    async def _wait(self, take: Callable[[], list[Entry]], block_ms: int) -> list[Entry]:
        async with self._changed:
            if not (found := take()):
                try:
                    async with asyncio.timeout(block_ms / 1000):
                        while not (found := take()):
                            await self._changed.wait()
                except TimeoutError:
                    return []
            return found

    async def newest(self, stream: str, count: int) -> list[Entry]:
        entries = self._stream(stream).entries
        return [Entry(stream, f"{number}-0", entries[number]) for number in sorted(entries, reverse=True)[:count]]

    async def append(self, stream: str, data: bytes) -> str:
        entry_id = self._add(stream, data)
        async with self._changed:
            self._changed.notify_all()
        return entry_id

    async def stream_infos(self, streams: Sequence[str]) -> dict[str, StreamInfo]:
        return {stream: self._info(self._stream(stream)) for stream in streams}

    @staticmethod
    def _info(found: _Stream) -> StreamInfo:
        groups = {
            name: GroupInfo(name, len(group.pending), sum(n > group.last for n in found.entries), f"{group.last}-0")
            for name, group in found.groups.items()
        }
        return StreamInfo(f"{found.last}-0", len(found.entries), groups)

    async def oldest_pending(self, stream: str, group: str) -> str | None:
        found = self._stream(stream).groups.get(group, _Group())
        return f"{min(found.pending)}-0" if found.pending else None

    async def trim(self, stream: str, groups: Sequence[str], keep: int) -> int | None:
        found = self._stream(stream)
        if any(group not in found.groups for group in groups):
            return None
        needed = [min(found.groups[group].pending, default=found.groups[group].last) for group in groups]
        newest = sorted(found.entries)[-keep:]
        floor = min([*needed, newest[0] if newest else 0])
        dropped = [number for number in found.entries if number < floor]
        for number in dropped:
            del found.entries[number]
        return len(dropped)

    async def server_facts(self) -> Mapping[str, str]:
        return {"version": "memory"}

    async def close(self) -> None:
        return None


def _number(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])


def _bytes(value: str | bytes | int | float) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()

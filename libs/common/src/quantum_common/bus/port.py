"""What a bus is: durable streams with consumer groups, versioned state, and one atomic commit over both.

Two implementations pass the same behaviour suite: `RedisBus` (Redis ≥ 7.0 or Valkey ≥ 8) and `MemoryBus` (tests).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from quantum_common import QuantumError


class BusUnavailable(QuantumError):
    """The server cannot be reached, or refused for want of memory; the same call may be tried again."""

    @property
    def reason(self) -> str:
        """As readiness tells it."""
        return f"bus unavailable: {self}"


class ServerFull(BusUnavailable):
    """The server has reached its maxmemory and takes nothing but acknowledgements, reads and trimming."""

    @property
    def reason(self) -> str:
        return "bus: the server is full: free memory or raise maxmemory"


def tag_of(key: str) -> str:
    """Hash tag of a key, which decides its slot; a key without one is its own."""
    head, brace, _ = key.partition("}")
    return head + brace if brace and head.startswith("{") else key


class Entry(NamedTuple):
    """One stream entry, as delivered to a consumer of a group or read without one."""

    stream: str
    entry_id: str
    data: bytes
    group: str = ""
    consumer: str = ""


class StateWrite(NamedTuple):
    """A versioned state, written whole: refused (STALE) unless its version still is `read_version` (0 = absent)."""

    key: str
    read_version: int
    data: bytes
    fields: Mapping[str, str | int] = {}
    """Extra plain fields of the same hash, for readers that only need a number."""


class State(NamedTuple):
    version: int
    data: bytes | None
    fields: Mapping[str, str]


class Watermark(NamedTuple):
    """Outputs that repeat are refused (DUP): `position` must grow per service and symbol on a stream.

    For one event per bar it is the bar's open time; where there are several, bar time × 1000 + sequence.
    """

    stream: str
    service: str
    symbol: str
    position: int

    @property
    def key(self) -> str:
        tag, _, name = self.stream.partition(":")
        return f"{tag}:watermark:{name}"


class Fence(NamedTuple):
    """Proof of a lease: refused (FENCED) once someone else has taken it over, which makes the token grow."""

    key: str
    token: int


class Output(NamedTuple):
    stream: str
    data: bytes


Write = tuple[str | bytes | int | float, ...]
"""A raw command: name, key, arguments. Only commands that cannot fail on the right type of key."""


@dataclass(frozen=True, slots=True)
class Unit:
    """All or nothing: inputs still pending and mine, states unchanged, watermarks newer; then writes, outputs, acks.

    Inputs whose stream lives in another slot than what is written are acknowledged right after the commit: a crash
    between the two redoes the unit, which its state or watermark then refuses.
    """

    inputs: Sequence[Entry] = ()
    states: Sequence[StateWrite] = ()
    watermarks: Sequence[Watermark] = ()
    writes: Sequence[Write] = ()
    outputs: Sequence[Output] = ()
    alone: bool = True
    """False: several units merged into one, whose inputs a DUP does not acknowledge (one of them repeats)."""
    fence: Fence | None = None

    @property
    def slot(self) -> str:
        """Tag of what the unit writes; of its inputs when it only acknowledges. ValueError for more than one."""
        tags = {tag_of(key) for key in self.touched() or [entry.stream for entry in self.inputs]}
        if len(tags) != 1:
            raise ValueError(f"a unit writes to one slot, not to {sorted(tags)}")
        return tags.pop()

    def touched(self) -> list[str]:
        """Keys that are written, the target slot first."""
        return [
            *(state.key for state in self.states),
            *(mark.key for mark in self.watermarks),
            *(str(write[1]) for write in self.writes),
            *(output.stream for output in self.outputs),
        ]

    @property
    def frees(self) -> bool:
        """It only acknowledges and deletes entries: a full server takes it too."""
        deletes = all(str(write[0]).upper() == "XDEL" for write in self.writes)
        return deletes and not (self.states or self.watermarks or self.outputs)


class Status(StrEnum):
    OK = "OK"
    LOST = "LOST"
    """An input is no longer pending under this consumer: someone else did it. Drop the result."""
    STALE = "STALE"
    """The state moved on since it was read. Reload and redo."""
    FENCED = "FENCED"
    """The lease is someone else's now. Drop the result, and what led to it."""
    DUP = "DUP"
    """The outputs are there already; the inputs have been acknowledged."""


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """How far a group is on a stream. `lag` None: the server cannot tell (F02: alarm)."""

    name: str
    pending: int
    lag: int | None
    last_delivered_id: str


@dataclass(frozen=True, slots=True)
class StreamInfo:
    last_id: str
    length: int
    groups: dict[str, GroupInfo] = field(default_factory=dict)


class Bus(Protocol):
    """Errors: every method raises BusUnavailable when the server cannot be reached."""

    async def ensure_group(self, stream: str, group: str) -> None:
        """Create the group at the stream's start (so nothing written earlier is missed) unless it exists."""

    async def read(
        self, streams: Sequence[str], group: str, consumer: str, *, count: int, block_ms: int
    ) -> list[Entry]:
        """New entries; recreates a lost group. Waits up to `block_ms` (0: not at all), below the socket timeout."""

    async def read_own_pending(
        self, stream: str, group: str, consumer: str, after_id: str, count: int
    ) -> tuple[list[Entry], str | None]:
        """Entries delivered to this consumer before and not acknowledged, oldest first, and the last id of the page.

        None as id: there is no further page. Entries that are gone are left out of a page.
        """

    async def claim(self, stream: str, group: str, consumer: str, *, min_idle_ms: int, count: int) -> list[Entry]:
        """Take over entries that nobody acknowledged for `min_idle_ms`."""

    async def take_over(self, stream: str, group: str, consumer: str) -> None:
        """Make everything that is pending in the group this consumer's, whoever read it; `read_own_pending` has it."""

    async def retire(self, stream: str, group: str, *, idle_ms: int) -> int:
        """Forget consumers that have nothing pending and did nothing for `idle_ms`; returns how many (F03)."""

    async def lease(self, key: str, owner: str, ttl_ms: int) -> int:
        """Take or renew a lease for `ttl_ms` of the server's clock, or give it back (0).

        Returns the fencing token, which grows with every new owner; 0 when it is another owner's or given back.
        """

    async def lease_token(self, key: str) -> int:
        """The token of whoever had the lease last; 0 when nobody had."""

    async def commit(self, units: Sequence[Unit]) -> list[Status]:
        """Each unit on its own, in order, in one round trip per slot."""

    async def state(self, key: str) -> State:
        """Version 0 and no data when the key is absent."""

    async def counters(self, key: str) -> dict[str, int]:
        """All fields of a hash of integers."""

    async def vectors(self, requests: Sequence[tuple[str, int, int]]) -> list[list[bytes]]:
        """Per (sorted-set key, highest score, count): the newest `count` members up to that score, oldest first."""

    async def tail(self, positions: Mapping[str, str], *, count: int, block_ms: int | None) -> list[Entry]:
        """Entries after the given ids, read without a group. Ids only, `$` is not resolved.

        `block_ms` None: what is there, at once, slot after slot. A wait is for streams of one slot (ValueError); a
        server ends it only at its next tick, up to 100 ms late.
        """

    async def newest(self, stream: str, count: int) -> list[Entry]:
        """The newest entries, newest first."""

    async def append(self, stream: str, data: bytes) -> str:
        """A plain append, for streams that need no exactly-once (control)."""

    async def stream_infos(self, streams: Sequence[str]) -> dict[str, StreamInfo]:
        """One row per stream; an absent stream has last id `0-0` and no groups."""

    async def oldest_pending(self, stream: str, group: str) -> str | None:
        """Id of the oldest entry that was handed out and not acknowledged."""

    async def trim(self, stream: str, groups: Sequence[str], keep: int) -> int | None:
        """Drop entries that every one of `groups` has acknowledged, keeping the newest `keep` anyway.

        Returns how many went; None when a group is missing, and then nothing is dropped.
        """

    async def server_facts(self) -> Mapping[str, str]:
        """`version`, `used_memory`, `maxmemory` (bytes, 0 = no limit) and the settings of `server_check.REQUIRED`, as
        far as the server tells them to this user."""

    async def close(self) -> None: ...

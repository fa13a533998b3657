"""What a look at the streams means: numbers per stream and group, and the alarms that follow from them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

import msgspec

from quantum_common.bus import StreamInfo
from quantum_common.contracts import REGISTRY
from quantum_common.contracts.streams import StreamSpec

KEPT_ENTRIES = 5_000
"""Newest entries of a stream that stay although all have read them: people and dashboards look back."""
RISING_TURNS = 6
UNDELIVERED_LIMIT_S = 60
PENDING_LIMIT_S = 600
HOLDS_TRIMMING_S = 60
MEMORY_LIMIT = 0.8
DISK_LIMIT = 0.95
NEVER = "0-0"


class Kind(StrEnum):
    GROUP_MISSING = "group_missing"
    LAG_UNKNOWN = "lag_unknown"
    LAG_RISING = "lag_rising"
    UNDELIVERED = "undelivered"
    PENDING_OLD = "pending_old"
    TRIM_BLOCKED = "trim_blocked"
    DEAD_LETTERS = "dead_letters"
    SILENT = "silent"
    MEMORY = "memory"
    DISK = "disk"


PATIENCE_S = {Kind.GROUP_MISSING: 30, Kind.SILENT: 60}
"""How long a condition holds before it is an alarm, where a healthy start shows it as well."""


class Seen(NamedTuple):
    """One stream as the server has it now."""

    stream: str
    spec: StreamSpec
    info: StreamInfo
    undelivered: Mapping[str, str] = {}
    """Group → id of the oldest entry that it has not been given."""
    pending: Mapping[str, str] = {}
    """Group → id of the oldest entry that it was given and has not acknowledged."""
    dead_letters: int = 0


class Storage(NamedTuple):
    """Fractions in use; None = no limit, or not told."""

    memory: float | None = None
    disk: float | None = None


_UNLIMITED = Storage()


class GroupRow(msgspec.Struct, frozen=True):
    group: str
    missing: bool
    pending: int = 0
    lag: int | None = 0
    """None: the server cannot tell (F02)."""
    undelivered_age_s: float = 0.0
    """Of the oldest entry that the group has not been given; 0 when there is none."""
    pending_age_s: float = 0.0
    """Of the oldest entry that is not acknowledged; 0 when there is none."""
    last_delivery_age_s: float | None = None
    """Since the watch saw the group take something; before that, the age of the newest entry it has. None: never."""


class StreamRow(msgspec.Struct, frozen=True):
    stream: str
    length: int
    last_entry_age_s: float | None
    """None: nothing was ever written."""
    dead_letters: int
    groups: tuple[GroupRow, ...]


class Condition(NamedTuple):
    kind: Kind
    stream: str
    group: str
    text: str

    @property
    def key(self) -> tuple[Kind, str, str]:
        return self.kind, self.stream, self.group


class Alarm(msgspec.Struct, frozen=True):
    kind: Kind
    stream: str
    group: str
    since_ms: int
    text: str

    @property
    def key(self) -> tuple[Kind, str, str]:
        return self.kind, self.stream, self.group


class Memory(NamedTuple):
    """What one look hands to the next."""

    started_ms: int
    since_ms: Mapping[tuple[Kind, str, str], int] = {}
    """Conditions that hold, and since when."""
    delivered: Mapping[tuple[str, str], tuple[str, int]] = {}
    """(stream, group) → id last given, and when that was seen."""
    lags: Mapping[tuple[str, str], tuple[int, int]] = {}
    """(stream, group) → lag, and over how many looks in a row it has risen."""


class Judgement(NamedTuple):
    rows: list[StreamRow]
    alarms: list[Alarm]
    memory: Memory


def judge(
    seen: Sequence[Seen], memory: Memory, now_ms: int, *, bar_ms: int | None = None, storage: Storage = _UNLIMITED
) -> Judgement:
    """`bar_ms`: live, every bar writes features; None in a replay, which may rest as long as it likes."""
    memory = memory._replace(delivered=_delivered(seen, memory, now_ms), lags=_lags(seen, memory))
    rows = [_row(each, memory, now_ms) for each in seen]
    found = [*_groups(seen, rows, memory), *_streams(seen, now_ms), *_silent(seen, memory, now_ms, bar_ms)]
    found += _full(storage)
    since = {condition.key: memory.since_ms.get(condition.key, now_ms) for condition in found}
    alarms = [
        Alarm(each.kind, each.stream, each.group, since[each.key], each.text)
        for each in found
        if now_ms - since[each.key] >= PATIENCE_S.get(each.kind, 0) * 1000
    ]
    return Judgement(rows, alarms, memory._replace(since_ms=since))


def _delivered(seen: Sequence[Seen], memory: Memory, now_ms: int) -> dict[tuple[str, str], tuple[str, int]]:
    found = {}
    for each in seen:
        for name, group in each.info.groups.items():
            last_id = group.last_delivered_id
            before = memory.delivered.get((each.stream, name))
            if before is None:
                found[each.stream, name] = last_id, _ms(last_id)
            else:
                found[each.stream, name] = before if before[0] == last_id else (last_id, now_ms)
    return found


def _lags(seen: Sequence[Seen], memory: Memory) -> dict[tuple[str, str], tuple[int, int]]:
    found = {}
    for each in seen:
        for name, group in each.info.groups.items():
            if group.lag is not None:
                before, rises = memory.lags.get((each.stream, name), (group.lag, 0))
                found[each.stream, name] = group.lag, rises + 1 if group.lag > before else 0
    return found


def _row(each: Seen, memory: Memory, now_ms: int) -> StreamRow:
    groups = tuple(_group_row(each, name, memory, now_ms) for name in each.spec.consumers)
    last_ms = None if each.info.last_id == NEVER else _ms(each.info.last_id)
    return StreamRow(each.stream, each.info.length, _age_s(now_ms, last_ms), each.dead_letters, groups)


def _group_row(each: Seen, name: str, memory: Memory, now_ms: int) -> GroupRow:
    group = each.info.groups.get(name)
    if group is None:
        return GroupRow(name, missing=True, lag=None)
    waiting, held = each.undelivered.get(name), each.pending.get(name)
    last_id, moved_ms = memory.delivered[each.stream, name]
    return GroupRow(
        name,
        missing=False,
        pending=group.pending,
        lag=group.lag,
        undelivered_age_s=_age_s(now_ms, _ms(waiting)) or 0.0 if waiting else 0.0,
        pending_age_s=_age_s(now_ms, _ms(held)) or 0.0 if held else 0.0,
        last_delivery_age_s=None if last_id == NEVER else _age_s(now_ms, moved_ms),
    )


def _groups(seen: Sequence[Seen], rows: Sequence[StreamRow], memory: Memory) -> Iterator[Condition]:
    for each, row in zip(seen, rows, strict=True):
        for group in row.groups:
            for kind, text in _group(each, group, memory):
                yield Condition(kind, each.stream, group.group, text)


def _group(each: Seen, row: GroupRow, memory: Memory) -> Iterator[tuple[Kind, str]]:
    stream, name = each.stream, row.group
    if row.missing:
        yield Kind.GROUP_MISSING, f"{stream} has no group {name}, so nothing of it is trimmed: start {name}"
        return
    if row.lag is None:
        yield Kind.LAG_UNKNOWN, f"the server cannot tell how far {name} is behind on {stream}"
    elif memory.lags[stream, name][1] >= RISING_TURNS:
        yield Kind.LAG_RISING, f"{name} falls behind on {stream}: {row.lag} entries wait"
    if row.undelivered_age_s > UNDELIVERED_LIMIT_S:
        waiting = "entries" if row.lag is None else f"{row.lag} entries"
        since = _iso(_ms(each.undelivered[name]))
        yield Kind.UNDELIVERED, f"{name} does not read {stream}: {waiting} wait since {since}; does it run?"
    if row.pending_age_s > PENDING_LIMIT_S:
        since = _iso(_ms(each.pending[name]))
        yield Kind.PENDING_OLD, f"{name} has not finished {row.pending} entries of {stream}, the oldest since {since}"


def _streams(seen: Sequence[Seen], now_ms: int) -> Iterator[Condition]:
    for each in seen:
        if each.dead_letters:
            text = f"{each.dead_letters} dead letters of {each.stream} wait: quantum dead list"
            yield Condition(Kind.DEAD_LETTERS, each.stream, "", text)
        if each.info.length > 2 * KEPT_ENTRIES and (holder := _holder(each)):
            group, entry_id, how = holder
            if now_ms - _ms(entry_id) > HOLDS_TRIMMING_S * 1000:
                since = f"{entry_id}, which it {how} since {_iso(_ms(entry_id))}"
                text = f"{each.info.length} entries: {group} holds trimming of {each.stream} back at {since}"
                yield Condition(Kind.TRIM_BLOCKED, each.stream, group, text)


def _holder(each: Seen) -> tuple[str, str, str] | None:
    """The registered group that needs the oldest entry, that entry, and how it needs it."""
    needs = [(name, each.pending[name], "has pending") for name in each.spec.consumers if name in each.pending]
    needs += [
        (name, each.undelivered[name], "has not read")
        for name in each.spec.consumers
        if name in each.undelivered and name not in each.pending
    ]
    return min(needs, key=lambda need: _id_order(need[1]), default=None)


def _silent(seen: Sequence[Seen], memory: Memory, now_ms: int, bar_ms: int | None) -> Iterator[Condition]:
    """Streams without a live producer (F05): all that their producers read has been written, and they never were.

    What has no input of its own (features) is written at every bar of a live market.
    """
    for spec in REGISTRY:
        streams = [each for each in seen if each.spec is spec and spec.consumers]
        inputs = [other for other in REGISTRY if set(other.consumers) & set(spec.producers)]
        ask = f"does {' or '.join(spec.producers)} run?"
        if inputs:
            for each in streams:
                if each.info.last_id == NEVER and all(_written(seen, other, each.stream) for other in inputs):
                    there = ", ".join(other.name for other in inputs)
                    text = f"nobody has ever written {each.stream}, though {there} are there: {ask}"
                    yield Condition(Kind.SILENT, each.stream, "", text)
        elif streams and bar_ms is not None:
            last_ms = max(memory.started_ms, *(_ms(each.info.last_id) for each in streams))
            if now_ms - last_ms > 2 * bar_ms:
                text = f"nothing on {streams[0].stream} for {(now_ms - last_ms) // 1000} s: {ask}"
                yield Condition(Kind.SILENT, streams[0].stream, "", text)


def _written(seen: Sequence[Seen], spec: StreamSpec, output: str) -> bool:
    """Of the same partition, where both have one."""
    names = [each for each in seen if each.spec is spec]
    same = [each for each in names if each.stream.partition(":")[0] == output.partition(":")[0]] or names
    return any(each.info.last_id != NEVER for each in same)


def _full(storage: Storage) -> Iterator[Condition]:
    if storage.memory is not None and storage.memory > MEMORY_LIMIT:
        text = f"the server uses {storage.memory:.0%} of its maxmemory; at 100% nothing is decided any more"
        yield Condition(Kind.MEMORY, "", "", text)
    if storage.disk is not None and storage.disk > DISK_LIMIT:
        yield Condition(Kind.DISK, "", "", f"the disk of the state folder is {storage.disk:.0%} full")


def never_written(seen: Sequence[Seen]) -> list[str]:
    """Streams on which nothing ever stood, with who is to write them: for the log line at a start (F05)."""
    return [
        f"{each.stream} ({' or '.join(each.spec.producers)})"
        for each in seen
        if each.spec.consumers and each.info.last_id == NEVER
    ]


def _ms(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])


def _id_order(entry_id: str) -> tuple[int, int]:
    high, _, low = entry_id.partition("-")
    return int(high), int(low)


def _age_s(now_ms: int, then_ms: int | None) -> float | None:
    return None if then_ms is None else max(0, now_ms - then_ms) / 1000


def _iso(ts_ms: int) -> str:
    return datetime.fromtimestamp(ts_ms / 1000, UTC).isoformat(timespec="seconds")

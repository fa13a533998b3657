"""How far the line is: one atomic look at groups, orders under way and feature-svc's progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from quantum_common.contracts import ALLOCATIONS, DECISIONS, EXECUTIONS, FEATURES, PREDICTIONS, Keys

STAGES = (FEATURES, PREDICTIONS, DECISIONS, ALLOCATIONS, EXECUTIONS)


@dataclass(frozen=True, slots=True)
class LineState:
    """`in_flight` empty: every registered group has read and acknowledged all there is, and no order is under way."""

    in_flight: tuple[str, ...]
    looked_ms: int
    """Market time up to which feature-svc has published everything."""
    published: int
    """Symbols it published for the bar that closed then."""
    acknowledged_trade_id: int
    """Newest trade of the venue that the executor has taken in."""


class Line:
    """Reads the state of one line. The look is one transaction, so that nothing can move between its parts."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis, self._keys = redis, keys
        self._groups = [(name, spec.consumers) for spec in STAGES for name in keys.all_streams(spec)]

    @property
    def streams(self) -> list[str]:
        return [name for name, _ in self._groups]

    async def look(self) -> LineState:
        """Errors: those of the Redis client."""
        pipeline: Any = self._redis.pipeline(transaction=True)
        for stream, _ in self._groups:
            pipeline.xinfo_groups(stream)
        pipeline.hmget(self._keys.account_state("executor-svc"), "unsettled", "acknowledged_trade_id")
        pipeline.hmget(self._keys.features_progress(), "looked_ms", "published")
        *groups, executor, progress = await pipeline.execute()
        unsettled, acknowledged = (int(value or 0) for value in executor)
        in_flight = [
            text
            for (stream, wanted), rows in zip(self._groups, groups, strict=True)
            for text in _behind(stream, wanted, rows)
        ]
        if unsettled:
            in_flight.append(f"executor-svc: {unsettled} orders or reports under way")
        looked_ms, published = (int(value or 0) for value in progress)
        return LineState(tuple(in_flight), looked_ms, published, acknowledged)


def _behind(stream: str, wanted: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Registered groups of a stream that are missing, hold something, or have not read all; lag None counts (F02)."""
    found = {_text(row["name"]): row for row in rows}
    texts = []
    for name in wanted:
        row = found.get(name)
        if row is None:
            texts.append(f"{stream}: {name} has no group")
        elif row["pending"] or row["lag"] != 0:
            texts.append(f"{stream}: {name} has {row['pending']} pending, {row['lag']} unread")
    return texts


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value

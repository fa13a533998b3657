"""How far the line is: a look at groups, orders under way and feature-svc's progress, slot after slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantum_common.bus import Client
from quantum_common.bus.port import tag_of
from quantum_common.bus.redis_bus import reach
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
    """Reads the state of one line.

    A look is one transaction per slot, in the order {p00}, {p01}, …, account, since a cluster has no transaction over
    several slots. Nothing in flight can be missed that way:

    - feature-svc's progress stands in {p00} and is written after everything of that market time was published in every
      partition: once it is seen, nothing more arrives in a partition.
    - Within a slot, what a service emits and acknowledges is one commit, and the look at it one transaction.
    - Every hop between slots goes from a partition to the account, and writes the target before it acknowledges the
      source. What has left a partition when that is looked at has already reached the account, which is looked at
      later; and nothing goes back.
    """

    def __init__(self, redis: Client, keys: Keys) -> None:
        self._redis: Any = redis
        self._keys = keys
        self._groups = [(name, spec.consumers) for spec in STAGES for name in keys.all_streams(spec)]

    @property
    def streams(self) -> list[str]:
        return [name for name, _ in self._groups]

    async def look(self) -> LineState:
        """Raises BusUnavailable."""
        executor = (self._keys.account_state("executor-svc"), "unsettled", "acknowledged_trade_id")
        progress = (self._keys.features_progress(), "looked_ms", "published")
        in_flight: list[str] = []
        numbers: dict[str, int] = {}
        for tag in dict.fromkeys(map(tag_of, self.streams)):  # the account's come last in STAGES
            here = [(stream, wanted) for stream, wanted in self._groups if tag_of(stream) == tag]
            hashes = [each for each in (progress, executor) if tag_of(each[0]) == tag]
            pipeline = self._redis.pipeline(transaction=True)
            for stream, _ in here:
                pipeline.xinfo_groups(stream)
            for key, *names in hashes:
                pipeline.hmget(key, *names)
            replies = await reach(pipeline.execute())
            for (stream, wanted), rows in zip(here, replies, strict=False):
                in_flight += _behind(stream, wanted, rows)
            for (_, *names), values in zip(hashes, replies[len(here) :], strict=True):
                numbers |= {name: int(value or 0) for name, value in zip(names, values, strict=True)}
        if numbers["unsettled"]:
            in_flight.append(f"executor-svc: {numbers['unsettled']} orders or reports under way")
        return LineState(tuple(in_flight), numbers["looked_ms"], numbers["published"], numbers["acknowledged_trade_id"])


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

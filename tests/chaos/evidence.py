"""What a finished run left behind, read without the fleet: archive, server's data, ledger, venue's database."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chaos.poison import HARMLESS, mark_kind
from quantum_cli.up import ACCOUNT
from quantum_common.contracts import REGISTRY, Keys, dead
from quantum_common.testing import running_server

OF_KIND = {
    "FeaturesComputed": "features",
    "PredictionMade": "prediction",
    "PredictionAbstained": "prediction",
    "DecisionMade": "decision",
    "PositionApproved": "verdict",
    "PositionRejected": "verdict",
}
SERVER_WITHIN_S = 60.0


class Slot(NamedTuple):
    """A place that one event must fill: what, of which symbol and bar, and for predictions by whom."""

    what: str
    symbol: str
    bar_ts_ms: int
    agent: str = ""


class Letter(NamedTuple):
    """A dead letter: which entry of which stream, for which group."""

    stream: str
    entry_id: str
    group: str


class Trade(NamedTuple):
    symbol: str
    trade_id: str
    quantity: str
    price: str


@dataclass
class Evidence:
    archived: dict[Slot, set[str]] = field(default_factory=dict)
    """Event ids per slot: more than one is a doubled event, however often each was written."""
    on_bus: Counter[Slot] = field(default_factory=Counter)
    trimmed: frozenset[str] = frozenset()
    """Streams whose oldest entries are gone, so that nothing can be missed there."""
    repeated_ids: Counter[str] = field(default_factory=Counter)
    """Event ids that stand more than once on a stream, and how often."""
    pending: dict[str, int] = field(default_factory=dict)
    """By `stream group`: entries pending or unread."""
    letters: Counter[Letter] = field(default_factory=Counter)
    expected_letters: Counter[Letter] = field(default_factory=Counter)
    venue_trades: Counter[Trade] = field(default_factory=Counter)
    ledger_trades: Counter[Trade] = field(default_factory=Counter)
    doubled_orders: list[str] = field(default_factory=list)
    """Client order ids under which the venue has more than one order."""


def gather(state_dir: Path) -> Evidence:
    """Read everything; starts a server on the run's data folder, and ends it again."""
    evidence = Evidence(archived=_archived(state_dir / "archive"))
    evidence.venue_trades, evidence.doubled_orders = _venue(state_dir / "exchange-sim.sqlite")
    evidence.ledger_trades = _ledger(state_dir / "ledger.sqlite")
    with running_server(state_dir / "server") as url:
        asyncio.run(_read_bus(url, evidence))
    return evidence


def _archived(folder: Path) -> dict[Slot, set[str]]:
    found: dict[Slot, set[str]] = {}
    for path in sorted(folder.glob("*/*.jsonl")):
        for line in path.read_bytes().splitlines():
            if mark_kind(line) is None and (event := _event(line)) and (slot := _slot(event)):
                found.setdefault(slot, set()).add(event["event_id"])
    return found


def _event(data: bytes) -> dict[str, Any] | None:
    try:
        return dict(json.loads(data))
    except ValueError:  # a line that a kill cut short
        return None


def _slot(event: Mapping[str, Any]) -> Slot | None:
    what, payload = OF_KIND.get(event["kind"]), event["payload"]
    if what is None or payload.get("role") == "shadow":
        return None
    return Slot(what, event["symbol"], event["bar_ts_ms"], payload.get("agent", ""))


def _venue(path: Path) -> tuple[Counter[Trade], list[str]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    with closing(sqlite3.connect(path)) as db:
        for kind, body in db.execute("select kind, body from entities"):
            rows.setdefault(kind, []).append(json.loads(body))
    trades = Counter(
        _trade(row["symbol"], row["trade_id"], row["quantity"], row["price"]) for row in rows.get("trade", [])
    )
    ids = Counter(row["client_order_id"] for row in rows.get("order", []))
    ids.update(row["client_algo_id"] for row in rows.get("algo", []))
    spawned = {str(row["actual_order_id"]) for row in rows.get("algo", [])}
    ids.subtract(row["client_order_id"] for row in rows.get("order", []) if str(row["order_id"]) in spawned)
    return trades, sorted(name for name, count in ids.items() if count > 1)


def _ledger(path: Path) -> Counter[Trade]:
    with closing(sqlite3.connect(path)) as db:
        return Counter(_trade(*row) for row in db.execute("select symbol, trade_id, quantity, price from fills"))


def _trade(symbol: str, trade_id: object, quantity: object, price: object) -> Trade:
    return Trade(symbol, str(trade_id), f"{float(str(quantity)):.8f}", f"{float(str(price)):.8f}")


async def _read_bus(url: str, evidence: Evidence) -> None:
    async with Redis.from_url(url) as redis:
        await _answers(redis)
        for spec in REGISTRY:
            for stream in Keys(account=ACCOUNT).all_streams(spec):
                await _read_stream(redis, stream, spec.consumers, evidence)


async def _answers(redis: Redis) -> None:
    async with asyncio.timeout(SERVER_WITHIN_S):
        while True:
            try:
                await redis.ping()
                return
            except RedisError:  # not up yet, or loading its append-only file
                await asyncio.sleep(0.1)


async def _read_stream(redis: Redis, stream: str, groups: Iterable[str], evidence: Evidence) -> None:
    ids: Counter[str] = Counter()
    for entry_id, data in await _entries(redis, stream):
        kind = mark_kind(data)
        if kind is not None:
            if kind not in HARMLESS:
                evidence.expected_letters.update(Letter(stream, entry_id, group) for group in groups)
        elif event := _event(data):
            ids[event["event_id"]] += 1
            if slot := _slot(event):
                evidence.on_bus[slot] += 1
    evidence.repeated_ids.update({f"{stream} {name}": count for name, count in ids.items() if count > 1})
    if await redis.exists(stream):
        if (await redis.xinfo_stream(stream))["max-deleted-entry-id"] != b"0-0":
            evidence.trimmed |= {stream.partition(":")[2]}
        evidence.pending |= {
            f"{stream} {name}": count for name, count in await _in_flight(redis, stream, groups) if count
        }
    for _, data in await _entries(redis, dead(stream)):
        letter = json.loads(data)
        evidence.letters[Letter(letter["stream"], letter["entry_id"], letter["group"])] += 1


async def _entries(redis: Redis, stream: str) -> list[tuple[str, bytes]]:
    return [(entry_id.decode(), fields.get(b"e", b"")) for entry_id, fields in await redis.xrange(stream)]


async def _in_flight(redis: Redis, stream: str, groups: Iterable[str]) -> Iterator[tuple[str, int]]:
    rows = {row["name"].decode(): row for row in await redis.xinfo_groups(stream)}
    found = [(name, row["pending"] + (1 if row["lag"] is None else row["lag"])) for name, row in rows.items()]
    found += [(name, 1) for name in groups if name not in rows]
    return iter(found)

"""What is read from a finished run: every place a flaw could stand."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

from redis.asyncio import Redis

from chaos.evidence import Evidence, Letter, Slot, Trade, gather
from quantum_common.contracts import FEATURES, Keys, dead
from quantum_common.testing import running_server

STREAM = Keys().all_streams(FEATURES)[0]
SLOT = Slot("features", "BTCUSDT", 3_600_000)


def event(**changes: object) -> bytes:
    fields = {"event_id": "a", "kind": "FeaturesComputed", "symbol": "BTCUSDT", "bar_ts_ms": 3_600_000, "payload": {}}
    return json.dumps({**fields, **changes}).encode()


def finished_run(folder: Path) -> Path:
    day = folder / "archive" / "1970-01-01"
    day.mkdir(parents=True)
    rows = (event(), event(), event(event_id="b"), event(event_id="c", mark="chaos:1:2:repeat"), event()[:20])
    (day / "features.jsonl").write_bytes(b"\n".join(rows))
    with closing(sqlite3.connect(folder / "exchange-sim.sqlite")) as db:
        db.execute("create table entities (kind, body)")
        trade = {"symbol": "BTCUSDT", "trade_id": 7, "quantity": "1.50", "price": "2"}
        order = {"client_order_id": "qt1", "order_id": 1}
        spawned = {"client_order_id": "qt2", "order_id": 2}
        algo = {"client_algo_id": "qt2", "actual_order_id": 2}
        entities = [("trade", trade), ("order", order), ("order", {**order, "order_id": 3}), ("order", spawned)]
        db.executemany(
            "insert into entities values (?, ?)", [(kind, json.dumps(row)) for kind, row in [*entities, ("algo", algo)]]
        )
        db.commit()
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as db:
        db.execute("create table fills (symbol, trade_id, quantity, price)")
        db.execute("insert into fills values ('BTCUSDT', '7', '1.5', '2.0')")
        db.commit()
    return folder


async def fill(redis: Redis) -> str:
    """Two copies of an event, one poison with its dead letter, one group that has read without acknowledging."""
    await redis.xgroup_create(STREAM, "meta-svc", "0", mkstream=True)
    for data in (event(), event()):
        await redis.xadd(STREAM, {"e": data})
    entry_id = await redis.xadd(STREAM, {"e": b"chaos:1:5:not_json"})
    letter = {"stream": STREAM, "entry_id": entry_id.decode(), "group": "meta-svc"}
    await redis.xadd(dead(STREAM), {"e": json.dumps(letter)})
    await redis.xreadgroup("meta-svc", "1", {STREAM: ">"}, count=2)
    return str(entry_id.decode())


async def test_a_finished_run_is_read_from_all_its_stores(tmp_path: Path) -> None:
    folder = finished_run(tmp_path)
    with running_server(folder / "server") as url:
        async with Redis.from_url(url) as redis:
            entry_id = await fill(redis)
    found: Evidence = await asyncio.to_thread(gather, folder)
    assert found.archived == {SLOT: {"a", "b"}}
    assert found.on_bus == {SLOT: 2}
    assert found.repeated_ids == {f"{STREAM} a": 2}
    assert found.letters == {Letter(STREAM, entry_id, "meta-svc"): 1}
    assert found.expected_letters == {Letter(STREAM, entry_id, group): 1 for group in FEATURES.consumers}
    assert found.pending[f"{STREAM} meta-svc"] == 3
    assert found.pending[f"{STREAM} xgb-agent"] == 1
    assert found.venue_trades == found.ledger_trades == {Trade("BTCUSDT", "7", "1.50000000", "2.00000000"): 1}
    assert found.doubled_orders == ["qt1"]

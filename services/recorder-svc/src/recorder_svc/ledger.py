"""The ledger database: every order, fill, closed trade, funding payment and balance, for people to query.

Filled from the executions stream alone, so it can be rebuilt from the archive. Rows are idempotent by event id (an
order by its client order id). Money and quantities are decimal strings: SQLite has no exact decimal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    make_url,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from quantum_common.contracts import (
    AccountUpdated,
    Envelope,
    FundingPaid,
    OrderAccepted,
    OrderCanceled,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    TradeClosed,
)

metadata = MetaData()


def _amounts(*names: str) -> list[Column[Any]]:
    return [Column(name, String, nullable=False) for name in names]


def _times(*names: str) -> list[Column[Any]]:
    return [Column(name, BigInteger, nullable=False) for name in names]


def _texts(*names: str) -> list[Column[Any]]:
    return [Column(name, String, nullable=False) for name in names]


orders = Table(
    "orders",
    metadata,
    Column("client_order_id", String, primary_key=True),
    *_texts("symbol", "decision_id", "role", "status"),
    Column("status_rank", Integer, nullable=False),
    *_times("bar_ts_ms"),
    Column("side", String),
    Column("order_type", String),
    Column("quantity", String),
    Column("trigger_price", String),
    Column("reduce_only", Boolean),
    Column("venue_order_id", String),
    Column("reason", String),
)
"""One row per client order id; `status` is the furthest it got. No quantity: refused before it was submitted."""

fills = Table(
    "fills",
    metadata,
    Column("event_id", String, primary_key=True),
    *_texts("symbol", "decision_id", "client_order_id", "role", "trade_id", "side"),
    *_amounts("quantity", "price", "fee", "realized_pnl"),
    *_times("decision_bar_ts_ms", "market_ts_ms"),
    Column("sequence", Integer, nullable=False),
)

closed_trades = Table(
    "closed_trades",
    metadata,
    Column("event_id", String, primary_key=True),
    *_texts("symbol", "decision_id", "side", "exit_role", "exit_reason"),
    *_amounts("quantity", "entry_price", "exit_price", "fees", "funding", "pnl"),
    *_times("decision_bar_ts_ms", "opened_ts_ms", "closed_ts_ms"),
)

funding = Table(
    "funding",
    metadata,
    Column("event_id", String, primary_key=True),
    *_texts("symbol"),
    *_amounts("amount"),
    *_times("market_ts_ms"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("event_id", String, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    *_texts("cause"),
    *_amounts("wallet_balance", "equity"),
    Column("open_positions", Integer, nullable=False),
    *_times("as_of_ms", "bar_ts_ms"),
)

Index("fills_by_time", fills.c.market_ts_ms)
Index("closed_trades_by_time", closed_trades.c.closed_ts_ms)
Index("accounts_by_time", accounts.c.as_of_ms, accounts.c.sequence)

STATUS: dict[type[msgspec.Struct], tuple[str, int]] = {
    OrderSubmitted: ("submitted", 0),
    OrderAccepted: ("accepted", 1),
    OrderFilled: ("filled", 2),
    OrderCanceled: ("canceled", 3),
    OrderRejected: ("rejected", 3),
}
"""What an event makes of its order, and how far that is: an order never goes back. `filled` = at least in part."""

_BY_EVENT: dict[type[msgspec.Struct], Table] = {
    OrderFilled: fills,
    TradeClosed: closed_trades,
    FundingPaid: funding,
    AccountUpdated: accounts,
}

NEWEST_FIRST = {
    "orders": (orders, orders.c.bar_ts_ms.desc()),
    "fills": (fills, fills.c.market_ts_ms.desc()),
    "trades": (closed_trades, closed_trades.c.closed_ts_ms.desc()),
}


def plain(value: Decimal | str) -> str:
    """A decimal without exponent and without trailing zeros: 0.10 and 1E-1 are both 0.1, and zero has no sign."""
    text = format(Decimal(value), "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


class Ledger:
    """The database. `write` is one transaction, durable when it returns."""

    def __init__(self, url: str) -> None:
        """SQLite or PostgreSQL; a SQLite file's folder is created. Connects on first use."""
        parsed = make_url(url)
        self._engine: Engine = create_engine(parsed)
        self._is_sqlite = parsed.get_backend_name() == "sqlite"
        self._insert: Callable[[Table], Any] = sqlite.insert if self._is_sqlite else postgresql.insert
        if self._is_sqlite:
            event.listen(self._engine, "connect", _durable)
            if parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)

    def create(self) -> None:
        """Make the tables that are not there yet."""
        metadata.create_all(self._engine)

    def write(self, events: Iterable[Envelope[Any]]) -> None:
        """Take executions events in, in their order; what is there already stays as it is."""
        with self._engine.begin() as connection:
            for item in events:
                self._take(connection, item)

    def _take(self, connection: Connection, item: Envelope[Any]) -> None:
        payload = item.payload
        if (table := _BY_EVENT.get(type(payload))) is not None:
            row = {**_plain_fields(payload), "event_id": item.event_id, "symbol": item.symbol}
            if isinstance(payload, AccountUpdated):
                row["open_positions"] = sum(position.quantity != 0 for position in payload.positions)
            self._insert_new(connection, table, row)
        if type(payload) in STATUS:
            self._move_order(connection, item)

    def _insert_new(self, connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
        values = {name: value for name, value in row.items() if name in table.c}
        connection.execute(self._insert(table).values(values).on_conflict_do_nothing())

    def _move_order(self, connection: Connection, item: Envelope[Any]) -> None:
        payload = item.payload
        status, rank = STATUS[type(payload)]
        known = {name: value for name, value in _plain_fields(payload).items() if name in orders.c}
        if isinstance(payload, OrderFilled):
            del known["quantity"]  # of the fill, not of the order
        row = {**known, "symbol": item.symbol, "bar_ts_ms": item.bar_ts_ms, "status": status, "status_rank": rank}
        self._insert_new(connection, orders, row)
        connection.execute(
            update(orders)
            .where(orders.c.client_order_id == payload.client_order_id, orders.c.status_rank < rank)
            .values({"status": status, "status_rank": rank, **_additions(payload)})
        )

    def newest(self, name: str, limit: int, symbol: str | None = None) -> list[dict[str, Any]]:
        """Newest rows of orders, fills or trades."""
        table, order = NEWEST_FIRST[name]
        query = select(table).order_by(order).limit(limit)
        if symbol is not None:
            query = query.where(table.c.symbol == symbol)
        return self.rows(query)

    def rows(self, query: Any) -> list[dict[str, Any]]:
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def close(self) -> None:
        self._engine.dispose()


def _additions(payload: msgspec.Struct) -> dict[str, str]:
    """What a later event adds to its order's row."""
    if isinstance(payload, OrderAccepted):
        return {"venue_order_id": payload.venue_order_id}
    if isinstance(payload, OrderCanceled | OrderRejected):
        return {"reason": payload.reason}
    return {}


def _plain_fields(payload: msgspec.Struct) -> dict[str, Any]:
    """Fields as columns take them: decimals as plain strings, enumerations as their values."""
    return {name: _column_value(value) for name, value in msgspec.structs.asdict(payload).items()}


def _column_value(value: Any) -> Any:
    if isinstance(value, Decimal):
        return plain(value)
    return str(value) if isinstance(value, str) else value


def _durable(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Every commit is on disk before it returns; readers do not block the writer."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


EXECUTION_TYPES: tuple[type[msgspec.Struct], ...] = (*STATUS, TradeClosed, FundingPaid, AccountUpdated)
"""Payloads that leave a row in the ledger."""

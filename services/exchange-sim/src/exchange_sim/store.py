"""The venue's memory: SQLite in WAL mode. What a reply acknowledges is committed before the reply leaves.

Economic changes are synced to disk (synchronous=FULL). A clock that moved over an idle stretch is committed without a
sync: it survives the end of the process, and a power cut can only set it back to the last economic change.
"""

from __future__ import annotations

import sqlite3
from decimal import Decimal
from pathlib import Path

import msgspec

from exchange_sim import SimError
from exchange_sim.orders import AlgoOrder, Entity, Income, Order, Position, SymbolConfig, Trade
from exchange_sim.state import Counters, VenueState, entity_key

_SCHEMA = """
CREATE TABLE IF NOT EXISTS venue (one INTEGER PRIMARY KEY CHECK (one = 1), body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY CHECK (one = 1), now_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS entities (
    sequence INTEGER PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL, UNIQUE (kind, id)
);
"""

_TYPES: dict[str, type[Entity]] = {
    "order": Order,
    "algo": AlgoOrder,
    "trade": Trade,
    "income": Income,
    "position": Position,
    "config": SymbolConfig,
}


class Fingerprint(msgspec.Struct, frozen=True):
    """What a database belongs to: another market on the same account would make nonsense of it."""

    candle_venue: str
    symbols: tuple[str, ...]
    timeframe: str
    initial_balance: Decimal


class _Header(msgspec.Struct):
    fingerprint: Fingerprint
    wallet: Decimal
    counters: Counters


class Store:
    """One database file; one writer. Raises SimError for a file of another run."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._mode = ""
        self._db = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._sync("FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            raise SimError(f"{path}: {error}; is another exchange-sim using it?") from error

    def open(self, fingerprint: Fingerprint, start_ms: int) -> VenueState:
        """The state as last committed, or a new account at `start_ms`."""
        row = self._db.execute("SELECT body, now_ms FROM venue, clock").fetchone()
        if row is None:
            balance = fingerprint.initial_balance
            self._fingerprint = fingerprint
            state = VenueState(start_ms, balance, balance)
            self.commit(state, force=True)
            return state
        header = msgspec.json.decode(row[0], type=_Header)
        if header.fingerprint != fingerprint:
            raise SimError(f"{self._path} belongs to another run ({header.fingerprint}): use another state folder")
        self._fingerprint = fingerprint
        state = VenueState(row[1], fingerprint.initial_balance, header.wallet, header.counters)
        for kind, body in self._db.execute("SELECT kind, body FROM entities ORDER BY sequence"):
            state.index(msgspec.json.decode(body, type=_TYPES[kind]))
        return state

    def commit(self, state: VenueState, *, force: bool = False) -> None:
        """Write what changed since the last commit, and the clock."""
        if not state.touched and not force:
            self._sync("NORMAL")
            self._db.execute("UPDATE clock SET now_ms = ?", (state.now_ms,))
            return
        self._sync("FULL")
        rows = [(*entity_key(entity), msgspec.json.encode(entity)) for entity in state.touched.values()]
        header = msgspec.json.encode(_Header(self._fingerprint, state.wallet, state.counters))
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(
                "INSERT INTO entities (kind, id, body) VALUES (?, ?, ?)"
                " ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body",
                rows,
            )
            self._db.execute("INSERT OR REPLACE INTO venue VALUES (1, ?)", (header,))
            self._db.execute("INSERT OR REPLACE INTO clock VALUES (1, ?)", (state.now_ms,))
            self._db.execute("COMMIT")
        except sqlite3.Error:
            self._db.execute("ROLLBACK")
            raise
        state.touched.clear()

    def close(self) -> None:
        self._db.close()

    def _sync(self, mode: str) -> None:
        if self._mode != mode:
            self._db.execute(f"PRAGMA synchronous={mode}")
            self._mode = mode

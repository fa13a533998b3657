"""The risk state as people and scripts see it: the status of the API, and governer_state.json."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from governer_svc.checks import exact
from governer_svc.config import RiskConfig
from governer_svc.state import RiskState
from governer_svc.store import RiskStore
from quantum_common.bus import BusUnavailable, Lease
from quantum_common.service import Stop

log = logging.getLogger(__name__)
WRITE_EVERY_S = 0.5


def iso(ts_ms: int) -> str:
    return datetime.fromtimestamp(ts_ms / 1000, UTC).isoformat(timespec="milliseconds")


def as_float(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def state_document(state: RiskState, config: RiskConfig) -> dict[str, Any]:
    """The documented fields of governer_state.json. Money in USD; numbers are for reading, not for the ledger."""
    account = state.account
    return {
        "initial_balance": as_float(state.initial_balance),
        "current_balance": as_float(account.wallet_balance) if account else None,
        "peak_balance": as_float(state.peak_equity) if account else None,
        "equity": as_float(account.equity) if account else None,
        "trade_history": [
            {
                "symbol": trade.symbol,
                "action": trade.action,
                "entry_price": float(trade.entry_price),
                "exit_price": float(trade.exit_price),
                "position_size": float(trade.position_size_usd),
                "pnl": float(trade.pnl),
                "timestamp": iso(trade.closed_ts_ms),
            }
            for trade in state.trade_history
        ],
        "active_positions": {
            symbol: {
                "side": row.side,
                "quantity": float(row.quantity),
                "entry_price": float(row.entry_price),
                "position_size": float(row.notional_usd),
            }
            for symbol, row in state.positions.items()
        },
        "daily_trades": state.daily_trades,
        "trading_state": config.effective_state.value,
        "emergency_stop": config.emergency_stop,
        "last_updated": iso(account.as_of_ms) if account else None,
        "state_lost_before": state.lost_before,
    }


def status_document(state: RiskState, config: RiskConfig) -> dict[str, Any]:
    """governer_state.json with what the limits make of it."""
    account = state.account
    limit = exact(config.max_total_exposure_pct) * account.wallet_balance if account else None
    return {
        **state_document(state, config),
        "drawdown": float(state.drawdown),
        "exposure_usd": float(state.exposure_usd),
        "exposure_limit_usd": as_float(limit),
        "reservations": {
            decision_id: {
                "symbol": held.symbol,
                "action": held.action,
                "held_usd": float(held.held_usd),
                "expires_at": iso(held.expires_at_ms),
            }
            for decision_id, held in state.reservations.items()
        },
        "max_daily_trades": config.max_daily_trades,
        "account_bar_ts_ms": account.bar_ts_ms if account else None,
    }


class Mirror:
    """Keeps governer_state.json equal to the state, off the hot path; only the instance that works writes it."""

    def __init__(self, path: Path, account: str, store: RiskStore, lease: Lease) -> None:
        self._path, self._account, self._store, self._lease = path, account, store, lease
        self._written: RiskState | None = None

    async def run(self, stop: Stop, beat: Callable[[], None]) -> None:
        while not stop.requested:
            beat()
            if self._lease.held:
                await self.write()
            await stop.wait(WRITE_EVERY_S)

    async def close(self) -> None:
        """The last write, unless another instance works by now and writes."""
        with contextlib.suppress(BusUnavailable):
            if self._lease.token and await self._lease.still_mine():
                await self.write()

    async def write(self) -> None:
        """Replace the file when the state has changed. A full disk is logged: trading does not hang on a mirror."""
        state, config = self._store.state, self._store.config
        if not self._store.loaded or state is self._written:
            return
        document = {**state_document(state, config), "account": self._account}
        text = msgspec.json.format(msgspec.json.encode(document), indent=2)
        try:
            await asyncio.to_thread(_replace, self._path, text)
        except OSError as error:
            log.warning("mirror %s not written: %s", self._path, error)
            return
        self._written = state


class _LastWord(msgspec.Struct):
    last_updated: str | None = None
    state_lost_before: bool = False
    account: str | None = None


def traded_before(path: Path, account: str) -> bool:
    """Whether the mirror tells of this account's trading. One that cannot be read does: then a person must look."""
    try:
        word = msgspec.json.decode(path.read_bytes(), type=_LastWord)
    except FileNotFoundError:
        return False
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("mirror %s cannot be read: %s", path, error)
        return True
    return word.account in (account, None) and (word.state_lost_before or word.last_updated is not None)


def _replace(path: Path, document: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_bytes(document)
    os.replace(draft, path)

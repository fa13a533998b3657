"""The risk agent for use in a program of one's own: the core of the service behind two plain methods."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal

from msgspec.structs import replace

from governer_svc.checks import Signal
from governer_svc.config import RiskConfig
from governer_svc.core import PositionAllocation, allocate
from governer_svc.executions import take_in
from governer_svc.state import OpenPosition, RiskState
from quantum_common.contracts import AccountPosition, AccountUpdated, TradeClosed
from quantum_common.domain.signal import Action, Intent, OrderSide, Role
from quantum_common.domain.timeframe import timeframe_ms

_SIDE = {Action.BUY: OrderSide.BUY, Action.SELL: OrderSide.SELL}


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class GovernerAgent:
    """Allocates positions under `config` and learns from trade results. Not thread-safe.

    An approved entry counts as an open position until `record_trade_result`; this agent sees no venue.
    """

    def __init__(
        self,
        config: RiskConfig,
        *,
        clock: Callable[[], int] = _wall_ms,
        min_notional_usd: Decimal = Decimal(5),
        timeframe: str = "1h",
        state: RiskState | None = None,
    ) -> None:
        """`clock` gives market time in milliseconds; `min_notional_usd` is the venue's smallest order."""
        self.config = config
        self.state = state or RiskState()
        self._clock, self._min_notional_usd, self._timeframe = clock, min_notional_usd, timeframe
        self._asked = 0

    def allocate_position(
        self,
        symbol: str,
        action: str,
        confidence: float,
        balance: Decimal | float,
        meta_override: bool = False,
    ) -> PositionAllocation:
        """The verdict on one decision made now. `balance` (USD) is the wallet balance the venue reports.

        `meta_override` says where the decision came from; it never changes a verdict (F10).
        """
        now_ms = self._clock()
        self._asked += 1
        self._know_balance(Decimal(str(balance)), {**self._minimums(), symbol: self._min_notional_usd}, now_ms)
        signal = Signal(f"agent-{self._asked}", symbol, action, confidence)
        self.state, (verdict,) = allocate(
            self.state,
            self.config,
            [signal],
            bar_ts_ms=now_ms - timeframe_ms(self._timeframe),
            timeframe=self._timeframe,
            now_ms=now_ms,
        )
        if verdict.intent is Intent.OPEN:
            self._open(verdict)
        return verdict

    def record_trade_result(
        self,
        symbol: str,
        action: str,
        entry_price: Decimal | float,
        exit_price: Decimal | float,
        position_size: Decimal | float,
        pnl: Decimal | float,
    ) -> None:
        """A closed trade: `position_size` in USD at entry, `pnl` net. Balance, peak, history, exposure and cooldown
        change together. Raises ValueError for an unknown action or a price that is not above 0.
        """
        now_ms = self._clock()
        entry, size = Decimal(str(entry_price)), Decimal(str(position_size))
        if entry <= 0:
            raise ValueError(f"entry_price must be above 0, not {entry_price}")
        closed = TradeClosed(
            decision_id="",
            decision_bar_ts_ms=0,
            side=_SIDE[Action(action)],
            quantity=size / entry,
            entry_price=entry,
            exit_price=Decimal(str(exit_price)),
            fees=Decimal(0),
            funding=Decimal(0),
            pnl=Decimal(str(pnl)),
            exit_role=Role.EXIT,
            exit_reason="reported",
            opened_ts_ms=now_ms,
            closed_ts_ms=now_ms,
        )
        balance = self.state.account.wallet_balance if self.state.account else Decimal(0)
        self.state, _ = take_in(self.state, symbol, closed)
        self._know_balance(balance + closed.pnl, self._minimums(), now_ms)

    def _minimums(self) -> dict[str, Decimal]:
        return self.state.account.min_notional_usd if self.state.account else {}

    def _know_balance(self, balance: Decimal, minimums: dict[str, Decimal], now_ms: int) -> None:
        positions = tuple(
            AccountPosition(symbol, row.side, row.quantity, row.entry_price, row.notional_usd, Decimal(0))
            for symbol, row in self.state.positions.items()
        )
        sequence = self.state.account.sequence + 1 if self.state.account else 0
        update = AccountUpdated("bar", balance, balance, positions, now_ms, now_ms, sequence, minimums)
        self.state, _ = take_in(self.state, "", update)

    def _open(self, verdict: PositionAllocation) -> None:
        size = verdict.position_size_usd
        opened = OpenPosition(_SIDE[Action(verdict.action)], size, Decimal(1), size)
        reservations = {key: row for key, row in self.state.reservations.items() if key != verdict.decision_id}
        positions = {**self.state.positions, verdict.symbol: opened}
        self.state = replace(self.state, reservations=reservations, positions=positions)

"""Writes to the streams what the services of the line would, for tests of what the monitor shows of it."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from quantum_common.bus import Bus
from quantum_common.contracts import (
    ALLOCATIONS,
    DECISIONS,
    EXECUTIONS,
    FEATURES,
    PREDICTIONS,
    AccountPosition,
    AccountUpdated,
    Candle,
    DecisionMade,
    Explanation,
    FeaturesComputed,
    Keys,
    OrderFilled,
    PositionRejected,
    PredictionAbstained,
    PredictionMade,
    Producer,
    StreamSpec,
    TradeClosed,
    Vote,
    encode,
    envelope,
)
from quantum_common.domain import AGENTS, Action, OrderSide, Role

HOUR_MS = 3_600_000
PROBABILITIES = {Action.BUY: (0.1, 0.3, 0.6), Action.HOLD: (0.2, 0.5, 0.3), Action.SELL: (0.7, 0.2, 0.1)}


class Line:
    """`at_ms` is the wall time at which the next events are made."""

    def __init__(self, bus: Bus, at_ms: int, keys: Keys | None = None) -> None:
        self.bus, self.at_ms, self.keys = bus, at_ms, keys or Keys()
        self._sequence = 0

    async def write(
        self, spec: StreamSpec, payload: msgspec.Struct, symbol: str, bar_ms: int, *, by: str = "test", key: str = ""
    ) -> str:
        """Append an event; returns its id."""
        event = envelope(
            payload,
            producer=Producer(by, "1", "0"),
            produced_at_ms=self.at_ms,
            symbol=symbol,
            timeframe="1h",
            bar_ts_ms=bar_ms,
            natural_key=key,
        )
        await self.bus.append(self.keys.stream(spec, symbol), encode(event))
        return event.event_id

    async def bar(self, symbol: str, bar_ms: int, close: float = 100.0, live_symbols: int = 1) -> None:
        candle = Candle(close - 1, close + 2, close - 2, close, 10.0)
        made = FeaturesComputed(candle, (0.0,) * 18, 0.5, 0.1, "hash", 0, live_symbols)
        await self.write(FEATURES, made, symbol, bar_ms, by="feature-svc")

    async def vote(self, agent: str, symbol: str, bar_ms: int, action: Action) -> None:
        probabilities = PROBABILITIES[action]
        made = PredictionMade(agent, action, max(probabilities), probabilities, "v1", "champion", 0.1)
        await self.write(PREDICTIONS, made, symbol, bar_ms, by=f"{agent}-agent")

    async def votes(self, symbol: str, bar_ms: int, action: Action, agents: tuple[str, ...] = AGENTS) -> None:
        for agent in agents:
            await self.vote(agent, symbol, bar_ms, action)

    async def abstain(self, agent: str, symbol: str, bar_ms: int) -> None:
        made = PredictionAbstained(agent, "not_enough_history", "12 of 64 bars")
        await self.write(PREDICTIONS, made, symbol, bar_ms, by=f"{agent}-agent")

    async def decide(self, symbol: str, bar_ms: int, action: Action, reason: str = "meta_low_confidence_0.58") -> str:
        """A decision of four equal votes, with a meta model of two inputs."""
        probabilities = PROBABILITIES[action]
        votes = tuple(Vote(agent, action, max(probabilities), probabilities, "v1", None) for agent in AGENTS)
        told = Explanation(("xgb_buy", "volatility"), (1.0, 0.5), (0.25, -0.75), 0.1)
        made = DecisionMade(
            action, max(probabilities), reason, False, Action.HOLD, 0.58, action, 0.6, 1.0, votes, told, "complete",
            (), "v2", "m1", 0.5, 0.1,
        )  # fmt: skip
        return await self.write(DECISIONS, made, symbol, bar_ms, by="meta-svc")

    async def reject(self, decision_id: str, symbol: str, bar_ms: int, action: Action, code: str, detail: str) -> None:
        made = PositionRejected(decision_id, action.value, 0.6, code, detail, 0)
        await self.write(ALLOCATIONS, made, symbol, bar_ms, by="governer-svc", key=decision_id)

    async def account(
        self, balance: str, equity: str, bar_ms: int, positions: tuple[AccountPosition, ...] = ()
    ) -> None:
        self._sequence += 1
        made = AccountUpdated(
            "bar", Decimal(balance), Decimal(equity), positions, bar_ms + HOUR_MS, bar_ms, self._sequence,
            {"BTCUSDT": Decimal(5)},
        )  # fmt: skip
        await self.write(EXECUTIONS, made, "", 0, by="executor-svc", key=f"account:{self._sequence}")

    async def fill(self, symbol: str, bar_ms: int, price: str, side: OrderSide = OrderSide.BUY) -> None:
        made = OrderFilled(
            "c", "d", bar_ms, Role.ENTRY, f"t{bar_ms}", side, Decimal(2), Decimal(price), Decimal("0.1"), Decimal(0),
            bar_ms + HOUR_MS, 0,
        )  # fmt: skip
        await self.write(EXECUTIONS, made, symbol, bar_ms, by="executor-svc", key=f"fill:{bar_ms}")

    async def close(self, symbol: str, bar_ms: int, pnl: str) -> None:
        amounts = (Decimal(2), Decimal(100), Decimal(101), Decimal("0.2"), Decimal(0), Decimal(pnl))
        made = TradeClosed(
            f"d{bar_ms}", bar_ms, OrderSide.BUY, *amounts, Role.TAKE_PROFIT, "take_profit", bar_ms, bar_ms + HOUR_MS
        )
        await self.write(EXECUTIONS, made, symbol, bar_ms, by="executor-svc", key=f"trade:{bar_ms}")

"""The account and its orders in memory, and what of it has changed since the last commit."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

from exchange_sim.orders import AlgoOrder, Entity, Income, Order, Position, SymbolConfig, Trade

Row = TypeVar("Row", Order, AlgoOrder)


@dataclass
class Counters:
    """Last id given out, per kind: ids depend on the order of commands alone."""

    order_id: int = 0
    algo_id: int = 0
    trade_id: int = 0
    tran_id: int = 0


def entity_key(entity: Entity) -> tuple[str, str]:
    """Kind and identity of a row."""
    match entity:
        case Order():
            return "order", str(entity.order_id)
        case AlgoOrder():
            return "algo", str(entity.algo_id)
        case Trade():
            return "trade", str(entity.trade_id)
        case Income():
            return "income", str(entity.tran_id)
        case Position():
            return "position", entity.symbol
        case SymbolConfig():
            return "config", entity.symbol


@dataclass
class VenueState:
    """Everything that must survive a restart. Money in USDT."""

    now_ms: int
    initial_balance: Decimal
    wallet: Decimal
    counters: Counters = field(default_factory=Counters)
    orders: dict[int, Order] = field(default_factory=dict)
    algos: dict[int, AlgoOrder] = field(default_factory=dict)
    trades: list[Trade] = field(default_factory=list)
    incomes: list[Income] = field(default_factory=list)
    positions: dict[str, Position] = field(default_factory=dict)
    configs: dict[str, SymbolConfig] = field(default_factory=dict)
    open_orders: dict[int, Order] = field(default_factory=dict)
    open_algos: dict[int, AlgoOrder] = field(default_factory=dict)
    client_orders: dict[str, int] = field(default_factory=dict)
    """Newest order under a client id: the venue lets an id be used again once its order is closed."""
    client_algos: dict[str, int] = field(default_factory=dict)
    touched: dict[tuple[str, str], Entity] = field(default_factory=dict)

    def put(self, entity: Entity) -> None:
        """Store a new or changed row and mark it for the next commit."""
        self.index(entity)
        self.touched[entity_key(entity)] = entity

    def index(self, entity: Entity) -> None:
        """Store a row that is already committed."""
        match entity:
            case Order():
                self.orders[entity.order_id] = entity
                self.client_orders[entity.client_order_id] = entity.order_id
                _keep(self.open_orders, entity.order_id, entity, entity.is_open)
            case AlgoOrder():
                self.algos[entity.algo_id] = entity
                self.client_algos[entity.client_algo_id] = entity.algo_id
                _keep(self.open_algos, entity.algo_id, entity, entity.is_open)
            case Trade():
                self.trades.append(entity)
            case Income():
                self.incomes.append(entity)
            case Position():
                self.positions[entity.symbol] = entity
            case SymbolConfig():
                self.configs[entity.symbol] = entity

    def position(self, symbol: str) -> Position:
        return self.positions.get(symbol) or Position(symbol)

    def config(self, symbol: str) -> SymbolConfig:
        return self.configs.get(symbol) or SymbolConfig(symbol)

    @property
    def last_trade_id(self) -> int:
        return self.counters.trade_id


def _keep(rows: dict[int, Row], key: int, row: Row, wanted: bool) -> None:
    if wanted:
        rows[key] = row
    else:
        rows.pop(key, None)

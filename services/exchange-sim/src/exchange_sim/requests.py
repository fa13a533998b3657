"""What a client asks for, parsed from the venue's parameters and checked against the symbol's rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from exchange_sim.errors import VenueError
from exchange_sim.orders import Side
from exchange_sim.rules import MAX_CLIENT_ID, SymbolRules, check_price, check_quantity, parse_decimal

Params = Mapping[str, str]

_CLIENT_ID = re.compile(r"^[.A-Z:/a-z0-9_-]+$")
_TIME_IN_FORCE = frozenset({"GTC", "IOC", "FOK", "GTX"})
_ALGO_TYPES = frozenset({"STOP_MARKET", "TAKE_PROFIT_MARKET"})
_CONDITIONAL_TYPES = _ALGO_TYPES | {"STOP", "TAKE_PROFIT", "TRAILING_STOP_MARKET"}


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An ordinary order as asked for; `price` 0 for a market order."""

    symbol: str
    side: Side
    type: Literal["MARKET", "LIMIT"]
    time_in_force: str
    quantity: Decimal
    price: Decimal
    reduce_only: bool
    client_order_id: str


@dataclass(frozen=True, slots=True)
class AlgoRequest:
    """A conditional order as asked for; `quantity` 0 with `close_position`."""

    symbol: str
    side: Side
    type: Literal["STOP_MARKET", "TAKE_PROFIT_MARKET"]
    quantity: Decimal
    trigger_price: Decimal
    reduce_only: bool
    close_position: bool
    working_type: str
    time_in_force: str
    client_algo_id: str


def parse_order(params: Params, rules: SymbolRules) -> OrderRequest:
    """Raise VenueError for anything the venue would refuse without looking at the account."""
    kind = params.get("type", "")
    if kind in _CONDITIONAL_TYPES:
        raise VenueError(-4120)
    if kind not in ("MARKET", "LIMIT"):
        raise VenueError(-1116)
    side = _side(params)
    _one_way(params)
    quantity = parse_decimal("quantity", params.get("quantity"))
    check_quantity(rules, quantity, market=kind == "MARKET")
    price, time_in_force = Decimal(0), "GTC"
    if kind == "LIMIT":
        price = parse_decimal("price", params.get("price"))
        check_price(rules, price)
        time_in_force = params.get("timeInForce", "")
        if time_in_force not in _TIME_IN_FORCE:
            raise VenueError(-1115)
    return OrderRequest(
        rules.symbol, side, "MARKET" if kind == "MARKET" else "LIMIT", time_in_force, quantity, price,
        flag(params, "reduceOnly"), _client_id(params, "newClientOrderId"),
    )  # fmt: skip


def parse_algo(params: Params, rules: SymbolRules) -> AlgoRequest:
    """As `parse_order`, for the algo service."""
    if params.get("algoType") != "CONDITIONAL":
        raise VenueError(-1102, "algoType")
    kind = params.get("type", "")
    if kind not in _ALGO_TYPES:
        raise VenueError(-1116)
    side = _side(params)
    _one_way(params)
    trigger = parse_decimal("triggerPrice", params.get("triggerPrice"))
    if trigger <= 0:
        raise VenueError(-4006)
    check_price(rules, trigger)
    close_position = flag(params, "closePosition")
    quantity = Decimal(0)
    if not close_position:
        quantity = parse_decimal("quantity", params.get("quantity"))
        check_quantity(rules, quantity, market=True)
    return AlgoRequest(
        rules.symbol, side, "STOP_MARKET" if kind == "STOP_MARKET" else "TAKE_PROFIT_MARKET", quantity, trigger,
        flag(params, "reduceOnly") or close_position, close_position, params.get("workingType", "CONTRACT_PRICE"),
        params.get("timeInForce", "GTC"), _client_id(params, "clientAlgoId"),
    )  # fmt: skip


def flag(params: Params, name: str) -> bool:
    return params.get(name, "").lower() == "true"


def integer(params: Params, name: str, default: int | None = None) -> int | None:
    """An optional integer parameter."""
    text = params.get(name)
    if text is None or text == "":
        return default
    try:
        return int(text)
    except ValueError:
        raise VenueError(-1130, name) from None


def _side(params: Params) -> Side:
    match params.get("side"):
        case "BUY":
            return "BUY"
        case "SELL":
            return "SELL"
    raise VenueError(-1117)


def _one_way(params: Params) -> None:
    if params.get("positionSide", "BOTH") != "BOTH":
        raise VenueError(-4061)


def _client_id(params: Params, name: str) -> str:
    """Empty when the client named none: the venue then makes one from its own order id."""
    client_id = params.get(name, "")
    if len(client_id) > MAX_CLIENT_ID:
        raise VenueError(-4015)
    if client_id and not _CLIENT_ID.match(client_id):
        raise VenueError(-1100, name)
    return client_id

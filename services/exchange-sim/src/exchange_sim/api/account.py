"""Balances, positions, income and the settings of a symbol."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from exchange_sim import account
from exchange_sim.api.trade import plain, select
from exchange_sim.errors import VenueError
from exchange_sim.orders import Income, Position, SymbolConfig
from exchange_sim.requests import Params, integer
from exchange_sim.rules import SymbolRules
from exchange_sim.venue import Venue

DONE = {"code": 200, "msg": "success"}


def balances(venue: Venue, params: Params) -> dict[str, Any]:
    """/fapi/v3/account."""
    state, mark = venue.state, venue.mark
    held = [position for position in state.positions.values() if position.quantity]
    profit = sum((account.unrealized(p, mark(p.symbol)) for p in held), Decimal(0))
    position_margin = sum((account.initial_margin(state, p, mark(p.symbol)) for p in held), Decimal(0))
    order_margin = sum((account.order_margin(state, order) for order in state.open_orders.values()), Decimal(0))
    maintenance = sum((account.maintenance_margin(p, venue.rules(p.symbol), mark(p.symbol)) for p in held), Decimal(0))
    available = max(account.available_balance(state, mark), Decimal(0))
    asset = {
        "walletBalance": plain(state.wallet),
        "unrealizedProfit": plain(profit),
        "marginBalance": plain(state.wallet + profit),
        "maintMargin": plain(maintenance),
        "initialMargin": plain(position_margin + order_margin),
        "positionInitialMargin": plain(position_margin),
        "openOrderInitialMargin": plain(order_margin),
        "crossWalletBalance": plain(state.wallet - _isolated_margin(venue)),
        "crossUnPnl": "0",
        "availableBalance": plain(available),
        "maxWithdrawAmount": plain(available),
    }
    totals = {f"total{key[0].upper()}{key[1:]}": asset[key] for key in tuple(asset)[:7]}
    return {
        **totals,
        "totalCrossWalletBalance": asset["crossWalletBalance"],
        "totalCrossUnPnl": asset["crossUnPnl"],
        "availableBalance": asset["availableBalance"],
        "maxWithdrawAmount": asset["maxWithdrawAmount"],
        "assets": [{"asset": "USDT", **asset, "updateTime": state.now_ms}],
        "positions": [position_view(venue, p) for p in held],
    }


def positions(venue: Venue, params: Params) -> list[dict[str, Any]]:
    """/fapi/v3/positionRisk: open positions only."""
    wanted = params.get("symbol")
    return [
        position_view(venue, p) for p in venue.state.positions.values() if p.quantity and wanted in (None, "", p.symbol)
    ]


def income(venue: Venue, params: Params) -> list[dict[str, Any]]:
    symbol, kind = params.get("symbol"), params.get("incomeType")
    rows = [
        (row.time_ms, row.tran_id, row)
        for row in venue.state.incomes
        if symbol in (None, "", row.symbol) and kind in (None, "", row.type)
    ]
    return [_income_view(row) for row in select(rows, params, 100, 1_000, "")]


def symbol_config(venue: Venue, params: Params) -> list[dict[str, Any]]:
    rules = [venue.rules(params["symbol"])] if params.get("symbol") else list(venue.world.rules.values())
    return [_config_view(venue.state.config(rule.symbol), rule) for rule in rules]


def leverage_bracket(venue: Venue, params: Params) -> list[dict[str, Any]]:
    rules = [venue.rules(params["symbol"])] if params.get("symbol") else list(venue.world.rules.values())
    return [{"symbol": rule.symbol, "brackets": _brackets(rule)} for rule in rules]


def set_leverage(venue: Venue, params: Params) -> dict[str, Any]:
    rules = venue.rules(params.get("symbol"))
    leverage = integer(params, "leverage")
    if leverage is None or not 1 <= leverage <= rules.max_leverage:
        raise VenueError(-4028, params.get("leverage"))
    config = venue.state.config(rules.symbol)
    if config.isolated and leverage < config.leverage and venue.state.position(rules.symbol).quantity:
        raise VenueError(-4161)
    venue.command(lambda: venue.state.put(SymbolConfig(rules.symbol, leverage, config.isolated)))
    return {"symbol": rules.symbol, "leverage": leverage, "maxNotionalValue": plain(_max_notional(rules, leverage))}


def set_margin_type(venue: Venue, params: Params) -> dict[str, Any]:
    rules = venue.rules(params.get("symbol"))
    if params.get("marginType") not in ("ISOLATED", "CROSSED"):
        raise VenueError(-1102, "marginType")
    isolated, config = params["marginType"] == "ISOLATED", venue.state.config(rules.symbol)
    if isolated == config.isolated:
        raise VenueError(-4046)
    if any(order.symbol == rules.symbol for order in venue.state.open_orders.values()):
        raise VenueError(-4047)
    if venue.state.position(rules.symbol).quantity:
        raise VenueError(-4048)
    venue.command(lambda: venue.state.put(SymbolConfig(rules.symbol, config.leverage, isolated)))
    return DONE


def position_mode(venue: Venue, params: Params) -> dict[str, Any]:
    return {"dualSidePosition": False}


def set_position_mode(venue: Venue, params: Params) -> dict[str, Any]:
    """One-way is what this venue has: asking for it needs no change, hedge mode is refused."""
    raise VenueError(-4059 if params.get("dualSidePosition", "").lower() == "false" else -4084)


def coins(venue: Venue, params: Params) -> list[dict[str, Any]]:
    """/sapi/v1/capital/config/getall, which a client with keys asks for when it loads its markets."""
    names = dict.fromkeys(["USDT", *(rules.base for rules in venue.world.rules.values())])
    return [{"coin": name, "name": name, "trading": True, "isLegalMoney": False, "networkList": []} for name in names]


def no_margin_pairs(venue: Venue, params: Params) -> list[dict[str, Any]]:
    """/sapi/v1/margin/allPairs: this venue lends nothing."""
    return []


def position_view(venue: Venue, position: Position) -> dict[str, Any]:
    rules, config = venue.rules(position.symbol), venue.state.config(position.symbol)
    mark = venue.mark(position.symbol)
    profit = account.unrealized(position, mark)
    margin = plain(account.initial_margin(venue.state, position, mark))
    return {
        "symbol": position.symbol,
        "positionSide": "BOTH",
        "positionAmt": plain(position.quantity),
        "entryPrice": plain(account.round_8(position.entry_price)),
        "breakEvenPrice": plain(account.round_8(position.entry_price)),
        "markPrice": plain(mark),
        "unRealizedProfit": plain(profit),
        "unrealizedProfit": plain(profit),
        "liquidationPrice": plain(account.liquidation_price(venue.state, position, rules)),
        "isolatedMargin": plain(position.margin + profit if config.isolated else Decimal(0)),
        "notional": plain(position.quantity * mark),
        "isolatedWallet": plain(position.margin if config.isolated else Decimal(0)),
        "marginAsset": "USDT",
        "initialMargin": margin,
        "maintMargin": plain(account.maintenance_margin(position, rules, mark)),
        "positionInitialMargin": margin,
        "openOrderInitialMargin": "0",
        "adl": 0,
        "bidNotional": "0",
        "askNotional": "0",
        "leverage": str(config.leverage),
        "marginType": "isolated" if config.isolated else "cross",
        "updateTime": position.updated_ms,
    }


def _isolated_margin(venue: Venue) -> Decimal:
    held = (p for p in venue.state.positions.values() if venue.state.config(p.symbol).isolated)
    return sum((p.margin for p in held), Decimal(0))


def _income_view(row: Income) -> dict[str, Any]:
    return {
        "symbol": row.symbol,
        "incomeType": row.type,
        "income": plain(row.amount),
        "asset": "USDT",
        "info": row.type,
        "time": row.time_ms,
        "tranId": row.tran_id,
        "tradeId": "" if row.trade_id is None else str(row.trade_id),
    }


def _config_view(config: SymbolConfig, rules: SymbolRules) -> dict[str, Any]:
    return {
        "symbol": config.symbol,
        "marginType": "ISOLATED" if config.isolated else "CROSSED",
        "isAutoAddMargin": "false",
        "leverage": config.leverage,
        "maxNotionalValue": plain(_max_notional(rules, config.leverage)),
    }


def _max_notional(rules: SymbolRules, leverage: int) -> Decimal:
    return max((b.cap for b in rules.brackets if b.leverage >= leverage), default=rules.brackets[0].cap)


def _brackets(rules: SymbolRules) -> list[dict[str, Any]]:
    return [
        {
            "bracket": number,
            "initialLeverage": bracket.leverage,
            "notionalCap": float(bracket.cap),
            "notionalFloor": float(bracket.floor),
            "maintMarginRatio": float(bracket.maintenance_rate),
            "cum": float(bracket.cumulative),
        }
        for number, bracket in enumerate(rules.brackets, 1)
    ]

"""Orders: ordinary ones on /order, conditional ones on /algoOrder, and the account's fills."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, TypeVar

from exchange_sim import metrics, trading
from exchange_sim.account import round_8
from exchange_sim.errors import VenueError
from exchange_sim.orders import AlgoOrder, Order, Trade
from exchange_sim.requests import Params, integer
from exchange_sim.venue import Venue

Row = TypeVar("Row")

ALL_CANCELED = {"code": 200, "msg": "The operation of cancel all open order is done."}


def create_order(venue: Venue, params: Params) -> dict[str, Any]:
    order = venue.place_order(params)
    metrics.ORDERS.labels(metrics.ORDER).inc()
    return order_view(order)


def get_order(venue: Venue, params: Params) -> dict[str, Any]:
    return order_view(_order(venue, params, -2013))


def delete_order(venue: Venue, params: Params) -> dict[str, Any]:
    order = _order(venue, params, -2011)
    return order_view(venue.command(lambda: trading.cancel_order(venue.state, order)))


def open_orders(venue: Venue, params: Params) -> list[dict[str, Any]]:
    return [order_view(order) for order in _of_symbol(venue, params, venue.state.open_orders.values())]


def all_orders(venue: Venue, params: Params) -> list[dict[str, Any]]:
    orders = _of_symbol(venue, params, venue.state.orders.values())
    rows = [(order.created_ms, order.order_id, order) for order in orders]
    return [order_view(order) for order in select(rows, params, 500, 1_000, "orderId")]


def cancel_all(venue: Venue, params: Params) -> dict[str, Any]:
    orders = list(_of_symbol(venue, params, venue.state.open_orders.values()))
    venue.command(lambda: [trading.cancel_order(venue.state, order) for order in orders])
    return ALL_CANCELED


def create_algo(venue: Venue, params: Params) -> dict[str, Any]:
    order = venue.place_algo(params)
    metrics.ORDERS.labels(metrics.ALGO).inc()
    return algo_view(order)


def get_algo(venue: Venue, params: Params) -> dict[str, Any]:
    return algo_view(_algo(venue, params, -2013))


def delete_algo(venue: Venue, params: Params) -> dict[str, Any]:
    algo = _algo(venue, params, -2011)
    venue.command(lambda: trading.cancel_algo(venue.state, algo))
    return {"algoId": algo.algo_id, "clientAlgoId": algo.client_algo_id, "code": "200", "msg": "success"}


def open_algos(venue: Venue, params: Params) -> list[dict[str, Any]]:
    return [algo_view(algo) for algo in _of_symbol(venue, params, venue.state.open_algos.values())]


def all_algos(venue: Venue, params: Params) -> list[dict[str, Any]]:
    algos = _of_symbol(venue, params, venue.state.algos.values())
    rows = [(algo.created_ms, algo.algo_id, algo) for algo in algos]
    return [algo_view(algo) for algo in select(rows, params, 500, 1_000, "algoId")]


def cancel_all_algos(venue: Venue, params: Params) -> dict[str, Any]:
    algos = list(_of_symbol(venue, params, venue.state.open_algos.values()))
    venue.command(lambda: [trading.cancel_algo(venue.state, algo) for algo in algos])
    return ALL_CANCELED


def user_trades(venue: Venue, params: Params) -> list[dict[str, Any]]:
    """Fills of a symbol, oldest first; the newest ones unless startTime or fromId say where to begin."""
    symbol, order_id = venue.rules(params.get("symbol")).symbol, integer(params, "orderId")
    before = max((integer(params, "fromId", 1) or 1) - 1, 0)  # trade ids count from 1 without a gap
    rows = [
        (trade.time_ms, trade.trade_id, trade)
        for trade in venue.state.trades[before:]
        if trade.symbol == symbol and order_id in (None, trade.order_id)
    ]
    return [trade_view(trade) for trade in select(rows, params, 500, 1_000, "fromId")]


def select(rows: list[tuple[int, int, Row]], params: Params, default: int, most: int, from_key: str) -> list[Row]:
    """The venue's window: [startTime, endTime], ids from `from_key` on; the first `limit` after a start, else the last.

    A row is (time in ms, id, item).
    """
    start_ms, end_ms, from_id = integer(params, "startTime"), integer(params, "endTime"), integer(params, from_key)
    limit = min(integer(params, "limit", default) or default, most)
    found = [
        row
        for ts, number, row in rows
        if (start_ms is None or ts >= start_ms)
        and (end_ms is None or ts <= end_ms)
        and (from_id is None or number >= from_id)
    ]
    return found[-limit:] if start_ms is None and from_id is None else found[:limit]


def order_view(order: Order) -> dict[str, Any]:
    average = round_8(order.quote / order.filled) if order.filled else Decimal(0)
    return {
        "orderId": order.order_id,
        "symbol": order.symbol,
        "status": order.status,
        "clientOrderId": order.client_order_id,
        "price": plain(order.price),
        "avgPrice": plain(average),
        "origQty": plain(order.quantity),
        "executedQty": plain(order.filled),
        "cumQty": plain(order.filled),
        "cumQuote": plain(order.quote),
        "timeInForce": order.time_in_force,
        "type": order.type,
        "origType": order.original_type,
        "reduceOnly": order.reduce_only,
        "closePosition": order.close_position,
        "side": order.side,
        "positionSide": "BOTH",
        "stopPrice": "0",
        "workingType": "CONTRACT_PRICE",
        "priceProtect": False,
        "priceMatch": "NONE",
        "selfTradePreventionMode": "NONE",
        "goodTillDate": 0,
        "time": order.created_ms,
        "updateTime": order.updated_ms,
    }


def algo_view(algo: AlgoOrder) -> dict[str, Any]:
    return {
        "algoId": algo.algo_id,
        "clientAlgoId": algo.client_algo_id,
        "algoType": "CONDITIONAL",
        "orderType": algo.type,
        "symbol": algo.symbol,
        "side": algo.side,
        "positionSide": "BOTH",
        "timeInForce": algo.time_in_force,
        "quantity": plain(algo.quantity),
        "algoStatus": algo.status,
        "actualOrderId": "" if algo.actual_order_id is None else str(algo.actual_order_id),
        "actualPrice": plain(round_8(algo.actual_price)),
        "triggerPrice": plain(algo.trigger_price),
        "price": "0",
        "icebergQuantity": None,
        "selfTradePreventionMode": "NONE",
        "workingType": algo.working_type,
        "priceMatch": "NONE",
        "closePosition": algo.close_position,
        "priceProtect": False,
        "reduceOnly": algo.reduce_only,
        "createTime": algo.created_ms,
        "updateTime": algo.updated_ms,
        "triggerTime": algo.trigger_ms,
        "goodTillDate": 0,
    }


def trade_view(trade: Trade) -> dict[str, Any]:
    return {
        "symbol": trade.symbol,
        "id": trade.trade_id,
        "orderId": trade.order_id,
        "side": trade.side,
        "price": plain(trade.price),
        "qty": plain(trade.quantity),
        "realizedPnl": plain(trade.realized_pnl),
        "marginAsset": "USDT",
        "quoteQty": plain(trade.price * trade.quantity),
        "commission": plain(trade.fee),
        "commissionAsset": "USDT",
        "time": trade.time_ms,
        "positionSide": "BOTH",
        "buyer": trade.side == "BUY",
        "maker": trade.maker,
    }


def plain(value: Decimal) -> str:
    """Decimal without an exponent, exact."""
    return f"{value:f}"


def _of_symbol(venue: Venue, params: Params, rows: Iterable[Any]) -> list[Any]:
    if not params.get("symbol"):
        return list(rows)
    symbol = venue.rules(params["symbol"]).symbol
    return [row for row in rows if row.symbol == symbol]


def _order(venue: Venue, params: Params, missing: int) -> Order:
    symbol = venue.rules(params.get("symbol")).symbol
    client_id = params.get("origClientOrderId")
    order_id = venue.state.client_orders.get(client_id) if client_id else integer(params, "orderId")
    if order_id is None and not client_id:
        raise VenueError(-1102, "orderId")
    order = None if order_id is None else venue.state.orders.get(order_id)
    if order is None or order.symbol != symbol:
        raise VenueError(missing)
    return order


def _algo(venue: Venue, params: Params, missing: int) -> AlgoOrder:
    client_id = params.get("clientAlgoId")
    algo_id = venue.state.client_algos.get(client_id) if client_id else integer(params, "algoId")
    if algo_id is None and not client_id:
        raise VenueError(-1102, "algoId")
    algo = None if algo_id is None else venue.state.algos.get(algo_id)
    if algo is None:
        raise VenueError(missing)
    return algo

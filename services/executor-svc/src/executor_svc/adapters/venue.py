"""The venue through ccxt: the only module that knows it. Binance USD-M perpetuals and whatever speaks like them.

Conditional orders (stop, target) live at the algo-order endpoints under a client algo id: every call on an order says
whether it is conditional (`trigger`). The `info` of ccxt's answers is used where the unified structure has no field.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Awaitable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import ccxt.async_support as ccxt

from executor_svc.core.book import ZERO, Market, Order
from executor_svc.core.reports import WOULD_TRIGGER, OrderReport
from executor_svc.core.states import ReportStatus
from executor_svc.core.venue_facts import AccountSnapshot, Funding, OpenOrder, Quote, Trade, VenuePosition
from executor_svc.errors import RefusesToTrade, VenueRefused, VenueUnreachable
from executor_svc.metrics import SKEW, VENUE_ERRORS
from executor_svc.settings import ExecutorSettings
from quantum_common.domain.signal import OrderSide
from quantum_common.domain.venue import at_base_url

LEVERAGE = 1
TRADES_PER_PAGE = 1_000
DEPTH_LEVELS = 20

NEVER_SENT_OR_REFUSED = (
    ccxt.InvalidOrder,
    ccxt.InsufficientFunds,
    ccxt.BadRequest,
    ccxt.OperationRejected,
    ccxt.AuthenticationError,
    ccxt.NotSupported,
    ccxt.ArgumentsRequired,
)
"""Errors without a code of the venue that are definite all the same: ccxt refused, or understood the refusal."""
UNKNOWN_OUTCOME_CODES = frozenset({"-1000", "-1001", "-1003", "-1006", "-1007", "-1008", "-1015", "-1016", "-1021"})
"""The venue itself does not know, or was too busy to look (F27)."""
DUPLICATE_CODES = frozenset({"-4116", "-20132"})
"""The client id is taken: an earlier request with it did arrive. So ask; this is not a rejection."""
NOT_FOUND_CODES = frozenset({"-2011", "-2013"})
WOULD_TRIGGER_CODE = "-2021"
NOTHING_TO_CHANGE = ("-4046", "-4059")

STATUS: dict[str, ReportStatus] = {
    "open": ReportStatus.OPEN,
    "closed": ReportStatus.FILLED,
    "canceled": ReportStatus.CANCELED,
    "expired": ReportStatus.CANCELED,
    "rejected": ReportStatus.REJECTED,
}

T = TypeVar("T")


def make_exchange(settings: ExecutorSettings) -> Any:
    """A ccxt client that sends where the settings say, keeps numbers as strings, and has our receive window."""
    key, secret = settings.credentials
    exchange = getattr(ccxt, settings.exchange)(
        {
            "apiKey": key,
            "secret": secret,
            "timeout": settings.venue_timeout_ms,
            "enableRateLimit": settings.mode == "live",
            "options": {"recvWindow": settings.venue_receive_window_ms, "fetchCurrencies": False},
        }
    )
    exchange.number = str
    if settings.base_url:
        exchange.urls["api"] = at_base_url(exchange.urls["api"], settings.base_url)
    return exchange


class CcxtVenue:
    """See VenuePort."""

    def __init__(self, exchange: Any) -> None:
        self._exchange = exchange
        self._names: dict[str, str] = {}
        self.markets: Mapping[str, Market] = {}
        self.skew_ms = 0

    async def start(self, symbols: Sequence[str]) -> None:
        await self.measure_skew()
        await self._ask(self._exchange.load_markets())
        by_id = self._exchange.markets_by_id
        if unknown := [symbol for symbol in symbols if symbol not in by_id]:
            raise RefusesToTrade(f"the venue has no market {', '.join(unknown)}: check QT_SYMBOLS")
        self._names = {symbol: by_id[symbol][0]["symbol"] for symbol in symbols}
        self.markets = {symbol: _market(symbol, by_id[symbol][0]) for symbol in symbols}
        if wrong := await self._wrong_modes():
            await self._set_modes(wrong)
            if wrong := await self._wrong_modes():
                raise RefusesToTrade(f"one-way, isolated, leverage {LEVERAGE} could not be set: {', '.join(wrong)}")

    async def _wrong_modes(self) -> list[str]:
        """Symbols whose margin mode or leverage is wrong, and `position_mode`."""
        modes = await self._ask(self._exchange.fetch_margin_modes(list(self._names.values())))
        found = []
        for symbol, name in self._names.items():
            mode = modes.get(name)
            leverage = mode and mode["info"].get("leverage")
            if mode is None or mode["marginMode"] != "isolated" or int(leverage or 0) != LEVERAGE:
                found.append(symbol)
        hedged = (await self._ask(self._exchange.fetch_position_mode()))["hedged"]
        return found if hedged is False else [*found, "position_mode"]

    async def _set_modes(self, wrong: Sequence[str]) -> None:
        for symbol in wrong:
            if symbol == "position_mode":
                await self._change(self._exchange.set_position_mode(False))
                continue
            name = self._names[symbol]
            await self._change(self._exchange.set_margin_mode("isolated", name))
            await self._change(self._exchange.set_leverage(LEVERAGE, name))

    async def _change(self, call: Awaitable[Any]) -> None:
        try:
            await self._ask(call)
        except VenueRefused as error:
            if error.code not in NOTHING_TO_CHANGE:
                raise RefusesToTrade(f"the account cannot be set up: {error}") from error

    async def measure_skew(self) -> None:
        before = time.time_ns() // 1_000_000
        server = await self._read(self._exchange.fetch_time())
        after = time.time_ns() // 1_000_000
        self.skew_ms = (before + after) // 2 - int(server)
        self._exchange.options["timeDifference"] = self.skew_ms
        SKEW.set(self.skew_ms / 1000)

    async def submit(self, order: Order) -> OrderReport:
        params: dict[str, Any] = {
            "clientOrderId": order.client_order_id,
            "timestamp": order.submitted_wall_ms - self.skew_ms,
        }
        if order.reduce_only:
            params["reduceOnly"] = True
        if order.trigger_price is not None:
            key = "stopLossPrice" if order.order_type == "stop_market" else "takeProfitPrice"
            params[key] = f"{order.trigger_price:f}"
        name = self._names[order.symbol]
        quantity = f"{order.quantity:f}"
        answer = await self._ask(self._exchange.create_order(name, "market", order.side.value, quantity, None, params))
        return await self._report(order, answer)

    async def cancel(self, order: Order, asked_wall_ms: int) -> OrderReport | None:
        try:
            await self._ask(self._cancellation(order, asked_wall_ms))
        except VenueRefused:
            return None
        return OrderReport(order.client_order_id, ReportStatus.CANCELED, order.venue_order_id)

    async def look_up(self, order: Order) -> OrderReport | None:
        params = {"clientOrderId": order.client_order_id, "trigger": order.conditional}
        try:
            answer = await self._ask(self._exchange.fetch_order("", self._names[order.symbol], params))
        except VenueRefused as error:
            if error.code == "NOT_FOUND":
                return None
            raise VenueUnreachable(f"look-up refused: {error}") from error
        return await self._report(order, answer)

    async def _report(self, order: Order, answer: Mapping[str, Any]) -> OrderReport:
        status = STATUS.get(answer["status"] or "open")
        if status is None:
            raise VenueUnreachable(f"order status {answer['status']!r} is unknown")
        info = answer["info"]
        spawned = str(info.get("actualOrderId") or "") if order.conditional else ""
        identity = order.client_order_id
        if spawned and int(spawned):
            child = await self._ask(self._exchange.fetch_order(spawned, self._names[order.symbol]))
            status = STATUS.get(child["status"], ReportStatus.OPEN)
            return OrderReport(identity, status, str(answer["id"]), Decimal(child["filled"]), spawned)
        executed = None if order.conditional else Decimal(answer["filled"] or 0)
        if status is ReportStatus.REJECTED:
            return OrderReport(identity, status, str(answer["id"] or ""), executed, reason="REJECTED_BY_VENUE")
        return OrderReport(identity, status, str(answer["id"]), executed)

    async def open_orders(self, symbol: str) -> list[OpenOrder]:
        found = []
        for conditional in (False, True):
            rows = await self._read(
                self._exchange.fetch_open_orders(self._names[symbol], None, None, {"trigger": conditional})
            )
            found += [OpenOrder(symbol, str(r["clientOrderId"] or ""), conditional, str(r["id"])) for r in rows]
        return found

    async def cancel_open(self, order: OpenOrder, asked_wall_ms: int) -> None:
        with contextlib.suppress(VenueRefused):
            await self._ask(self._cancellation(order, asked_wall_ms))

    def _cancellation(self, order: Order | OpenOrder, asked_wall_ms: int) -> Awaitable[Any]:
        params = {
            "clientOrderId": order.client_order_id,
            "trigger": order.conditional,
            "timestamp": asked_wall_ms - self.skew_ms,
        }
        call: Awaitable[Any] = self._exchange.cancel_order("", self._names[order.symbol], params)
        return call

    async def quote(self, symbol: str) -> Quote:
        book = await self._ask(self._exchange.fetch_order_book(self._names[symbol], DEPTH_LEVELS))
        bids, asks = ([(Decimal(p), Decimal(q)) for p, q, *_ in book[side]] for side in ("bids", "asks"))
        return Quote(tuple(bids), tuple(asks))

    async def trades(self, symbol: str, after_id: int) -> list[Trade]:
        found: list[Trade] = []
        while True:
            page = await self._read(
                self._exchange.fetch_my_trades(
                    self._names[symbol],
                    None,
                    TRADES_PER_PAGE,
                    {"fromId": (found[-1].trade_id if found else after_id) + 1},
                )
            )
            found += [trade for trade in map(_trade(symbol), page) if trade.trade_id > after_id]
            if len(page) < TRADES_PER_PAGE:
                return found

    async def newest_trade_id(self, symbol: str) -> int:
        page = await self._read(self._exchange.fetch_my_trades(self._names[symbol], None, 1))
        return max((int(row["id"]) for row in page), default=0)

    async def funding(self, symbol: str, since_ms: int) -> list[Funding]:
        rows = await self._read(self._exchange.fetch_funding_history(self._names[symbol], since_ms, 1_000))
        return [Funding(symbol, str(row["id"]), Decimal(row["amount"]), int(row["timestamp"])) for row in rows]

    async def account(self) -> AccountSnapshot:
        info = (await self._read(self._exchange.fetch_balance()))["info"]
        positions = {
            row["symbol"]: VenuePosition(
                Decimal(row["positionAmt"]), abs(Decimal(row["notional"])), Decimal(row["unrealizedProfit"])
            )
            for row in info["positions"]
            if Decimal(row["positionAmt"]) != ZERO
        }
        return AccountSnapshot(Decimal(info["totalWalletBalance"]), Decimal(info["totalMarginBalance"]), positions)

    async def close(self) -> None:
        await self._exchange.close()

    async def _ask(self, call: Awaitable[T]) -> T:
        """Await a ccxt call; its errors become ours."""
        try:
            return await call
        except ccxt.BaseError as error:
            raise self._ours(error) from error

    async def _read(self, call: Awaitable[T]) -> T:
        """Ask where nothing was wanted from the venue that a refusal could end: it is asked again later."""
        try:
            return await self._ask(call)
        except VenueRefused as error:
            raise VenueUnreachable(f"the venue refuses to answer: {error}") from error

    def _ours(self, error: ccxt.BaseError) -> VenueRefused | VenueUnreachable:
        """Judged by the venue's code: ccxt's classes follow the address, and the paper venue has another one."""
        detail = str(error)
        match = re.search(r'"code":\s*"?(-?\d+)', detail)
        code = match.group(1) if match else ""
        refused = bool(code) or isinstance(error, NEVER_SENT_OR_REFUSED)
        if isinstance(error, ccxt.OperationFailed) or code in UNKNOWN_OUTCOME_CODES | DUPLICATE_CODES or not refused:
            VENUE_ERRORS.labels("unreachable").inc()
            return VenueUnreachable(f"{type(error).__name__}: {detail}")
        VENUE_ERRORS.labels("refused").inc()
        if code in NOT_FOUND_CODES or isinstance(error, ccxt.OrderNotFound):
            return VenueRefused("NOT_FOUND", detail)
        return VenueRefused(WOULD_TRIGGER if code == WOULD_TRIGGER_CODE else code or type(error).__name__, detail)


def _market(symbol: str, market: Mapping[str, Any]) -> Market:
    limits, precision = market["limits"], market["precision"]
    most = limits.get("market", {}).get("max") or limits["amount"]["max"]
    return Market(
        symbol=symbol,
        tick_size=Decimal(precision["price"]),
        step_size=Decimal(precision["amount"]),
        min_quantity=Decimal(limits["amount"]["min"]),
        max_quantity=Decimal(most),
        min_notional_usd=Decimal(limits["cost"]["min"] or 0),
    )


def _trade(symbol: str) -> Any:
    def parse(row: Mapping[str, Any]) -> Trade:
        return Trade(
            trade_id=int(row["id"]),
            venue_order_id=str(row["order"]),
            symbol=symbol,
            side=OrderSide(row["side"]),
            quantity=Decimal(row["amount"]),
            price=Decimal(row["price"]),
            fee=Decimal(row["fee"]["cost"]),
            realized_pnl=Decimal(row["info"]["realizedPnl"]),
            market_ts_ms=int(row["timestamp"]),
        )

    return parse

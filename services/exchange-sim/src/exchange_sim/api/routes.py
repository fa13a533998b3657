"""The venue's endpoints as a table, and the one wrapper around them: signature, errors, rate-limit headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl

import msgspec
from fastapi import APIRouter, Request, Response

from exchange_sim import metrics
from exchange_sim.api import account, market_data, trade
from exchange_sim.api.auth import check_signed
from exchange_sim.errors import VenueError
from exchange_sim.requests import Params
from exchange_sim.settings import SimSettings
from exchange_sim.venue import Venue

Handler = Callable[[Venue, Params], Any]
WallClock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path. `weight` counts against the request limit, `is_order` also against the order limit."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: Handler
    signed: bool = True
    weight: int = 1
    is_order: bool = False


def _empty(venue: Venue, params: Params) -> dict[str, Any]:
    return {}


ENDPOINTS = (
    Endpoint("GET", "/fapi/v1/ping", _empty, signed=False),
    Endpoint("GET", "/fapi/v1/exchangeInfo", market_data.exchange_info, signed=False),
    Endpoint("GET", "/fapi/v1/klines", market_data.klines, signed=False),
    Endpoint("GET", "/fapi/v1/depth", market_data.depth, signed=False, weight=5),
    Endpoint("GET", "/fapi/v1/ticker/24hr", market_data.day_ticker, signed=False),
    Endpoint("GET", "/fapi/v1/ticker/bookTicker", market_data.book_ticker, signed=False, weight=2),
    Endpoint("GET", "/fapi/v1/ticker/price", market_data.price_ticker, signed=False),
    Endpoint("GET", "/fapi/v2/ticker/price", market_data.price_ticker, signed=False),
    Endpoint("GET", "/fapi/v1/premiumIndex", market_data.premium_index, signed=False),
    Endpoint("POST", "/fapi/v1/order", trade.create_order, is_order=True),
    Endpoint("GET", "/fapi/v1/order", trade.get_order),
    Endpoint("DELETE", "/fapi/v1/order", trade.delete_order),
    Endpoint("GET", "/fapi/v1/openOrders", trade.open_orders),
    Endpoint("GET", "/fapi/v1/allOrders", trade.all_orders, weight=5),
    Endpoint("DELETE", "/fapi/v1/allOpenOrders", trade.cancel_all),
    Endpoint("POST", "/fapi/v1/algoOrder", trade.create_algo, is_order=True),
    Endpoint("GET", "/fapi/v1/algoOrder", trade.get_algo),
    Endpoint("DELETE", "/fapi/v1/algoOrder", trade.delete_algo),
    Endpoint("GET", "/fapi/v1/openAlgoOrders", trade.open_algos),
    Endpoint("GET", "/fapi/v1/allAlgoOrders", trade.all_algos, weight=5),
    Endpoint("DELETE", "/fapi/v1/algoOpenOrders", trade.cancel_all_algos),
    Endpoint("GET", "/fapi/v1/userTrades", trade.user_trades, weight=5),
    Endpoint("GET", "/fapi/v3/account", account.balances, weight=5),
    Endpoint("GET", "/fapi/v2/account", account.balances, weight=5),
    Endpoint("GET", "/fapi/v3/positionRisk", account.positions, weight=5),
    Endpoint("GET", "/fapi/v2/positionRisk", account.positions, weight=5),
    Endpoint("GET", "/fapi/v1/income", account.income, weight=30),
    Endpoint("GET", "/fapi/v1/symbolConfig", account.symbol_config, weight=5),
    Endpoint("GET", "/fapi/v1/leverageBracket", account.leverage_bracket),
    Endpoint("POST", "/fapi/v1/leverage", account.set_leverage),
    Endpoint("POST", "/fapi/v1/marginType", account.set_margin_type),
    Endpoint("GET", "/fapi/v1/positionSide/dual", account.position_mode, weight=30),
    Endpoint("POST", "/fapi/v1/positionSide/dual", account.set_position_mode),
    Endpoint("GET", "/sapi/v1/capital/config/getall", account.coins, weight=10),
    Endpoint("GET", "/sapi/v1/margin/allPairs", account.no_margin_pairs),
)


class Usage:
    """The rate-limit headers: what has been used of each running window of wall time. Nothing is refused."""

    def __init__(self) -> None:
        self._used: dict[str, tuple[int, int]] = {}

    def headers(self, endpoint: Endpoint, wall_ms: int) -> dict[str, str]:
        """Count one request."""
        shown = {"x-mbx-used-weight-1m": self._add("weight", 60_000, wall_ms, endpoint.weight)}
        if endpoint.is_order:
            shown["x-mbx-order-count-10s"] = self._add("orders-10s", 10_000, wall_ms, 1)
            shown["x-mbx-order-count-1m"] = self._add("orders-1m", 60_000, wall_ms, 1)
        return shown

    def _add(self, name: str, window_ms: int, wall_ms: int, amount: int) -> str:
        window = wall_ms // window_ms
        last, used = self._used.get(name, (window, 0))
        self._used[name] = window, (used if last == window else 0) + amount
        return str(self._used[name][1])


def venue_router(venue: Venue, settings: SimSettings, wall_ms: WallClock) -> APIRouter:
    """Every endpoint of the table, and the server time, which is wall time: clients set their clocks by it."""
    router = APIRouter(tags=["venue"])
    usage = Usage()
    for endpoint in ENDPOINTS:
        router.add_api_route(
            endpoint.path,
            _wrap(endpoint, venue, settings, usage, wall_ms),
            methods=[endpoint.method],
            name=f"{endpoint.method} {endpoint.path}",
        )

    @router.get("/fapi/v1/time")
    async def server_time() -> Response:
        return reply({"serverTime": wall_ms()})

    return router


def _wrap(
    endpoint: Endpoint, venue: Venue, settings: SimSettings, usage: Usage, wall_ms: WallClock
) -> Callable[[Request], Awaitable[Response]]:
    known_key = settings.sim_api_key.get_secret_value()
    secret = settings.sim_api_secret.get_secret_value()
    latency = metrics.REQUEST_SECONDS.labels(endpoint.method, endpoint.path)

    async def handle(request: Request) -> Response:
        payload: str = request.scope["query_string"].decode()
        if endpoint.method == "POST":
            payload = "&".join(part for part in (payload, (await request.body()).decode()) if part)
        params = dict(parse_qsl(payload, keep_blank_values=True))
        now_ms = wall_ms()
        headers = usage.headers(endpoint, now_ms)
        try:
            with latency.time():
                if endpoint.signed:
                    api_key = request.headers.get("x-mbx-apikey")
                    check_signed(api_key, payload, params, known_key=known_key, secret=secret, wall_ms=now_ms)
                return reply(endpoint.handler(venue, params), headers=headers)
        except VenueError as error:
            metrics.REFUSALS.labels(str(error.code)).inc()
            return reply({"code": error.code, "msg": error.message}, error.http_status, headers)

    return handle


def reply(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Response(content, status, headers, media_type="application/json")

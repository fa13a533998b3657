"""What the paper venue tells of itself on /metrics."""

from __future__ import annotations

import ccxt.async_support as ccxt
import pytest
from prometheus_client.parser import text_string_to_metric_families

START, HOUR = 1_704_067_200_000, 3_600_000
ORDER_ROUTE = {"method": "POST", "route": "/fapi/v1/order"}


async def told(venue, name: str, **labels: str) -> float:
    text = (await venue.http.get("/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return next(each.value for each in samples if each.name == f"quantum_sim_{name}" and each.labels == labels)


async def test_orders_refusals_and_the_market_clock_are_told(venue):
    await venue.advance(START + 2 * HOUR)
    before = {
        "orders_total": await told(venue, "orders_total", kind="order"),
        "refusals_total": await told(venue, "refusals_total", code="-2019"),
        "request_seconds_count": await told(venue, "request_seconds_count", **ORDER_ROUTE),
    }
    await venue.exchange.create_order("BTC/USDT:USDT", "market", "buy", 0.01)
    with pytest.raises(ccxt.ExchangeError, match="-2019"):
        await venue.exchange.create_order("BTC/USDT:USDT", "market", "buy", 90)
    assert await told(venue, "orders_total", kind="order") == before["orders_total"] + 1
    assert await told(venue, "refusals_total", code="-2019") == before["refusals_total"] + 1
    assert await told(venue, "request_seconds_count", **ORDER_ROUTE) == before["request_seconds_count"] + 2
    assert await told(venue, "last_trade_id") == (await venue.status())["last_trade_id"] > 0
    assert await told(venue, "open_positions") == 1
    assert await told(venue, "market_timestamp_seconds") == (START + 2 * HOUR) / 1000

"""Where the pictures put things."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor_svc.charts import equity_chart, gauge_pct, price_chart, round_values, segments
from monitor_svc.view_of_fleet import Source
from monitor_svc.view_of_market import Bar, DecisionRow, EquityPoint, FillMark, Prices

HOUR_MS = 3_600_000
BAR = 1_700_000_000_000 // HOUR_MS * HOUR_MS


def decided(number: int, action: str) -> DecisionRow:
    return DecisionRow(f"d{number}", "BTCUSDT", BAR + number * HOUR_MS, action, 0.6, "reason", "")


def prices() -> Prices:
    bars = tuple(Bar(BAR + number * HOUR_MS, 100.0, 104.0, 96.0, 101.0) for number in range(3))
    rows = (decided(0, "BUY"), decided(1, "SELL"), decided(2, "HOLD"))
    late = FillMark(BAR + 3 * HOUR_MS, "buy", "entry", Decimal("106.5"), Decimal(1))
    return Prices(Source("x", 1.0, False), "BTCUSDT", ("BTCUSDT",), HOUR_MS, bars, rows, (late,))


def test_a_buy_stands_below_its_bar_a_sell_above_and_a_hold_at_the_foot() -> None:
    chart = price_chart(prices())
    assert chart
    bar = chart.candles[0]
    buy, sell, hold = chart.marks
    assert (buy.y_pct, sell.y_pct, hold.y_pct) == (bar.low_pct, bar.high_pct, 98.0)
    assert [mark.x_pct for mark in chart.marks] == pytest.approx([candle.x_pct for candle in chart.candles], abs=0.01)


def test_a_fill_after_the_newest_bar_and_beyond_its_range_is_inside_the_picture() -> None:
    chart = price_chart(prices())
    assert chart
    (fill,) = chart.fills
    assert chart.candles[-1].x_pct < fill.x_pct < 100
    assert 0 < fill.y_pct < chart.candles[0].high_pct


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=50))
def test_the_equity_line_stays_in_its_area_whatever_the_values(cents: list[int]) -> None:
    points = [EquityPoint(BAR + n * HOUR_MS, Decimal(each) / 100, Decimal(0)) for n, each in enumerate(cents)]
    chart = equity_chart(points)
    assert chart
    places = [float(part) for pair in chart.line.split() for part in pair.split(",")]
    assert all(0 <= place <= 100 for place in places)
    assert all(0 <= tick.at_pct <= 100 for tick in (*chart.y_ticks, *chart.x_ticks))


@given(st.floats(0, 1e6), st.floats(1e-6, 1e6))
def test_axis_values_lie_in_the_range_and_their_labels_differ(low: float, width: float) -> None:
    found = round_values(low, low + width, 6)
    assert len(found) <= 7
    assert all(low - 1e-6 <= value <= low + width + 1e-6 * width + 1e-6 for value, _ in found)
    assert len({label for _, label in found}) == len(found)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (84_000, 88_400, ["84,000", "85,000", "86,000", "87,000", "88,000"]),
        (0.11, 0.14, ["0.11", "0.12", "0.13", "0.14"]),
    ],
)
def test_axis_values_are_round(low: float, high: float, labels: list[str]) -> None:
    assert [label for _, label in round_values(low, high, 6)] == labels


def test_parts_lie_side_by_side_and_fill_the_whole() -> None:
    parts = segments([("SELL", 1), ("HOLD", 0), ("BUY", 3)], 4)
    assert [(part.name, part.start_pct, part.width_pct) for part in parts] == [("SELL", 0.0, 25.0), ("BUY", 25.0, 75.0)]
    assert segments([("SELL", 0)], 0) == []


@pytest.mark.parametrize(
    ("value", "full", "pct"), [(None, 1, 0), (1, None, 0), (1, 0, 0), (5, 10, 50), (20, 10, 100), (-1, 10, 0)]
)
def test_a_gauge_stays_on_its_scale(value: float | None, full: float | None, pct: float) -> None:
    assert gauge_pct(value, full) == pct


def test_no_bars_no_picture() -> None:
    nothing = Prices(Source("x", None, True, "nothing"), None, (), HOUR_MS, (), (), ())
    assert price_chart(nothing) is None
    assert equity_chart([]) is None

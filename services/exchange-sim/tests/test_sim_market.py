"""The price path: what is visible when, and where a level is first reached."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange_sim import SimError
from exchange_sim.market import SymbolMarket
from exchange_sim.synthetic import generate
from quantum_common.candles import Candles

HOUR = 3_600_000
START = 1_704_067_200_000


def test_a_rising_bar_goes_to_its_low_first_and_a_falling_one_to_its_high(candles):
    market = SymbolMarket("X", candles([(10.0, 13.0, 9.0, 12.0), (12.0, 14.0, 8.0, 11.0)]), HOUR)

    assert [price for _, price in market.path(0)] == [10.0, 9.0, 13.0, 12.0, 12.0]
    assert [price for _, price in market.path(1)] == [12.0, 14.0, 8.0, 11.0, 11.0]


def test_at_the_close_of_a_bar_the_next_one_shows_only_its_open(candles):
    market = SymbolMarket("X", candles([(10.0, 13.0, 9.0, 12.0), (12.5, 14.0, 8.0, 11.0)]), HOUR)

    assert market.open_bar(START + HOUR) == (START + HOUR, 12.5, 12.5, 12.5, 12.5, 0.0)


def test_the_bar_in_progress_shows_nothing_of_what_is_still_to_come(candles):
    market = SymbolMarket("X", candles([(10.0, 13.0, 9.0, 12.0)]), HOUR)

    _, open_, high, low, close, volume = market.open_bar(START + HOUR // 4)

    assert (open_, high, low, close, volume) == (10.0, 10.0, 9.0, 9.0, 25.0)


def test_there_is_no_bar_in_progress_after_the_data_end_or_inside_a_gap(candles):
    bars = candles([(10.0, 13.0, 9.0, 12.0)] * 3)
    gapped = Candles(*(np.delete(getattr(bars, name), 1) for name in ("ts", "open", "high", "low", "close", "volume")))
    market = SymbolMarket("X", gapped, HOUR)

    assert market.open_bar(START + HOUR) is None
    assert market.price_at(START + HOUR + 5) == 12.0
    assert market.open_bar(START + 3 * HOUR) is None


def test_a_gap_over_a_level_is_met_at_the_open(candles):
    market = SymbolMarket("X", candles([(10.0, 10.0, 10.0, 10.0), (12.0, 12.5, 11.8, 12.2)]), HOUR)

    crossing = market.crossing(START, START + 2 * HOUR, 11.0, rising=True)

    assert crossing is not None
    assert (crossing.ts_ms, crossing.price) == (START + HOUR, 12.0)


def test_a_level_that_was_passed_before_the_start_does_not_count(candles):
    market = SymbolMarket("X", candles([(10.0, 13.0, 9.0, 12.0), (12.0, 12.0, 12.0, 12.0)]), HOUR)

    assert market.crossing(START + HOUR // 2, START + 2 * HOUR, 9.5, rising=False) is None


def test_a_level_passed_earlier_in_this_bar_is_found_again_in_the_next_one(candles):
    market = SymbolMarket("X", candles([(10.0, 13.0, 9.0, 12.0), (12.0, 12.5, 9.2, 12.4)]), HOUR)

    crossing = market.crossing(START + HOUR // 2, START + 2 * HOUR, 9.5, rising=False)

    assert crossing is not None
    assert START + HOUR < crossing.ts_ms < START + HOUR + HOUR // 4
    assert crossing.price == 9.5


def test_bars_out_of_order_are_refused(candles):
    bars = candles([(1.0, 1.0, 1.0, 1.0)] * 2)
    backwards = Candles(bars.ts[::-1], bars.open, bars.high, bars.low, bars.close, bars.volume)

    with pytest.raises(SimError, match="ascending"):
        SymbolMarket("X", backwards, HOUR)


MARKET = SymbolMarket("SOLUSDT", generate("SOLUSDT", "1m", 60, START, 3), 60_000)


@given(
    start=st.integers(0, 60 * 60_000),
    length=st.integers(0, 20 * 60_000),
    offset=st.floats(-0.01, 0.01),
    rising=st.booleans(),
)
def test_the_crossing_is_the_first_millisecond_at_which_the_path_is_beyond_the_level(start, length, offset, rising):
    start_ms, end_ms = START + start, START + start + length
    level = MARKET.price_at(start_ms) * (1 + offset)

    crossing = MARKET.crossing(start_ms, end_ms, level, rising=rising)

    moments = range(start_ms, end_ms + 1, 997) if crossing is None else range(start_ms, crossing.ts_ms, 997)
    slack = 1e-9 * level
    for moment in moments:
        price = MARKET.price_at(moment)
        assert price <= level + slack if rising else price >= level - slack
    if crossing is not None:
        assert start_ms <= crossing.ts_ms <= end_ms
        there = MARKET.price_at(crossing.ts_ms)
        assert there >= level - slack if rising else there <= level + slack

"""What signals would have earned, on markets whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from quantum_research.bootstrap import DAY_MS, DayBlocks
from quantum_research.dataset import Dataset
from quantum_research.labels import BUY, HOLD, SELL
from quantum_research.signal_result import SignalResult, holding, non_overlapping, signal_results
from quantum_research.testing import HOUR_MS, synthetic_dataset

DATA = synthetic_dataset(rows_per_symbol=500)


def results(probabilities: np.ndarray, data: Dataset = DATA, fee_bps: float = 5.0) -> dict[str, SignalResult]:
    blocks = DayBlocks(data.ts_ms, resamples=200, seed=0)
    return {found.rule: found for found in signal_results(probabilities, data, blocks, fee_bps=fee_bps, seed=0)}


def saying(classes: np.ndarray, confidence: float = 0.6) -> np.ndarray:
    return np.eye(3)[classes] * (confidence - (1 - confidence) / 2) + (1 - confidence) / 2


def test_a_symbol_that_is_always_signalled_trades_once_a_horizon() -> None:
    rows = non_overlapping(np.ones(len(DATA), bool), DATA)
    for symbol in (0, 1):
        opened = DATA.ts_ms[rows[DATA.symbol[rows] == symbol]]
        assert (np.diff(opened) == 5 * HOUR_MS).all()
        assert len(opened) == 100
    assert not len(non_overlapping(np.zeros(len(DATA), bool), DATA))


def test_a_trade_earns_the_change_of_the_close_in_its_direction_less_both_fees() -> None:
    classes = np.full(len(DATA), HOLD)
    long, short = np.flatnonzero(DATA.symbol == 0)[10], np.flatnonzero(DATA.symbol == 1)[70]
    classes[long], classes[short] = BUY, SELL
    found = results(saying(classes))["≥ 0.50"]
    gross = np.array([DATA.change[long], -DATA.change[short]])
    assert found.trades == 2
    assert found.gross_mean_bps == pytest.approx(1e4 * gross.mean())
    assert found.net_mean_bps is not None
    assert found.net_mean_bps.value == pytest.approx(1e4 * gross.mean() - 10.0)
    assert found.total_net_pct == pytest.approx(100 * (gross - 0.001).sum() / 2)
    assert found.curve[-1][1] == pytest.approx(found.total_net_pct, abs=1e-3)


def test_a_trade_counts_on_the_day_it_ends() -> None:
    classes = np.full(len(DATA), HOLD)
    late = np.flatnonzero((DATA.symbol == 0) & (DATA.ts_ms % DAY_MS == 20 * HOUR_MS))[3]
    classes[late] = BUY
    curve = dict(results(saying(classes))["≥ 0.50"].curve)
    entered = int(DATA.ts_ms[late]) // DAY_MS * DAY_MS
    assert curve[entered] == 0.0
    assert curve[entered + DAY_MS] != 0.0


def test_who_knows_the_future_earns_more_than_chance_and_who_knows_nothing_pays_the_fees() -> None:
    prophet = results(saying(DATA.label.astype(int)))["≥ 0.50"]
    assert prophet.chance is not None
    assert prophet.net_mean_bps is not None
    assert prophet.net_mean_bps.above_zero
    assert prophet.hit_rate == 1.0
    assert prophet.chance.beaten_share == 1.0
    assert prophet.max_drawdown_pct == 0.0
    flat = replace(DATA, change=np.zeros(len(DATA)))
    ignorant = results(saying(np.random.default_rng(1).choice([SELL, BUY], len(DATA))), flat)["≥ 0.50"]
    assert ignorant.net_mean_bps is not None
    assert ignorant.net_mean_bps.value == pytest.approx(-10.0)
    assert ignorant.max_drawdown_pct == pytest.approx(-ignorant.total_net_pct)
    assert ignorant.sharpe is not None
    assert ignorant.sharpe < 0.0


def test_confidence_decides_what_is_traded_and_the_top_rule_asks_no_argmax() -> None:
    found = results(saying(np.full(len(DATA), BUY), 0.45))
    assert found["≥ 0.40"].trades == 200
    assert found["≥ 0.50"].trades == 0
    assert found["≥ 0.50"].net_mean_bps is None
    assert results(saying(np.full(len(DATA), HOLD), 0.9))["≥ 0.40"].trades == 0
    rather_hold = np.broadcast_to([0.02, 0.5, 0.48], (len(DATA), 3))
    assert results(rather_hold)["≥ 0.40"].trades == 0
    assert results(rather_hold)["top 1 %"].trades == 0  # who says the same of every bar has no likeliest ones
    hesitant = saying(np.full(len(DATA), HOLD), 0.9) + np.outer(np.linspace(0, 0.01, len(DATA)), [0.0, -1.0, 1.0])
    assert 0 < results(hesitant)["top 1 %"].trades <= 10


def test_holding_earns_the_mean_change_of_the_symbols_less_two_fees() -> None:
    closes = DATA.vectors[DATA.bar, 0]
    changes = [closes[DATA.symbol == s][-1] / closes[DATA.symbol == s][0] - 1.0 for s in (0, 1)]
    found = holding(DATA, fee_bps=5.0)
    assert found.total_net_pct == pytest.approx(100 * np.mean(changes) - 0.1)
    assert found.max_drawdown_pct > 0.0

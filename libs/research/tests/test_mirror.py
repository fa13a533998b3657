"""Mirrored rows are those of a market whose returns are negated."""

import numpy as np

from quantum_common.candles import Candles
from quantum_common.features import SEQUENCE_BARS
from quantum_research import mirror
from quantum_research.dataset import Dataset, build_dataset
from quantum_research.testing import synthetic_candles


def _calm(seed: int) -> Candles:
    """Small returns: the mirror is exact to first order in them."""
    candles = synthetic_candles(1300, seed)
    close = np.exp(np.log(candles.close) / 200.0)
    return Candles(ts=candles.ts, open=close, high=close, low=close, close=close, volume=candles.volume)


def _upside_down(candles: Candles) -> Candles:
    close = 1.0 / candles.close
    return Candles(ts=candles.ts, open=close, high=close, low=close, close=close, volume=candles.volume)


def _data(candles: Candles) -> Dataset:
    return build_dataset({"A": candles}, "1h", horizon_bars=5, threshold=0.00005)


def test_the_mirror_image_is_the_market_with_negated_returns() -> None:
    up, down = (_data(candles) for candles in (_calm(3), _upside_down(_calm(3))))
    mirrored = mirror.with_mirror_image(up.rows("relative"))[len(up) :]
    scale = down.rows("relative").std(axis=0) + 1e-6
    assert (np.abs(mirrored - down.rows("relative")) / scale).max() < 0.02
    assert (mirror.with_mirrored_labels(up.label)[len(up) :] == down.label).mean() > 0.99
    windows = up.windows("relative")[..., mirror.SEQUENCE_SOURCE] * mirror.SEQUENCE_SIGN + mirror.SEQUENCE_OFFSET
    expected = down.windows("relative")
    assert windows.shape == (len(up), SEQUENCE_BARS, 19)
    assert (np.abs(windows - expected) / (expected.std(axis=(0, 1)) + 1e-6)).max() < 0.02


def test_a_mirror_image_of_the_mirror_image_is_the_row_itself() -> None:
    rows = _data(_calm(5)).rows("relative")
    once = mirror.with_mirror_image(rows)[len(rows) :]
    assert np.allclose(mirror.with_mirror_image(once)[len(rows) :], rows, rtol=0, atol=1e-5)

"""Real candles: served to ccxt as the very numbers of the file. Skipped where the data folder is missing."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from exchange_sim.settings import SimSettings
from quantum_common.candles import read_candles

DATA = Path(os.environ.get("QT_DATA_DIR", Path(__file__).parents[4] / "shared" / "data"))
HOUR = 3_600_000
OUTAGE = 1_679_655_600_000  # 2023-03-24 11:00 UTC: the venue served no bar from 13:00

needs_data = pytest.mark.skipif(
    not (DATA / "binance_BTCUSDT_1h.parquet").is_file(), reason="no market data: set QT_DATA_DIR"
)


@needs_data
async def test_real_bars_arrive_as_the_floats_of_the_file_and_outages_stay_empty(serve, tmp_path):
    settings = SimSettings(
        sim_data_dir=DATA, symbols=("BTCUSDT", "SOLUSDT"), state_dir=tmp_path, sim_start_ms=OUTAGE + 6 * HOUR
    )
    async with serve(settings) as served:
        for symbol in ("BTC", "SOL"):
            bars = await served.exchange.fetch_ohlcv(f"{symbol}/USDT:USDT", "1h", limit=1000)
            held = read_candles(DATA, "binance", f"{symbol}USDT", "1h").between(bars[0][0], OUTAGE + 6 * HOUR)
            closed = np.array(bars[:-1])
            assert len(closed) == 999
            for column, name in enumerate(("ts", "open", "high", "low", "close", "volume")):
                assert np.array_equal(closed[:, column], getattr(held, name))
            assert np.any(np.diff(closed[:, 0]) > HOUR)

"""Closed candles as columns, and the Parquet files they come in (extra `candles`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantum_common import QuantumError

COLUMNS = ("ts", "open", "high", "low", "close", "volume")


class CandleFileError(QuantumError):
    """A candle file is missing or does not have the columns ts, open, high, low, close, volume."""


@dataclass(frozen=True, slots=True)
class Candles:
    """Bars of one symbol and timeframe, oldest first: `ts` int64 UTC ms of the open, the rest float64."""

    ts: NDArray[np.int64]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ts)

    def slice(self, start: int | None, stop: int | None) -> Candles:
        """Rows start..stop by position, as views."""
        return Candles(*(getattr(self, name)[start:stop] for name in COLUMNS))

    def between(self, from_ms: int | None, to_ms: int | None) -> Candles:
        """Bars whose open time lies in [from_ms, to_ms)."""
        start = None if from_ms is None else int(np.searchsorted(self.ts, from_ms))
        stop = None if to_ms is None else int(np.searchsorted(self.ts, to_ms))
        return self.slice(start, stop)


def candle_path(data_dir: Path, venue: str, symbol: str, timeframe: str) -> Path:
    return data_dir / f"{venue}_{symbol}_{timeframe}.parquet"


def read_candles(data_dir: Path, venue: str, symbol: str, timeframe: str) -> Candles:
    """Read `<venue>_<SYMBOL>_<timeframe>.parquet`. Rows come as they are: hygiene is the feature service's."""
    import pyarrow.parquet as pq

    path = candle_path(data_dir, venue, symbol, timeframe)
    if not path.is_file():
        raise CandleFileError(f"no candle file {path}: check --data, --venue, --symbols and --timeframe")
    try:
        table = pq.read_table(path, columns=list(COLUMNS), use_threads=False)
    except (OSError, ValueError) as error:
        raise CandleFileError(f"{path}: {error}") from error
    if missing := set(COLUMNS) - set(table.column_names):
        raise CandleFileError(f"{path}: columns missing: {', '.join(sorted(missing))}")
    column: dict[str, Any] = {name: table[name].to_numpy() for name in COLUMNS}
    return Candles(column["ts"].astype(np.int64), *(column[name].astype(np.float64) for name in COLUMNS[1:]))


def write_candles(data_dir: Path, venue: str, symbol: str, timeframe: str, candles: Candles) -> Path:
    """Write the file that `read_candles` reads; replaces it atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = candle_path(data_dir, venue, symbol, timeframe)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(pa.table({name: getattr(candles, name) for name in COLUMNS}), partial, compression="zstd")
    partial.replace(path)
    return path

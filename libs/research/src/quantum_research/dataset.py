"""One table of labelled bars over all symbols, with the views and windows that the models look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quantum_common.candles import Candles
from quantum_common.domain.timeframe import timeframe_ms
from quantum_common.features import SEQUENCE_BARS, WARMUP_BARS, batch, views
from quantum_research import TooLittleData
from quantum_research.labels import NO_LABEL, LabelScaling, label_end_ms, step_labels, volatility_thresholds

_WINDOW_OFFSETS = np.arange(1 - SEQUENCE_BARS, 1)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled rows sorted by (ts, symbol). Everything but the labels uses bars closing ≤ the row's close.

    The rows of a `take` share `vectors`, the stored vectors of every bar of every symbol.
    """

    vectors: NDArray[np.float64]
    """(bars, 20): close, log return, 18 raw features; symbol after symbol, oldest first."""
    bar: NDArray[np.intp]
    """(rows,) place in `vectors`; the 63 places before it complete the window."""
    ts_ms: NDArray[np.int64]
    label_end_ms: NDArray[np.int64]
    """Close of the last bar that the row's labels use."""
    labels: NDArray[np.int8]
    """(rows, horizon_bars): class after each step; the last column is the label that is served."""
    change: NDArray[np.float64]
    """close[t + horizon] / close[t] − 1: what the label is made of, for judging signals by their result."""
    volatility: NDArray[np.float64]
    trend_strength: NDArray[np.float64]
    symbol: NDArray[np.intp]
    """Place in `symbols`."""
    symbols: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.bar)

    @property
    def label(self) -> NDArray[np.int8]:
        return self.labels[:, -1]

    @property
    def horizon_bars(self) -> int:
        return int(self.labels.shape[1])

    def take(self, rows: NDArray[np.intp]) -> Dataset:
        chosen = {name: getattr(self, name)[rows] for name in _ROW_FIELDS}
        return replace(self, **chosen)

    def rows(self, view: str) -> NDArray[np.float32]:
        """Input of a row model, (rows, 18)."""
        vectors = self.vectors[self.bar]
        return views.rows(vectors[:, 2:], vectors[:, 0], view)

    def bars(self, view: str) -> NDArray[np.float32]:
        """Every bar as a sequence model sees it, (bars, 19): a window is 64 of them in a row."""
        return views.sequence(self.vectors, view)

    def window_places(self) -> NDArray[np.intp]:
        """(rows, 64) places in `bars`, oldest first."""
        return self.bar[:, None] + _WINDOW_OFFSETS

    def windows(self, view: str) -> NDArray[np.float32]:
        """Input of a sequence model, (rows, 64, 19), oldest bar first."""
        return views.sequence(self.vectors[self.window_places()], view)

    def class_shares(self) -> NDArray[np.float64]:
        """Share of SELL, HOLD, BUY. Raises TooLittleData when a class does not occur."""
        counts = np.bincount(self.label, minlength=3)
        if not counts.all():
            raise TooLittleData(
                f"labels SELL/HOLD/BUY occur {counts.tolist()} times in a part of the data: "
                "use a longer range or a smaller label threshold"
            )
        shares: NDArray[np.float64] = counts / counts.sum()
        return shares


_ROW_FIELDS = ("bar", "ts_ms", "label_end_ms", "labels", "change", "volatility", "trend_strength", "symbol")


def build_dataset(
    candles: Mapping[str, Candles],
    timeframe: str,
    *,
    horizon_bars: int,
    threshold: float,
    scaling: LabelScaling = "fixed",
    from_ms: int | None = None,
    warmup_bars: int = WARMUP_BARS,
) -> Dataset:
    """Rows of every bar from `from_ms` on that has a whole window, enough warm-up and an unbroken label span.

    `threshold` is a fraction, or a multiple of the expected move when `scaling` is "volatility". Labels end where the
    candles end, so cut the candles where labels may not reach.
    """
    parts = []
    offset = 0
    for number, symbol in enumerate(sorted(candles)):
        part = _symbol_rows(symbol, candles[symbol], timeframe, horizon_bars, threshold, scaling, warmup_bars)
        parts.append(replace(part, bar=part.bar + offset, symbol=part.symbol + number))
        offset += len(part.vectors)
    whole = _stack(parts)
    order = np.argsort(whole.ts_ms, kind="stable")
    if from_ms is not None:
        order = order[whole.ts_ms[order] >= from_ms]
    if not len(order):
        raise TooLittleData(
            f"no labelled bar after {warmup_bars} bars of warm-up and a window of {SEQUENCE_BARS}: use a longer range"
        )
    return whole.take(order)


def _symbol_rows(
    symbol: str,
    candles: Candles,
    timeframe: str,
    horizon_bars: int,
    threshold: float,
    scaling: LabelScaling,
    warmup_bars: int,
) -> Dataset:
    bar_ms = timeframe_ms(timeframe)
    table = batch.compute(candles, timeframe, warmup_bars=warmup_bars)
    vectors = table.vectors()
    reach: float | NDArray[np.float64] = threshold
    if scaling == "volatility":
        reach = volatility_thresholds(vectors[:, 1], horizon_bars=horizon_bars, multiple=threshold)
    labels = step_labels(table.ts, table.close, bar_ms=bar_ms, horizon_bars=horizon_bars, threshold=reach)
    usable = np.flatnonzero(table.publishable & (labels[:, -1] != NO_LABEL))
    return Dataset(
        vectors=vectors,
        bar=usable,
        ts_ms=table.ts[usable],
        label_end_ms=label_end_ms(table.ts[usable], bar_ms=bar_ms, horizon_bars=horizon_bars),
        labels=labels[usable],
        change=table.close[usable + horizon_bars] / table.close[usable] - 1.0,
        volatility=table.volatility[usable],
        trend_strength=table.trend_strength[usable],
        symbol=np.zeros(len(usable), np.intp),
        symbols=(symbol,),
    )


def _stack(parts: Sequence[Dataset]) -> Dataset:
    if not parts:
        raise TooLittleData("no symbol to train on")
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("vectors", *_ROW_FIELDS)}
    return Dataset(**columns, symbols=tuple(name for part in parts for name in part.symbols))

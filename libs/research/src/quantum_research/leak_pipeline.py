"""The pipeline that is checked for leaks, in the pieces that a leak can sit in, and what watches it from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quantum_common.agent.spec import ModelSpec
from quantum_common.candles import Candles
from quantum_common.features import WARMUP_BARS
from quantum_research.calibration import Calibration
from quantum_research.dataset import Dataset, build_dataset
from quantum_research.forecaster import Effort, Fitted, Trainer
from quantum_research.walk_forward import OutOfFold, Step, out_of_fold

Build = Callable[[Mapping[str, Candles]], Dataset]
Market = Mapping[str, Candles]

_ALTERED_STEP = 0.01
"""Standard deviation of what is added to the log price of every altered bar."""


class Forecast(Protocol):
    """`walk_forward.out_of_fold`, or what stands in its place."""

    def __call__(
        self, trainers: Mapping[str, Trainer], data: Dataset, effort: Effort, embargo_ms: int, step: Step
    ) -> OutOfFold: ...


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Candles → dataset → out-of-fold predictions. The defaults are what training runs."""

    build: Build
    trainers: Mapping[str, Trainer]
    forecast: Forecast = out_of_fold

    def out_of_fold(self, data: Dataset, effort: Effort) -> OutOfFold:
        return self.forecast(self.trainers, data, effort, embargo_ms(data), lambda stage: None)


def builder(timeframe: str, horizon_bars: int, threshold: float, *, warmup_bars: int = WARMUP_BARS) -> Build:
    """`build_dataset` with everything but the candles decided."""
    return partial(
        build_dataset, timeframe=timeframe, horizon_bars=horizon_bars, threshold=threshold, warmup_bars=warmup_bars
    )


def embargo_ms(data: Dataset) -> int:
    """One horizon, as in training."""
    bar_ms = int(data.label_end_ms[0] - data.ts_ms[0]) // (data.horizon_bars + 1)
    return data.horizon_bars * bar_ms


def altered(market: Market, from_ms: int, seed: int) -> dict[str, Candles]:
    """Another future: every bar that opens at `from_ms` or later is moved; those before are as they were."""
    generator = np.random.default_rng(seed)
    return {symbol: _altered(candles, from_ms, generator) for symbol, candles in market.items()}


def _altered(candles: Candles, from_ms: int, generator: np.random.Generator) -> Candles:
    later = candles.ts >= from_ms
    walk = np.cumsum(np.where(later, generator.normal(0.0, _ALTERED_STEP, len(candles)), 0.0))
    price = np.exp(walk)
    volume = np.where(later, generator.uniform(0.5, 2.0, len(candles)), 1.0)
    moved = {name: getattr(candles, name) * price for name in ("open", "high", "low", "close")}
    return replace(candles, **moved, volume=candles.volume * volume)


@dataclass(frozen=True, slots=True)
class WitnessedFit:
    data: Dataset
    fitted: Fitted


@dataclass(slots=True)
class Witness:
    """A trainer in whose name another one fits, and which sees what both are given. `whole` has the true times."""

    trainer: Trainer
    whole: Dataset
    fits: list[WitnessedFit] = field(default_factory=list)
    asked_rows: int = 0
    asked_too_early: int = 0
    """Rows whose outcome the model could know: held-out ones whose label overlaps one it was fitted on, and others that
    open before the embargo after the last label it was given."""

    @property
    def model(self) -> ModelSpec:
        return self.trainer.model

    @property
    def libraries(self) -> tuple[str, ...]:
        return self.trainer.libraries

    def fit(self, data: Dataset, validation: Dataset, effort: Effort) -> Fitted:
        fitted = self.trainer.fit(data, validation, effort)
        self.fits.append(WitnessedFit(data, fitted))
        self.asked_rows += len(validation)
        self.asked_too_early += self._overlapping(validation, data)
        return _WatchedFit(fitted, self, validation.bar, max(self.label_end_ms(data), self.label_end_ms(validation)))

    def _overlapping(self, held_out: Dataset, fitted: Dataset) -> int:
        """Held-out rows whose label spans time that the label of a fitted row spans too."""
        opens = np.unique(self.opens_ms(fitted))
        ends = np.unique(self._true(self.whole.label_end_ms, fitted))
        mine, my_end = self.opens_ms(held_out), self._true(self.whole.label_end_ms, held_out)
        begun_before_mine_ends = np.searchsorted(opens, my_end, side="left")
        ended_before_mine_begins = np.searchsorted(ends, mine, side="right")
        return int((begun_before_mine_ends > ended_before_mine_begins).sum())

    def label_end_ms(self, data: Dataset) -> int:
        """When the last label of these rows truly ends, whatever the rows themselves say."""
        return int(self._true(self.whole.label_end_ms, data).max())

    def opens_ms(self, data: Dataset) -> NDArray[np.int64]:
        return self._true(self.whole.ts_ms, data)

    def _true(self, times: NDArray[np.int64], data: Dataset) -> NDArray[np.int64]:
        by_bar = np.zeros(len(self.whole.vectors), np.int64)
        by_bar[self.whole.bar] = times
        return by_bar[data.bar]


@dataclass(slots=True)
class _WatchedFit:
    """A fitted model that notes which rows it is asked about besides the held-out ones it was stopped on."""

    fitted: Fitted
    witness: Witness
    held_out_bars: NDArray[np.intp]
    seen_to_ms: int

    def asked(self, data: Dataset) -> None:
        early = self.witness.opens_ms(data) < self.seen_to_ms + embargo_ms(self.witness.whole)
        others = ~np.isin(data.bar, self.held_out_bars)
        self.witness.asked_rows += int(others.sum())
        self.witness.asked_too_early += int((early & others).sum())

    def logits(self, data: Dataset) -> NDArray[np.float64]:
        self.asked(data)
        return self.fitted.logits(data)

    def export(self, calibration: Calibration) -> bytes:
        return self.fitted.export(calibration)

    def settings(self) -> dict[str, float]:
        return self.fitted.settings()

    def parameters(self) -> int:
        return self.fitted.parameters()

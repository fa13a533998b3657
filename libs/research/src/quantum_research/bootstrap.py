"""Intervals by day: bars of one day and labels that overlap say nearly the same, so whole UTC days are redrawn.

Source: Künsch (1989) for blocks; Efron (1979) for percentile intervals.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

DAY_MS = 86_400_000
_LEVEL = (0.025, 0.975)
_FEWEST_DAYS = 5
"""With fewer days there is no interval to speak of."""


class Estimate(msgspec.Struct, frozen=True):
    """A number with its 95 % interval; None where it is not known."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def above_zero(self) -> bool:
        return self.low is not None and self.low > 0.0

    @property
    def contains_zero(self) -> bool:
        return self.low is not None and self.high is not None and self.low <= 0.0 <= self.high


class DayBlocks:
    """Redraws the UTC days of the given rows: how often each day occurs in each resample."""

    def __init__(self, ts_ms: NDArray[np.int64], *, resamples: int, seed: int) -> None:
        days, self._day = np.unique(ts_ms // DAY_MS, return_inverse=True)
        self._all = np.arange(len(ts_ms))
        self.days = len(days)
        generator = np.random.default_rng(seed)
        self._times = generator.multinomial(self.days, np.full(self.days, 1 / self.days), resamples).astype(np.float64)

    def means(self, values: Sequence[Array], rows: Sequence[Mask | None]) -> list[Estimate]:
        """Mean of each of `values` (all rows) over its `rows` (None is all, else at least one), with its interval."""
        chosen = [self._all if mask is None else np.flatnonzero(mask) for mask in rows]
        sums = np.stack([self._by_day(v[at], at) for v, at in zip(values, chosen, strict=True)], axis=1)
        counts = np.stack([self._by_day(np.ones(len(at)), at) for at in chosen], axis=1)
        with np.errstate(invalid="ignore"):
            drawn = (self._times @ sums) / (self._times @ counts)
        plain = sums.sum(axis=0) / counts.sum(axis=0)
        known = (counts > 0).sum(axis=0)
        return [_estimate(plain[k], drawn[:, k], int(known[k])) for k in range(len(values))]

    def mean(self, values: Array, rows: Mask | None = None) -> Estimate:
        return self.means([values], [rows])[0]

    def auc(self, score: Array, positive: Mask, rows: Mask, *, resamples: int) -> Estimate | None:
        """Area under the ROC curve among `rows`, with an interval from the first `resamples` redraws; None: one class.

        A row counts as often as its day was drawn. Ties count half.
        """
        order = np.flatnonzero(rows)
        order = order[np.argsort(score[order], kind="stable")]
        ranked, hit, day = score[order], positive[order], self._day[order]
        if not len(order) or hit.all() or not hit.any():
            return None
        below = np.searchsorted(ranked, ranked[hit], side="left")
        upto = np.searchsorted(ranked, ranked[hit], side="right")
        miss_below = np.empty(len(order) + 1)

        def area(times: Array) -> float:
            weight = times[day]
            miss_below[0] = 0.0
            np.cumsum(np.where(hit, 0.0, weight), out=miss_below[1:])
            won = weight[hit] * (miss_below[below] + miss_below[upto])
            pairs = weight[hit].sum() * miss_below[-1]
            return float(0.5 * won.sum() / pairs) if pairs else float("nan")

        drawn = np.array([area(times) for times in self._times[:resamples]])
        return _estimate(area(np.ones(self.days)), drawn, len(np.unique(day)))

    def _by_day(self, values: Array, rows: NDArray[np.intp]) -> Array:
        return np.bincount(self._day[rows], weights=values, minlength=self.days).astype(np.float64)


def _estimate(value: float, drawn: Array, days: int) -> Estimate:
    defined = drawn[np.isfinite(drawn)]  # a redraw may have missed the few days of a small part
    if days < _FEWEST_DAYS or not len(defined):
        return Estimate(float(value))
    low, high = np.quantile(defined, _LEVEL)
    return Estimate(float(value), float(low), float(high))

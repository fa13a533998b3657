"""Drift: does the newest stretch of a series come from the distribution of the stretch before it? Pure.

Rows that follow each other are nearly the same number (momentum over 20 bars shares 19 of them), and so are the symbols
of one bar, so a test on all rows counts the same evidence hundreds of times: on ordinary 1h weeks it fires in 127 of
131. Here a row is the median over the symbols of one bar, taken every 24 bars; 14 of them stand against the 180 before.
docs/decisions/0011-drift-test.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

SAMPLE_EVERY_BARS = 24
RECENT_ROWS = 14
REFERENCE_ROWS = 180
MIN_REFERENCE_ROWS = 60
MIN_RECENT_ROWS = 7
"""Of a version that is new. With fewer, drift is unknown."""
FALSE_ALARM_RATE = 0.002
"""Of one look at all columns together (Bonferroni)."""
SMALLEST_DISTANCE = 0.5
"""Of the two distribution functions. A smaller difference does not matter, however certain it is."""


class Column(msgspec.Struct, frozen=True):
    """What the test says of one column. `distance`: Kolmogorov-Smirnov statistic in [0, 1]."""

    name: str
    distance: float
    p_value: float


class Drift(msgspec.Struct, frozen=True):
    """`columns` drifted, the farthest first; `distance` is the largest of all. None while there are too few rows."""

    distance: float | None
    columns: tuple[Column, ...] = ()

    @property
    def found(self) -> bool:
        return bool(self.columns)

    def in_words(self) -> str:
        """The columns that drifted, with their distances."""
        return ", ".join(f"{column.name} {column.distance:.2f}" for column in self.columns)


UNKNOWN = Drift(None)


class Series(msgspec.Struct):
    """A bounded history of decorrelated rows, and the bar that is being collected."""

    times_ms: list[int] = []
    """Open times of the bars sampled, oldest first."""
    rows: list[tuple[float, ...]] = []
    """Median over the symbols of each sampled bar."""
    labels: list[str] = []
    """What made the row (a model version), or empty."""
    open_ms: int | None = None
    open_label: str = ""
    collected: dict[str, tuple[float, ...]] = {}
    """symbol → values of the bar at `open_ms`."""

    def add(self, ts_ms: int, bar_ms: int, symbol: str, values: Sequence[float], label: str = "") -> None:
        """Take a symbol's values of a bar in; bars between two samples are left out, and so are late ones."""
        if ts_ms % (SAMPLE_EVERY_BARS * bar_ms) or not np.isfinite(values).all():
            return
        if self.open_ms is not None and ts_ms < self.open_ms:
            return
        if ts_ms != self.open_ms or label != self.open_label:
            self._close()
            self.open_ms, self.open_label = ts_ms, label
        self.collected[symbol] = tuple(map(float, values))

    def _close(self) -> None:
        if self.open_ms is not None and self.collected:
            median = np.median(np.array(list(self.collected.values())), axis=0)
            self.times_ms.append(self.open_ms)
            self.rows.append(tuple(median.tolist()))
            self.labels.append(self.open_label)
            for column in (self.times_ms, self.rows, self.labels):
                del column[: -(RECENT_ROWS + REFERENCE_ROWS)]
        self.collected = {}


def drift_of(series: Series, names: Sequence[str]) -> Drift:
    """The newest rows against those before them."""
    rows = np.array(series.rows, np.float64)
    if len(rows) < RECENT_ROWS + MIN_REFERENCE_ROWS:
        return UNKNOWN
    return compare(rows[:-RECENT_ROWS], rows[-RECENT_ROWS:], names)


def drift_of_label(series: Series, label: str, names: Sequence[str]) -> Drift:
    """The newest rows of one label against everything older: of that label before, and of the labels before it."""
    mine = [number for number, found in enumerate(series.labels) if found == label][-RECENT_ROWS:]
    if len(mine) < MIN_RECENT_ROWS or mine[0] < MIN_REFERENCE_ROWS:
        return UNKNOWN
    rows = np.array(series.rows, np.float64)
    return compare(rows[: mine[0]], rows[mine], names)


def compare(reference: NDArray[np.float64], recent: NDArray[np.float64], names: Sequence[str]) -> Drift:
    """Two-sample Kolmogorov-Smirnov test per column of (rows, columns) arrays."""
    found = []
    for number, name in enumerate(names):
        result = ks_2samp(reference[:, number], recent[:, number])
        found.append(Column(name, float(result.statistic), float(result.pvalue)))
    found.sort(key=lambda column: -column.distance)
    limit = FALSE_ALARM_RATE / len(names)
    drifted = tuple(c for c in found if c.p_value < limit and c.distance >= SMALLEST_DISTANCE)
    return Drift(found[0].distance, drifted)

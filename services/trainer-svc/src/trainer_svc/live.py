"""Live quality: predictions from the stream, labelled by the closes that came after them. Pure and bounded.

A label is what training calls one: the change of close over the horizon against the threshold. A span with a missing
bar has no label.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

KEPT_BARS = 256
"""Closes and unlabelled predictions per symbol."""
KEPT_ROWS = 3_000
"""Labelled rows per version."""
COVERED_DAYS = 20
"""Of market that those rows cover: where there are more, every n-th is kept (`every_nth`)."""
KEPT_VERSIONS = 3
"""Per agent: the champion, a shadow, and the one before."""
DAY_MS = 86_400_000
SELL, HOLD, BUY = 0, 1, 2
_SMALLEST_P = 1e-12

Probabilities = tuple[float, float, float]


class Label(msgspec.Struct, frozen=True):
    """What a prediction is about. `threshold`: fraction."""

    horizon_bars: int
    threshold: float

    def of(self, change: float) -> int:
        return BUY if change > self.threshold else SELL if change < -self.threshold else HOLD


class Prediction(msgspec.Struct, frozen=True, array_like=True):
    agent: str
    version: str
    probabilities: Probabilities


class Row(msgspec.Struct, frozen=True, array_like=True):
    """A labelled prediction. `change`: of close over the horizon, fraction."""

    ts_ms: int
    symbol: str
    label: int
    change: float
    probabilities: Probabilities


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Of labelled rows, beside their baselines: the majority class and the best constant of the same rows."""

    rows: int
    days: int
    accuracy: float
    accuracy_majority: float
    edge_error: float
    """Standard error of accuracy − majority, over days: rows of a day are not independent."""
    log_loss: float
    log_loss_prior: float

    @property
    def edge(self) -> float:
        return self.accuracy - self.accuracy_majority


def every_nth(symbols: int, bar_ms: int) -> int:
    """How many of the rows are left out for one that is kept, plus one."""
    return max(1, math.ceil(symbols * COVERED_DAYS * DAY_MS / bar_ms / KEPT_ROWS))


def is_kept(symbol: str, ts_ms: int, bar_ms: int, nth: int) -> bool:
    """Every n-th row, spread over bars and symbols."""
    return (ts_ms // bar_ms + zlib.crc32(symbol.encode())) % nth == 0


class LiveScores(msgspec.Struct):
    """Closes by symbol and bar, predictions that wait for their label, and labelled rows by agent and version."""

    closes: dict[str, dict[int, float]] = {}
    waiting: dict[str, dict[int, list[Prediction]]] = {}
    scored: dict[str, dict[str, list[Row]]] = {}

    def take_close(self, symbol: str, ts_ms: int, close: float, bar_ms: int, label: Label) -> None:
        closes = self.closes.setdefault(symbol, {})
        closes[ts_ms] = close
        oldest_ms = max(closes) - KEPT_BARS * bar_ms
        for kept in (closes, self.waiting.get(symbol, {})):
            for old in [ts for ts in kept if ts < oldest_ms]:
                del kept[old]
        for back in range(label.horizon_bars + 1):
            self._label(symbol, ts_ms - back * bar_ms, bar_ms, label)

    def take_prediction(self, symbol: str, ts_ms: int, prediction: Prediction, bar_ms: int, label: Label) -> None:
        self.waiting.setdefault(symbol, {}).setdefault(ts_ms, []).append(prediction)
        self._label(symbol, ts_ms, bar_ms, label)

    def _label(self, symbol: str, ts_ms: int, bar_ms: int, label: Label) -> None:
        """Score what was said of this bar, if every bar of its label is there."""
        closes = self.closes.get(symbol, {})
        span = [closes.get(ts_ms + step * bar_ms) for step in range(label.horizon_bars + 1)]
        first, last = span[0], span[-1]
        if first is None or last is None or None in span:
            return
        change = last / first - 1.0
        for said in self.waiting.get(symbol, {}).pop(ts_ms, []):
            versions = self.scored.setdefault(said.agent, {})
            rows = versions.setdefault(said.version, [])
            rows.append(Row(ts_ms, symbol, label.of(change), change, said.probabilities))
            del rows[:-KEPT_ROWS]
            if len(versions) > KEPT_VERSIONS:
                del versions[min(versions, key=lambda name: versions[name][-1].ts_ms)]

    def rows(self, agent: str, version: str, since_ms: int = 0) -> list[Row]:
        """Labelled rows of a version, in the order in which their labels became known."""
        return [row for row in self.scored.get(agent, {}).get(version, []) if row.ts_ms >= since_ms]


def quality_of(rows: Sequence[Row]) -> Quality | None:
    """None without a row."""
    if not rows:
        return None
    labels = np.array([row.label for row in rows])
    probabilities = np.array([row.probabilities for row in rows])
    shares = np.bincount(labels, minlength=3) / len(labels)
    right = probabilities.argmax(axis=1) == labels
    edge = right.astype(float) - (labels == shares.argmax())
    days = np.array([row.ts_ms // DAY_MS for row in rows])
    known = shares[shares > 0]
    return Quality(
        rows=len(rows),
        days=len(np.unique(days)),
        accuracy=float(right.mean()),
        accuracy_majority=float(shares.max()),
        edge_error=_error_over_days(edge, days),
        log_loss=float(-np.log(np.maximum(probabilities[np.arange(len(rows)), labels], _SMALLEST_P)).mean()),
        log_loss_prior=float(-(known * np.log(known)).sum()),
    )


def _error_over_days(values: NDArray[np.float64], days: NDArray[np.int64]) -> float:
    """Standard error of the mean when the rows of a day move together; infinite for a single day."""
    _, place = np.unique(days, return_inverse=True)
    sums = np.bincount(place, weights=values - values.mean())
    count = len(sums)
    if count < 2:
        return float("inf")
    return float(np.sqrt((sums**2).sum() * count / (count - 1)) / len(values))

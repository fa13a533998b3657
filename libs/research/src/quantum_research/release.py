"""Champion against challenger on the same fresh rows: who serves from now on, and on what evidence.

A challenger wins when all of this holds:

1. its log-loss is lower, and the 95 % interval of the gain (bootstrap over whole days, since bars of a day resemble
   each other) lies above −0.002 nats: a real loss is ruled out;
2. trading its signals, net of fees, brings at least what the champion's signals bring;
3. its probabilities have not collapsed.

With fewer than 500 rows or 10 days nothing is decided and the champion stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quantum_common.agent.collapse import SMALLEST_RANGE, output_range
from quantum_common.domain.timeframe import timeframe_ms
from quantum_common.models import Manifest
from quantum_common.models.serving import LoadedModel
from quantum_research import ResearchError
from quantum_research.dataset import Dataset
from quantum_research.labels import BUY, HOLD

MIN_ROWS = 500
MIN_DAYS = 10
REAL_LOSS = 0.002
"""Nats per row; a thirtieth of what the best model knows beyond the prior."""
SIGNAL_PROBABILITY = 0.40
"""From this probability on, a BUY or SELL is a signal: honest models reach the fleet's 0.65 too seldom to compare."""
RESAMPLES = 2_000
DAY_MS = 86_400_000
ROWS_AT_ONCE = 4_096

Probabilities = NDArray[np.float64]
Reason = Literal["better", "log_loss", "net_result", "collapsed", "too_few_rows"]
Winner = Literal["challenger", "champion", "undecided"]
WINNERS: dict[Reason, Winner] = {"better": "challenger", "too_few_rows": "undecided"}
"""Every other reason leaves the champion."""
LABEL = ("agent", "timeframe", "horizon_bars", "label_threshold", "label_scaling")


class NotComparable(ResearchError):
    """The two models answer different questions, or the data asks neither."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who serves from now on. `reason` is a code."""

    winner: Winner
    reason: Reason
    rows: int
    days: int
    champion_log_loss: float
    challenger_log_loss: float
    gain: float
    """Champion's log-loss − challenger's, nats per row."""
    gain_low: float
    gain_high: float
    """95 % interval of the gain."""
    champion_net: float
    challenger_net: float
    """Sum over the signals of their return net of fees, in units of one signal's stake."""
    champion_signals: int
    challenger_signals: int


def compare(champion: LoadedModel, challenger: LoadedModel, data: Dataset, *, fee_bps: float) -> Verdict:
    """Both models of an agent on the rows of `data` that neither has seen, an embargo of one horizon after the later.

    `data` is labelled like the models; `fee_bps` is per side. Raises NotComparable. For meta models, whose inputs are
    votes, call `judge`.
    """
    _check_comparable(champion.manifest, challenger.manifest, data)
    fresh = data.take(fresh_rows(data.ts_ms, champion.manifest, challenger.manifest))
    return judge(
        predict(champion, fresh), predict(challenger, fresh), fresh.label, fresh.change, fresh.ts_ms, fee_bps=fee_bps
    )


def fresh_rows(ts_ms: NDArray[np.int64], *seen_by: Manifest) -> NDArray[np.intp]:
    """Places of bars that open at least one horizon after the last label that any of the models was trained on."""
    known_to_ms = max(each.labels_to_ms + each.horizon_bars * timeframe_ms(each.timeframe) for each in seen_by)
    return np.flatnonzero(ts_ms >= known_to_ms)


def predict(model: LoadedModel, data: Dataset) -> Probabilities:
    """(rows, 3), as the agent serves it; windows are built a few thousand at a time."""
    view, kind = model.manifest.view, model.manifest.kind
    parts = [
        model.predict(part.windows(view) if kind == "window" else part.rows(view))
        for start in range(0, len(data), ROWS_AT_ONCE)
        for part in [data.take(np.arange(start, min(start + ROWS_AT_ONCE, len(data))))]
    ]
    return np.concatenate(parts) if parts else np.empty((0, 3))


def judge(
    champion: Probabilities,
    challenger: Probabilities,
    labels: NDArray[np.int8],
    change: NDArray[np.float64],
    ts_ms: NDArray[np.int64],
    *,
    fee_bps: float,
) -> Verdict:
    """The verdict on probabilities (rows, 3) of the same rows; `change` is close[t + horizon] / close[t] − 1. Pure."""
    days = ts_ms // DAY_MS
    gains = _losses(champion, labels) - _losses(challenger, labels)
    low, high = _interval(gains, days)
    old, new = _signal_returns(champion, change, fee_bps), _signal_returns(challenger, change, fee_bps)
    reason: Reason = "better"
    if len(labels) < MIN_ROWS or len(np.unique(days)) < MIN_DAYS:
        reason = "too_few_rows"
    elif not output_range(challenger) >= SMALLEST_RANGE:
        reason = "collapsed"
    elif not (gains.mean() > 0.0 and low > -REAL_LOSS):
        reason = "log_loss"
    elif new.sum() < old.sum():
        reason = "net_result"
    return Verdict(
        winner=WINNERS.get(reason, "champion"),
        reason=reason,
        rows=len(labels),
        days=len(np.unique(days)),
        champion_log_loss=_mean(_losses(champion, labels)),
        challenger_log_loss=_mean(_losses(challenger, labels)),
        gain=_mean(gains),
        gain_low=low,
        gain_high=high,
        champion_net=float(old.sum()),
        challenger_net=float(new.sum()),
        champion_signals=len(old),
        challenger_signals=len(new),
    )


def _check_comparable(champion: Manifest, challenger: Manifest, data: Dataset) -> None:
    if "meta" in (champion.kind, challenger.kind):
        raise NotComparable("a meta model's inputs are votes: predict on them and call judge")
    for name in LABEL:
        old, new = getattr(champion, name), getattr(challenger, name)
        if old != new:
            raise NotComparable(
                f"{name} differs: champion {champion.version} has {old}, challenger {challenger.version} has {new}; "
                "train the challenger for the champion's label"
            )
    if data.horizon_bars != champion.horizon_bars:
        raise NotComparable(
            f"horizon_bars differs: the data is labelled over {data.horizon_bars} bars, the models over "
            f"{champion.horizon_bars}"
        )


def _losses(probabilities: Probabilities, labels: NDArray[np.int8]) -> NDArray[np.float64]:
    chosen = np.take_along_axis(probabilities, labels[:, None].astype(np.intp), axis=1)[:, 0]
    losses: NDArray[np.float64] = -np.log(np.clip(chosen, 1e-15, 1.0))
    return losses


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _signal_returns(probabilities: Probabilities, change: NDArray[np.float64], fee_bps: float) -> NDArray[np.float64]:
    """Return of each signal: the most probable class's direction, held over the horizon, a fee on each side.

    Signals of bars that follow each other are separate stakes of one unit, so nothing depends on the order of trades.
    """
    action = probabilities.argmax(axis=1)
    signal = (action != HOLD) & (probabilities.max(axis=1) >= SIGNAL_PROBABILITY)
    direction = np.where(action == BUY, 1.0, -1.0)
    returns: NDArray[np.float64] = (direction * change)[signal] - 2 * fee_bps / 10_000
    return returns


def _interval(gains: NDArray[np.float64], days: NDArray[np.int64]) -> tuple[float, float]:
    """95 % interval of the mean, by resampling whole days (seeded: the same rows give the same interval)."""
    if not len(gains):
        return float("nan"), float("nan")
    _, of_day = np.unique(days, return_inverse=True)
    sums, counts = np.bincount(of_day, gains), np.bincount(of_day)
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)

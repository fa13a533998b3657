"""Champion against challenger on the same fresh rows: who serves from now on, and on what evidence.

A challenger wins when all of this holds:

1. its log-loss is lower, and the 95 % interval of the gain (bootstrap over whole days, since bars of a day resemble
   each other) rules out a loss as large as that gain: about five to one that it is better. Asking for an interval above
   zero would keep nearly every champion for ever: two weeks of bars cannot show so much;
2. trading its signals, net of fees, brings at least what the champion's signals bring;
3. its probabilities have not collapsed.

With fewer than 500 rows or 10 days nothing is decided and the champion stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quantum_common.agent.collapse import SMALLEST_RANGE, output_range
from quantum_common.domain.timeframe import timeframe_ms
from quantum_common.models import Manifest
from quantum_common.models.serving import LoadedModel
from quantum_research import ResearchError
from quantum_research.bootstrap import DayBlocks, Estimate
from quantum_research.dataset import Dataset
from quantum_research.labels import BUY, HOLD

MIN_ROWS = 500
MIN_DAYS = 10
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
    gain = _gain(gains, ts_ms)
    old, new = _signal_returns(champion, change, fee_bps), _signal_returns(challenger, change, fee_bps)
    reason: Reason = "better"
    if len(labels) < MIN_ROWS or len(np.unique(days)) < MIN_DAYS:
        reason = "too_few_rows"
    elif not output_range(challenger) >= SMALLEST_RANGE:
        reason = "collapsed"
    elif not (gain.value > 0.0 and gain.low is not None and gain.low > -gain.value):
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
        gain=gain.value,
        gain_low=math.nan if gain.low is None else gain.low,
        gain_high=math.nan if gain.high is None else gain.high,
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


def _gain(gains: NDArray[np.float64], ts_ms: NDArray[np.int64]) -> Estimate:
    """Seeded: the same rows give the same interval."""
    return DayBlocks(ts_ms, resamples=RESAMPLES, seed=0).mean(gains) if len(gains) else Estimate(math.nan)

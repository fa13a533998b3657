"""What the leak checks look at: figures that are zero, or small, in a pipeline whose past does not know its future."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from quantum_common.agent.spec import ModelSpec
from quantum_research.dataset import Dataset
from quantum_research.forecaster import Effort, model_input
from quantum_research.leak_pipeline import Build, Market, Pipeline, Witness, altered
from quantum_research.metrics import log_loss
from quantum_research.walk_forward import OutOfFold

Array = NDArray[np.float64]

_CUTS = (0.3, 0.5, 0.7, 0.9)
"""Shares of the rows before which the candles stay as they are."""
_ROWS_BEFORE_A_CUT = 256
_STARTS_BARS = (97, 411, 990)
"""Bars taken from the front of the history."""
_SEED = 7


def gain_over_prior(pipeline: Pipeline, market: Market, effort: Effort) -> float:
    """Log-loss of the prior − log-loss of the pipeline's first agent, out of fold."""
    past = pipeline.out_of_fold(pipeline.build(market), effort)
    return log_loss(past.prior, past.data.label) - _loss(past)


def _loss(past: OutOfFold) -> float:
    return log_loss(next(iter(past.probabilities.values())), past.data.label)


def rows_moved_by_the_future(build: Build, specs: Sequence[ModelSpec], market: Market) -> int:
    """Rows before a cut whose regime or model inputs change when the candles from the cut on do, over several cuts."""
    data = build(market)
    moved = 0
    for number, share in enumerate(_CUTS):
        cut_ms = int(data.ts_ms[int(len(data) * share)])
        other = build(altered(market, cut_ms, _SEED + number))
        one, two = (_last_before(each, cut_ms) for each in (data, other))
        if not np.array_equal(one.ts_ms, two.ts_ms):
            moved += len(one)
            continue
        moved += int(_differing(one, two, specs).sum())
    return moved


def _last_before(data: Dataset, cut_ms: int) -> Dataset:
    """The last rows whose bar opens before the cut, whether or not their label still reaches over it."""
    return data.take(np.flatnonzero(data.ts_ms < cut_ms)[-_ROWS_BEFORE_A_CUT:])


def _differing(one: Dataset, two: Dataset, specs: Sequence[ModelSpec]) -> NDArray[np.bool_]:
    differ: NDArray[np.bool_] = (one.volatility != two.volatility) | (one.trend_strength != two.trend_strength)
    for spec in specs:
        a, b = (model_input(spec, each).reshape(len(one), -1) for each in (one, two))
        differ |= (a != b).any(axis=1)
    return differ


def explained_share_lost_by_delay(pipeline: Pipeline, market: Market, effort: Effort) -> float:
    """Share of the prior's log-loss explained by features − the same with features that are a horizon older.

    What is known of a market fades slowly; a column that holds the answer is history a horizon later.
    """
    data = pipeline.build(market)
    delayed = replace(data, bar=data.bar - data.horizon_bars)
    now, later = (pipeline.out_of_fold(each, effort) for each in (data, delayed))
    return (_loss(later) - _loss(now)) / log_loss(now.prior, now.data.label)


def share_asked_too_early(pipeline: Pipeline, market: Market, effort: Effort) -> float:
    """Share of the rows for stopping, calibration and test that open before what the model had seen was over."""
    data = pipeline.build(market)
    witnesses, _ = _witnessed(pipeline, data, effort)
    return sum(w.asked_too_early for w in witnesses) / sum(w.asked_rows for w in witnesses)


def largest_moved_prediction(pipeline: Pipeline, market: Market, effort: Effort) -> float:
    """Largest |Δp| on the rows a model was fitted on when the candles from the first tested bar on are others.

    1 when it is not even fitted on the same rows.
    """
    once = replace(effort, folds=1)
    data = pipeline.build(market)
    witnesses, past = _witnessed(pipeline, data, once)
    other = pipeline.build(altered(market, int(past.data.ts_ms.min()), _SEED))
    others, _ = _witnessed(pipeline, other, once)
    return max(_moved(one, two) for one, two in zip(witnesses, others, strict=True))


def _witnessed(pipeline: Pipeline, data: Dataset, effort: Effort) -> tuple[list[Witness], OutOfFold]:
    witnesses = {agent: Witness(trainer, data) for agent, trainer in pipeline.trainers.items()}
    return list(witnesses.values()), replace(pipeline, trainers=witnesses).out_of_fold(data, effort)


def _moved(one: Witness, two: Witness) -> float:
    first, second = one.fits[0], two.fits[0]
    if not np.array_equal(one.opens_ms(first.data), two.opens_ms(second.data)):
        return 1.0
    before, after = (softmax(fit.fitted.logits(fit.data), axis=1) for fit in (first, second))
    return float(np.abs(before - after).max())


def largest_change_by_start(build: Build, market: Market) -> float:
    """Largest change of a feature or regime of the same bar when the history starts later, in standard deviations."""
    whole = build(market)
    numbers = _numbers(whole)
    deviation = np.maximum(numbers.std(axis=0), 1e-12)
    largest = 0.0
    for start in _STARTS_BARS:
        late = build({symbol: candles.slice(start, None) for symbol, candles in market.items()})
        place = {key: row for row, key in enumerate(_keys(whole))}
        rows = [place[key] for key in _keys(late)]
        largest = max(largest, float((np.abs(_numbers(late) - numbers[rows]) / deviation).max()))
    return largest


def _numbers(data: Dataset) -> Array:
    """(rows, 20): what the models see of a bar, and its regime."""
    return np.column_stack([data.rows("relative"), data.volatility, data.trend_strength]).astype(np.float64)


def _keys(data: Dataset) -> list[tuple[int, int]]:
    return list(zip(data.symbol.tolist(), data.ts_ms.tolist(), strict=True))

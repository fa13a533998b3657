"""What a running fleet said and what became of it, read from the recorder's archive as a table of votes.

Only forecasts count that were made blind: the model's labels end before the bar opens, by its manifest. A prediction
that came too late for its decision counts like any other, since it knows nothing but its bar.

The label is the price label of every bar with a vote, never the result of a trade: trades exist only where the risk
layer approved a decision, and a meta learner taught on those would be blind to all the bars that were let go. What was
traded stands beside the rows for the report.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantum_common.domain import AGENTS, timeframe_ms
from quantum_research import TooLittleData
from quantum_research.archive import ArchiveRows, Bar, Features, Prediction, Triple, read_rows
from quantum_research.labels import NO_LABEL, label_end_ms, step_labels
from quantum_research.votes import VoteTable

LabelsEnd = Callable[[str, str], int | None]
"""Agent and model version to the end of the labels it was trained on (UTC ms); None when that is not known."""


@dataclass(frozen=True, slots=True)
class ArchivedVotes:
    """Labelled bars with at least one blind vote."""

    votes: VoteTable
    net_pnl_usd: NDArray[np.float64]
    """(rows,): realised net result of the trades that the decision of the bar opened; NaN where none did."""
    symbols: tuple[str, ...]
    left_out: dict[str, int]
    """Why predictions and bars are not among the rows."""


def archived_votes(
    folder: Path,
    *,
    timeframe: str,
    horizon_bars: int,
    label_threshold: float,
    labels_end: LabelsEnd,
    min_ms: int | None = None,
    min_samples: int = 1,
) -> ArchivedVotes:
    """Votes, labels and results of every bar from `min_ms` on.

    Raises ArchiveRefused, and TooLittleData when there are fewer rows than `min_samples`.
    """
    rows = read_rows(folder, timeframe, min_ms)
    blind = {bar: _blind_votes(bar, said, labels_end, rows.left_out) for bar, said in rows.predictions.items()}
    labels = _labels(rows.features, timeframe_ms(timeframe), horizon_bars, label_threshold)
    bars = [bar for bar in sorted(blind, key=_by_time) if _usable(bar, blind[bar], rows, labels)]
    if len(bars) < max(1, min_samples):
        left_out = ", ".join(f"{why} {n}" for why, n in sorted(rows.left_out.items())) or "nothing"
        raise TooLittleData(
            f"{folder} has {len(bars)} {timeframe} bars with a blind vote and a label, and {min_samples} are needed "
            f"(--min-samples, --min-date); left out: {left_out}"
        )
    votes = _table(bars, rows.features, blind, labels, timeframe_ms(timeframe), horizon_bars)
    pnl_usd = np.array([rows.pnl_usd.get(bar, math.nan) for bar in bars])
    return ArchivedVotes(votes, pnl_usd, tuple(sorted({bar.symbol for bar in bars})), dict(rows.left_out))


def _blind_votes(
    bar: Bar, said: Mapping[str, Prediction], labels_end: LabelsEnd, left_out: Counter[str]
) -> dict[str, Triple]:
    votes = {}
    for agent, prediction in said.items():
        if prediction.probabilities is None:
            left_out["abstained"] += 1
        elif not _are_probabilities(prediction.probabilities):
            left_out["invalid_probabilities"] += 1
        elif (end_ms := labels_end(agent, prediction.model_version or "")) is None:
            left_out["unknown_model_version"] += 1
        elif end_ms > bar.ts_ms:
            left_out["model_had_seen_the_bar"] += 1
        else:
            votes[agent] = prediction.probabilities
    return votes


def _are_probabilities(values: Triple) -> bool:
    # Written so that NaN fails: every comparison with it is false.
    return all(0.0 <= value <= 1.0 for value in values) and abs(math.fsum(values) - 1.0) <= 1e-3


def _usable(bar: Bar, votes: Mapping[str, Triple], rows: ArchiveRows, labels: Mapping[Bar, int]) -> bool:
    features = rows.features.get(bar)
    if not votes:
        reason = "no_vote"
    elif features is None:
        reason = "no_features"
    elif not (0.0 <= features.volatility <= 1.0 and -1.0 <= features.trend_strength <= 1.0):
        reason = "invalid_regime"
    elif bar not in labels:
        reason = "no_label"
    else:
        return True
    rows.left_out[reason] += 1
    return False


def _labels(features: Mapping[Bar, Features], bar_ms: int, horizon_bars: int, label_threshold: float) -> dict[Bar, int]:
    """Classes of the bars whose whole label span is archived; a bar missing in it makes none, as in training."""
    labels: dict[Bar, int] = {}
    of_symbol: dict[str, list[int]] = {}
    for bar in features:
        of_symbol.setdefault(bar.symbol, []).append(bar.ts_ms)
    for symbol, times in of_symbol.items():
        times.sort()
        close = np.array([features[Bar(symbol, ts_ms)].candle.close for ts_ms in times])
        steps = step_labels(np.array(times), close, bar_ms=bar_ms, horizon_bars=horizon_bars, threshold=label_threshold)
        labels |= {
            Bar(symbol, ts_ms): int(label)
            for ts_ms, label in zip(times, steps[:, -1], strict=True)
            if label != NO_LABEL
        }
    return labels


def _table(
    bars: list[Bar],
    features: Mapping[Bar, Features],
    votes: Mapping[Bar, Mapping[str, Triple]],
    labels: Mapping[Bar, int],
    bar_ms: int,
    horizon_bars: int,
) -> VoteTable:
    nothing = (1 / 3, 1 / 3, 1 / 3)
    ts_ms = np.array([bar.ts_ms for bar in bars], np.int64)
    label = np.array([labels[bar] for bar in bars], np.int8)
    end_ms = label_end_ms(ts_ms, bar_ms=bar_ms, horizon_bars=horizon_bars)
    return VoteTable(
        probabilities=np.array([[votes[bar].get(agent, nothing) for agent in AGENTS] for bar in bars]),
        present=np.array([[agent in votes[bar] for agent in AGENTS] for bar in bars]),
        label=label,
        ts_ms=ts_ms,
        label_end_ms=end_ms,
        volatility=np.array([features[bar].volatility for bar in bars]),
        trend_strength=np.array([features[bar].trend_strength for bar in bars]),
        prior=known_shares(label, ts_ms, end_ms),
    )


def known_shares(label: NDArray[np.int8], ts_ms: NDArray[np.int64], end_ms: NDArray[np.int64]) -> NDArray[np.float64]:
    """(rows, 3): class shares of the rows whose labels had ended when the row's bar opened, each class one more."""
    by_end = np.argsort(end_ms, kind="stable")
    counts = np.concatenate([np.zeros((1, 3)), np.cumsum(np.eye(3)[label[by_end]], axis=0)]) + 1.0
    known = counts[np.searchsorted(end_ms[by_end], ts_ms, side="right")]
    shares: NDArray[np.float64] = known / known.sum(axis=1, keepdims=True)
    return shares


def _by_time(bar: Bar) -> tuple[int, str]:
    return bar.ts_ms, bar.symbol

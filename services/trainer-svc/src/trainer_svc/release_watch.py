"""What becomes of a released version and of a shadow: the way back, and the end of the shadow period. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trainer_svc.core import Champion
from trainer_svc.live import Row

Judge = Callable[
    [NDArray[np.float64], NDArray[np.float64], NDArray[np.int8], NDArray[np.float64], NDArray[np.int64]],
    tuple[Literal["challenger", "champion", "undecided"], str],
]
"""(champion's probabilities, challenger's, labels, changes, times) → who wins, and why."""
LONGEST_PERIODS = 4
"""A shadow about which nothing can be decided after so many times the bars asked for is sent away."""


class ReturnReason(StrEnum):
    """Why a version is taken back; also a label of metrics."""

    COLLAPSED = "collapsed"
    DRIFTED = "drifted_and_worse_than_prior"


class Return(msgspec.Struct, frozen=True):
    reason: ReturnReason
    detail: str


def must_return(
    champion: Champion,
    *,
    serving_since_ms: int,
    collapsed_bar_ms: int | None,
    now_ms: int,
    within_ms: int,
    min_labelled_bars: int,
) -> Return | None:
    """Why the champion must make way for the version before it, or None.

    `collapsed_bar_ms`: newest bar on which the champion abstained as collapsed. That counts at any age, but not on a
    bar before it began to serve this time: a person may have brought it back. Drift of its predictions counts only
    together with a log-loss worse than the best constant's, and only for a version released lately: an older one is
    the market's change, which a training answers.
    """
    if collapsed_bar_ms is not None and collapsed_bar_ms >= serving_since_ms:
        return Return(ReturnReason.COLLAPSED, "it abstains as collapsed")
    live, drift = champion.quality, champion.drift
    young = now_ms - serving_since_ms < within_ms
    if not young or drift is None or not drift.found or live is None or live.rows < min_labelled_bars:
        return None
    if live.log_loss <= live.log_loss_prior:
        return None
    return Return(
        ReturnReason.DRIFTED,
        f"{drift.in_words()}; log-loss {live.log_loss:.4f} on {live.rows} live bars, prior {live.log_loss_prior:.4f}",
    )


class Outcome(StrEnum):
    """How a shadow period ended; also a label of metrics."""

    PROMOTED = "promoted"
    LOST = "lost"
    FAILED = "failed"


class ShadowEnd(msgspec.Struct, frozen=True):
    outcome: Outcome
    detail: str


def shadow_end(champion: Sequence[Row], shadow: Sequence[Row], *, needed_bars: int, judge: Judge) -> ShadowEnd | None:
    """The end of a shadow period after `needed_bars` labelled bars of the champion, or None while it lasts.

    `champion` are its labelled rows since the period began. From its first prediction on the shadow must have said
    something of every bar that the champion spoke of, and its first may be late by half the period at most.
    """
    if len(champion) < needed_bars:
        return None
    said = {(row.symbol, row.ts_ms): row for row in shadow}
    first_ms = min((row.ts_ms for row in shadow), default=None)
    both = [(row, said[row.symbol, row.ts_ms]) for row in champion if (row.symbol, row.ts_ms) in said]
    silent = [row for row in champion if first_ms is not None and row.ts_ms > first_ms]
    missed = sum((row.symbol, row.ts_ms) not in said for row in silent)
    if missed:
        return ShadowEnd(Outcome.FAILED, f"the shadow said nothing of {missed} of {len(silent)} bars")
    if 2 * len(both) < needed_bars:
        return ShadowEnd(Outcome.FAILED, f"the shadow said something of {len(both)} of {len(champion)} bars only")
    winner, why = judge(
        np.array([mine.probabilities for mine, _ in both]),
        np.array([its.probabilities for _, its in both]),
        np.array([mine.label for mine, _ in both], np.int8),
        np.array([mine.change for mine, _ in both]),
        np.array([mine.ts_ms for mine, _ in both], np.int64),
    )
    if winner == "undecided" and len(champion) < LONGEST_PERIODS * needed_bars:
        return None
    return ShadowEnd(Outcome.PROMOTED if winner == "challenger" else Outcome.LOST, why)

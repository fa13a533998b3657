"""The live collapse detector (F08): a model that says nearly the same of everything must not vote. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantum_common.contracts import Envelope, PredictionAbstained, PredictionMade

WATCHED_OUTPUTS = 200
SMALLEST_RANGE = 0.02
"""Of a probability, 5-95 % over the watched outputs. Measured on unseen candles: 0.10 is LightGBM's smallest of
27,000 windows (15m), 0.15 that of 1h over 5 symbols (40 bars of a calm week); a constant has 0. Shares of actions would
say nothing: an honest model mostly says HOLD."""


def output_range(outputs: NDArray[np.float64]) -> float:
    """The widest 5-95 % range among the classes of (outputs, 3) probabilities."""
    low, high = np.quantile(outputs, [0.05, 0.95], axis=0)
    return float((high - low).max())


class CollapseWatch:
    """The last 200 outputs of one served version. Once collapsed it stays so: another version gets another watch.

    Judged when a bar begins, on the outputs before it: what the symbols of a bar say must not depend on the
    order or the batches in which they were read.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self.collapsed = False
        self.range = float("nan")
        """As last judged; NaN before there were 200 outputs."""
        self._outputs: deque[Sequence[float]] = deque(maxlen=WATCHED_OUTPUTS)
        self._bar_ts_ms = -1

    def admits(self, bar_ts_ms: int, probabilities: Sequence[float]) -> bool:
        """Take in an output, three probabilities; whether it may be voted with."""
        if bar_ts_ms > self._bar_ts_ms:
            self._bar_ts_ms = bar_ts_ms
            self._judge()
        self._outputs.append(probabilities)
        return not self.collapsed

    def _judge(self) -> None:
        if len(self._outputs) == WATCHED_OUTPUTS:
            self.range = output_range(np.array(self._outputs))
            self.collapsed = self.collapsed or self.range < SMALLEST_RANGE


def recalled(agent: str, version: str, events: Sequence[Envelope[Any]]) -> CollapseWatch:
    """The watch of a process that died, from its predictions stream (newest first): so the verdict does not flap.

    Events count back to the last one of another version, which is since when this one has served.
    """
    own = [event for event in events if _said_by(agent, event.payload)]
    since = list(takewhile(lambda event: event.payload.model_version == version, own))
    watch = CollapseWatch(version)
    votes = [event for event in since if isinstance(event.payload, PredictionMade)]
    for event in reversed(votes[:WATCHED_OUTPUTS]):
        watch.admits(event.bar_ts_ms, event.payload.probabilities)
    watch.collapsed = len(votes) < len(since)
    return watch


def _said_by(agent: str, payload: PredictionMade | PredictionAbstained) -> bool:
    """Whether it tells of the agent's champion: a vote of its, or that it is collapsed."""
    if payload.agent != agent:
        return False
    return payload.role == "champion" if isinstance(payload, PredictionMade) else payload.reason == "collapsed"

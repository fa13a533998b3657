"""Champion and shadow over the same inputs: what the shadow says is recorded, and can never disturb the vote."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantum_common.agent import metrics
from quantum_common.agent.collapse import SMALLEST_RANGE, WATCHED_OUTPUTS, CollapseWatch
from quantum_common.agent.core import FeatureEvent, Prediction, Role, abstain, inputs_of, unusable, vote
from quantum_common.agent.spec import ModelSpec
from quantum_common.contracts import PredictionAbstained, PredictionMade
from quantum_common.models.serving import LoadedModel
from quantum_common.models.slot import ModelSlot

log = logging.getLogger(__name__)

Window = NDArray[np.float64] | None
Recall = Callable[[str], Awaitable[CollapseWatch]]
"""The watch over a version that is about to serve."""


class Predicted(NamedTuple):
    """What is said of one event. `shadow` is None without a shadow, or when it cannot vote."""

    champion: Prediction
    shadow: PredictionMade | None


class Predicting:
    """The two model slots of an agent."""

    def __init__(
        self, spec: ModelSpec, champion: ModelSlot[LoadedModel], shadow: ModelSlot[LoadedModel], recall: Recall
    ) -> None:
        self._spec, self._champion, self._shadow, self._recall = spec, champion, shadow, recall
        self._watch: CollapseWatch | None = None

    @property
    def effective_weight(self) -> float:
        """1 when the agent may vote; 0 without a model or with a collapsed one."""
        return 0.0 if self._champion.model is None or self.collapsed else 1.0

    @property
    def collapsed(self) -> bool:
        """Whether the version that serves has collapsed."""
        model, watch = self._champion.model, self._watch
        return bool(model and watch and watch.collapsed and watch.version == model.manifest.version)

    @property
    def output_range(self) -> float:
        return self._watch.range if self._watch else float("nan")

    async def predict(self, events: Sequence[FeatureEvent], windows: Sequence[Window]) -> list[Predicted]:
        """One row per event, in order. Raises BusUnavailable."""
        model = self._champion.model
        refused = [unusable(self._spec, event, window) for event, window in zip(events, windows, strict=True)]
        usable = [number for number, reason in enumerate(refused) if reason is None]
        rows, seen = [events[number] for number in usable], [windows[number] for number in usable]
        shadows = await self._shadow_votes(rows, seen)
        if model is None:
            missing = abstain(self._spec, "model_not_loaded", str(self._champion.problem))
            champions: list[Prediction] = [missing for _ in events]
        else:
            votes = dict(zip(usable, await self._votes(model, rows, seen), strict=True))
            champions = [reason or votes[number] for number, reason in enumerate(refused)]
        beside = dict(zip(usable, shadows, strict=True))
        return [Predicted(champion, beside.get(number)) for number, champion in enumerate(champions)]

    async def _votes(
        self, model: LoadedModel, events: Sequence[FeatureEvent], windows: Sequence[Window]
    ) -> list[Prediction]:
        if not events:
            return []
        version = model.manifest.version
        if self._watch is None or self._watch.version != version:
            self._watch = await self._recall(version)
        watch = self._watch
        if watch.collapsed:
            return [self._collapsed(watch) for _ in events]
        try:
            votes = await self._infer(model, events, windows, "champion")
        except Exception as error:
            log.exception("%s: inference failed on %d rows", self._spec.agent, len(events))
            return [
                abstain(self._spec, "prediction_error", f"{type(error).__name__}: {error}", version) for _ in events
            ]
        return [self._watched(watch, event, said) for event, said in zip(events, votes, strict=True)]

    def _watched(self, watch: CollapseWatch, event: FeatureEvent, said: Prediction) -> Prediction:
        if isinstance(said, PredictionAbstained):
            return said
        was_collapsed = watch.collapsed
        admitted = watch.admits(event.bar_ts_ms, said.probabilities)
        if watch.collapsed and not was_collapsed:
            log.error("%s: model %s has collapsed: %s", self._spec.agent, watch.version, _what_is_wrong(watch))
        return said if admitted else self._collapsed(watch)

    def _collapsed(self, watch: CollapseWatch) -> Prediction:
        return abstain(self._spec, "collapsed", _what_is_wrong(watch), watch.version)

    async def _shadow_votes(
        self, events: Sequence[FeatureEvent], windows: Sequence[Window]
    ) -> list[PredictionMade | None]:
        model = self._shadow.model
        if model is None or not events:
            return [None for _ in events]
        try:
            votes = await self._infer(model, events, windows, "shadow")
        except Exception:  # a challenger may be wrong in any way: its failure is counted and the champion votes
            log.exception("%s: shadow %s failed on %d rows", self._spec.agent, model.manifest.version, len(events))
            metrics.SHADOW_FAILURES.labels(self._spec.agent, "prediction_error").inc(len(events))
            return [None for _ in events]
        return [self._recorded(said) for said in votes]

    def _recorded(self, said: Prediction) -> PredictionMade | None:
        if isinstance(said, PredictionAbstained):
            metrics.SHADOW_FAILURES.labels(self._spec.agent, said.reason).inc()
            return None
        metrics.SHADOW_PREDICTIONS.labels(self._spec.agent, said.action.value).inc()
        return said

    async def _infer(
        self, model: LoadedModel, events: Sequence[FeatureEvent], windows: Sequence[Window], role: Role
    ) -> list[Prediction]:
        started = time.perf_counter()
        probabilities = await asyncio.to_thread(model.predict, inputs_of(self._spec, events, windows))
        elapsed_s = time.perf_counter() - started
        if role == "champion":
            metrics.INFERENCE_SECONDS.labels(self._spec.agent).observe(elapsed_s)
        per_row_ms = elapsed_s * 1000 / len(events)
        return [vote(self._spec, row, model.manifest.version, per_row_ms, role) for row in probabilities]


def _what_is_wrong(watch: CollapseWatch) -> str:
    return f"over {WATCHED_OUTPUTS} outputs no probability ranged over {SMALLEST_RANGE} (5-95 %)"

"""One agent process: feature events in, a vote or an abstention per event out, inference in a thread."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantum_common.agent import metrics
from quantum_common.agent.core import (
    FeatureEvent,
    Prediction,
    abstain,
    inputs_of,
    unusable,
    vote,
    window_of,
)
from quantum_common.agent.slot import AgentSlot
from quantum_common.agent.spec import ModelSpec
from quantum_common.bus import Bus, Consumer, Output, Received, RedisBus, Unit, Watermark, commit_together, run_consumer
from quantum_common.contracts import FEATURES, PREDICTIONS, Look, PredictionAbstained, encode, envelope
from quantum_common.features import SEQUENCE_BARS
from quantum_common.models.serving import LoadedModel
from quantum_common.models.slot import ModelSlot
from quantum_common.service import Control, FleetSettings, MarketClock, Service, Stop
from quantum_common.service.clock import wall_ms

log = logging.getLogger(__name__)

Window = NDArray[np.float64] | None


class Agent:
    """Handles batches of feature events for one model."""

    def __init__(self, settings: FleetSettings, spec: ModelSpec, bus: Bus, slot: ModelSlot[LoadedModel]) -> None:
        self._settings, self._spec, self._bus, self._slot = settings, spec, bus, slot
        self._keys = settings.keys

    async def handle(self, batch: Sequence[Received]) -> None:
        """One commit per partition: every event acknowledged together with its prediction."""
        if not batch:
            await self.look_for_model()
            return
        events = [received.event for received in batch]
        predictions = await self._predict(events, await self._windows(events))
        self._count(predictions)
        by_slot: dict[str, list[Unit]] = {}
        for received, prediction in zip(batch, predictions, strict=True):
            by_slot.setdefault(self._keys.tag(received.event.symbol), []).append(self._unit(received, prediction))
        for units in by_slot.values():
            await commit_together(self._bus, units)

    async def look_for_model(self, *, again: bool = False) -> None:
        """Follow the `current` pointer; `again` gives a refused version another chance."""
        await asyncio.to_thread(partial(self._slot.look, again=again))

    async def _windows(self, events: Sequence[FeatureEvent]) -> list[Window]:
        if self._spec.input_kind == "row":
            return [None] * len(events)
        requests = [
            (self._keys.window(event.symbol, event.timeframe), event.bar_ts_ms, SEQUENCE_BARS) for event in events
        ]
        found = await self._bus.vectors(requests)
        return [window_of(members, event.bar_ts_ms) for members, event in zip(found, events, strict=True)]

    async def _predict(self, events: Sequence[FeatureEvent], windows: Sequence[Window]) -> list[Prediction]:
        model = self._slot.model
        if model is None:
            return [abstain(self._spec, "model_not_loaded", str(self._slot.problem)) for _ in events]
        refused = [unusable(self._spec, event, window) for event, window in zip(events, windows, strict=True)]
        usable = [number for number, reason in enumerate(refused) if reason is None]
        votes = await self._infer(model, [events[n] for n in usable], [windows[n] for n in usable]) if usable else []
        by_number = dict(zip(usable, votes, strict=True))
        return [refused[number] or by_number[number] for number in range(len(events))]

    async def _infer(
        self, model: LoadedModel, events: Sequence[FeatureEvent], windows: Sequence[Window]
    ) -> list[Prediction]:
        started = time.perf_counter()
        try:
            inputs = inputs_of(self._spec, events, windows)
            probabilities = await asyncio.to_thread(model.predict, inputs)
        except Exception as error:
            log.exception("%s: inference failed on %d rows", self._spec.agent, len(events))
            return [abstain(self._spec, "prediction_error", f"{type(error).__name__}: {error}") for _ in events]
        elapsed_s = time.perf_counter() - started
        metrics.INFERENCE_SECONDS.labels(self._spec.agent).observe(elapsed_s)
        per_row_ms = elapsed_s * 1000 / len(events)
        return [vote(self._spec, row, model.manifest.version, per_row_ms) for row in probabilities]

    def _count(self, predictions: Sequence[Prediction]) -> None:
        for prediction in predictions:
            if isinstance(prediction, PredictionAbstained):
                metrics.ABSTENTIONS.labels(self._spec.agent, prediction.reason).inc()
            else:
                metrics.PREDICTIONS.labels(self._spec.agent, prediction.action.value).inc()
                metrics.CONFIDENCE.labels(self._spec.agent).observe(prediction.confidence)

    def _unit(self, received: Received, prediction: Prediction) -> Unit:
        event = received.event
        made_by = "abstained" if isinstance(prediction, PredictionAbstained) else prediction.model_version
        out = envelope(
            prediction,
            producer=self._settings.producer,
            produced_at_ms=wall_ms(),
            symbol=event.symbol,
            timeframe=event.timeframe,
            bar_ts_ms=event.bar_ts_ms,
            natural_key=f"{made_by}:champion",
        )
        stream = self._keys.stream(PREDICTIONS, event.symbol)
        return Unit(
            inputs=[received.entry],
            watermarks=[Watermark(stream, self._settings.service, event.symbol, event.bar_ts_ms)],
            outputs=[Output(stream, encode(out))],
        )


def build(
    settings: FleetSettings, spec: ModelSpec, bus: Bus | None = None, slot: ModelSlot[LoadedModel] | None = None
) -> Service:
    """The agent's service: one consumer loop on the features streams; any number of replicas share them."""
    bus = bus or RedisBus.connect(settings.redis_url.get_secret_value())
    slot = slot or AgentSlot(settings, spec)
    agent = Agent(settings, spec, bus, slot)
    consumer = Consumer(bus, settings.keys.all_streams(FEATURES), settings.service, settings.instance)

    async def consume(stop: Stop, beat: Any) -> None:
        await agent.look_for_model()
        await run_consumer(consumer, agent.handle, stopping=lambda: stop.requested, beat=beat)

    def info() -> dict[str, Any]:
        model = slot.model
        if model is None:
            return {"model": None, "problem": slot.problem}
        return {"model": {"agent": spec.agent, "version": model.manifest.version, "quality": model.manifest.quality}}

    async def on_look(look: Look) -> None:
        if look.subject == "models":
            await agent.look_for_model(again=True)

    control = Control(bus, MarketClock(settings.clock), on_look)
    return Service(
        settings=settings,
        loops={"consume": consume, "control": control.run},
        bus=bus,
        consumers=[consumer],
        not_ready=lambda: [] if slot.model else [f"model_not_loaded: {slot.problem}"],
        info=info,
        closing=[bus.close],
    )

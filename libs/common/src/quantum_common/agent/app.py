"""One agent process: feature events in, a vote or an abstention per event out, inference in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from quantum_common.agent import metrics
from quantum_common.agent.collapse import WATCHED_OUTPUTS, CollapseWatch, recalled
from quantum_common.agent.core import FeatureEvent, Prediction, window_of
from quantum_common.agent.predicting import Predicted, Predicting, Window
from quantum_common.agent.slot import AgentSlot, ShadowSlot
from quantum_common.agent.spec import ModelSpec
from quantum_common.bus import (
    Bus,
    Consumer,
    Entry,
    Output,
    Received,
    RedisBus,
    Unit,
    Watermark,
    commit_together,
    run_consumer,
)
from quantum_common.contracts import (
    FEATURES,
    PREDICTIONS,
    BadEvent,
    Envelope,
    Look,
    PredictionAbstained,
    PredictionMade,
    decode,
    encode,
    envelope,
)
from quantum_common.domain import AGENTS
from quantum_common.features import SEQUENCE_BARS
from quantum_common.models import age_s, described
from quantum_common.models.serving import LoadedModel
from quantum_common.models.slot import ModelSlot
from quantum_common.service import Control, FleetSettings, MarketClock, Service, Stop
from quantum_common.service.clock import wall_ms

LOOK_FOR_MODELS_S = 3.0
"""Without a Look; also under load, when no batch is ever empty."""
RECALLED_ENTRIES = 2 * WATCHED_OUTPUTS * len(AGENTS)
"""Per partition: the watched outputs of one agent among those of all, each with a shadow."""


class Agent:
    """Handles batches of feature events for one model."""

    def __init__(
        self,
        settings: FleetSettings,
        spec: ModelSpec,
        bus: Bus,
        slot: ModelSlot[LoadedModel],
        shadow: ModelSlot[LoadedModel] | None = None,
    ) -> None:
        self._settings, self._spec, self._bus = settings, spec, bus
        self._slot, self._shadow = slot, shadow or ShadowSlot(settings, spec)
        self._keys = settings.keys
        self.predicting = Predicting(spec, self._slot, self._shadow, self._recall)

    async def handle(self, batch: Sequence[Received]) -> None:
        """One commit per partition: every event acknowledged together with its prediction."""
        if not batch:
            return
        events = [received.event for received in batch]
        predictions = await self.predicting.predict(events, await self._windows(events))
        self._count(predictions)
        by_slot: dict[str, list[Unit]] = {}
        for received, prediction in zip(batch, predictions, strict=True):
            by_slot.setdefault(self._keys.tag(received.event.symbol), []).append(self._unit(received, prediction))
        for units in by_slot.values():
            await commit_together(self._bus, units)

    async def look_for_model(self, *, again: bool = False) -> None:
        """Follow the pointers; `again` gives a refused version another chance."""
        for slot in (self._slot, self._shadow):
            await asyncio.to_thread(partial(slot.look, again=again))

    async def _windows(self, events: Sequence[FeatureEvent]) -> list[Window]:
        if self._spec.input_kind == "row":
            return [None] * len(events)
        requests = [
            (self._keys.window(event.symbol, event.timeframe), event.bar_ts_ms, SEQUENCE_BARS) for event in events
        ]
        found = await self._bus.vectors(requests)
        return [window_of(members, event.bar_ts_ms) for members, event in zip(found, events, strict=True)]

    async def _recall(self, version: str) -> CollapseWatch:
        """What the last outputs of a version were, also those that another process made before this one started."""
        streams = self._keys.all_streams(PREDICTIONS)
        entries = [entry for stream in streams for entry in await self._bus.newest(stream, RECALLED_ENTRIES)]
        events = [event for entry in entries if (event := _prediction(entry)) is not None]
        newest_first = sorted(events, key=lambda event: event.bar_ts_ms, reverse=True)
        return recalled(self._spec.agent, version, newest_first)

    def _count(self, predictions: Sequence[Predicted]) -> None:
        for prediction, _ in predictions:
            if isinstance(prediction, PredictionAbstained):
                metrics.ABSTENTIONS.labels(self._spec.agent, prediction.reason).inc()
            else:
                metrics.PREDICTIONS.labels(self._spec.agent, prediction.action.value).inc()
                metrics.CONFIDENCE.labels(self._spec.agent).observe(prediction.confidence)

    def _unit(self, received: Received, predicted: Predicted) -> Unit:
        event = received.event
        stream = self._keys.stream(PREDICTIONS, event.symbol)
        said = [prediction for prediction in predicted if prediction is not None]
        return Unit(
            inputs=[received.entry],
            watermarks=[Watermark(stream, self._settings.service, event.symbol, event.bar_ts_ms)],
            outputs=[Output(stream, encode(self._event(event, prediction))) for prediction in said],
        )

    def _event(self, event: FeatureEvent, prediction: Prediction) -> Envelope[Any]:
        if isinstance(prediction, PredictionMade):
            natural_key = f"{prediction.model_version}:{prediction.role}"
        else:
            natural_key = "abstained:champion"
        return envelope(
            prediction,
            producer=self._settings.producer,
            produced_at_ms=wall_ms(),
            symbol=event.symbol,
            timeframe=event.timeframe,
            bar_ts_ms=event.bar_ts_ms,
            natural_key=natural_key,
        )


def _prediction(entry: Entry) -> Envelope[Any] | None:
    try:
        event = decode(entry.data)
    except BadEvent:  # its readers set it aside
        return None
    return event if isinstance(event.payload, PredictionMade | PredictionAbstained) else None


def build(
    settings: FleetSettings, spec: ModelSpec, bus: Bus | None = None, slot: ModelSlot[LoadedModel] | None = None
) -> Service:
    """The agent's service: one consumer loop on the features streams; any number of replicas share them."""
    bus = bus or RedisBus.connect(settings.redis_url.get_secret_value())
    slot = slot or AgentSlot(settings, spec)
    shadow = ShadowSlot(settings, spec)
    agent = Agent(settings, spec, bus, slot, shadow)
    consumer = Consumer(bus, settings.keys.all_streams(FEATURES), settings.service, settings.instance)

    async def consume(stop: Stop, beat: Any) -> None:
        await agent.look_for_model()
        await run_consumer(consumer, agent.handle, stopping=lambda: stop.requested, beat=beat)

    clock = MarketClock(settings.clock)
    metrics.begin(spec.agent)
    metrics.MODEL_AGE_SECONDS.labels(spec.agent).set_function(lambda: _age_s(slot, clock))
    metrics.EFFECTIVE_WEIGHT.labels(spec.agent).set_function(lambda: agent.predicting.effective_weight)
    metrics.OUTPUT_RANGE.labels(spec.agent).set_function(lambda: agent.predicting.output_range)

    async def on_look(look: Look) -> None:
        if look.subject == "models":
            await agent.look_for_model(again=True)

    async def watch_models(stop: Stop, beat: Any) -> None:
        while not stop.requested:
            beat()
            await agent.look_for_model()
            await stop.wait(LOOK_FOR_MODELS_S)

    def not_ready() -> list[str]:
        if slot.model is None:
            return [f"model_not_loaded: {slot.problem}"]
        return [f"collapsed: model {slot.model.manifest.version}"] if agent.predicting.collapsed else []

    control = Control(bus, clock, on_look)
    return Service(
        settings=settings,
        loops={"consume": consume, "control": control.run, "models": watch_models},
        bus=bus,
        consumers=[consumer],
        not_ready=not_ready,
        info=lambda: {
            "model": _described(slot),
            "problem": slot.problem,
            "shadow": _described(shadow),
            "effective_weight": agent.predicting.effective_weight,
        },
        closing=[bus.close],
    )


def _described(slot: ModelSlot[LoadedModel]) -> dict[str, str | int] | None:
    return described(slot.model.manifest) if slot.model else None


def _age_s(slot: ModelSlot[LoadedModel], clock: MarketClock) -> float:
    return age_s(slot.model.manifest if slot.model else None, clock.now_ms())

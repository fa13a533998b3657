"""What the streams told: features, predictions, labels and collapses, kept bounded and across restarts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from quantum_common.bus import Bus, Entry
from quantum_common.contracts import (
    FEATURES,
    PREDICTIONS,
    BadEvent,
    Envelope,
    FeaturesComputed,
    PredictionAbstained,
    PredictionMade,
    decode,
)
from quantum_common.domain import timeframe_ms
from quantum_common.features import FEATURE_COUNT, FEATURE_NAMES
from quantum_common.features.views import relative
from trainer_svc import metrics
from trainer_svc.drift import Drift, Series, drift_of, drift_of_label
from trainer_svc.live import Label, LiveScores, Prediction, every_nth, is_kept
from trainer_svc.settings import Settings
from trainer_svc.state import read, write

log = logging.getLogger(__name__)

PAGE = 500
FEATURE_COLUMNS = (*FEATURE_NAMES, "volatility", "trend_strength")
PREDICTION_COLUMNS = ("P(HOLD)", "P(BUY)-P(SELL)")


class Since(msgspec.Struct, frozen=True):
    """A version in a role, and the market time at which it was first seen there."""

    version: str
    since_ms: int


class Collapse(msgspec.Struct, frozen=True):
    """The newest bar on which an agent abstained because this version had collapsed. Open time."""

    version: str
    bar_ms: int


class Seen(msgspec.Struct):
    """All that is kept."""

    positions: dict[str, str] = {}
    """stream → id of the last entry taken in."""
    newest_bar_ms: int = 0
    features: Series = msgspec.field(default_factory=Series)
    predictions: dict[str, Series] = {}
    """Of the champions; a row's label is its version."""
    label: Label | None = None
    """What `scores` are about."""
    scores: LiveScores = msgspec.field(default_factory=LiveScores)
    collapsed: dict[str, Collapse] = {}
    champions: dict[str, Since] = {}
    shadows: dict[str, Since] = {}


class StreamWatch:
    """Reads features and predictions without a group: it holds back no trimming, and misses what was trimmed."""

    def __init__(self, settings: Settings, bus: Bus) -> None:
        self._bus, self._label = bus, settings.label
        self._bar_ms, self._timeframe = timeframe_ms(settings.timeframe), settings.timeframe
        self._nth = every_nth(len(settings.symbols), self._bar_ms)
        self._streams = [name for spec in (PREDICTIONS, FEATURES) for name in settings.keys.all_streams(spec)]
        self._path: Path = settings.folder / "watch.json"
        self.seen = read(self._path, Seen) or Seen()
        self._drifts: dict[tuple[str, str], tuple[int, Drift]] = {}

    async def catch_up(self, label: Label, beat: Callable[[], None]) -> int:
        """Take in all that is there; how many entries that was. `label` is the champions'. Raises BusUnavailable."""
        taken, self._label = 0, label
        if self.seen.label != label:
            self.seen.label, self.seen.scores = label, LiveScores()
        await self._check_positions()
        while True:
            beat()
            positions = {stream: self.seen.positions.get(stream, "0-0") for stream in self._streams}
            entries = await self._bus.tail(positions, count=PAGE, block_ms=None)
            for entry in entries:
                self.seen.positions[entry.stream] = entry.entry_id
                self.take(entry)
            taken += len(entries)
            if not entries:
                return taken

    async def _check_positions(self) -> None:
        """A server that was emptied counts from the start again."""
        infos = await self._bus.stream_infos(self._streams)
        for stream, position in list(self.seen.positions.items()):
            if stream in infos and _number(infos[stream].last_id) < _number(position):
                log.warning("%s begins anew: it is read from its start", stream)
                del self.seen.positions[stream]

    def take(self, entry: Entry) -> None:
        """One entry; whatever is no event of this fleet's timeframe is left out."""
        try:
            event = decode(entry.data)
        except BadEvent:
            metrics.ENTRIES_SKIPPED.inc()
            return
        if event.timeframe != self._timeframe:
            return
        self.seen.newest_bar_ms = max(self.seen.newest_bar_ms, event.bar_ts_ms)
        match event.payload:
            case FeaturesComputed() as features:
                self._take_features(event, features)
            case PredictionMade() as prediction:
                self._take_prediction(event, prediction)
            case PredictionAbstained(agent=agent, reason="collapsed", model_version=str(version)):
                self.seen.collapsed[agent] = Collapse(version, event.bar_ts_ms)

    def _take_features(self, event: Envelope[Any], features: FeaturesComputed) -> None:
        if len(features.values) == FEATURE_COUNT:
            values = relative(np.array(features.values), np.array(features.candle.close))
            row = (*values.tolist(), features.volatility, features.trend_strength)
            self.seen.features.add(event.bar_ts_ms, self._bar_ms, event.symbol, row)
        self.seen.scores.take_close(event.symbol, event.bar_ts_ms, features.candle.close, self._bar_ms, self._label)

    def _take_prediction(self, event: Envelope[Any], said: PredictionMade) -> None:
        if said.role == "champion":
            sell, hold, buy = said.probabilities
            series = self.seen.predictions.setdefault(said.agent, Series())
            series.add(event.bar_ts_ms, self._bar_ms, event.symbol, (hold, buy - sell), said.model_version)
        if not is_kept(event.symbol, event.bar_ts_ms, self._bar_ms, self._nth):
            return
        prediction = Prediction(said.agent, said.model_version, said.probabilities)
        self.seen.scores.take_prediction(event.symbol, event.bar_ts_ms, prediction, self._bar_ms, self._label)

    def feature_drift(self) -> Drift:
        series = self.seen.features
        return self._remembered(("", ""), series, lambda: drift_of(series, FEATURE_COLUMNS))

    def prediction_drift(self, agent: str, version: str) -> Drift:
        series = self.seen.predictions.get(agent) or Series()
        names = [f"{agent} {column}" for column in PREDICTION_COLUMNS]
        return self._remembered((agent, version), series, lambda: drift_of_label(series, version, names))

    def _remembered(self, key: tuple[str, str], series: Series, test: Callable[[], Drift]) -> Drift:
        """A test is done once per new row."""
        at_ms = series.times_ms[-1] if series.times_ms else 0
        if key not in self._drifts or self._drifts[key][0] != at_ms:
            self._drifts[key] = (at_ms, test())
        return self._drifts[key][1]

    async def save(self) -> None:
        await asyncio.to_thread(write, self._path, self.seen)


def _number(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)

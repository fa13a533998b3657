"""What people ask meta-svc: the fleet-wide statistics, a what-if, and the decisions on the stream."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from meta_svc.core import Outcome
from meta_svc.decide import decide
from meta_svc.question import Question
from meta_svc.serving import MetaSlot
from meta_svc.settings import Settings
from meta_svc.statistics import statistics
from meta_svc.versions import require_probabilities
from quantum_common.bus import Bus, Entry, Unit
from quantum_common.contracts import DECISIONS, BadEvent, DecisionMade, Envelope, Keys, decode

SCANNED_DECISIONS = 2000
"""How far back, per partition, the decisions of one symbol are looked for."""


class Board:
    """Reads from the bus, so that every replica shows the same and a restart forgets nothing."""

    def __init__(self, settings: Settings, bus: Bus, slot: MetaSlot) -> None:
        self._settings, self._bus, self._slot = settings, bus, slot

    async def status(self) -> dict[str, Any]:
        """The documented statistics, and which model serves: `model_quality` says "unproven" where it is."""
        counts: Counter[str] = Counter()
        for key in self._counter_keys():
            counts.update(await self._bus.counters(key))
        model = self._slot.model
        shown = statistics(
            counts,
            model_ready=model is not None,
            meta_threshold=self._settings.policy.override_threshold,
            consensus_threshold=self._settings.consensus_threshold,
            version=self._settings.version,
        )
        return {
            **shown,
            "override_rate": round(shown["override_rate"], 3),
            "enabled": self._settings.enabled,
            "model_version": model.version if model else None,
            "model_quality": model.quality if model else None,
            "model_problem": self._slot.problem,
        }

    async def reset_stats(self) -> dict[str, Any]:
        """Zero the counters of the whole fleet; returns the new status."""
        await self._bus.commit([Unit(writes=[("DEL", key)]) for key in self._counter_keys()])
        return await self.status()

    def what_if(self, question: Question) -> Outcome:
        """The outcome of a question nobody decided on a bar; counts nothing. Raises MissingProbabilities."""
        policy = self._settings.policy
        require_probabilities(question, policy.version)
        return decide([question], policy, self._slot.model)[0]

    async def decisions(self, symbol: str | None, limit: int) -> list[dict[str, Any]]:
        """Published decisions, newest bar first; symbols of one bar in alphabetical order."""
        scanned = limit if symbol is None else SCANNED_DECISIONS
        events = await newest_decisions(self._bus, self._settings.keys, scanned)
        wanted = [event for event in events if symbol in (None, event.symbol)]
        return [_shown(event) for event in wanted[:limit]]

    def _counter_keys(self) -> list[str]:
        settings = self._settings
        return [settings.keys.counters(settings.service, number) for number in range(settings.partitions)]


async def newest_decisions(bus: Bus, keys: Keys, count: int) -> list[Envelope[DecisionMade]]:
    """The last `count` decisions of each partition, newest bar first; entries that are no decision are left out."""
    found = [
        event
        for stream in keys.all_streams(DECISIONS)
        for entry in await bus.newest(stream, count)
        if (event := _decision(entry)) is not None
    ]
    return sorted(found, key=lambda event: (-event.bar_ts_ms, event.symbol))


def _decision(entry: Entry) -> Envelope[DecisionMade] | None:
    try:
        event = decode(entry.data)
    except BadEvent:  # the kit of the services that consume the stream counts it and sets it aside
        return None
    return event if isinstance(event.payload, DecisionMade) else None


def _shown(event: Envelope[DecisionMade]) -> dict[str, Any]:
    return {
        "decision_id": event.event_id,
        "symbol": event.symbol,
        "timeframe": event.timeframe,
        "bar_ts_ms": event.bar_ts_ms,
        "produced_at_ms": event.produced_at_ms,
        **msgspec.to_builtins(event.payload),
    }

"""The loop that watches: streams in, then versions taken back, shadow periods ended, and trainings asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from quantum_common.bus import Bus, BusUnavailable
from quantum_common.contracts import Look
from quantum_common.domain import AGENTS
from quantum_common.models import (
    ModelRefused,
    clear_shadow,
    current_version,
    promote,
    rollback,
)
from quantum_common.service import MarketClock, Stop, wake
from quantum_research.shadow import shadow_period
from trainer_svc import metrics
from trainer_svc.core import DAY_MS, Champion, Facts, Reason, due
from trainer_svc.errors import AlreadyRunning
from trainer_svc.models import champions, label_served, note_roles, released_ms
from trainer_svc.release_watch import Judge, Outcome, ShadowEnd, must_return, shadow_end
from trainer_svc.settings import Settings
from trainer_svc.trainings import Trainings
from trainer_svc.watch import StreamWatch

log = logging.getLogger(__name__)

TURN_S = 1.0
SAVE_EVERY_S = 60.0


class Renewal:
    """`judge` compares two models on the same rows."""

    def __init__(
        self, settings: Settings, bus: Bus, clock: MarketClock, trainings: Trainings, watch: StreamWatch, judge: Judge
    ) -> None:
        self._settings, self._bus, self._clock = settings, bus, clock
        self._trainings, self._watch, self._judge = trainings, watch, judge
        self._champions: dict[str, Champion] = {}
        self._bus_problem: str | None = "the streams have not been read yet"
        self._saved_at = 0.0
        self._stuck: dict[str, str] = {}
        """agent → why its version must go and cannot."""

    async def run(self, stop: Stop, beat: Callable[[], None]) -> None:
        """The loop."""
        while not stop.requested:
            beat()
            try:
                await self.turn(beat)
                self._bus_problem = None
            except BusUnavailable as error:
                if self._bus_problem is None:
                    log.warning("streams are not watched: %s", error)
                self._bus_problem = error.reason
            await stop.wait(TURN_S)
        await self._watch.save()

    async def turn(self, beat: Callable[[], None] = lambda: None) -> None:
        """One look at everything. Raises BusUnavailable."""
        models_dir = self._settings.models_dir
        taken = await self._watch.catch_up(label_served(models_dir, self._settings.label), beat)
        now_ms = self._clock.now_ms()
        if now_ms == 0:  # a replay whose time has not been told yet
            return
        note_roles(models_dir, self._watch, now_ms)
        self._champions = champions(models_dir, self._watch)
        changed = [agent for agent in list(self._champions) if self._take_back(agent, now_ms)]
        changed += [agent for agent in list(self._watch.seen.shadows) if self._end_shadow(agent, now_ms)]
        if changed:
            # The pointers are the truth: an instance that misses this sees them at its next idle look.
            await wake(self._bus, Look("models"), self._settings.producer)
            note_roles(models_dir, self._watch, now_ms)
            self._champions = champions(models_dir, self._watch)
        if taken and time.monotonic() - self._saved_at > SAVE_EVERY_S:
            await self._watch.save()
            self._saved_at = time.monotonic()
        self._ask_for_training(now_ms)

    def _take_back(self, agent: str, now_ms: int) -> bool:
        seen, settings, champion = self._watch.seen, self._settings, self._champions[agent]
        collapse = seen.collapsed.get(agent)
        found = must_return(
            champion,
            serving_since_ms=seen.champions[agent].since_ms,
            collapsed_bar_ms=collapse.bar_ms if collapse and collapse.version == champion.version else None,
            now_ms=now_ms,
            within_ms=int(settings.return_within_days * DAY_MS),
            min_labelled_bars=settings.min_labelled_bars,
        )
        metrics.CANNOT_RETURN.labels(agent).set(0)
        if found is None:
            self._stuck.pop(agent, None)
            return False
        bad = champion.version
        try:
            good = rollback(settings.models_dir, agent, reason=f"{found.reason}: {found.detail}", at_ms=now_ms)
        except ModelRefused as error:
            metrics.CANNOT_RETURN.labels(agent).set(1)
            if self._stuck.get(agent) != bad:
                log.error("%s %s must go (%s) and stays: %s", agent, bad, found.detail, error)
            self._stuck[agent] = bad
            return False
        metrics.RETURNS.labels(agent, found.reason).inc()
        log.error("%s %s is taken back (%s: %s): %s serves again", agent, bad, found.reason, found.detail, good)
        return True

    def _end_shadow(self, agent: str, now_ms: int) -> bool:
        seen, models_dir = self._watch.seen, self._settings.models_dir
        shadow, current = seen.shadows[agent], current_version(models_dir, agent)
        if current is None:
            return False
        end = shadow_end(
            seen.scores.rows(agent, current, shadow.since_ms),
            seen.scores.rows(agent, shadow.version, shadow.since_ms),
            needed_bars=shadow_period(models_dir, agent, shadow.version) or self._settings.shadow_bars,
            judge=self._judge,
        )
        if end is None:
            return False
        if end.outcome is Outcome.PROMOTED:
            try:
                promote(models_dir, agent, shadow.version, reason=f"shadow won: {end.detail}", at_ms=now_ms)
            except ModelRefused as error:  # taken back or removed in the meantime
                end = ShadowEnd(Outcome.FAILED, str(error))
        if end.outcome is not Outcome.PROMOTED:
            clear_shadow(models_dir, agent)
        metrics.SHADOW_ENDS.labels(agent, end.outcome).inc()
        log.info("shadow %s %s ends: %s (%s)", agent, shadow.version, end.outcome, end.detail)
        return True

    def _ask_for_training(self, now_ms: int) -> None:
        drift = self._watch.feature_drift()
        metrics.DRIFT_DISTANCE.labels("features").set(float("nan") if drift.distance is None else drift.distance)
        metrics.DRIFT_FOUND.labels("features").set(drift.found)
        if not self._settings.train_automatic or self._trainings.running is not None:
            return
        state = self._trainings.state
        models_dir, meta = self._settings.models_dir, self._settings.meta
        facts = Facts(
            now_ms=now_ms,
            first_start_ms=state.first_start_ms,
            last_end_ms=state.last_end_ms(),
            last_drift_end_ms=state.last_end_ms(Reason.REGIME_SHIFT),
            champions=self._champions,
            meta_released_ms=released_ms(models_dir, meta),
            missing=tuple(name for name in (*AGENTS, meta) if current_version(models_dir, name) is None),
            features=drift,
        )
        if wanted := due(facts, self._settings.policy):
            try:
                self._trainings.start(wanted)
            except AlreadyRunning as error:  # a person asked in the meantime
                log.info("%s", error)

    def not_ready(self) -> list[str]:
        return [self._bus_problem] if self._bus_problem else []

    def document(self) -> dict[str, Any]:
        """For people: every champion with its live figures, shadows, and what has drifted."""
        return {
            "champions": {agent: msgspec.to_builtins(champion) for agent, champion in self._champions.items()},
            "shadows": msgspec.to_builtins(self._watch.seen.shadows),
            "features": msgspec.to_builtins(self._watch.feature_drift()),
            "must_go_and_cannot": dict(self._stuck),
        }

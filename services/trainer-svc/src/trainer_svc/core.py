"""When a training is due. Pure: facts and now come in, a reason goes out. Times are market time, UTC ms."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from trainer_svc.drift import RECENT_ROWS, SAMPLE_EVERY_BARS, Drift
from trainer_svc.live import Quality

DAY_MS = 86_400_000
ONE_SIDED_95 = 1.645


class Reason(StrEnum):
    """Why a training starts; also a label of metrics."""

    NO_MODEL = "no_model"
    WEEKLY = "weekly"
    BASE_MODEL_CHANGED = "base_model_changed"
    ACCURACY_DROP = "accuracy_drop"
    REGIME_SHIFT = "regime_shift"
    MANUAL = "manual"


class Promise(msgspec.Struct, frozen=True):
    """What a manifest says of its model: accuracy and majority class on its walk-forward folds."""

    accuracy: float
    accuracy_majority: float


class Champion(msgspec.Struct, frozen=True, kw_only=True):
    """A model that serves, and how it does."""

    version: str
    released_ms: int | None
    """None: nobody wrote it down."""
    promise: Promise | None
    quality: Quality | None = None
    drift: Drift | None = None
    """Of its predictions."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    every_ms: int = 7 * DAY_MS
    pause_ms: int = DAY_MS
    """Between the end of a training and the next one that nobody asked for."""
    min_labelled_bars: int = 500
    max_accuracy_drop: float = 0.05
    bar_ms: int = 3_600_000

    @property
    def drift_pause_ms(self) -> int:
        """Until the stretch that is tested is a new one: the same shift asks for one training."""
        return RECENT_ROWS * SAMPLE_EVERY_BARS * self.bar_ms


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    now_ms: int
    first_start_ms: int
    """When this service ran for the first time."""
    last_end_ms: int | None
    """End of the newest training, whatever came of it."""
    last_drift_end_ms: int | None
    """End of the newest training that a regime shift asked for."""
    champions: Mapping[str, Champion]
    """Base agents that have a model."""
    meta_released_ms: int | None
    missing: tuple[str, ...] = ()
    """Models without a current version."""
    features: Drift | None = None


class Due(msgspec.Struct, frozen=True):
    reason: Reason
    detail: str
    meta_only: bool = False


def due(facts: Facts, policy: Policy) -> Due | None:
    """The training that should start now, or None. First match wins."""
    if facts.last_end_ms is not None and facts.now_ms - facts.last_end_ms < policy.pause_ms:
        return None
    if facts.missing:
        return Due(Reason.NO_MODEL, f"no version of {', '.join(facts.missing)} serves")
    if changed := _changed_under_meta(facts):
        return Due(Reason.BASE_MODEL_CHANGED, f"{changed} was released after the meta model", meta_only=True)
    for agent, champion in facts.champions.items():
        if detail := accuracy_drop(champion, policy):
            return Due(Reason.ACCURACY_DROP, f"{agent} {champion.version}: {detail}")
    if shift := _shift(facts, policy):
        return Due(Reason.REGIME_SHIFT, shift)
    known = [facts.first_start_ms, facts.last_end_ms or 0]
    known += [c.released_ms for c in facts.champions.values() if c.released_ms and c.released_ms <= facts.now_ms]
    if facts.now_ms - max(known) >= policy.every_ms:
        return Due(Reason.WEEKLY, f"nothing was trained for {policy.every_ms // DAY_MS} days")
    return None


def accuracy_drop(champion: Champion, policy: Policy) -> str | None:
    """How far live accuracy fell, if it fell too far and not by chance.

    Both sides are accuracy minus the majority class of the same rows: in a wild week HOLD becomes rarer and every
    model's accuracy falls with it, which is the market's change and not the model's. The fall must be larger than what
    days differ by anyway (one-sided 95 %, rows of a day count as one).
    """
    promise, live = champion.promise, champion.quality
    if promise is None or live is None or live.rows < policy.min_labelled_bars:
        return None
    fall = (promise.accuracy - promise.accuracy_majority) - live.edge
    if fall <= policy.max_accuracy_drop or fall <= ONE_SIDED_95 * live.edge_error:
        return None
    return (
        f"accuracy {live.accuracy:.3f} (majority {live.accuracy_majority:.3f}) on {live.rows} live bars, promised "
        f"{promise.accuracy:.3f} ({promise.accuracy_majority:.3f})"
    )


def _changed_under_meta(facts: Facts) -> str | None:
    """The newest base agent released after meta and after the newest training, which has trained meta as well."""
    known_ms = max(facts.meta_released_ms or 0, facts.last_end_ms or 0)
    later = {agent: c.released_ms for agent, c in facts.champions.items() if c.released_ms and c.released_ms > known_ms}
    return max(later, key=lambda agent: later[agent]) if later else None


def _shift(facts: Facts, policy: Policy) -> str | None:
    if facts.last_drift_end_ms is not None and facts.now_ms - facts.last_drift_end_ms < policy.drift_pause_ms:
        return None
    found = [drift for drift in (facts.features, *(c.drift for c in facts.champions.values())) if drift and drift.found]
    return "; ".join(drift.in_words() for drift in found) if found else None

"""The registry as the trainer sees it: which versions serve, what they promise, and moving the pointers."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

import msgspec

from quantum_common.domain import AGENTS
from quantum_common.models import (
    Manifest,
    ModelRefused,
    current_version,
    read_manifest,
    releases,
    shadow_version,
)
from trainer_svc import metrics
from trainer_svc.core import Champion, Promise
from trainer_svc.live import Label, quality_of
from trainer_svc.watch import Since, StreamWatch

log = logging.getLogger(__name__)


@lru_cache(maxsize=32)
def _manifest(models_dir: Path, agent: str, version: str) -> Manifest | None:
    """Versions never change. None for one that cannot be read: agents refuse it, and say why."""
    try:
        return read_manifest(models_dir, agent, version)
    except ModelRefused as error:
        log.warning("%s %s: %s", agent, version, error)
        return None


def label_served(models_dir: Path, default: Label) -> Label:
    """What the champions' predictions are about; the settings' label while there is none."""
    for agent in AGENTS:
        version = current_version(models_dir, agent)
        if version and (manifest := _manifest(models_dir, agent, version)):
            return Label(manifest.horizon_bars, manifest.label_threshold)
    return default


def released_ms(models_dir: Path, agent: str) -> int | None:
    """When the current version became it; None when nobody wrote that down."""
    try:
        rows = releases(models_dir, agent)
    except ModelRefused as error:
        log.warning("%s: %s", agent, error)
        return None
    return rows[-1].at_ms if rows and rows[-1].version == current_version(models_dir, agent) else None


def note_roles(models_dir: Path, watch: StreamWatch, now_ms: int) -> None:
    """Remember since when each version has its role."""
    for agent in AGENTS:
        for kept, version in (
            (watch.seen.champions, current_version(models_dir, agent)),
            (watch.seen.shadows, shadow_version(models_dir, agent)),
        ):
            if version is None:
                kept.pop(agent, None)
            elif agent not in kept or kept[agent].version != version:
                kept[agent] = Since(version, now_ms)


def champions(models_dir: Path, watch: StreamWatch) -> dict[str, Champion]:
    """Every base agent that has a model, with its live figures; shows them as metrics, too."""
    found = {}
    for agent in AGENTS:
        version = current_version(models_dir, agent)
        manifest = version and _manifest(models_dir, agent, version)
        if not version or not manifest:
            continue
        found[agent] = Champion(
            version=version,
            released_ms=released_ms(models_dir, agent),
            promise=_promise(manifest),
            quality=quality_of(watch.seen.scores.rows(agent, version)),
            drift=watch.prediction_drift(agent, version),
        )
        _show(agent, found[agent])
    return found


def _promise(manifest: Manifest) -> Promise | None:
    try:
        return msgspec.convert(manifest.metrics, Promise)
    except msgspec.ValidationError:  # made by hand, or by an older training
        return None


def _show(agent: str, champion: Champion) -> None:
    if champion.drift is not None:
        distance = champion.drift.distance
        metrics.DRIFT_DISTANCE.labels(agent).set(float("nan") if distance is None else distance)
        metrics.DRIFT_FOUND.labels(agent).set(champion.drift.found)
    if (live := champion.quality) is None:
        metrics.LABELLED_BARS.labels(agent).set(0)
        return
    for gauge, value in (
        (metrics.LABELLED_BARS, live.rows),
        (metrics.LIVE_ACCURACY, live.accuracy),
        (metrics.LIVE_MAJORITY, live.accuracy_majority),
        (metrics.LIVE_LOG_LOSS, live.log_loss),
        (metrics.LIVE_LOG_LOSS_PRIOR, live.log_loss_prior),
    ):
        gauge.labels(agent).set(value)

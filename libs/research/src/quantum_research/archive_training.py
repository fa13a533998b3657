"""Meta training on what the fleet itself predicted: archive → votes → V2, v2p and V1 → checked, published artifacts."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from quantum_common.domain import AGENTS, DEFAULT_LABEL_THRESHOLD, timeframe_ms
from quantum_common.models import Manifest, ModelRefused, read_manifest
from quantum_research import ResearchError
from quantum_research.archive_votes import ArchivedVotes, LabelsEnd, archived_votes
from quantum_research.artifacts import Origin, publish_all
from quantum_research.meta_artifacts import meta_candidate, meta_models
from quantum_research.train import ModelReport

MIN_SAMPLES = 1000
REPORT_FILE = "meta.json"


@dataclass(frozen=True, slots=True)
class ArchiveRequest:
    """Which archive to learn from, and where the models are and go. The label is that of the agents' models."""

    archive_dir: Path
    models_dir: Path
    min_ms: int | None = None
    """Bars that open earlier (UTC ms) are left out."""
    min_samples: int = MIN_SAMPLES
    """Labelled bars with a vote, over all symbols."""
    report_dir: Path | None = None
    seed: int = 42


@dataclass(frozen=True, slots=True)
class Traded:
    """What became of the bars on which the fleet traded. It is told, and teaches nothing: see `archive_votes`."""

    bars: int
    hit_rate: float | None
    """Share of them with a net gain; None without a trade."""
    net_pnl_usd: float


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    timeframe: str
    horizon_bars: int
    label_threshold: float
    symbols: tuple[str, ...]
    samples: int
    data_from_ms: int
    labels_to_ms: int
    votes: dict[str, int]
    """By agent."""
    left_out: dict[str, int]
    """Why predictions and bars were not used."""
    traded: Traded
    models: dict[str, ModelReport]
    wall_s: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def train_from_archive(request: ArchiveRequest) -> ArchiveReport:
    """Train, check and publish the meta learners through the same gates as `train`.

    Raises ArchiveRefused, TooLittleData, ExportRefused and ModelRefused; then the old models stay.
    """
    started_s = time.perf_counter()
    label = _agents_label(request.models_dir)
    archived = archived_votes(
        request.archive_dir,
        timeframe=label.timeframe,
        horizon_bars=label.horizon_bars,
        label_threshold=label.label_threshold,
        labels_end=_labels_end(request.models_dir),
        min_ms=request.min_ms,
        min_samples=request.min_samples,
    )
    origin = _origin(archived, label)
    embargo_ms = label.horizon_bars * timeframe_ms(label.timeframe)
    metas = meta_models(archived.votes, embargo_ms=embargo_ms, seed=request.seed)
    candidates = [meta_candidate(meta, archived.votes, origin) for meta in metas]
    promoted = publish_all(request.models_dir, candidates, at_ms=time.time_ns() // 1_000_000)
    models = {
        c.manifest.agent: ModelReport(
            version=c.manifest.version,
            quality=c.manifest.quality,
            promoted=promoted[c.manifest.agent],
            parity=c.parity,
            metrics=c.manifest.metrics,
        )
        for c in candidates
    }
    report = _report(archived, origin, models, round(time.perf_counter() - started_s, 1))
    if request.report_dir is not None:
        request.report_dir.mkdir(parents=True, exist_ok=True)
        (request.report_dir / REPORT_FILE).write_text(json.dumps(report.as_json(), indent=1) + "\n")
    return report


def _agents_label(models_dir: Path) -> Manifest:
    """A current agent's manifest; all four must agree on timeframe, horizon and threshold."""
    manifests = [read_manifest(models_dir, agent) for agent in AGENTS]
    if len({m.label for m in manifests}) > 1:
        told = ", ".join(f"{m.agent} {m.timeframe}/{m.horizon_bars}/{m.label_threshold}" for m in manifests)
        raise ResearchError(f"the agents in {models_dir} have different labels ({told}): train them together first")
    if manifests[0].label_scaling != "fixed":
        raise ResearchError(f"the agents in {models_dir} have labels by volatility, which an archive is not read for")
    return manifests[0]


def _labels_end(models_dir: Path) -> LabelsEnd:
    """By the manifests of all versions ever published there."""

    @cache
    def labels_end(agent: str, version: str) -> int | None:
        try:
            return read_manifest(models_dir, agent, version).labels_to_ms if version else None
        except ModelRefused:
            return None

    return labels_end


def _origin(archived: ArchivedVotes, label: Manifest) -> Origin:
    return Origin(
        timeframe=label.timeframe,
        horizon_bars=label.horizon_bars,
        label_threshold=label.label_threshold,
        label_scaling=label.label_scaling,
        default_label=label.label_threshold == DEFAULT_LABEL_THRESHOLD[label.timeframe],
        symbols=archived.symbols,
        data_from_ms=int(archived.votes.ts_ms.min()),
        labels_to_ms=int(archived.votes.label_end_ms.max()),
    )


def _report(archived: ArchivedVotes, origin: Origin, models: dict[str, ModelReport], wall_s: float) -> ArchiveReport:
    return ArchiveReport(
        timeframe=origin.timeframe,
        horizon_bars=origin.horizon_bars,
        label_threshold=origin.label_threshold,
        symbols=origin.symbols,
        samples=len(archived.votes),
        data_from_ms=origin.data_from_ms,
        labels_to_ms=origin.labels_to_ms,
        votes=dict(zip(AGENTS, map(int, archived.votes.present.sum(axis=0)), strict=True)),
        left_out=archived.left_out,
        traded=_traded(archived),
        models=models,
        wall_s=wall_s,
    )


def _traded(archived: ArchivedVotes) -> Traded:
    results = archived.net_pnl_usd[~np.isnan(archived.net_pnl_usd)]
    hit_rate = float((results > 0.0).mean()) if len(results) else None
    return Traded(len(results), hit_rate, float(results.sum()))

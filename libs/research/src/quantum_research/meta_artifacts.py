"""From out-of-fold votes to verified meta candidates: V2, v2p and V1, each with metrics on rows it had not seen."""

from __future__ import annotations

from typing import Any

import numpy as np

from quantum_common.domain import AGENTS
from quantum_research.artifacts import Candidate, Origin, meta_hash, verified
from quantum_research.export import parity_rows
from quantum_research.meta import RECIPES, MetaModel, Recipe, train_meta
from quantum_research.metrics import accuracy_by_regime, evaluate, log_loss
from quantum_research.votes import VoteTable, out_of_fold_votes
from quantum_research.walk_forward import OutOfFold


def meta_candidates(past: OutOfFold, origin: Origin, *, embargo_ms: int, seed: int) -> list[Candidate]:
    """V2, v2p and V1 on the votes of a walk-forward. Raises TooLittleData, ExportRefused and ModelRefused."""
    return vote_candidates(out_of_fold_votes(past), origin, embargo_ms=embargo_ms, seed=seed)


def vote_candidates(table: VoteTable, origin: Origin, *, embargo_ms: int, seed: int) -> list[Candidate]:
    """V2, v2p and V1 on any votes by models that had not seen the rows. Raises like `meta_candidates`."""
    baselines = _baselines(table)
    return [
        _candidate(train_meta(table, recipe, embargo_ms=embargo_ms, seed=seed), recipe, table, baselines, origin)
        for recipe in RECIPES
    ]


Baselines = dict[str, np.ndarray[Any, np.dtype[np.float64]]]


def _baselines(table: VoteTable) -> Baselines:
    return {**{agent: table.agent_probabilities(agent) for agent in AGENTS}, "weighted_vote": table.weighted_vote()}


def _candidate(meta: MetaModel, recipe: Recipe, table: VoteTable, baselines: Baselines, origin: Origin) -> Candidate:
    version, calibration = recipe.version, meta.calibration
    inputs = table.take(parity_rows(len(table))).inputs(version.feature_names).astype(np.float32)
    return verified(
        meta.fitted.export(calibration),
        inputs,
        meta.probabilities(inputs.astype(np.float64)),
        origin=origin,
        metrics=_metrics(meta, table, baselines),
        libraries=recipe.libraries,
        agent=version.folder,
        kind="meta",
        view="votes",
        feature_hash=meta_hash(version.feature_names),
        feature_names=version.feature_names,
        window_bars=1,
        parameters=meta.fitted.parameters(),
        linear=meta.fitted.linear_form(calibration),
    )


def _metrics(meta: MetaModel, table: VoteTable, baselines: Baselines) -> dict[str, Any]:
    """Of the tested rows; the agents and their weighted vote are judged on the very same ones."""
    tested, said = table.take(meta.tested), meta.tested_probabilities
    losses = {f"log_loss_{name}": log_loss(p[meta.tested], tested.label) for name, p in baselines.items()}
    return {
        **evaluate(said, tested.prior, tested.label),
        "regimes": accuracy_by_regime(said, tested.label, tested.volatility, tested.trend_strength),
        **losses,
        "log_loss_best_agent": min(losses[f"log_loss_{agent}"] for agent in AGENTS),
        "temperature": meta.calibration.temperature,
        "class_bias": list(meta.calibration.class_bias),
    }

"""From out-of-fold votes to verified meta candidates: V2, v2p and V1, each with metrics on rows it had not seen."""

from __future__ import annotations

from typing import Any

import numpy as np

from quantum_common.domain import AGENTS
from quantum_research.artifacts import Candidate, Origin, meta_hash, verified
from quantum_research.export import parity_rows
from quantum_research.meta import RECIPES, MetaModel, train_meta
from quantum_research.metrics import accuracy_by_regime, evaluate, log_loss
from quantum_research.votes import VoteTable


def meta_models(table: VoteTable, *, embargo_ms: int, seed: int) -> list[MetaModel]:
    """V2, v2p and V1 on votes by models that had not seen the rows. Raises TooLittleData."""
    return [train_meta(table, recipe, embargo_ms=embargo_ms, seed=seed) for recipe in RECIPES]


def meta_candidate(meta: MetaModel, table: VoteTable, origin: Origin) -> Candidate:
    """A verified artifact with metrics on the rows that the meta model had not seen.

    Raises ExportRefused and ModelRefused.
    """
    version, calibration = meta.recipe.version, meta.calibration
    inputs = table.take(parity_rows(len(table))).inputs(version.feature_names).astype(np.float32)
    return verified(
        meta.fitted.export(calibration),
        inputs,
        meta.probabilities(inputs.astype(np.float64)),
        origin=origin,
        metrics=_metrics(meta, table),
        libraries=meta.recipe.libraries,
        agent=version.folder,
        kind="meta",
        view="votes",
        feature_hash=meta_hash(version.feature_names),
        feature_names=version.feature_names,
        window_bars=1,
        parameters=meta.fitted.parameters(),
        linear=meta.fitted.linear_form(calibration),
    )


def _metrics(meta: MetaModel, table: VoteTable) -> dict[str, Any]:
    """Of the tested rows; the agents and their weighted vote are judged on the very same ones."""
    tested, said = table.take(meta.tested), meta.tested_probabilities
    known = {
        **{agent: tested.agent_probabilities(agent) for agent in AGENTS},
        "weighted_vote": tested.weighted_vote(),
        "mean_probability": tested.mean_probability(),
    }
    losses = {f"log_loss_{name}": log_loss(p, tested.label) for name, p in known.items()}
    return {
        **evaluate(said, tested.prior, tested.label),
        "regimes": accuracy_by_regime(said, tested.label, tested.volatility, tested.trend_strength),
        **losses,
        "log_loss_best_agent": min(losses[f"log_loss_{agent}"] for agent in AGENTS),
        "temperature": meta.calibration.temperature,
        "class_bias": list(meta.calibration.class_bias),
    }

"""From what a training came to, to its evaluation report: which models are judged on which rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantum_common.agent.spec import ModelSpec
from quantum_common.models.serving import Graph
from quantum_research.artifacts import Candidate, Origin
from quantum_research.dataset import Dataset
from quantum_research.evaluation import evaluate_models
from quantum_research.forecaster import Effort, Trainer, model_input
from quantum_research.importance import permutation_importance
from quantum_research.meta import MetaModel
from quantum_research.report import Facts, ModelFacts, Report, write_report
from quantum_research.shuffled_split import shuffled_split_accuracy
from quantum_research.votes import out_of_fold_votes
from quantum_research.walk_forward import OutOfFold

Array = NDArray[np.float64]

WEIGHTED_VOTE, MEAN_PROBABILITY = "weighted_vote", "mean_probability"
"""Baselines without a model: what the base ensemble knows, and the mean of all that the agents said."""
_SHUFFLED = "lgbm"
"""The agent whose accuracy under a shuffled split is shown, for comparison with old claims."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Probabilities on rows that their models had not seen."""

    past: OutOfFold
    """Walk-forward rows with the agents."""
    metas: Sequence[MetaModel]
    test: OutOfFold | None
    """Test rows with the agents that are served."""
    candidates: Sequence[Candidate]


def write_training_report(
    folder: Path,
    found: Judgement,
    origin: Origin,
    trainers: Mapping[str, Trainer],
    effort: Effort,
    test_from_ms: int | None,
    stage_s: Mapping[str, float],
) -> None:
    """Judge every model, the meta models and the weighted vote, and write report.json and report.html."""
    test = with_metas(found.test, found.candidates) if found.test else None
    shuffled = trainers.get(_SHUFFLED)
    report = Report(
        facts=Facts(
            timeframe=origin.timeframe,
            symbols=list(origin.symbols),
            horizon_bars=origin.horizon_bars,
            label_threshold=origin.label_threshold,
            data_from_ms=origin.data_from_ms,
            labels_to_ms=origin.labels_to_ms,
            test_from_ms=test_from_ms,
        ),
        models=_facts(found.candidates, trainers, test.data if test else None),
        walk_forward=evaluate_models(_with_baselines(found.past)),
        test=evaluate_models(test) if test else None,
        meta_walk_forward=evaluate_models(_meta_rows(found)),
        shuffled_split=shuffled_split_accuracy(shuffled, found.past.data, effort) if shuffled else None,
        training={"effort": asdict(effort), "stage_s": dict(stage_s)},
    )
    write_report(folder, report)


def with_metas(rows: OutOfFold, candidates: Sequence[Candidate]) -> OutOfFold:
    """The rows with the baselines and what the exported meta models say of these votes."""
    table = out_of_fold_votes(rows)
    said = {
        candidate.manifest.agent: _served(candidate)(table.inputs(candidate.manifest.feature_names).astype(np.float32))
        for candidate in candidates
        if candidate.manifest.kind == "meta"
    }
    return replace(rows, probabilities={**_with_baselines(rows).probabilities, **said})


def _with_baselines(rows: OutOfFold) -> OutOfFold:
    table = out_of_fold_votes(rows)
    said = {WEIGHTED_VOTE: table.weighted_vote(), MEAN_PROBABILITY: table.mean_probability()}
    return replace(rows, probabilities={**rows.probabilities, **said})


def _meta_rows(found: Judgement) -> OutOfFold:
    """Walk-forward rows that the meta models had not seen either, with everyone on them."""
    rows = found.metas[0].tested
    past = _with_baselines(found.past)
    said = {name: p[rows] for name, p in past.probabilities.items()}
    said |= {meta.recipe.version.folder: meta.tested_probabilities for meta in found.metas}
    return OutOfFold(past.data.take(rows), said, past.prior[rows], past.fold[rows])


def _facts(
    candidates: Sequence[Candidate], trainers: Mapping[str, Trainer], unseen: Dataset | None
) -> dict[str, ModelFacts]:
    """Importance is measured on rows that the served models have not seen, so only where there are some."""
    found = {}
    for candidate in candidates:
        manifest, trainer = candidate.manifest, trainers.get(candidate.manifest.agent)
        importance = []
        if trainer is not None and unseen is not None:
            importance = permutation_importance(_predictor(candidate, trainer.model), trainer.model, unseen)
        settings = {name: value for name, value in manifest.metrics.items() if name in _DECIDED}
        found[manifest.agent] = ModelFacts(
            kind="meta" if manifest.kind == "meta" else "agent",
            version=manifest.version,
            quality=manifest.quality,
            settings={**settings, "parameters of the model": manifest.parameters, "parity": candidate.parity},
            importance=importance,
        )
    return {**found, **{name: ModelFacts(kind="vote") for name in (WEIGHTED_VOTE, MEAN_PROBABILITY)}}


def _predictor(candidate: Candidate, spec: ModelSpec) -> Callable[[Dataset], Array]:
    run = _served(candidate)
    return lambda data: run(model_input(spec, data))


_DECIDED = {"trees_per_class", "epochs", "members", "temperature", "bias_sell", "bias_hold", "bias_buy", "class_bias"}


def _served(candidate: Candidate) -> Callable[[NDArray[np.float32]], Array]:
    return Graph(candidate.onnx_bytes).run

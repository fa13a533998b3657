"""Champions and challengers on the same fresh rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from meta_svc.batch import batch_inputs
from quantum_common.domain import AGENTS
from quantum_common.models import read_manifest, withdrawn
from quantum_common.models.serving import Graph, LoadedModel, verify
from quantum_research.artifacts import Candidate
from quantum_research.dataset import Dataset
from quantum_research.deploy_plan import DeployRequest, Plan
from quantum_research.gate import FEE_BPS, Decision, Found, Judged, Rivals, decide, in_words
from quantum_research.release import fresh_rows, judge, predict

Array = NDArray[np.float64]


class Trained(Protocol):
    """What training hands over."""

    @property
    def candidates(self) -> Sequence[Candidate]: ...
    @property
    def test(self) -> Dataset | None:
        """Rows that nothing was fitted on."""


def judge_all(request: DeployRequest, plan: Plan, trained: Trained) -> list[Judged]:
    models_dir, test = request.train.models_dir, trained.test
    new = {candidate.manifest.agent: candidate for candidate in trained.candidates}
    rivals = [
        Rivals(
            candidate.manifest,
            read_manifest(models_dir, name, plan.champions[name]) if name in plan.champions else None,
            candidate.manifest.version in withdrawn(models_dir, name),
        )
        for name, candidate in new.items()
    ]
    compared = plan.test_from_ms is not None and test is not None
    asked = _Asked(models_dir, plan, new, test) if compared and test is not None else None

    def compare(agent: str, decisions: Mapping[str, Decision]) -> Found:
        assert asked is not None
        rows = asked.rows
        verdict = judge(*asked.both(agent, decisions), rows.label, rows.change, rows.ts_ms, fee_bps=FEE_BPS)
        return Found(verdict.winner, in_words(verdict))

    return decide(
        rivals,
        compare=compare,
        enough_rows=asked is not None,
        shadow=request.shadow_bars > 0,
        only=request.only,
    )


class _Asked:
    """What champions and challengers say of the fresh rows; each is asked once."""

    def __init__(self, models_dir: Path, plan: Plan, new: Mapping[str, Candidate], test: Dataset) -> None:
        self._models = {
            (name, True): LoadedModel(candidate.manifest, Graph(candidate.onnx_bytes))
            for name, candidate in new.items()
        }
        self._models |= {(name, False): verify(models_dir, name, version) for name, version in plan.champions.items()}
        known = [model.manifest for model in self._models.values()]
        self.rows = test.take(fresh_rows(test.ts_ms, *known))
        """Those that none of them has seen, with an embargo."""
        self._said: dict[tuple[str, bool], Array] = {}

    def both(self, agent: str, decisions: Mapping[str, Decision]) -> tuple[Array, Array]:
        """(rows, 3) of the champion and of the challenger. Both metas see the votes of whoever serves afterwards."""
        if agent in AGENTS:
            return self._base(agent, new=False), self._base(agent, new=True)
        votes = np.stack([self._base(name, new=decisions.get(name) is Decision.RELEASE) for name in AGENTS], axis=1)
        return self._meta(agent, votes, new=False), self._meta(agent, votes, new=True)

    def _meta(self, name: str, votes: Array, *, new: bool) -> Array:
        model, rows = self._models[name, new], self.rows
        everyone = np.ones((len(rows), len(AGENTS)), bool)
        inputs = batch_inputs(model.manifest.feature_names, votes, everyone, rows.volatility, rows.trend_strength)
        return model.predict(inputs.astype(np.float32))

    def _base(self, agent: str, *, new: bool) -> Array:
        key = (agent, new) if (agent, new) in self._models else (agent, not new)
        if key not in self._said:
            self._said[key] = predict(self._models[key], self.rows)
        return self._said[key]

"""How the LightGBM agent is fitted and exported (extra `train`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from lgbm_agent.model import MODEL
from quantum_common.agent.spec import ModelSpec
from quantum_common.features import FEATURE_COUNT
from quantum_research.calibration import Calibration
from quantum_research.dataset import Dataset
from quantum_research.export import Trees, float32_floor, trees_graph
from quantum_research.forecaster import Effort, Suggestions
from quantum_research.mirror import with_mirror_image, with_mirrored_labels

_CLASSES = 3
_PARAMETERS = {
    "objective": "multiclass",
    "num_class": _CLASSES,
    "metric": "multi_logloss",
    "boosting": "gbdt",
    "bagging_freq": 1,
    # Rows first and a fixed order of sums: repeated training gives the same trees.
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


@dataclass(frozen=True, slots=True)
class LgbmParameters:
    """LightGBM's own names."""

    learning_rate: float = 0.05
    num_leaves: int = 31
    min_data_in_leaf: int = 20
    bagging_fraction: float = 0.8
    feature_fraction: float = 0.8
    lambda_l2: float = 0.0


@dataclass(frozen=True, slots=True)
class LgbmTrainer:
    """Rows and mirror images; every class weighs the same in fitting and stopping, which calibration undoes."""

    model: ModelSpec = MODEL
    libraries: tuple[str, ...] = ("lightgbm",)
    parameters: LgbmParameters = LgbmParameters()

    def suggested(self, trial: Suggestions) -> LgbmTrainer:
        parameters = LgbmParameters(
            learning_rate=trial.suggest_float("learning_rate", 0.01, 0.2, log=True),
            num_leaves=trial.suggest_int("num_leaves", 4, 64, log=True),
            min_data_in_leaf=trial.suggest_int("min_data_in_leaf", 20, 2000, log=True),
            bagging_fraction=trial.suggest_float("bagging_fraction", 0.4, 1.0),
            feature_fraction=trial.suggest_float("feature_fraction", 0.3, 1.0),
            lambda_l2=trial.suggest_float("lambda_l2", 0.0, 50.0),
        )
        return replace(self, parameters=parameters)

    def fit(self, data: Dataset, validation: Dataset, effort: Effort) -> FittedLgbm:
        weights = 1.0 / (_CLASSES * data.class_shares())
        train = self._part(with_mirror_image(data.rows(self.model.view)), with_mirrored_labels(data.label), weights)
        booster = lightgbm.train(
            {**_PARAMETERS, **asdict(self.parameters), "seed": effort.seed, "num_threads": effort.threads},
            train,
            num_boost_round=effort.max_trees,
            valid_sets=[self._part(validation.rows(self.model.view), validation.label, weights)],
            callbacks=[lightgbm.early_stopping(effort.patience_trees, verbose=False)],
        )
        return FittedLgbm(booster, self.model.view)

    def _part(
        self, rows: NDArray[np.float32], labels: NDArray[np.int8], weights: NDArray[np.float64]
    ) -> lightgbm.Dataset:
        return lightgbm.Dataset(rows, label=labels, weight=weights[labels])


@dataclass(frozen=True, slots=True)
class FittedLgbm:
    booster: lightgbm.Booster
    view: str

    def logits(self, data: Dataset) -> NDArray[np.float64]:
        rounds = self.booster.best_iteration
        margins = self.booster.predict(data.rows(self.view), raw_score=True, num_iteration=rounds)
        return np.asarray(margins, np.float64)

    def export(self, calibration: Calibration) -> bytes:
        return trees_graph(self._trees(), FEATURE_COUNT, calibration)

    def settings(self) -> dict[str, float]:
        return {"trees_per_class": float(self.booster.best_iteration)}

    def parameters(self) -> int:
        return len(self._trees().node)

    def _trees(self) -> Trees:
        return _trees(self.booster.dump_model(num_iteration=self.booster.best_iteration))


def _trees(dump: dict[str, Any]) -> Trees:
    """Nodes from LightGBM's own dump. Its float64 thresholds are floored: inputs are float32, a row goes left at ≤."""
    trees = Trees("BRANCH_LEQ", (0.0, 0.0, 0.0))
    for number, tree in enumerate(dump["tree_info"]):
        nodes = [tree["tree_structure"]]
        for own, node in enumerate(nodes):  # grows while it is walked
            if "leaf_value" in node:
                trees.leaf(number, own, node["leaf_value"], number % _CLASSES)
                continue
            threshold = float32_floor(node["threshold"])
            trees.split(number, own, node["split_feature"], threshold, len(nodes), len(nodes) + 1)
            nodes += [node["left_child"], node["right_child"]]
    return trees


TRAINER = LgbmTrainer()

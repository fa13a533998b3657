"""How the XGBoost agent is fitted and exported (extra `train`)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

import numpy as np
import xgboost
from numpy.typing import NDArray

from quantum_common.agent.spec import ModelSpec
from quantum_common.features import FEATURE_COUNT
from quantum_research.calibration import Calibration
from quantum_research.dataset import Dataset
from quantum_research.export import Trees, trees_graph
from quantum_research.forecaster import Effort, Suggestions
from quantum_research.mirror import with_mirror_image, with_mirrored_labels
from xgb_agent.model import MODEL

_PARAMETERS = {
    "objective": "multi:softprob",
    "num_class": 3,
    "eval_metric": "mlogloss",
    "tree_method": "hist",
}


@dataclass(frozen=True, slots=True)
class XgbParameters:
    """XGBoost's own names."""

    learning_rate: float = 0.05
    max_depth: int = 6
    min_child_weight: float = 1.0
    subsample: float = 0.8
    colsample_bytree: float = 0.8
    reg_lambda: float = 1.0


@dataclass(frozen=True, slots=True)
class XgbTrainer:
    """Natural class balance; every row and its mirror image; stops early on the validation part."""

    model: ModelSpec = MODEL
    libraries: tuple[str, ...] = ("xgboost-cpu",)
    parameters: XgbParameters = XgbParameters()

    def suggested(self, trial: Suggestions) -> XgbTrainer:
        parameters = XgbParameters(
            learning_rate=trial.suggest_float("learning_rate", 0.01, 0.2, log=True),
            max_depth=trial.suggest_int("max_depth", 2, 8),
            min_child_weight=trial.suggest_float("min_child_weight", 1.0, 500.0, log=True),
            subsample=trial.suggest_float("subsample", 0.4, 1.0),
            colsample_bytree=trial.suggest_float("colsample_bytree", 0.3, 1.0),
            reg_lambda=trial.suggest_float("reg_lambda", 0.1, 100.0, log=True),
        )
        return replace(self, parameters=parameters)

    def fit(self, data: Dataset, validation: Dataset, effort: Effort) -> FittedXgb:
        data.class_shares()
        booster = xgboost.train(
            {**_PARAMETERS, **asdict(self.parameters), "seed": effort.seed, "nthread": effort.threads},
            xgboost.DMatrix(with_mirror_image(data.rows(self.model.view)), label=with_mirrored_labels(data.label)),
            num_boost_round=effort.max_trees,
            evals=[(xgboost.DMatrix(validation.rows(self.model.view), label=validation.label), "validation")],
            early_stopping_rounds=effort.patience_trees,
            verbose_eval=False,
        )
        return FittedXgb(booster[: booster.best_iteration + 1], self.model.view)


@dataclass(frozen=True, slots=True)
class FittedXgb:
    booster: xgboost.Booster
    view: str

    def logits(self, data: Dataset) -> NDArray[np.float64]:
        margins = self.booster.predict(xgboost.DMatrix(data.rows(self.view)), output_margin=True)
        return np.asarray(margins, np.float64)

    def export(self, calibration: Calibration) -> bytes:
        return trees_graph(_trees(self.booster), FEATURE_COUNT, calibration)

    def settings(self) -> dict[str, float]:
        return {"trees_per_class": float(self.booster.num_boosted_rounds())}

    def parameters(self) -> int:
        return len(_trees(self.booster).node)


def _trees(booster: xgboost.Booster) -> Trees:
    """Nodes from XGBoost's own JSON: thresholds are float32 already, and a row goes left when x < threshold."""
    learner = json.loads(booster.save_raw("json"))["learner"]
    base = np.broadcast_to(np.asarray(json.loads(learner["learner_model_param"]["base_score"]), np.float64), 3)
    trees = Trees("BRANCH_LT", (float(base[0]), float(base[1]), float(base[2])))
    model = learner["gradient_booster"]["model"]
    for number, (tree, klass) in enumerate(zip(model["trees"], model["tree_info"], strict=True)):
        lefts, rights = tree["left_children"], tree["right_children"]
        for node, (left, right) in enumerate(zip(lefts, rights, strict=True)):
            value = tree["split_conditions"][node]
            if left < 0:
                trees.leaf(number, node, value, klass)
            else:
                trees.split(number, node, tree["split_indices"][node], value, left, right)
    return trees


TRAINER = XgbTrainer()

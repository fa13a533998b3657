"""Importance names the features that a model uses, for row and sequence models alike."""

import numpy as np
import pytest

import lgbm_agent.train
from quantum_common.agent.spec import ModelSpec
from quantum_common.features import FEATURE_NAMES
from quantum_research.dataset import Dataset
from quantum_research.importance import permutation_importance
from quantum_research.labels import HOLD
from quantum_research.shuffled_split import shuffled_split_accuracy
from quantum_research.testing import TINY, synthetic_dataset

DATA = synthetic_dataset(rows_per_symbol=300)
ROW = ModelSpec(agent="xgb", input_kind="row", view="relative")
WINDOW = ModelSpec(agent="nhits", input_kind="window", view="relative")


def stating(hold: np.ndarray) -> np.ndarray:
    p = np.clip(hold, 0.01, 0.98)
    return np.stack([(1 - p) / 2, p, (1 - p) / 2], axis=1)


def by_bands(data: Dataset) -> np.ndarray:
    """Knows the label only when the upper band is in its place."""
    band = data.rows("relative")[:, FEATURE_NAMES.index("bb_upper")]
    right = np.isin(band, DATA.rows("relative")[:, FEATURE_NAMES.index("bb_upper")][DATA.label == HOLD])
    return stating(np.where(right, 0.9, 0.1))


@pytest.mark.parametrize("spec", [ROW, WINDOW])
def test_the_only_feature_that_is_used_is_the_only_one_that_counts(spec: ModelSpec) -> None:
    found = permutation_importance(by_bands, spec, DATA)
    assert found[0].feature == "bb_upper"
    assert found[0].loss_increase.above_zero
    assert all(each.loss_increase.value == 0.0 for each in found[1:])
    assert len(found) == len(FEATURE_NAMES) + (spec.input_kind == "window")


def test_a_sequence_models_channel_is_permuted_through_the_whole_window() -> None:
    def by_the_oldest_return(data: Dataset) -> np.ndarray:
        return stating(0.5 + 20.0 * data.windows("relative")[:, 0, 0].astype(float))

    found = permutation_importance(by_the_oldest_return, WINDOW, DATA)
    assert {each.feature for each in found if each.loss_increase.value != 0.0} == {"log_return"}


def test_permuted_prices_keep_the_scale_of_the_relative_view() -> None:
    seen = []

    def watching(data: Dataset) -> np.ndarray:
        seen.append(data.rows("relative"))
        return stating(np.full(len(data), 0.5))

    permutation_importance(watching, ROW, DATA)
    plain = seen[0]
    for place, permuted in enumerate(seen[1:]):
        assert np.sort(permuted[:, place]) == pytest.approx(np.sort(plain[:, place]), rel=1e-4, abs=1e-6)
        others = [k for k in range(len(FEATURE_NAMES)) if k != place]
        assert (permuted[:, others] == plain[:, others]).all()


def test_a_real_model_and_few_rows_give_the_same_importance_twice() -> None:
    fitted = lgbm_agent.train.TRAINER.fit(DATA, DATA, TINY)

    def predict(data: Dataset) -> np.ndarray:
        return stating(1.0 / (1.0 + np.exp(-fitted.logits(data)[:, HOLD])))

    once = permutation_importance(predict, ROW, DATA, most_rows=100)
    assert once == permutation_importance(predict, ROW, DATA, most_rows=100)


def test_a_shuffled_split_is_tested_on_a_fifth_of_the_rows() -> None:
    found = shuffled_split_accuracy(lgbm_agent.train.TRAINER, DATA, TINY)
    assert found.rows == len(DATA) // 5
    assert 0.0 <= found.accuracy <= 1.0
    assert found.accuracy_majority >= 1 / 3

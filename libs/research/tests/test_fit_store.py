"""A training that was killed goes on where it was, and never with what belongs to another."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import lgbm_agent.train
from quantum_research.dataset import Dataset
from quantum_research.fit_store import Fit, FitStore, Served
from quantum_research.fitting import Task, Work, fits
from quantum_research.forecaster import Effort, Fitted
from quantum_research.testing import TINY, synthetic_dataset
from quantum_research.walk_forward import folds

EMBARGO_MS = 5 * 3_600_000
FIT = Fit(
    np.full((4, 3), 1 / 3), np.array([0.2, 0.5, 0.3]), {"trees_per_class": 7.0}, Served(b"\0onnx\0", np.eye(3), 5)
)


class Killed(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Trees:
    """LightGBM that counts its fits in a file, and is killed after some."""

    log: Path
    most: int
    model = lgbm_agent.train.TRAINER.model
    libraries = lgbm_agent.train.TRAINER.libraries

    def fit(self, data: Dataset, validation: Dataset, effort: Effort) -> Fitted:
        if self.count() >= self.most:
            raise Killed
        with self.log.open("a") as log:
            log.write("x")
        return lgbm_agent.train.TRAINER.fit(data, validation, effort)

    def count(self) -> int:
        return len(self.log.read_text()) if self.log.exists() else 0


def work_of(trainer: Trees) -> Work:
    data = synthetic_dataset()
    known = data.take(np.arange(len(data) - 60))
    splits = folds(known, TINY, EMBARGO_MS)
    return Work({"lgbm": trainer}, known, data.take(np.arange(len(data) - 50, len(data))), splits, TINY, EMBARGO_MS)


def test_a_killed_training_fits_only_what_is_missing_and_gives_the_same(tmp_path: Path) -> None:
    straight = dict(fits(work_of(Trees(tmp_path / "straight", 99)), FitStore(None), workers=1))
    assert set(straight) == {Task("lgbm", None), Task("lgbm", 0), Task("lgbm", 1)}
    log, store = tmp_path / "log", FitStore(tmp_path / "work")
    with pytest.raises(Killed):
        dict(fits(work_of(Trees(log, 2)), store, workers=1))
    resumed = dict(fits(work_of(Trees(log, 3)), store, workers=1))
    assert len(log.read_text()) == 3
    for task, fit in straight.items():
        assert resumed[task].probabilities.tobytes() == fit.probabilities.tobytes()
        assert resumed[task].settings == fit.settings
    one, other = straight[Task("lgbm", None)].served, resumed[Task("lgbm", None)].served
    assert one is not None
    assert other is not None
    assert (one.onnx_bytes, one.parameters) == (other.onnx_bytes, other.parameters)
    assert one.checked.tobytes() == other.checked.tobytes()


def test_several_processes_fit_what_one_fits(tmp_path: Path) -> None:
    work = replace(work_of(Trees(tmp_path / "log", 99)), trainers={"lgbm": lgbm_agent.train.TRAINER})
    here, there = (dict(fits(work, FitStore(None), workers=workers)) for workers in (1, 2))
    assert here.keys() == there.keys()
    for task, fit in here.items():
        assert fit.probabilities.tobytes() == there[task].probabilities.tobytes()


def test_a_fit_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    store = FitStore(tmp_path)
    store.save("xgb", None, FIT)
    store.save("xgb", 1, replace(FIT, served=None))
    found = store.load("xgb", None)
    assert found is not None
    assert found.served is not None
    assert (found.served.onnx_bytes, found.served.parameters, found.settings) == (b"\0onnx\0", 5, FIT.settings)
    assert (found.probabilities == FIT.probabilities).all()
    fold = store.load("xgb", 1)
    assert fold is not None
    assert fold.served is None
    assert store.load("xgb", 0) is None
    assert store.load("lgbm", None) is None


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"no archive"])
def test_a_damaged_file_is_fitted_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    store = FitStore(tmp_path)
    store.save("xgb", 0, FIT)
    path = tmp_path / "xgb-0.npz"
    path.write_bytes(damage(path.read_bytes()))
    assert store.load("xgb", 0) is None

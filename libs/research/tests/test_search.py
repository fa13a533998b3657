"""Search for hyperparameters on a small dataset, with the two real tree agents."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

import lgbm_agent.train
import xgb_agent.train
from quantum_research import ResearchError
from quantum_research.forecaster import with_parameters
from quantum_research.jobs import RAY_LOCAL
from quantum_research.search import (
    BATCH,
    AgentResult,
    Judgement,
    Search,
    Task,
    fold_gain,
    read_parameters,
    search,
    write_best,
)
from quantum_research.testing import TINY, synthetic_dataset

TREES = {"xgb": xgb_agent.train.TRAINER, "lgbm": lgbm_agent.train.TRAINER}
TASK = Task(trainers=TREES, data=synthetic_dataset(300), effort=replace(TINY, folds=3), embargo_ms=0)
TRIALS = 6


class Killed(Exception):
    """In the place of a SIGKILL: what is on disk then is what is on disk now."""


def found(folder: Path, *, trials: int = TRIALS, after: int | None = None, **how: object) -> dict[str, AgentResult]:
    steps: list[str] = []

    def step(name: str) -> None:
        steps.append(name)
        if after is not None and len(steps) == after:
            raise Killed

    return search(TASK, Search(trials, folder, **how), step)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, AgentResult]:
    return found(tmp_path_factory.mktemp("search"))


def test_the_best_is_no_worse_than_the_defaults_and_is_what_a_repetition_gives(
    unbroken: dict[str, AgentResult],
) -> None:
    for agent, result in unbroken.items():
        assert result.trials == TRIALS
        assert result.default_parameters == asdict(TREES[agent].parameters)
        assert result.gain >= result.default_gain
        for parameters, gain in ((result.parameters, result.gain), (result.default_parameters, result.default_gain)):
            judged = [fold_gain(TASK, Judgement(agent, parameters, fold)) for fold in range(TASK.effort.folds)]
            rows = sum(count for _, count in judged)
            assert gain == pytest.approx(sum(value * count for value, count in judged) / rows, abs=1e-12)
    assert any(result.gain > result.default_gain for result in unbroken.values())


def test_several_processes_find_what_one_finds(unbroken: dict[str, AgentResult], tmp_path: Path) -> None:
    assert found(tmp_path, workers=2) == unbroken


def test_a_ray_cluster_finds_what_one_process_finds(unbroken: dict[str, AgentResult], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    assert found(tmp_path, workers=2, ray_address=RAY_LOCAL) == unbroken


@pytest.mark.parametrize("after", [5, BATCH * 2 * 3 + 2])
def test_a_search_that_was_killed_goes_on_and_finds_the_same(
    unbroken: dict[str, AgentResult], tmp_path: Path, after: int
) -> None:
    with pytest.raises(Killed):
        found(tmp_path, after=after)
    steps = []
    assert search(TASK, Search(TRIALS, tmp_path), steps.append) == unbroken
    assert len(steps) <= TRIALS * 2 * 3 - after


def test_a_finished_search_is_not_repeated_and_a_larger_one_adds_to_it(tmp_path: Path) -> None:
    small = found(tmp_path, trials=BATCH)
    assert found(tmp_path, trials=BATCH, after=1) == small
    found(tmp_path, trials=BATCH + 1)
    larger = found(tmp_path, trials=BATCH + 2)
    assert {result.trials for result in larger.values()} == {BATCH + 2}
    for journal in tmp_path.glob("*.log"):
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        trials = optuna.load_study(study_name=journal.stem, storage=storage).trials
        assert len({tuple(trial.params.values()) for trial in trials}) == BATCH + 2


def test_trials_below_the_median_of_a_fold_are_given_up(tmp_path: Path) -> None:
    results = found(tmp_path, trials=3 * BATCH)
    assert sum(result.pruned for result in results.values()) > 0


def test_a_study_belongs_to_its_rows_defaults_and_effort(tmp_path: Path) -> None:
    other_rows = replace(TASK, data=TASK.data.take(np.arange(len(TASK.data) - 1)))
    other_defaults = replace(TASK, trainers=with_parameters(TREES, {"xgb": {"max_depth": 3}}))
    other_effort = replace(TASK, effort=replace(TASK.effort, seed=7))
    for task in (TASK, other_rows, other_defaults, other_effort):
        search(task, Search(1, tmp_path), lambda _: None)
    assert len(list(tmp_path.glob("xgb-*.log"))) == 4


def test_two_searches_do_not_share_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ResearchError, match="another search is using"):
        search(TASK, Search(1, tmp_path), lambda _: _search_meanwhile(tmp_path))


def _search_meanwhile(folder: Path) -> None:
    found(folder, trials=1)


def test_best_parameters_are_read_back_and_change_the_trainers(
    unbroken: dict[str, AgentResult], tmp_path: Path
) -> None:
    chosen = read_parameters(write_best(tmp_path, unbroken, {"timeframe": "1h"}))
    trainers = with_parameters(TREES, chosen)
    for agent, result in unbroken.items():
        assert asdict(trainers[agent].parameters) == result.parameters
        assert type(trainers[agent].parameters) is type(TREES[agent].parameters)


def test_parameters_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResearchError, match="unknown agents: cat"):
        with_parameters(TREES, {"cat": {}})
    with pytest.raises(ResearchError, match="xgb has no parameter depth; it has learning_rate, max_depth"):
        with_parameters(TREES, {"xgb": {"depth": 3}})
    with pytest.raises(ResearchError, match=r"parameters of xgb: .*max_depth"):
        with_parameters(TREES, {"xgb": {"max_depth": 3.5}})
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ResearchError, match=r"give the best\.json of a search"):
        read_parameters(tmp_path / "other.json")

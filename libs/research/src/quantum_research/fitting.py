"""The fits of one training as independent jobs: every agent on every fold, and the models that are served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantum_research.calibration import Calibration
from quantum_research.dataset import Dataset
from quantum_research.export import parity_rows
from quantum_research.fit_store import Fit, FitStore, Served
from quantum_research.forecaster import Effort, Trainer
from quantum_research.jobs import run_jobs
from quantum_research.splits import Split
from quantum_research.walk_forward import fit_calibrated

Array = NDArray[np.float64]

SLOWEST_FIRST = ("patchtst", "nhits", "xgb", "lgbm")
"""So that no core waits for a network at the end."""


@dataclass(frozen=True, slots=True)
class Task:
    agent: str
    fold: int | None
    """Number from 0; None is the model that is served, fitted on all rows."""

    def name(self, folds: int) -> str:
        return f"{self.agent} final" if self.fold is None else f"{self.agent} fold {self.fold + 1}/{folds}"


@dataclass(frozen=True, slots=True)
class Work:
    """What every fit shares."""

    trainers: Mapping[str, Trainer]
    data: Dataset
    test: Dataset
    """Rows that nothing is fitted on; may be empty."""
    splits: Sequence[Split]
    effort: Effort
    embargo_ms: int

    def tasks(self) -> list[Task]:
        agents = sorted(self.trainers, key=lambda agent: SLOWEST_FIRST.index(agent) if agent in SLOWEST_FIRST else -1)
        numbers = [None, *reversed(range(len(self.splits)))]
        return [Task(agent, number) for agent in agents for number in numbers]

    def weight(self, task: Task) -> int:
        """Rows fitted on: about how long it takes beside others of its agent."""
        return len(self.data) if task.fold is None else len(self.splits[task.fold].past)


def fits(work: Work, store: FitStore, *, workers: int, ray_address: str | None = None) -> Iterator[tuple[Task, Fit]]:
    """Every task with its result as it is known: first those that `store` has kept, then the others as they end."""
    tasks = work.tasks()
    waiting = []
    for task in tasks:
        if (kept := store.load(task.agent, task.fold)) is not None:
            yield task, kept
        else:
            waiting.append(task)
    for index, fit in run_jobs(fit_task, waiting, work, workers=workers, ray_address=ray_address):
        store.save(waiting[index].agent, waiting[index].fold, fit)
        yield waiting[index], fit


def fit_task(work: Work, task: Task) -> Fit:
    """Fit, stop and calibrate one model, and ask it about the rows that it is judged on."""
    trainer = work.trainers[task.agent]
    if task.fold is not None:
        split = work.splits[task.fold]
        model = fit_calibrated(trainer, work.data.take(split.past), work.effort, work.embargo_ms)
        asked, served = work.data.take(split.future), None
    else:
        model = fit_calibrated(trainer, work.data, work.effort, work.embargo_ms)
        asked = work.test
        served = Served(
            onnx_bytes=model.fitted.export(model.calibration),
            checked=model.probabilities(work.data.take(parity_rows(len(work.data)))),
            parameters=model.fitted.parameters(),
        )
    return Fit(
        probabilities=model.probabilities(asked) if len(asked) else np.empty((0, 3)),
        prior=model.prior,
        settings={**model.fitted.settings(), **_numbers(model.calibration)},
        served=served,
    )


def _numbers(calibration: Calibration) -> dict[str, float]:
    sell, hold, buy = calibration.class_bias
    return {"temperature": calibration.temperature, "bias_sell": sell, "bias_hold": hold, "bias_buy": buy}

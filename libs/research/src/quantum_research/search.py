"""Hyperparameters by Optuna: each agent's own space, judged by the gain over the prior in a purged walk-forward.

One process asks, prunes and tells; workers only judge one fold of one trial at a time. Trials are asked in batches of
fixed size and told together, so the result depends on data, seed and number of trials, not on how many workers there
are, where they run or which one is faster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import msgspec
import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from quantum_research import ResearchError
from quantum_research.dataset import Dataset
from quantum_research.forecaster import Effort, TunableTrainer, with_parameters
from quantum_research.jobs import Run, open_workers
from quantum_research.metrics import log_loss
from quantum_research.walk_forward import Step, fit_calibrated, folds

BATCH = 4
"""Trials asked together: enough for the workers of one machine, few enough for the sampler to learn in between."""
BEST_FILE = "best.json"
_SCORES, _IS_DEFAULT = "fold_gains", "default"


@dataclass(frozen=True, slots=True)
class Search:
    """How much to search and where. `folder` holds a journal per study and `best.json`."""

    trials: int
    """Per agent; the first has the defaults."""
    folder: Path
    workers: int = 1
    ray_address: str | None = None
    """See `jobs.open_workers`."""


@dataclass(frozen=True, slots=True)
class AgentResult:
    """Gains are log-loss of the prior minus that of the model, nats per row, over all folds."""

    parameters: dict[str, float]
    gain: float
    default_parameters: dict[str, float]
    default_gain: float
    trials: int
    pruned: int


@dataclass(frozen=True, slots=True)
class Task:
    """What the workers hold: the rows to search on, and how they are split and fitted."""

    trainers: dict[str, TunableTrainer]
    data: Dataset
    effort: Effort
    embargo_ms: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """One fold of one trial."""

    agent: str
    parameters: dict[str, float]
    fold: int


def fold_gain(task: Task, judgement: Judgement) -> tuple[float, int]:
    """Log-loss gain over the prior on the fold, and its rows. Fitted and calibrated on what came before the fold."""
    agent = judgement.agent
    trainer = with_parameters({agent: task.trainers[agent]}, {agent: judgement.parameters})[agent]
    split = folds(task.data, task.effort, task.embargo_ms)[judgement.fold]
    past, future = task.data.take(split.past), task.data.take(split.future)
    model = fit_calibrated(trainer, past, task.effort, task.embargo_ms)
    prior = np.broadcast_to(past.class_shares(), (len(future), 3))
    return log_loss(prior, future.label) - log_loss(model.probabilities(future), future.label), len(future)


@dataclass
class _Trial:
    """A trial that is being judged, fold after fold."""

    agent: str
    trial: optuna.Trial
    parameters: dict[str, float]
    gains: list[tuple[float, int]]
    is_pruned: bool = False

    def needs(self, fold: int) -> bool:
        return not self.is_pruned and len(self.gains) == fold

    def add(self, gain: tuple[float, int]) -> None:
        self.gains.append(gain)
        self.trial.set_user_attr(_SCORES, self.gains)
        self.trial.report(self.gain, len(self.gains))

    @property
    def gain(self) -> float:
        return float(np.average([gain for gain, _ in self.gains], weights=[rows for _, rows in self.gains]))


def search(task: Task, how: Search, step: Step) -> dict[str, AgentResult]:
    """Best parameters per agent beside the defaults on the same folds. Goes on where a killed search stopped.

    Raises ResearchError when another search is using the folder.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with (
        _alone_in(how.folder),
        open_workers(task, workers=how.workers, ray_address=how.ray_address) as run,
    ):
        studies = {agent: _study(agent, task, how.folder) for agent in task.trainers}
        while any(len(_finished(study)) < how.trials for study in studies.values()):
            batch = [
                trial
                for agent, study in studies.items()
                for trial in _ask(agent, study, task.trainers[agent], how.trials, task.effort.seed)
            ]
            _judge(batch, task.effort.folds, run, step)
            for trial in batch:
                state = TrialState.PRUNED if trial.is_pruned else TrialState.COMPLETE
                studies[trial.agent].tell(trial.trial, None if trial.is_pruned else trial.gain, state)
        return {agent: _result(study, task.trainers[agent]) for agent, study in studies.items()}


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / ".search.lock", timeout=0):
            yield
    except filelock.Timeout:
        raise ResearchError(f"another search is using {folder}: wait for it or choose another folder") from None


def _study(agent: str, task: Task, folder: Path) -> optuna.Study:
    """The agent's study of just these rows, defaults and effort; what a killed search left open is asked again."""
    name = f"{agent}-{_digest(agent, task)}"
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / f"{name}.log")))
    pruner = optuna.pruners.MedianPruner(n_startup_trials=BATCH)
    study = optuna.create_study(
        study_name=name, storage=storage, pruner=pruner, direction="maximize", load_if_exists=True
    )
    if not study.trials:
        study.enqueue_trial(asdict(task.trainers[agent].parameters), user_attrs={_IS_DEFAULT: True})
    for left in study.get_trials(states=(TrialState.RUNNING,)):
        study.enqueue_trial(left.params, user_attrs=left.user_attrs)
        study.tell(left.number, state=TrialState.FAIL)
    return study


def _digest(agent: str, task: Task) -> str:
    about = (task.effort, task.embargo_ms, task.trainers[agent], task.data.symbols)
    digest = hashlib.sha256(repr(about).encode())
    for part in (task.data.vectors, task.data.bar, task.data.labels):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:10]


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def _ask(agent: str, study: optuna.Study, trainer: TunableTrainer, wanted: int, seed: int) -> list[_Trial]:
    """The rest of the batch. A seed per batch: a search that goes on asks what an unbroken one would have asked."""
    known = len(_finished(study))
    study.sampler = optuna.samplers.TPESampler(seed=seed + known)
    asked = []
    for _ in range(min(BATCH - known % BATCH, wanted - known)):
        trial = study.ask()
        parameters = asdict(trainer.suggested(trial).parameters)
        gains = [(gain, rows) for gain, rows in trial.user_attrs.get(_SCORES, [])]
        asked.append(_Trial(agent, trial, parameters, gains))
    return asked


def _judge(batch: Sequence[_Trial], fold_count: int, run: Run, step: Step) -> None:
    """Fold by fold over all trials; from the second batch on, what falls below the median is given up."""
    for fold in range(fold_count):
        live = [trial for trial in batch if trial.needs(fold)]
        wanted = [Judgement(trial.agent, trial.parameters, fold) for trial in live]
        for index, gain in run(fold_gain, wanted):
            live[index].add(gain)
            step(f"{live[index].agent} trial {live[index].trial.number} fold {fold + 1}/{fold_count}")
        for trial in live:
            trial.is_pruned = fold + 1 < fold_count and trial.trial.should_prune()


def _result(study: optuna.Study, trainer: TunableTrainer) -> AgentResult:
    finished, best = _finished(study), study.best_trial
    default = next(trial for trial in finished if trial.user_attrs.get(_IS_DEFAULT))
    return AgentResult(
        parameters=best.params,
        gain=_value(best),
        default_parameters=asdict(trainer.parameters),
        default_gain=_value(default),
        trials=len(finished),
        pruned=sum(trial.state == TrialState.PRUNED for trial in finished),
    )


def _value(trial: optuna.trial.FrozenTrial) -> float:
    if trial.value is None:
        raise ResearchError(f"trial {trial.number} has no gain: remove the search folder and search again")
    return trial.value


def write_best(folder: Path, results: Mapping[str, AgentResult], about: Mapping[str, Any]) -> Path:
    """`best.json`: what was searched on, and under "agents" what `read_parameters` takes."""
    path = folder / BEST_FILE
    agents = {agent: asdict(result) for agent, result in results.items()}
    path.write_bytes(msgspec.json.format(msgspec.json.encode({**about, "agents": agents})) + b"\n")
    return path


class _Chosen(msgspec.Struct):
    parameters: dict[str, int | float]


class _Best(msgspec.Struct):
    agents: dict[str, _Chosen]


def read_parameters(path: Path) -> dict[str, dict[str, float]]:
    """agent → hyperparameter → value, from a `best.json`. Raises ResearchError."""
    try:
        best = msgspec.json.decode(path.read_bytes(), type=_Best)
    except (OSError, msgspec.DecodeError) as error:
        raise ResearchError(f"{path}: {error}: give the best.json of a search") from error
    return {agent: chosen.parameters for agent, chosen in best.agents.items()}

"""What an agent's `train.py` gives to training: how its model is fitted, asked and exported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_common.agent.spec import ModelSpec
from quantum_common.domain import AGENTS
from quantum_research import ResearchError
from quantum_research.calibration import Calibration
from quantum_research.dataset import Dataset

ENTRY_POINT_GROUP = "quantum.agents"


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to fit. Never a wall-clock budget: seed and threads are fixed, so a repetition gives the same model."""

    max_trees: int = 500
    patience_trees: int = 30
    max_epochs: int = 4
    """The learning rate falls to zero over these."""
    patience_epochs: int = 2
    members: int = 2
    """Networks per sequence model, of different seeds; their logits are averaged."""
    folds: int = 5
    seed: int = 42
    threads: int = 1
    """Measured: with two, a busy neighbour on a 2-core machine makes PatchTST six times slower; idle they gain 7 %."""


class Fitted(Protocol):
    """A trained model."""

    def logits(self, data: Dataset) -> NDArray[np.float64]:
        """Uncalibrated logits of SELL, HOLD, BUY at the label horizon, (rows, 3)."""

    def export(self, calibration: Calibration) -> bytes:
        """An ONNX graph from "input" to calibrated "probabilities" (n, 3), scaler included."""

    def settings(self) -> dict[str, float]:
        """What fitting decided (trees, epochs), for the manifest."""

    def parameters(self) -> int:
        """Numbers that fitting chose: weights, or nodes of trees."""


class Suggestions(Protocol):
    """What a search space draws from: an Optuna trial."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...


class Trainer(Protocol):
    """How one agent's model is fitted."""

    @property
    def model(self) -> ModelSpec: ...

    @property
    def libraries(self) -> tuple[str, ...]:
        """Distributions whose versions belong into the manifest."""

    def fit(self, data: Dataset, validation: Dataset, effort: Effort) -> Fitted:
        """Fit on `data`, stop early on `validation` (purged of `data`); nothing else may be learned from it."""


class TunableTrainer(Trainer, Protocol):
    """What an agent brings: a frozen dataclass whose hyperparameters can be searched."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def parameters(self) -> Any:
        """Hyperparameters: a frozen dataclass of numbers whose defaults are those of training."""

    def suggested(self, trial: Suggestions) -> TunableTrainer:
        """The same with parameters from the agent's search space, which names each of them and holds the defaults."""


def installed_trainers() -> dict[str, TunableTrainer]:
    """The trainers of the installed agents (entry points `quantum.agents`). Raises ResearchError."""
    return load_trainers(entry_points(group=ENTRY_POINT_GROUP))


def load_trainers(points: Iterable[EntryPoint]) -> dict[str, TunableTrainer]:
    """A trainer per agent, in the order of AGENTS.

    Raises ResearchError when an agent of the fleet is missing, lacks its extra `train`, or trains another one's model.
    """
    found = {point.name: point for point in points}
    if missing := [agent for agent in AGENTS if agent not in found]:
        raise ResearchError(f"agents not installed: {', '.join(missing)}; install them with their extra 'train'")
    try:
        trainers: dict[str, TunableTrainer] = {agent: found[agent].load() for agent in AGENTS}
    except ImportError as error:
        raise ResearchError(f"{error}; install the agents with their extra 'train'") from error
    check_trainers(trainers)
    return trainers


def with_parameters(
    trainers: Mapping[str, TunableTrainer], chosen: Mapping[str, Mapping[str, float]]
) -> dict[str, TunableTrainer]:
    """The trainers with these hyperparameters, agent → name → value; the rest as it was. Raises ResearchError."""
    if unknown := sorted(set(chosen) - set(trainers)):
        raise ResearchError(f"parameters of unknown agents: {', '.join(unknown)}")
    return {**trainers, **{agent: _with(agent, trainers[agent], values) for agent, values in chosen.items()}}


def _with(agent: str, trainer: TunableTrainer, values: Mapping[str, float]) -> TunableTrainer:
    known = asdict(trainer.parameters)
    if unknown := sorted(set(values) - set(known)):
        raise ResearchError(f"{agent} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    try:
        parameters = msgspec.convert({**known, **values}, type(trainer.parameters))
    except msgspec.ValidationError as error:
        raise ResearchError(f"parameters of {agent}: {error}") from error
    return replace(trainer, parameters=parameters)


def model_input(spec: ModelSpec, data: Dataset) -> NDArray[np.float32]:
    """The array that the served model takes for these rows."""
    return data.rows(spec.view) if spec.input_kind == "row" else data.windows(spec.view)


def check_trainers(trainers: Mapping[str, Trainer]) -> None:
    """Raises ResearchError when a trainer's model is another agent's."""
    for agent, trainer in trainers.items():
        if trainer.model.agent != agent:
            raise ResearchError(f"the trainer registered as {agent} makes models of {trainer.model.agent}")

"""The mistakes that the leak checks must notice, each put into the pipeline where it would be made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from quantum_common.agent.spec import ModelSpec
from quantum_common.features import FEATURE_NAMES, SEQUENCE_BARS, SEQUENCE_CHANNELS
from quantum_research.dataset import Dataset
from quantum_research.forecaster import Effort, Trainer
from quantum_research.leak_pipeline import Build, Market
from quantum_research.networks import FittedNetwork, Scale, Windows, fit_network, training_scale
from quantum_research.walk_forward import OutOfFold, Step, out_of_fold

_OVERWRITTEN = 2 + FEATURE_NAMES.index("rsi")
"""A feature that both views show as it is."""
SHORT_WARMUP_BARS = 50
PROBE = "probe"
_PROBE_MODEL = ModelSpec(agent=PROBE, input_kind="window", view="relative")


def with_future_column(build: Build) -> Build:
    """One feature is what the close does over the label's horizon: the label with another name."""

    def planted(market: Market) -> Dataset:
        data = build(market)
        vectors = data.vectors.copy()
        close = vectors[:, 0]
        # Only the last bars of each symbol get another symbol's close, and those have no label.
        vectors[:, _OVERWRITTEN] = np.roll(close, -data.horizon_bars) / close - 1.0
        return replace(data, vectors=vectors)

    return planted


def shuffled_out_of_fold(
    trainers: Mapping[str, Trainer], data: Dataset, effort: Effort, embargo_ms: int, step: Step
) -> OutOfFold:
    """The splits are made as if the rows had happened in another order."""
    order = np.random.default_rng(effort.seed).permutation(len(data))
    shuffled = replace(data.take(order), ts_ms=data.ts_ms, label_end_ms=data.label_end_ms)
    return out_of_fold(trainers, shuffled, effort, embargo_ms, step)


def scale_of_everything(train: Windows) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every bar that the dataset holds, those of the tested rows among them."""
    return train.bars.mean(dim=0), train.bars.std(dim=0).clamp_min(1e-8)


@dataclass(frozen=True, slots=True)
class ProbeParameters:
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch: int = 256


@dataclass(frozen=True, slots=True)
class ProbeTrainer:
    """The smallest network behind the fit loop that the sequence agents share: one linear layer on the last bar."""

    scale: Scale = training_scale
    model: ModelSpec = _PROBE_MODEL
    libraries: tuple[str, ...] = ("torch",)
    parameters: ProbeParameters = ProbeParameters()

    def fit(self, data: Dataset, validation: Dataset, effort: Effort) -> FittedNetwork:
        return fit_network(
            _LastBar,
            data,
            validation,
            view=self.model.view,
            effort=effort,
            parameters=self.parameters,
            scale=self.scale,
        )


class _LastBar(nn.Module):
    """(batch, 64, 19) → logits (batch, steps, 3)."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.linear = nn.Linear(SEQUENCE_CHANNELS, steps * 3)

    def forward(self, window: Tensor) -> Tensor:
        logits: Tensor = self.linear(window[:, SEQUENCE_BARS - 1]).unflatten(1, (self.steps, 3))
        return logits

"""How the N-HiTS agent is fitted (extra `train`): neuralforecast's module. Source: Challu et al. (2022)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from neuralforecast.losses.pytorch import MQLoss
from neuralforecast.models import NHITS
from torch import Tensor, nn

from nhits_agent.model import MODEL
from quantum_common.agent.spec import ModelSpec
from quantum_common.features import FEATURE_NAMES, SEQUENCE_BARS
from quantum_research.dataset import Dataset
from quantum_research.forecaster import Effort, Suggestions
from quantum_research.networks import FittedNetwork, fit_network

_POOLING = [8, 4, 1]
_DOWNSAMPLING = [4, 2, 1]

# It announces the seed of every module it builds.
logging.getLogger("lightning_fabric.utilities.seed").setLevel(logging.WARNING)


class NHits(nn.Module):
    """(batch, 64, 19) → logits (batch, steps, 3): the series is the log return, the 18 features are its history."""

    def __init__(self, steps: int, units: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.network = NHITS(
            h=steps,
            input_size=SEQUENCE_BARS,
            hist_exog_list=list(FEATURE_NAMES),
            n_pool_kernel_size=_POOLING,
            n_freq_downsample=_DOWNSAMPLING,
            mlp_units=[[units] * layers] * len(_POOLING),
            dropout_prob_theta=dropout,
            # Only its width is used: three outputs per step, which the fit loop takes as class logits.
            loss=MQLoss(quantiles=[0.25, 0.5, 0.75]),
            random_seed=torch.initial_seed() % 2**32,
        )

    def forward(self, window: Tensor) -> Tensor:
        series = window[:, :, :1]
        logits: Tensor = self.network(
            {
                "insample_y": series,
                "insample_mask": torch.ones_like(series),
                "hist_exog": window[:, :, 1:],
                "futr_exog": None,
                "stat_exog": None,
            }
        )
        return logits


@dataclass(frozen=True, slots=True)
class NHitsParameters:
    units: int = 64
    """Width of every layer of every block."""
    layers: int = 2
    """Per block."""
    dropout: float = 0.2
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch: int = 256


@dataclass(frozen=True, slots=True)
class NHitsTrainer:
    model: ModelSpec = MODEL
    libraries: tuple[str, ...] = ("neuralforecast", "torch", "onnxscript")
    parameters: NHitsParameters = NHitsParameters()

    def suggested(self, trial: Suggestions) -> NHitsTrainer:
        parameters = NHitsParameters(
            units=trial.suggest_int("units", 16, 256, log=True),
            layers=trial.suggest_int("layers", 1, 3),
            dropout=trial.suggest_float("dropout", 0.0, 0.6),
            learning_rate=trial.suggest_float("learning_rate", 1e-4, 5e-3, log=True),
            weight_decay=trial.suggest_float("weight_decay", 1e-4, 1.0, log=True),
            batch=trial.suggest_int("batch", 128, 1024, log=True),
        )
        return replace(self, parameters=parameters)

    def fit(self, data: Dataset, validation: Dataset, effort: Effort) -> FittedNetwork:
        return fit_network(
            self._network, data, validation, view=self.model.view, effort=effort, parameters=self.parameters
        )

    def _network(self, steps: int) -> NHits:
        return NHits(steps, self.parameters.units, self.parameters.layers, self.parameters.dropout)


TRAINER = NHitsTrainer()

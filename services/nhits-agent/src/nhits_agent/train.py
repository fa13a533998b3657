"""How the N-HiTS agent is fitted (extra `train`): neuralforecast's module. Source: Challu et al. (2022)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from neuralforecast.losses.pytorch import MQLoss
from neuralforecast.models import NHITS
from torch import Tensor, nn

from nhits_agent.model import MODEL
from quantum_common.agent.spec import ModelSpec
from quantum_common.features import FEATURE_NAMES, SEQUENCE_BARS
from quantum_research.dataset import Dataset
from quantum_research.forecaster import Effort
from quantum_research.networks import FittedNetwork, fit_network

_UNITS = 128
_POOLING = [8, 4, 1]
_DOWNSAMPLING = [4, 2, 1]

# It announces the seed of every module it builds.
logging.getLogger("lightning_fabric.utilities.seed").setLevel(logging.WARNING)


class NHits(nn.Module):
    """(batch, 64, 19) → logits (batch, steps, 3): the series is the log return, the 18 features are its history."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.network = NHITS(
            h=steps,
            input_size=SEQUENCE_BARS,
            hist_exog_list=list(FEATURE_NAMES),
            n_pool_kernel_size=_POOLING,
            n_freq_downsample=_DOWNSAMPLING,
            mlp_units=[[_UNITS, _UNITS]] * len(_POOLING),
            dropout_prob_theta=0.2,
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
class NHitsTrainer:
    model: ModelSpec = MODEL
    libraries: tuple[str, ...] = ("neuralforecast", "torch", "onnxscript")

    def fit(self, data: Dataset, validation: Dataset, effort: Effort) -> FittedNetwork:
        return fit_network(NHits, data, validation, view=self.model.view, effort=effort)


TRAINER = NHitsTrainer()

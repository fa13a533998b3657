"""How the PatchTST agent is fitted (extra `train`). Source: Nie et al. (2023), A Time Series is Worth 64 Words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from patchtst_agent.model import MODEL
from quantum_common.agent.spec import ModelSpec
from quantum_common.features import SEQUENCE_BARS, SEQUENCE_CHANNELS
from quantum_research.dataset import Dataset
from quantum_research.forecaster import Effort, Suggestions
from quantum_research.networks import FittedNetwork, fit_network

HEADS = 4


class PatchTST(nn.Module):
    """(batch, 64, 19) → logits (batch, steps, 3). A token is a patch of 8 bars with all their channels, stride 4."""

    def __init__(
        self,
        steps: int,
        width: int,
        layers: int,
        dropout: float,
        *,
        patch: int = 8,
        stride: int = 4,
        heads: int = HEADS,
    ) -> None:
        super().__init__()
        self.patch, self.stride, self.steps = patch, stride, steps
        tokens = (SEQUENCE_BARS - patch) // stride + 1
        self.embed = nn.Linear(patch * SEQUENCE_CHANNELS, width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(tokens * width, steps * 3))

    def forward(self, window: Tensor) -> Tensor:
        tokens = window.unfold(1, self.patch, self.stride).flatten(2)
        encoded = self.encoder(self.embed(tokens) + self.position)
        logits: Tensor = self.head(encoded.flatten(1)).unflatten(1, (self.steps, 3))
        return logits


@dataclass(frozen=True, slots=True)
class PatchTSTParameters:
    width_per_head: int = 8
    layers: int = 2
    dropout: float = 0.2
    """In the head."""
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch: int = 256


@dataclass(frozen=True, slots=True)
class PatchTSTTrainer:
    model: ModelSpec = MODEL
    libraries: tuple[str, ...] = ("torch", "onnxscript")
    parameters: PatchTSTParameters = PatchTSTParameters()

    def suggested(self, trial: Suggestions) -> PatchTSTTrainer:
        parameters = PatchTSTParameters(
            width_per_head=trial.suggest_int("width_per_head", 2, 16, log=True),
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

    def _network(self, steps: int) -> PatchTST:
        chosen = self.parameters
        return PatchTST(steps, HEADS * chosen.width_per_head, chosen.layers, chosen.dropout)


TRAINER = PatchTSTTrainer()

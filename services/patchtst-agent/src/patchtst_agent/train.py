"""How the PatchTST agent is fitted (extra `train`). Source: Nie et al. (2023), A Time Series is Worth 64 Words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from patchtst_agent.model import MODEL
from quantum_common.agent.spec import ModelSpec
from quantum_common.features import SEQUENCE_BARS, SEQUENCE_CHANNELS
from quantum_research.dataset import Dataset
from quantum_research.forecaster import Effort
from quantum_research.networks import FittedNetwork, fit_network


class PatchTST(nn.Module):
    """(batch, 64, 19) → logits (batch, steps, 3). A token is a patch of 8 bars with all their channels, stride 4."""

    def __init__(self, steps: int, patch: int = 8, stride: int = 4, width: int = 32, heads: int = 4, layers: int = 2):
        super().__init__()
        self.patch, self.stride, self.steps = patch, stride, steps
        tokens = (SEQUENCE_BARS - patch) // stride + 1
        self.embed = nn.Linear(patch * SEQUENCE_CHANNELS, width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(tokens * width, steps * 3))

    def forward(self, window: Tensor) -> Tensor:
        tokens = window.unfold(1, self.patch, self.stride).flatten(2)
        encoded = self.encoder(self.embed(tokens) + self.position)
        logits: Tensor = self.head(encoded.flatten(1)).unflatten(1, (self.steps, 3))
        return logits


@dataclass(frozen=True, slots=True)
class PatchTSTTrainer:
    model: ModelSpec = MODEL
    libraries: tuple[str, ...] = ("torch", "onnxscript")

    def fit(self, data: Dataset, validation: Dataset, effort: Effort) -> FittedNetwork:
        return fit_network(PatchTST, data, validation, view=self.model.view, effort=effort)


TRAINER = PatchTSTTrainer()

"""The learner of V1: a perceptron 8 → 32 → 32 → 3 on confidences and action codes (PyTorch)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from quantum_research import TooLittleData
from quantum_research.calibration import Calibration
from quantum_research.export import mlp_graph

Array = NDArray[np.float64]

_HIDDEN = 32
_DROPOUT = 0.2
_EPOCHS = 50
_LEARNING_RATE = 1e-3
_STEPS_PER_EPOCH = 64
"""At most: batches grow with the data, so that a fit takes 3,200 steps whatever its size."""
_SMALLEST_BATCH = 64


@dataclass(frozen=True, slots=True)
class NetworkModel:
    """Layers as (weight (out, in), bias) in float32; a ReLU between two of them, no dropout any more."""

    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]

    def logits(self, inputs: Array) -> Array:
        """Computed in float32, as the exported graph does."""
        values = inputs.astype(np.float32)
        for number, (weight, bias) in enumerate(self.layers):
            values = (np.maximum(values, np.float32(0.0)) if number else values) @ weight.T + bias
        return values.astype(np.float64)

    def export(self, calibration: Calibration) -> bytes:
        return mlp_graph(self.layers, calibration)

    def parameters(self) -> int:
        return sum(weight.size + bias.size for weight, bias in self.layers)

    def linear_form(self, calibration: Calibration) -> None:
        """There is none, whatever the calibration."""


def fit_perceptron(inputs: Array, labels: NDArray[np.int8], seed: int) -> NetworkModel:
    """Cross-entropy, Adam, 50 epochs, natural class balance. The same rows and seed give the same weights."""
    if len(np.unique(labels)) < 3:
        raise TooLittleData("the rows of a meta fold miss a class: use a longer range")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    network = _network(inputs.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE, fused=True)
    rows, classes = torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(labels.astype(np.int64))
    size = max(_SMALLEST_BATCH, -(-len(rows) // _STEPS_PER_EPOCH))
    for _ in range(_EPOCHS):
        for chosen in torch.split(torch.randperm(len(rows)), size):
            _step(network, optimizer, rows[chosen], classes[chosen])
    return NetworkModel(tuple(_weights(layer) for layer in network if isinstance(layer, nn.Linear)))


def _network(inputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, _HIDDEN),
        nn.ReLU(),
        nn.Dropout(_DROPOUT),
        nn.Linear(_HIDDEN, _HIDDEN),
        nn.ReLU(),
        nn.Dropout(_DROPOUT),
        nn.Linear(_HIDDEN, 3),
    )


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor, classes: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(network(rows), classes).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _weights(layer: nn.Linear) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()

"""What PatchTST and N-HiTS share: scaler in the module, one plain fit loop, one export (extra `network`)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from quantum_common.features import SEQUENCE_BARS, SEQUENCE_CHANNELS
from quantum_common.models.serving import INPUT, OUTPUT
from quantum_research.calibration import Calibration
from quantum_research.dataset import Dataset
from quantum_research.export import OPSET
from quantum_research.forecaster import Effort

_BATCH = 256
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 1e-2
_GRADIENT_NORM = 1.0
_WIDEST_DEVIATION = 8.0
"""Standardised inputs are cut here: one print after a dead bar would otherwise drown a whole window."""


class Standardised(nn.Module):
    """A network behind the scaler of its training part: (batch, 64, 19) → logits (batch, steps, 3)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, window: Tensor) -> Tensor:
        scaled = (window - self.mean) / self.deviation
        logits: Tensor = self.network(scaled.clamp(-_WIDEST_DEVIATION, _WIDEST_DEVIATION))
        return logits


class Served(nn.Module):
    """The graph that is exported: the last step's logits, calibrated, as probabilities (batch, 3)."""

    def __init__(self, model: Standardised, calibration: Calibration) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("temperature", torch.tensor(calibration.temperature))
        self.register_buffer("class_bias", torch.tensor(calibration.class_bias))

    def forward(self, window: Tensor) -> Tensor:
        logits = self.model(window)[:, -1]
        return torch.softmax(logits / self.temperature + self.class_bias, dim=1)


@dataclass(frozen=True, slots=True)
class Windows:
    """The dataset of the fit loop: windows are gathered from the bars when they are needed."""

    bars: Tensor
    places: Tensor
    labels: Tensor

    @classmethod
    def of(cls, data: Dataset, view: str) -> Windows:
        places = torch.from_numpy(data.window_places())
        return cls(torch.from_numpy(data.bars(view)), places, torch.from_numpy(data.labels.astype(np.int64)))

    def __len__(self) -> int:
        return len(self.places)

    def batches(self, order: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
        """Places (batch, 64) and labels (batch, steps) in this order."""
        return [(self.places[rows], self.labels[rows]) for rows in torch.split(order, size)]


Scale = Callable[[Windows], tuple[Tensor, Tensor]]
"""Mean and deviation (19,) that the network's inputs are standardised with."""


@dataclass(frozen=True, slots=True)
class FittedNetwork:
    model: Standardised
    view: str
    epochs: int

    def logits(self, data: Dataset) -> NDArray[np.float64]:
        return _last_step_logits(self.model, Windows.of(data, self.view)).numpy().astype(np.float64)

    def export(self, calibration: Calibration) -> bytes:
        return export_network(Served(self.model, calibration))

    def settings(self) -> dict[str, float]:
        return {"epochs": float(self.epochs)}

    def parameters(self) -> int:
        return sum(weights.numel() for weights in self.model.parameters())


def training_scale(train: Windows) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every channel at the ends of the windows; `bars` holds other rows' bars too."""
    ends = train.bars[train.places[:, -1]]
    return ends.mean(dim=0), ends.std(dim=0).clamp_min(1e-8)


def fit_network(
    build: Callable[[int], nn.Module],
    data: Dataset,
    validation: Dataset,
    *,
    view: str,
    effort: Effort,
    scale: Scale = training_scale,
) -> FittedNetwork:
    """Fit `build(steps)` on all label steps; keep the epoch with the best log-loss of the last step in `validation`.

    The scaler comes from `data` only. The same data, seed and threads give the same weights.
    """
    torch.set_num_threads(effort.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(effort.seed)
    train, held_out = Windows.of(data, view), Windows.of(validation, view)
    model = Standardised(build(data.horizon_bars), *scale(train))
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    shuffler = torch.Generator().manual_seed(effort.seed)
    best_loss, best_epoch, best_state = float("inf"), 0, deepcopy(model.state_dict())
    for epoch in range(1, effort.max_epochs + 1):
        _fit_epoch(model, optimizer, train, torch.randperm(len(train), generator=shuffler))
        loss = float(F.cross_entropy(_last_step_logits(model, held_out), held_out.labels[:, -1]))
        if loss < best_loss:
            best_loss, best_epoch, best_state = loss, epoch, deepcopy(model.state_dict())
        elif epoch - best_epoch >= effort.patience_epochs:
            break
    model.load_state_dict(best_state)
    return FittedNetwork(model.eval(), view, best_epoch)


def _fit_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, train: Windows, order: Tensor) -> None:
    model.train()
    for places, labels in train.batches(order, _BATCH):
        optimizer.zero_grad()
        logits = model(train.bars[places])
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), _GRADIENT_NORM)
        optimizer.step()


def _last_step_logits(model: nn.Module, windows: Windows) -> Tensor:
    model.eval()
    with torch.no_grad():
        parts = [model(windows.bars[places])[:, -1] for places in torch.split(windows.places, 2048)]
    return torch.cat(parts)


def export_network(served: Served) -> bytes:
    """ONNX bytes with a free batch size; the same weights give the same bytes.

    Strict export first, because the other one takes N-HiTS's `len(batch)` for a constant. The attention fast path is
    off: it has no ONNX counterpart.
    """
    example = torch.zeros(3, SEQUENCE_BARS, SEQUENCE_CHANNELS)
    batch = torch.export.Dim("batch", min=1)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(served.eval(), (example,), dynamic_shapes=({0: batch},), strict=True)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    if exported is None:
        raise RuntimeError("torch.onnx.export gave no program")
    return _without_origin(exported.model_proto)


def _without_origin(model: onnx.ModelProto) -> bytes:
    """The exporter writes source lines and file paths into every node: neither belongs into an artifact."""
    parts = [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info]
    for part in [*parts, *model.graph.initializer, *model.functions]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))

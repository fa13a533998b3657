"""What PatchTST and N-HiTS share: scaler in the module, one plain fit loop, one export (extra `network`)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from quantum_common.features import SEQUENCE_BARS, SEQUENCE_CHANNELS
from quantum_common.models.serving import INPUT, OUTPUT
from quantum_research import mirror
from quantum_research.calibration import Calibration
from quantum_research.dataset import Dataset
from quantum_research.export import OPSET
from quantum_research.forecaster import Effort
from quantum_research.labels import BUY, SELL

_FEWEST_STEPS = 10
"""OneCycleLR divides by zero when the warm-up is a single step."""
_WARM_UP = 0.2
"""Share of the batches until the learning rate has risen; then it falls to zero."""
_GRADIENT_NORM = 1.0
_WIDEST_DEVIATION = 8.0
"""Standardised inputs are cut here: one print after a dead bar would otherwise drown a whole window."""
_MIRROR_SOURCE = torch.from_numpy(mirror.SEQUENCE_SOURCE)
_MIRROR_SIGN = torch.from_numpy(mirror.SEQUENCE_SIGN)
_MIRROR_OFFSET = torch.from_numpy(mirror.SEQUENCE_OFFSET)


class FitParameters(Protocol):
    """What the fit loop takes from the hyperparameters of a network."""

    @property
    def learning_rate(self) -> float: ...

    @property
    def weight_decay(self) -> float: ...

    @property
    def batch(self) -> int:
        """Windows per step."""


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


class Members(nn.Module):
    """Networks of different seeds: their mean logits."""

    def __init__(self, members: Sequence[Standardised]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, window: Tensor) -> Tensor:
        return torch.stack([member(window) for member in self.members]).mean(dim=0)


class Served(nn.Module):
    """The graph that is exported: the last step's logits, calibrated, as probabilities (batch, 3)."""

    def __init__(self, model: Members, calibration: Calibration) -> None:
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

    def batches(self, order: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Windows (batch, 64, 19) and labels (batch, steps) in this order, half of each batch mirrored."""
        for rows in torch.split(order, size):
            yield _half_mirrored(self.bars[self.places[rows]], self.labels[rows])


Scale = Callable[[Windows], tuple[Tensor, Tensor]]
"""Mean and deviation (19,) that the network's inputs are standardised with."""


@dataclass(frozen=True, slots=True)
class FittedNetwork:
    model: Members
    view: str
    epochs: tuple[int, ...]
    """Of each member."""

    def logits(self, data: Dataset) -> NDArray[np.float64]:
        return _last_step_logits(self.model, Windows.of(data, self.view)).numpy().astype(np.float64)

    def export(self, calibration: Calibration) -> bytes:
        return export_network(Served(self.model, calibration))

    def settings(self) -> dict[str, float]:
        return {"members": float(len(self.epochs)), "epochs": float(np.mean(self.epochs))}

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
    parameters: FitParameters,
    scale: Scale = training_scale,
) -> FittedNetwork:
    """Fit members of `build(steps)` on all label steps, on rows and their mirror images alike.

    Of each member the epoch with the best log-loss of the last step in `validation` is kept. The scaler comes from
    `data` only. The same data, seed and threads give the same weights.
    """
    torch.set_num_threads(effort.threads)
    torch.use_deterministic_algorithms(True)
    train, held_out = Windows.of(data, view), Windows.of(validation, view)
    members, epochs = zip(
        *(
            _fit_member(build, train, held_out, effort, parameters, scale, seed)
            for seed in range(effort.seed, effort.seed + effort.members)
        ),
        strict=True,
    )
    return FittedNetwork(Members(members).eval(), view, epochs)


def _fit_member(
    build: Callable[[int], nn.Module],
    train: Windows,
    held_out: Windows,
    effort: Effort,
    parameters: FitParameters,
    scale: Scale,
    seed: int,
) -> tuple[Standardised, int]:
    """A network and the epoch it is of."""
    torch.manual_seed(seed)
    model = Standardised(build(train.labels.shape[1]), *scale(train))
    rate = parameters.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=parameters.weight_decay)
    batches = max(effort.max_epochs * ceil(len(train) / parameters.batch), _FEWEST_STEPS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=batches, pct_start=_WARM_UP)
    shuffler = torch.Generator().manual_seed(seed)
    best_loss, best_epoch, best_state = float("inf"), 0, deepcopy(model.state_dict())
    for epoch in range(1, effort.max_epochs + 1):
        order = torch.randperm(len(train), generator=shuffler)
        _fit_epoch(model, optimizer, schedule, train.batches(order, parameters.batch))
        loss = float(F.cross_entropy(_last_step_logits(model, held_out), held_out.labels[:, -1]))
        if loss < best_loss:
            best_loss, best_epoch, best_state = loss, epoch, deepcopy(model.state_dict())
        elif epoch - best_epoch >= effort.patience_epochs:
            break
    model.load_state_dict(best_state)
    return model.eval(), best_epoch


def _fit_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    batches: Iterable[tuple[Tensor, Tensor]],
) -> None:
    model.train()
    for windows, labels in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(windows).flatten(0, 1), labels.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), _GRADIENT_NORM)
        optimizer.step()
        schedule.step()


def _half_mirrored(windows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The batch is in random order, so over the epochs every row is seen both ways."""
    half = len(windows) // 2
    mirrored = windows[half:, :, _MIRROR_SOURCE] * _MIRROR_SIGN + _MIRROR_OFFSET
    return torch.cat([windows[:half], mirrored]), torch.cat([labels[:half], SELL + BUY - labels[half:]])


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

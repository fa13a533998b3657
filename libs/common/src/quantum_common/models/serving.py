"""Loading a model: every check stands between the file and the first vote (extra `serve`: ONNX Runtime).

Graph convention: one input `input`, float32, free batch size, (batch, features) or (batch, bars, channels); one
output `probabilities`, (batch, 3). Scaler and calibration are inside the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort

from quantum_common import QuantumError
from quantum_common.domain.signal import CLASS_ORDER
from quantum_common.features import FEATURE_NAMES, feature_hash
from quantum_common.models.manifest import GOLDEN_ROWS, Manifest, ModelRefused
from quantum_common.models.store import read_artifact, read_manifest

INPUT = "input"
OUTPUT = "probabilities"
GOLDEN_TOLERANCE = 1e-5
SMALLEST_SPREAD = 1e-4
"""A model whose probabilities differ by less between different inputs says nothing."""
LARGE_BATCH = 64

_ORT_ERRORS = (
    ort.Fail,
    ort.InvalidArgument,
    ort.InvalidGraph,
    ort.InvalidProtobuf,
    ort.NotImplemented,
    ort.RuntimeException,
)

Inputs = NDArray[np.float32]
Probabilities = NDArray[np.float64]


class PredictionFailed(QuantumError):
    """The runtime refused the inputs."""


class Graph:
    """An ONNX graph on one CPU thread: sessions side by side must not fight over two cores."""

    def __init__(self, onnx_bytes: bytes) -> None:
        """Raises ModelRefused when the bytes are no graph of our convention."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
        except _ORT_ERRORS as error:
            raise ModelRefused("graph_invalid", str(error).splitlines()[0]) from error
        found = (
            [node.name for node in self._session.get_inputs()],
            [node.name for node in self._session.get_outputs()],
        )
        if found != ([INPUT], [OUTPUT]):
            raise ModelRefused("graph_interface", f"inputs {found[0]}, outputs {found[1]}; need [{INPUT}], [{OUTPUT}]")
        node = self._session.get_inputs()[0]
        if node.type != "tensor(float)" or isinstance(node.shape[0], int):
            raise ModelRefused("graph_interface", f"input is {node.type} {node.shape}; need float with a free batch")
        self.input_shape: tuple[Any, ...] = tuple(node.shape[1:])

    def run(self, inputs: Inputs) -> Probabilities:
        """(batch, 3) float64 from (batch, …) float32. Raises PredictionFailed."""
        try:
            (output,) = self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(inputs, np.float32)})
        except _ORT_ERRORS as error:
            raise PredictionFailed(str(error).splitlines()[0]) from error
        return np.asarray(output, np.float64)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A verified model."""

    manifest: Manifest
    graph: Graph

    def predict(self, inputs: Inputs) -> Probabilities:
        """P(SELL), P(HOLD), P(BUY) per row: (batch, 3) float64 from (batch, features) or (batch, bars, channels)."""
        return self.graph.run(inputs)


def load(
    models_dir: Path,
    agent: str,
    *,
    expected_feature_hash: Callable[[str], str] | None = feature_hash,
    expected_names: Sequence[str] = FEATURE_NAMES,
    expected_kind: str | None = None,
    expected_view: str | None = None,
    expected_timeframe: str | None = None,
    version: str | None = None,
) -> LoadedModel:
    """Load the current (or given) version of an agent's model and verify all of it.

    `expected_feature_hash` gives the serving code's hash of a view; None for models that see no features (meta).
    Raises ModelRefused; whatever model is running stays.
    """
    manifest, onnx_bytes = read_artifact(models_dir, agent, version)
    _check_equal("feature_names_mismatch", manifest.feature_names, tuple(expected_names))
    _check_equal("class_order_mismatch", manifest.class_order, tuple(CLASS_ORDER))
    for reason, found, expected in (
        ("kind_mismatch", manifest.kind, expected_kind),
        ("view_mismatch", manifest.view, expected_view),
        ("timeframe_mismatch", manifest.timeframe, expected_timeframe),
    ):
        if expected is not None:
            _check_equal(reason, found, expected)
    if expected_feature_hash is not None:
        _check_equal("feature_hash_mismatch", manifest.feature_hash, _hash_of(expected_feature_hash, manifest.view))
    if manifest.parameters <= 0:
        raise ModelRefused("no_parameters", f"manifest counts {manifest.parameters} parameters")
    graph = Graph(onnx_bytes)
    _check_equal("input_shape_mismatch", graph.input_shape, input_shape(manifest))
    _check_outputs(graph, manifest)
    return LoadedModel(manifest, graph)


def verify(models_dir: Path, agent: str, version: str) -> LoadedModel:
    """Load a version with every check that does not depend on which service asks. Raises ModelRefused."""
    manifest = read_manifest(models_dir, agent, version)
    return load(
        models_dir,
        agent,
        version=version,
        expected_names=manifest.feature_names if manifest.kind == "meta" else FEATURE_NAMES,
        expected_feature_hash=None if manifest.kind == "meta" else feature_hash,
    )


def input_shape(manifest: Manifest) -> tuple[int, ...]:
    """Shape of one input: (features,), or (bars, log return + features) of a window."""
    features = len(manifest.feature_names)
    return (manifest.window_bars, 1 + features) if manifest.kind == "window" else (features,)


def _hash_of(expected: Callable[[str], str], view: str) -> str:
    try:
        return expected(view)
    except ValueError as error:
        raise ModelRefused("view_mismatch", str(error)) from error


def _check_equal(reason: str, found: object, expected: object) -> None:
    if found != expected:
        raise ModelRefused(reason, f"model has {found}, serving code {expected}")


def _check_outputs(graph: Graph, manifest: Manifest) -> None:
    """Golden rows, one at a time and 64 at once."""
    golden, expected = _golden(manifest)
    alone = np.concatenate([_probabilities(graph, row[np.newaxis]) for row in golden])
    if not np.allclose(alone, expected, rtol=0.0, atol=GOLDEN_TOLERANCE):
        raise ModelRefused("golden_mismatch", f"golden rows are off by up to {np.abs(alone - expected).max():.2e}")
    together = _probabilities(graph, np.resize(golden, (LARGE_BATCH, *golden.shape[1:])))
    if not np.allclose(together, np.resize(alone, (LARGE_BATCH, 3)), rtol=0.0, atol=GOLDEN_TOLERANCE):
        raise ModelRefused("batch_mismatch", f"a batch of {LARGE_BATCH} differs from its rows alone")
    spread = float(np.ptp(alone, axis=0).max())
    if spread < SMALLEST_SPREAD:
        raise ModelRefused(
            "constant_output", f"Model produces constant output (largest difference {spread:.1e} < {SMALLEST_SPREAD})"
        )


def _golden(manifest: Manifest) -> tuple[Inputs, Probabilities]:
    try:
        golden = np.array(manifest.golden.inputs, np.float32)
        expected = np.array(manifest.golden.probabilities, np.float64)
    except (ValueError, TypeError) as error:
        raise ModelRefused("golden_invalid", str(error)) from error
    if golden.shape != (GOLDEN_ROWS, *input_shape(manifest)) or expected.shape != (GOLDEN_ROWS, 3):
        raise ModelRefused("golden_invalid", f"golden rows have shapes {golden.shape} and {expected.shape}")
    if len(np.unique(golden, axis=0)) < 2:
        raise ModelRefused("golden_invalid", "golden rows are all the same")
    return golden, expected


def _probabilities(graph: Graph, inputs: Inputs) -> Probabilities:
    try:
        found = graph.run(inputs)
    except PredictionFailed as error:
        raise ModelRefused("prediction_error", f"batch of {len(inputs)}: {error}") from error
    if found.shape != (len(inputs), 3):
        raise ModelRefused("output_shape", f"batch of {len(inputs)} gives {found.shape}, not ({len(inputs)}, 3)")
    if not np.isfinite(found).all() or (found < 0.0).any() or (found > 1.0).any():
        raise ModelRefused("probabilities_invalid", "probabilities are not all finite and within [0, 1]")
    if not np.allclose(found.sum(axis=1), 1.0, rtol=0.0, atol=GOLDEN_TOLERANCE):
        raise ModelRefused("probabilities_invalid", "probabilities do not sum to 1")
    return found

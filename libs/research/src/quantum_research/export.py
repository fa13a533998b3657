"""ONNX graphs: the tail that every model shares, trees written from their dumps, and the checks before publishing.

Trees are written node by node because the converters were silently wrong in places (thresholds, calibration).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from quantum_common.models.serving import INPUT, OUTPUT, SMALLEST_SPREAD, Graph, PredictionFailed
from quantum_research import ExportRefused
from quantum_research.calibration import Calibration

OPSET = 20
_ML_OPSET = 3
_IR_VERSION = 10
PARITY_TOLERANCE = 1e-5
"""Largest |Δp| allowed between the trained model and its graph."""
PARITY_ROWS = 10_000
_BATCHES = (1, 7, 64)


@dataclass(slots=True)
class Trees:
    """Nodes of an additive ensemble with one tree per class and round, in the order of TreeEnsembleRegressor."""

    mode: str
    """Which rows go left: BRANCH_LT (x < threshold) or BRANCH_LEQ."""
    base: tuple[float, float, float]
    tree: list[int] = field(default_factory=list)
    node: list[int] = field(default_factory=list)
    feature: list[int] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    is_leaf: list[bool] = field(default_factory=list)
    leaf_class: list[int] = field(default_factory=list)

    def split(self, tree: int, node: int, feature: int, threshold: float, left: int, right: int) -> None:
        self._add(tree, node, feature, threshold, left, right, False, 0)

    def leaf(self, tree: int, node: int, value: float, klass: int) -> None:
        self._add(tree, node, 0, value, 0, 0, True, klass)

    def _add(self, *cells: int | float | bool) -> None:
        names = ("tree", "node", "feature", "threshold", "left", "right", "is_leaf", "leaf_class")
        for name, cell in zip(names, cells, strict=True):
            getattr(self, name).append(cell)


def float32_floor(threshold: float) -> float:
    """Largest float32 ≤ threshold: for float32 x, x ≤ threshold stays the same comparison."""
    rounded = np.float32(threshold)
    # As Python floats: numpy would compare in float32, where the two are always equal.
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf)))


def trees_graph(trees: Trees, features: int, calibration: Calibration) -> bytes:
    """input (n, features) → tree margins → temperature and bias → softmax. Trees need no scaler: they only compare."""
    leaves = [i for i, is_leaf in enumerate(trees.is_leaf) if is_leaf]
    ensemble = helper.make_node(
        "TreeEnsembleRegressor",
        [INPUT],
        ["margins"],
        domain="ai.onnx.ml",
        n_targets=3,
        aggregate_function="SUM",
        post_transform="NONE",
        nodes_treeids=trees.tree,
        nodes_nodeids=trees.node,
        nodes_featureids=trees.feature,
        nodes_values=[0.0 if leaf else value for leaf, value in zip(trees.is_leaf, trees.threshold, strict=True)],
        nodes_modes=["LEAF" if leaf else trees.mode for leaf in trees.is_leaf],
        nodes_truenodeids=trees.left,
        nodes_falsenodeids=trees.right,
        nodes_missing_value_tracks_true=[0] * len(trees.node),
        target_treeids=[trees.tree[i] for i in leaves],
        target_nodeids=[trees.node[i] for i in leaves],
        target_ids=[trees.leaf_class[i] for i in leaves],
        target_weights=[trees.threshold[i] for i in leaves],
    )
    # Not as base_values: the runtime drops the base of a class without a leaf.
    base = helper.make_node("Add", ["margins", "base"], ["logits"])
    return graph([ensemble, base], [_tensor("base", np.asarray(trees.base))], "logits", (features,), calibration)


def linear_graph(
    coefficients: NDArray[np.float64],
    intercept: NDArray[np.float64],
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
    calibration: Calibration,
) -> bytes:
    """input (n, f) → (x − mean) / scale → Gemm with coefficients (3, f) → temperature and bias → softmax."""
    tensors = [
        _tensor("mean", mean),
        _tensor("scale", scale),
        _tensor("coefficients", coefficients),
        _tensor("intercept", intercept),
    ]
    nodes = [
        helper.make_node("Sub", [INPUT, "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["standardised"]),
        helper.make_node("Gemm", ["standardised", "coefficients", "intercept"], ["logits"], transB=1),
    ]
    return graph(nodes, tensors, "logits", (len(mean),), calibration)


def mlp_graph(layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], calibration: Calibration) -> bytes:
    """input (n, f) → Gemm per layer (weight (out, in), bias) with ReLU between two → temperature, bias → softmax."""
    tensors, nodes, values = [], [], INPUT
    for number, (weight, bias) in enumerate(layers):
        tensors += [_tensor(f"weight_{number}", weight), _tensor(f"bias_{number}", bias)]
        if number:
            nodes.append(helper.make_node("Relu", [values], [f"active_{number}"]))
            values = f"active_{number}"
        nodes.append(
            helper.make_node("Gemm", [values, f"weight_{number}", f"bias_{number}"], [f"layer_{number}"], transB=1)
        )
        values = f"layer_{number}"
    return graph(nodes, tensors, values, (layers[0][0].shape[1],), calibration)


def graph(
    nodes: list[onnx.NodeProto],
    tensors: list[onnx.TensorProto],
    logits: str,
    shape: tuple[int, ...],
    calibration: Calibration,
) -> bytes:
    """A whole model: `nodes` from "input" to `logits`, then calibration and softmax to "probabilities"."""
    tail = [
        helper.make_node("Div", [logits, "temperature"], ["tempered"]),
        helper.make_node("Add", ["tempered", "class_bias"], ["calibrated"]),
        helper.make_node("Softmax", ["calibrated"], [OUTPUT], axis=1),
    ]
    tail_tensors = [
        _tensor("temperature", np.asarray(calibration.temperature)),
        _tensor("class_bias", np.asarray(calibration.class_bias)),
    ]
    body = helper.make_graph(
        [*nodes, *tail],
        "model",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 3])],
        [*tensors, *tail_tensors],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _tensor(name: str, values: NDArray[np.floating]) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(values, np.float32), name)


def verify_export(
    onnx_bytes: bytes, inputs: NDArray[np.float32], trained: NDArray[np.float64], name: str
) -> tuple[float, NDArray[np.float64]]:
    """The largest |Δp| against the trained model, and the probabilities as they will be served.

    Raises ExportRefused above PARITY_TOLERANCE, for answers that depend on the batch size, and for outputs that are
    not probabilities or hardly move; ModelRefused for a graph with another interface or a frozen batch size.
    """
    graph = Graph(onnx_bytes)
    try:
        served = graph.run(inputs)
        batches = [graph.run(inputs[:rows]) for rows in _BATCHES]
    except PredictionFailed as error:
        raise ExportRefused(f"{name}: the exported graph refuses a batch: {error}") from error
    if not np.isfinite(served).all() or np.abs(served.sum(axis=1) - 1.0).max() > PARITY_TOLERANCE:
        raise ExportRefused(f"{name}: the exported graph does not give probabilities")
    if any(np.abs(part - served[: len(part)]).max() > PARITY_TOLERANCE for part in batches):
        raise ExportRefused(f"{name}: the exported graph's answer depends on the batch size")
    difference = float(np.abs(served - trained).max())
    if not difference <= PARITY_TOLERANCE:
        raise ExportRefused(f"{name}: exported probabilities differ from the trained ones by {difference:.1e}")
    if np.ptp(served, axis=0).max() < SMALLEST_SPREAD:
        raise ExportRefused(f"{name}: constant output")
    return difference, served


def parity_rows(rows: int) -> NDArray[np.intp]:
    """Up to 10,000 rows, evenly over the data."""
    return np.unique(np.linspace(0, rows - 1, min(rows, PARITY_ROWS)).astype(np.intp))

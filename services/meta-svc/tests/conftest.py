"""Published meta models: small ONNX logistic regressions with their linear form, on any learner's inputs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from meta_svc.versions import V2, MetaVersion
from quantum_common.models import Golden, LinearModel, Manifest, promote, publish
from quantum_common.models.serving import Graph


def _graph(linear: LinearModel) -> bytes:
    """input → (x − mean) / scale → coefficients, intercept → temperature, bias → softmax."""

    def tensor(name, values):
        return onnx.numpy_helper.from_array(np.asarray(values, np.float32), name)

    steps = [("Sub", "input", "mean"), ("Div", "Sub", "scale"), ("MatMul", "Div", "coefficients")]
    steps += [("Add", "MatMul", "intercept"), ("Div", "Add", "temperature"), ("Add", "Div2", "class_bias")]
    outputs = ["Sub", "Div", "MatMul", "Add", "Div2", "logits"]
    nodes = [helper.make_node(op, [left, right], [out]) for (op, left, right), out in zip(steps, outputs, strict=True)]
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    tensors = [tensor(name, getattr(linear, name)) for name in ("mean", "scale", "intercept", "class_bias")]
    tensors += [tensor("coefficients", np.array(linear.coefficients).T), tensor("temperature", linear.temperature)]
    body = helper.make_graph(
        nodes,
        "meta",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", len(linear.mean)])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
        tensors,
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _publish(
    models_dir: Path,
    version: str,
    *,
    seed: int = 1,
    coefficient: float = 0.3,
    class_bias: tuple[float, float, float] = (0.2, -0.1, 0.3),
    quality: str = "proven",
    told: LinearModel | None = None,
    timeframe: str = "1h",
    meta: MetaVersion = V2,
    parameters: int = 81,
) -> LinearModel:
    """Publish a random model; `told` is the linear form its manifest claims, when that shall be another one.

    V1 gets a graph without a hidden layer: serving looks at its interface only.
    """
    random = np.random.default_rng(seed)
    width = len(meta.feature_names)
    linear = LinearModel(
        coefficients=random.normal(0, coefficient, (3, width)).tolist(),
        intercept=random.normal(0, 0.2, 3).tolist(),
        mean=random.uniform(0, 0.5, width).tolist(),
        scale=random.uniform(0.5, 1.5, width).tolist(),
        temperature=1.4,
        class_bias=list(class_bias),
    )
    graph = _graph(linear)
    rows = random.uniform(0, 1, (8, width)).astype(np.float32)
    manifest = Manifest(
        agent=meta.folder,
        version=version,
        kind="meta",
        feature_hash="",
        view="",
        feature_names=meta.feature_names,
        class_order=("SELL", "HOLD", "BUY"),
        timeframe=timeframe,
        horizon_bars=5,
        label_threshold=0.015,
        window_bars=1,
        symbols=("BTCUSDT",),
        library_versions={},
        data_from_ms=0,
        labels_to_ms=1,
        metrics={},
        quality=quality,
        parameters=parameters,
        golden=Golden(rows.tolist(), Graph(graph).run(rows).tolist()),
        linear=(told or linear) if meta.linear else None,
    )
    publish(models_dir, manifest, graph)
    promote(models_dir, meta.folder, version, reason="test", at_ms=1)
    return linear


@pytest.fixture
def publish_meta() -> Callable[..., LinearModel]:
    return _publish

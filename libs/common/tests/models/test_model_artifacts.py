"""Artifacts: published atomically, loaded only when everything agrees. Every refusal has its row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantum_common.features import FEATURE_NAMES, SEQUENCE_BARS, feature_hash
from quantum_common.models import (
    Golden,
    Manifest,
    ModelRefused,
    current_version,
    promote,
    publish,
    read_manifest,
    rollback,
    versions,
)
from quantum_common.models.serving import Graph, PredictionFailed, load
from quantum_common.models.store import CannotPublish


@dataclass
class Artifact:
    """A model under construction: change a field, then publish."""

    kind: str = "row"
    weights: np.ndarray | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    graph: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return (SEQUENCE_BARS, 19) if self.kind == "window" else (18,)

    def onnx(self) -> bytes:
        return build_graph(self.shape, weights=self.weights, **self.graph)

    def publish(self, models_dir: Path, *, current: bool = True) -> Path:
        inputs = np.random.default_rng(3).normal(size=(8, *self.shape)).astype(np.float32)
        probabilities = golden_probabilities(self.onnx(), inputs)
        fields: dict[str, Any] = {
            "agent": "xgb",
            "version": "v1",
            "kind": self.kind,
            "feature_hash": feature_hash("relative"),
            "view": "relative",
            "feature_names": FEATURE_NAMES,
            "class_order": ("SELL", "HOLD", "BUY"),
            "timeframe": "1h",
            "horizon_bars": 5,
            "label_threshold": 0.015,
            "window_bars": SEQUENCE_BARS if self.kind == "window" else 1,
            "symbols": ("BTCUSDT",),
            "library_versions": {"onnx": onnx.__version__},
            "data_from_ms": 0,
            "labels_to_ms": 3_600_000,
            "metrics": {"log_loss": 0.9, "baselines": {"prior": 1.0}},
            "quality": "unproven",
            "parameters": 57,
            "golden": Golden(inputs.tolist(), probabilities),
        }
        manifest = Manifest(**(fields | self.changes))
        folder = publish(models_dir, manifest, self.onnx())
        if current:
            promote(models_dir, manifest.agent, manifest.version, reason="test", at_ms=1)
        return folder


def golden_probabilities(onnx_bytes: bytes, inputs: np.ndarray) -> list[list[float]]:
    """Row by row; anything for a graph that gives no probabilities, since its refusal comes first."""
    try:
        found = np.concatenate([Graph(onnx_bytes).run(row[None]) for row in inputs])
    except ModelRefused:
        found = np.zeros((8, 3))
    return found.tolist() if found.shape == (8, 3) and np.isfinite(found).all() else [[1.0, 0.0, 0.0]] * 8


def build_graph(
    shape: tuple[int, ...],
    *,
    weights: np.ndarray | None = None,
    batch: str | int = "batch",
    input_name: str = "input",
    output_name: str = "probabilities",
    input_type: int = TensorProto.FLOAT,
    softmax: bool = True,
    classes: int = 3,
    frozen_reshape: bool = False,
    rows_mixed: bool = False,
) -> bytes:
    """softmax(flatten(input) @ weights)."""
    size = int(np.prod(shape))
    if weights is None:
        weights = np.random.default_rng(1).normal(scale=0.2, size=(size, classes)).astype(np.float32)
    initializers = [numpy_helper.from_array(weights, "weights")]
    nodes = [helper.make_node("Flatten", [input_name], ["flat"], axis=1)]
    if frozen_reshape:
        initializers.append(numpy_helper.from_array(np.array([1, size], np.int64), "one_row"))
        nodes = [helper.make_node("Reshape", [input_name, "one_row"], ["flat"])]
    nodes.append(helper.make_node("MatMul", ["flat", "weights"], ["alone" if rows_mixed else "logits"]))
    if rows_mixed:
        nodes.append(helper.make_node("ReduceMean", ["alone"], ["mean"], axes=[0], keepdims=1))
        nodes.append(helper.make_node("Add", ["alone", "mean"], ["logits"]))
    nodes.append(helper.make_node("Softmax" if softmax else "Identity", ["logits"], [output_name]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(input_name, input_type, [batch, *shape])],
        [helper.make_tensor_value_info(output_name, input_type, [None, classes])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def refusal(load_it: Callable[[], object]) -> ModelRefused:
    with pytest.raises(ModelRefused) as caught:
        load_it()
    return caught.value


@pytest.mark.parametrize("kind", ["row", "window"])
def test_a_published_model_loads_and_predicts(tmp_path: Path, kind: str) -> None:
    artifact = Artifact(kind)
    folder = artifact.publish(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx"]
    model = load(tmp_path, "xgb", expected_kind=kind, expected_view="relative", expected_timeframe="1h")
    inputs = np.random.default_rng(9).normal(size=(5, *artifact.shape)).astype(np.float32)
    got = model.predict(inputs)
    assert got.shape == (5, 3)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got.sum(axis=1), 1.0, atol=1e-6)
    assert model.manifest.metrics["baselines"] == {"prior": 1.0}


def test_a_row_alone_and_in_a_batch_has_the_same_probabilities(tmp_path: Path) -> None:
    Artifact().publish(tmp_path)
    model = load(tmp_path, "xgb")
    inputs = np.random.default_rng(9).normal(size=(64, 18)).astype(np.float32)
    alone = np.concatenate([model.predict(row[None]) for row in inputs])
    np.testing.assert_allclose(model.predict(inputs), alone, atol=1e-7)


def test_inputs_of_another_width_fail_by_name(tmp_path: Path) -> None:
    Artifact().publish(tmp_path)
    with pytest.raises(PredictionFailed):
        load(tmp_path, "xgb").predict(np.zeros((1, 17), np.float32))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"feature_hash": "0" * 32}, "feature_hash_mismatch"),
        ({"feature_hash": feature_hash("raw")}, "feature_hash_mismatch"),
        ({"view": "log"}, "view_mismatch"),
        ({"feature_names": FEATURE_NAMES[::-1]}, "feature_names_mismatch"),
        ({"feature_names": FEATURE_NAMES[:17]}, "feature_names_mismatch"),
        ({"class_order": ("BUY", "HOLD", "SELL")}, "class_order_mismatch"),
        ({"window_bars": 32, "kind": "window"}, "input_shape_mismatch"),
    ],
)
def test_f07_a_model_made_for_other_inputs_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    Artifact(changes=change).publish(tmp_path)
    assert refusal(lambda: load(tmp_path, "xgb")).reason == reason


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"expected_kind": "window"}, "kind_mismatch"),
        ({"expected_view": "raw"}, "view_mismatch"),
        ({"expected_timeframe": "5m"}, "timeframe_mismatch"),
        ({"expected_names": ("xgb_sell",)}, "feature_names_mismatch"),
    ],
)
def test_f07_a_model_that_is_not_what_the_agent_serves_is_refused(
    tmp_path: Path, option: dict[str, Any], reason: str
) -> None:
    Artifact().publish(tmp_path)
    assert refusal(lambda: load(tmp_path, "xgb", **option)).reason == reason


def test_f08_a_model_with_constant_output_is_refused(tmp_path: Path) -> None:
    Artifact(weights=np.zeros((18, 3), np.float32)).publish(tmp_path)
    refused = refusal(lambda: load(tmp_path, "xgb"))
    assert refused.reason == "constant_output"
    assert "Model produces constant output" in str(refused)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ({"input_name": "x"}, "graph_interface"),
        ({"output_name": "logits2"}, "graph_interface"),
        ({"batch": 1}, "graph_interface"),
        ({"input_type": TensorProto.DOUBLE}, "graph_invalid"),
        ({"softmax": False}, "probabilities_invalid"),
        ({"classes": 4}, "output_shape"),
        ({"frozen_reshape": True}, "prediction_error"),
        ({"rows_mixed": True}, "batch_mismatch"),
    ],
)
def test_a_graph_outside_the_convention_is_refused(tmp_path: Path, graph: dict[str, Any], reason: str) -> None:
    Artifact(graph=graph).publish(tmp_path)
    assert refusal(lambda: load(tmp_path, "xgb")).reason == reason


def test_probabilities_that_do_not_sum_to_one_are_refused(tmp_path: Path) -> None:
    zeros = np.zeros((18, 3), np.float32)
    Artifact(weights=zeros, graph={"softmax": False}).publish(tmp_path)
    assert refusal(lambda: load(tmp_path, "xgb")).detail == "probabilities do not sum to 1"


def test_probabilities_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    Artifact(weights=np.full((18, 3), np.inf, np.float32)).publish(tmp_path)
    assert refusal(lambda: load(tmp_path, "xgb")).reason == "probabilities_invalid"


def test_a_model_without_parameters_is_refused(tmp_path: Path) -> None:
    Artifact(changes={"parameters": 0}).publish(tmp_path)
    assert refusal(lambda: load(tmp_path, "xgb")).reason == "no_parameters"


def test_golden_rows_that_come_out_differently_refuse_the_model(tmp_path: Path) -> None:
    artifact = Artifact()
    folder = artifact.publish(tmp_path)
    manifest = read_manifest(tmp_path, "xgb")
    probabilities = [[p + 2e-5 for p in row] for row in manifest.golden.probabilities]
    rewrite(folder, golden=Golden(manifest.golden.inputs, probabilities))
    assert refusal(lambda: load(tmp_path, "xgb")).reason == "golden_mismatch"


@pytest.mark.parametrize(
    "golden",
    [Golden([], []), Golden([[1.0] * 18] * 8, [[1.0, 0.0, 0.0]] * 8), Golden([["a"] * 18] * 8, [[1.0, 0.0, 0.0]] * 8)],
    ids=["none", "all the same", "not numbers"],
)
def test_unusable_golden_rows_refuse_the_model(tmp_path: Path, golden: Golden) -> None:
    rewrite(Artifact().publish(tmp_path), golden=golden)
    assert refusal(lambda: load(tmp_path, "xgb")).reason == "golden_invalid"


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, **changes)))


def test_changed_bytes_are_refused_by_their_checksum(tmp_path: Path) -> None:
    folder = Artifact().publish(tmp_path)
    model = folder / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\x00")
    assert refusal(lambda: load(tmp_path, "xgb")).reason == "checksum_mismatch"


def test_bytes_that_are_no_graph_are_refused(tmp_path: Path) -> None:
    folder = Artifact().publish(tmp_path)
    manifest = msgspec.structs.replace(read_manifest(tmp_path, "xgb"), version="v2")
    publish(tmp_path, manifest, b"no graph")
    promote(tmp_path, "xgb", "v2", reason="test", at_ms=2)
    assert folder.is_dir()
    assert refusal(lambda: load(tmp_path, "xgb")).reason == "graph_invalid"


def test_missing_or_broken_files_are_refused(tmp_path: Path) -> None:
    assert refusal(lambda: load(tmp_path, "xgb")).reason == "no_model"
    folder = Artifact().publish(tmp_path)
    assert refusal(lambda: load(tmp_path, "xgb", version="v9")).reason == "manifest_missing"
    (folder / "model.onnx").rename(folder / "elsewhere")
    assert refusal(lambda: load(tmp_path, "xgb")).reason == "model_missing"
    (folder / "manifest.json").write_text('{"agent": "xgb"}')
    assert refusal(lambda: load(tmp_path, "xgb")).reason == "manifest_invalid"


def test_a_manifest_in_the_wrong_folder_is_refused(tmp_path: Path) -> None:
    folder = Artifact().publish(tmp_path)
    folder.rename(folder.with_name("v2"))
    assert refusal(lambda: load(tmp_path, "xgb", version="v2")).reason == "version_mismatch"


def test_f31_a_challenger_waits_and_one_call_promotes_or_rolls_back(tmp_path: Path) -> None:
    Artifact().publish(tmp_path)
    Artifact(changes={"version": "v2"}).publish(tmp_path, current=False)
    assert versions(tmp_path, "xgb") == ["v1", "v2"]
    assert load(tmp_path, "xgb").manifest.version == "v1"
    promote(tmp_path, "xgb", "v2", reason="better", at_ms=2)
    assert load(tmp_path, "xgb").manifest.version == "v2"
    assert rollback(tmp_path, "xgb", reason="worse", at_ms=3) == "v1"
    assert current_version(tmp_path, "xgb") == "v1"
    assert refusal(lambda: promote(tmp_path, "xgb", "v3", reason="", at_ms=4)).reason == "version_missing"
    assert current_version(tmp_path, "xgb") == "v1"


def test_f31_a_crash_while_publishing_leaves_the_running_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Artifact().publish(tmp_path)

    def crash(self: Path, target: Path) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", crash)
        with pytest.raises(OSError, match="power cut"):
            Artifact(changes={"version": "v2"}).publish(tmp_path)
    assert current_version(tmp_path, "xgb") == "v1"
    assert versions(tmp_path, "xgb") == ["v1"]
    Artifact(changes={"version": "v2"}).publish(tmp_path)
    assert load(tmp_path, "xgb").manifest.version == "v2"


def test_a_version_is_never_overwritten(tmp_path: Path) -> None:
    Artifact().publish(tmp_path)
    with pytest.raises(CannotPublish, match="exists"):
        Artifact().publish(tmp_path)


def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotPublish):
        Artifact(changes={"version": "../v1"}).publish(tmp_path)


def test_a_meta_model_has_inputs_of_its_own(tmp_path: Path) -> None:
    changes = {"agent": "meta", "kind": "meta", "feature_hash": "", "feature_names": tuple(f"m{i}" for i in range(18))}
    Artifact(changes=changes).publish(tmp_path)
    model = load(tmp_path, "meta", expected_feature_hash=None, expected_names=changes["feature_names"])
    assert model.manifest.kind == "meta"


def test_no_agent_has_no_versions(tmp_path: Path) -> None:
    assert versions(tmp_path, "xgb") == []
    assert current_version(tmp_path, "xgb") is None

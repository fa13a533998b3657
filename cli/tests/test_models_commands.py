"""`quantum models` as people and scripts use it, on real artifacts and a real server."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from redis import Redis
from typer.testing import CliRunner, Result

from quantum_cli.main import app
from quantum_cli.running import RunningFleet, announced
from quantum_common.contracts import CONTROL, Keys, decode
from quantum_common.domain.signal import CLASS_ORDER
from quantum_common.features import FEATURE_NAMES, feature_hash
from quantum_common.models import (
    Golden,
    Manifest,
    current_version,
    promote,
    publish,
    releases,
    shadow_version,
    withdrawn,
)
from quantum_common.models.serving import Graph
from quantum_common.testing import running_server


def quantum(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(app, ["models", *map(str, arguments)], env=environment)


def graph(scale: float) -> bytes:
    weights = (np.random.default_rng(1).normal(size=(18, 3)) * scale).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["input", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    body = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 18])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def published(models_dir: Path, version: str, *, scale: float = 0.3, **changes: Any) -> str:
    """`scale` 0 makes a model that says the same of everything."""
    rows = np.random.default_rng(3).normal(size=(8, 18)).astype(np.float32)
    onnx_bytes = graph(scale)
    manifest = Manifest(
        agent="xgb", version=version, kind="row", feature_hash=feature_hash("relative"), view="relative",
        feature_names=FEATURE_NAMES, class_order=tuple(CLASS_ORDER), timeframe="1h", horizon_bars=5,
        label_threshold=0.015, window_bars=1, symbols=("BTCUSDT",), library_versions={}, data_from_ms=0,
        labels_to_ms=1_700_000_000_000, metrics={"log_loss": 0.72, "log_loss_prior": 0.78}, quality="proven",
        parameters=54, golden=Golden(rows.tolist(), Graph(onnx_bytes).run(rows).tolist()),
    )  # fmt: skip
    publish(models_dir, msgspec.structs.replace(manifest, **changes), onnx_bytes)
    return version


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with v1 serving and v2 waiting; no fleet runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QT_REDIS_URL", raising=False)
    folder = tmp_path / "models"
    promote(folder, "xgb", published(folder, "v1"), reason="trained", at_ms=1_700_000_000_000)
    published(folder, "v2")
    return folder


def test_the_list_names_every_version_with_its_role_and_its_figures(models: Path) -> None:
    published(models, "v3", quality="unproven", metrics={})
    quantum("promote", "xgb", "v2", "--models", models)
    quantum("promote", "xgb", "v3", "--models", models, "--force", "--shadow")
    lines = quantum("list", "--models", models).output.splitlines()
    assert lines[0].split() == ["agent", "version", "role", "quality", "age", "label", "log-loss", "prior"]
    assert [line.split()[:4] for line in lines[1:]] == [
        ["xgb", "v3", "shadow", "unproven"],
        ["xgb", "v2", "current", "proven"],
        ["xgb", "v1", "previous", "proven"],
    ]
    assert lines[2].endswith("1h ±1.5 % 5 bars  0.7200    0.7800")
    rows = json.loads(quantum("list", "--models", models, "--json").output)
    assert [(row["version"], row["log_loss"]) for row in rows] == [("v3", None), ("v2", 0.72), ("v1", 0.72)]
    assert rows[0]["age_s"] > 0


def test_a_broken_manifest_is_listed_as_broken(models: Path) -> None:
    (models / "xgb" / "v2" / "manifest.json").write_text("{}")
    lines = quantum("list", "--models", models).output.splitlines()
    assert lines[1].split()[:4] == ["xgb", "v2", "waiting", "broken"]
    assert "manifest_invalid" in lines[1]


def test_showing_gives_the_manifest_without_golden_rows_and_the_journal(models: Path) -> None:
    text = quantum("show", "xgb", "--models", models).output
    assert "labels_to_ms      1700000000000" in text
    assert "2023-11-14T22:13  promote   - → v1  trained" in text
    shown = json.loads(quantum("show", "xgb", "v2", "--models", models, "--json").output)
    assert shown["manifest"]["version"] == "v2"
    assert "golden" not in shown["manifest"]
    assert [release["version"] for release in shown["releases"]] == ["v1"]


def test_f31_one_command_promotes_and_one_returns(models: Path) -> None:
    told = json.loads(quantum("promote", "xgb", "v2", "--models", models, "--reason", "won", "--json").output)
    assert told == {"agent": "xgb", "version": "v2", "previous": "v1", "role": "current", "fleets_told": 0}
    assert current_version(models, "xgb") == "v2"
    result = quantum("rollback", "xgb", "--models", models, "--reason", "worse")
    assert (result.exit_code, current_version(models, "xgb")) == (0, "v1")
    assert "xgb: v1 is current now, after v2" in result.output
    assert [release.reason for release in releases(models, "xgb")] == ["trained", "won", "worse"]
    assert quantum("rollback", "xgb", "--models", models).exit_code == 1


def test_a_shadow_does_not_move_the_current_version(models: Path) -> None:
    assert quantum("promote", "xgb", "v2", "--shadow", "--models", models).exit_code == 0
    assert (current_version(models, "xgb"), shadow_version(models, "xgb")) == ("v1", "v2")


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"quality": "unproven"}, "unproven"), ({"horizon_bars": 3}, "label"), ({"timeframe": "4h"}, "label")],
)
def test_f31_a_doubtful_version_needs_force(models: Path, changes: dict[str, Any], word: str) -> None:
    published(models, "v3", **changes)
    refused = quantum("promote", "xgb", "v3", "--models", models)
    assert (refused.exit_code, current_version(models, "xgb")) == (1, "v1")
    assert word in refused.stderr
    assert "--force" in refused.stderr
    assert quantum("promote", "xgb", "v3", "--models", models, "--force").exit_code == 0
    assert current_version(models, "xgb") == "v3"


def test_f31_a_withdrawn_version_needs_force(models: Path) -> None:
    quantum("promote", "xgb", "v2", "--models", models)
    quantum("rollback", "xgb", "--models", models)
    assert withdrawn(models, "xgb") == {"v2"}
    refused = quantum("promote", "xgb", "v2", "--models", models)
    assert (refused.exit_code, current_version(models, "xgb")) == (1, "v1")
    assert "withdrawn" in refused.stderr
    assert quantum("promote", "xgb", "v2", "--models", models, "--force").exit_code == 0
    assert current_version(models, "xgb") == "v2"


@pytest.mark.parametrize("option", [(), ("--force",), ("--force", "--shadow")])
def test_f07_f08_what_must_never_serve_is_refused_even_with_force(models: Path, option: tuple[str, ...]) -> None:
    published(models, "constant", scale=0.0)
    published(models, "other-features", feature_hash="0" * 32)
    published(models, "changed")
    (models / "xgb" / "changed" / "model.onnx").write_bytes(b"x")
    for version, reason in (
        ("constant", "constant_output"),
        ("other-features", "feature_hash_mismatch"),
        ("changed", "checksum_mismatch"),
    ):
        refused = quantum("promote", "xgb", version, "--models", models, *option)
        assert refused.exit_code == 1
        assert reason in refused.stderr
    assert (current_version(models, "xgb"), shadow_version(models, "xgb")) == ("v1", None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("promote", "nobody", "v1"),
        ("promote", "xgb", "v9"),
        ("rollback", "nobody"),
        ("show", "xgb", "v9"),
        ("show", "lgbm"),
    ],
)
def test_wrong_names_are_wrong_usage_and_the_choices_are_named(models: Path, arguments: tuple[str, ...]) -> None:
    result = quantum(*arguments, "--models", models)
    assert result.exit_code == 2
    assert "xgb" in result.stderr or "name one" in result.stderr


def test_a_folder_that_is_not_there_is_wrong_usage(models: Path) -> None:
    assert quantum("list", "--models", models / "nowhere").exit_code == 2
    assert quantum("list", "--state-dir", models).exit_code == 2
    assert quantum("list").output.startswith("no models in state/models")


def test_where_no_fleet_runs_the_exported_folder_is_meant(models: Path) -> None:
    assert "v1" in quantum("list", QT_MODELS_DIR=str(models)).output
    assert quantum("promote", "xgb", "v2", QT_MODELS_DIR=str(models)).exit_code == 0
    assert current_version(models, "xgb") == "v2"


def test_a_folder_that_cannot_be_written_is_a_failure_in_words(models: Path) -> None:
    (models / "xgb" / "releases.jsonl").unlink()
    (models / "xgb" / "releases.jsonl").mkdir()  # root may write to any file, but to no folder
    result = quantum("promote", "xgb", "v2", "--models", models, "--force")
    assert (result.exit_code, current_version(models, "xgb")) == (1, "v1")
    assert "cannot be written" in result.output


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("server")) as url:
        yield url


def looks(server_url: str) -> list[str]:
    with Redis.from_url(server_url) as client:
        entries = client.xrange(Keys().stream(CONTROL))
        client.flushall()
    return [decode(fields[b"e"]).payload.subject for _, fields in entries]


def test_the_fleet_that_serves_these_models_is_told_and_found_without_options(models: Path, server_url: str) -> None:
    state = Path("state/run")
    state.mkdir(parents=True)
    (state / "run.json").write_text(json.dumps({"models": str(models)}))
    with announced(state, RunningFleet(os.getpid(), server_url, "http://127.0.0.1:1")):
        assert "fleets told: 1" in quantum("promote", "xgb", "v2").output
        assert looks(server_url) == ["models"]
        assert quantum("rollback", "xgb", "--state-dir", state).exit_code == 0
        assert looks(server_url) == ["models"]
    assert quantum("promote", "xgb", "v2", "--force", "--state-dir", state, QT_REDIS_URL=server_url).exit_code == 0
    assert looks(server_url) == []
    assert quantum("rollback", "xgb", "--models", models, QT_REDIS_URL=server_url).exit_code == 0
    assert looks(server_url) == ["models"]


def test_a_fleet_that_cannot_be_told_is_said_and_the_version_serves_all_the_same(models: Path) -> None:
    result = quantum("promote", "xgb", "v2", "--models", models, QT_REDIS_URL="redis://127.0.0.1:1/0")
    assert (result.exit_code, current_version(models, "xgb")) == (0, "v2")
    assert "could not be told" in result.stderr

"""`quantum deploy` as people and scripts use it where nothing has to be trained: steps, answer, exit code."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from quantum_cli.main import app
from quantum_common.candles import write_candles
from quantum_common.domain import AGENTS
from quantum_common.features import WARMUP_BARS
from quantum_common.models import current_version, promote, publish
from quantum_research.testing import HOUR_MS, START_MS, linear_candidate, synthetic_candles

BARS = WARMUP_BARS + 63 + 400
END_MS = START_MS + BARS * HOUR_MS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Candles of one symbol, and champions that know them up to their end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QT_REDIS_URL", raising=False)
    write_candles(tmp_path, "v", "BTCUSDT", "1h", synthetic_candles(BARS, 1))
    for agent in (*AGENTS, "meta"):
        model = linear_candidate(agent, (0.2, 0.6, 0.2), known_to_ms=END_MS, name="v1")
        publish(tmp_path / "models", model.manifest, model.onnx_bytes)
        promote(tmp_path / "models", agent, "v1", reason="test", at_ms=0)
    return tmp_path


def deploy(folder: Path, *arguments: str) -> Result:
    options = ("--data", str(folder), "--venue", "v", "--symbols", "BTCUSDT", "--models", str(folder / "models"))
    return CliRunner().invoke(app, ["deploy", *options, *arguments])


def test_without_new_bars_it_stops_after_the_first_step_and_the_old_models_serve(folder: Path) -> None:
    result = deploy(folder)
    assert result.exit_code == 1
    assert "[1/8] check existing models: xgb v1" in result.output
    assert "undecided: " in result.output
    assert "only 0.0 days of bars came after what the champions know" in result.output
    assert "[2/8]" not in result.output
    assert current_version(folder / "models", "xgb") == "v1"


def test_scripts_get_one_object_with_every_decision(folder: Path) -> None:
    result = deploy(folder, "--json")
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["outcome"]) == (1, "undecided")
    assert {row["agent"]: row["decision"] for row in answer["decisions"]} == {
        name: "undecided" for name in (*AGENTS, "meta")
    }


def test_a_failed_step_is_named_and_scripts_get_its_number(folder: Path) -> None:
    (folder / "models/nhits/v1/model.onnx").write_bytes(b"damaged")
    failed = deploy(folder)
    assert failed.exit_code == 1
    assert "step 1/8 (check existing models): checksum_mismatch" in failed.output
    assert json.loads(deploy(folder, "--json").stdout)["step"] == 1


@pytest.mark.parametrize("arguments", [("--timeframe", "2h"), ("--symbols", "ETHUSDT"), ("--to", "soon")])
def test_wrong_usage_has_its_own_exit_code(folder: Path, arguments: tuple[str, str]) -> None:
    assert deploy(folder, *arguments).exit_code == 2

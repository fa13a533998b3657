"""Options of `quantum train` that are refused before anything is trained."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from quantum_cli.main import app
from quantum_common.candles import Candles, write_candles


def refusal(folder: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["train", "--models", str(folder / "models"), "--symbols", "BTCUSDT", *options])
    return result.exit_code, result.stderr


def candles(folder: Path) -> str:
    prices = np.full(100, 10.0)
    write_candles(folder, "binance", "BTCUSDT", "1h", Candles(3_600_000 * np.arange(100), *[prices] * 5))
    return str(folder)


def test_a_venue_that_is_unknown_is_named(tmp_path: Path) -> None:
    code, text = refusal(tmp_path, "--venue", "nowhere")
    assert (code, "'nowhere' is none that ccxt knows" in text) == (1, True)


@pytest.mark.parametrize("agents", ["cat", "", "xgb,cat"])
def test_an_agent_to_search_for_that_is_unknown_is_wrong_usage(tmp_path: Path, agents: str) -> None:
    code, text = refusal(tmp_path, "--data", candles(tmp_path), "--search", "1", "--agents", agents)
    assert (code, "give some of xgb,lgbm" in text) == (2, True)


def test_a_file_without_parameters_is_refused(tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text("{}")
    code, text = refusal(tmp_path, "--data", candles(tmp_path), "--parameters", str(tmp_path / "best.json"))
    assert (code, "give the best.json of a search" in text) == (1, True)

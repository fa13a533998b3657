"""`quantum train --check-leaks`: verdicts on the console or as JSON, and an exit code that a script can trust."""

import io
import json
from pathlib import Path

import msgspec
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from quantum_cli.leak_check import conclude
from quantum_cli.main import app
from quantum_common.candles import write_candles
from quantum_research.leaks import LeakReport, Verdict
from quantum_research.testing import synthetic_candles

GOOD = Verdict(0.01, 0.6, "gain", "rows that move", 0.0, 40.0, 0.0)
MISSED = Verdict(0.01, 0.6, "gain", "rows that move", 0.0, 0.0, 0.0)
FLAGGED = Verdict(0.01, 0.6, "gain", "rows that move", 3.0, 40.0, 0.0)


def report(check: Verdict) -> LeakReport:
    return LeakReport(["AAAUSDT"], "1h", 100, {"warmup": GOOD, "future_column": check})


@pytest.mark.filterwarnings("default")  # the four training frameworks warn at import
def test_f30_the_real_pipeline_passes_with_the_four_agents_and_prints_json(tmp_path: Path) -> None:
    for seed, symbol in enumerate(("AAAUSDT", "BBBUSDT")):
        write_candles(tmp_path, "binance", symbol, "1h", synthetic_candles(2400, seed))
    command = ["train", "--check-leaks", "--json", "--data", str(tmp_path), "--symbols", "AAAUSDT,BBBUSDT"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["symbols"] == ["AAAUSDT", "BBBUSDT"]
    verdicts = [(check["caught"], check["clean_flagged"]) for check in shown["checks"].values()]
    assert verdicts == [(True, False)] * 5


@pytest.mark.parametrize("bad", [MISSED, FLAGGED])
@pytest.mark.parametrize("as_json", [True, False])
def test_f30_a_missed_plant_and_a_flagged_pipeline_end_with_exit_code_one(bad: Verdict, as_json: bool) -> None:
    with pytest.raises(typer.Exit) as ended:
        conclude(report(bad), as_json, Console(file=io.StringIO()))
    assert ended.value.exit_code == 1


def test_the_table_names_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    conclude(report(GOOD), False, Console(file=out, width=120))
    assert "NO" not in out.getvalue()
    with pytest.raises(typer.Exit):
        conclude(report(msgspec.structs.replace(FLAGGED, evidence_planted=0.0)), False, Console(file=out, width=120))
    assert "NO" in out.getvalue()
    assert "FLAGGED" in out.getvalue()


def test_a_missing_file_is_wrong_usage_and_too_few_bars_a_failure(tmp_path: Path) -> None:
    write_candles(tmp_path, "binance", "AAAUSDT", "1h", synthetic_candles(600, 1))
    command = ["train", "--check-leaks", "--data", str(tmp_path), "--symbols"]
    missing = CliRunner().invoke(app, [*command, "NONEUSDT"])
    assert (missing.exit_code, "NONEUSDT" in missing.stderr) == (2, True)
    short = CliRunner().invoke(app, [*command, "AAAUSDT"])
    assert (short.exit_code, "longer range" in short.stderr) == (1, True)

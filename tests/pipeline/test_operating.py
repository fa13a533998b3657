"""An operator beside a whole fleet that runs: what the commands say and do, and what the documented log lines count."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from quantum_cli.fleet import FLEET
from quantum_cli.main import app
from quantum_common.testing import eventually

PORT_OFFSET, FIRST_BAR, BARS, SYMBOL_COUNT = 20_600, 60, 30, 3
NOT_IN_THIS_FLEET = ("docker ", "trainer-svc", ":8005/")
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "troubleshooting.md"


@pytest.fixture(scope="module")
def state_dir(market: Any) -> Iterator[Path]:
    """State folder of a fleet that has played its bars and stays up."""
    state_dir: Path = market.work_dir / "state" / "operated"
    options = market.options("state/operated", FIRST_BAR, BARS, PORT_OFFSET)
    command = [sys.executable, "-m", "quantum_cli", "up", *options]
    settings = {**os.environ, "QT_MIN_CONFIDENCE_THRESHOLD": "0.40", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as fleet:
        assert fleet.stdout
        said = []
        for line in fleet.stdout:
            said.append(line)
            if "market's data has ended" in line:
                break
        assert fleet.poll() is None, "".join(said)
        try:
            yield state_dir
        finally:
            fleet.terminate()
            fleet.communicate(timeout=60)


def quantum(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def told(*arguments: object) -> Any:
    result = quantum(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def get(port: int, path: str) -> Any:
    return httpx.get(f"http://127.0.0.1:{port + PORT_OFFSET}{path}", trust_env=False).json()


def guide() -> list[str]:
    """The guide's commands, with their comments."""
    return [line.strip() for line in GUIDE.read_text().splitlines() if line.startswith("    ")]


def counted(state_dir: Path, what: str) -> int:
    """What the guide's command for it counts."""
    [command] = [line for line in guide() if line.partition("# ")[2] == what]
    return int(in_the_log_folder(state_dir, command).stdout)


def in_the_log_folder(state_dir: Path, command: str) -> subprocess.CompletedProcess[str]:
    """1 is grep's way to say that it found nothing."""
    shell = ["bash", "-c", command]
    done = subprocess.run(shell, cwd=state_dir / "logs", capture_output=True, text=True, check=False)
    assert done.returncode < 2, f"{command}: {done.stderr}"
    return done


def lines_with(state_dir: Path, service: str, text: str) -> int:
    return sum(text in line for line in (state_dir / "logs" / f"{service}.log").read_text().splitlines())


def test_status_is_good_and_tells_what_the_services_tell(state_dir: Path) -> None:
    seen = told("status", "--state-dir", state_dir)
    assert seen["good"]
    assert seen["problems"] == []
    assert seen["meta"] == get(8001, "/api/ai/meta/status")
    assert seen["meta"]["total_predictions"] == BARS * SYMBOL_COUNT
    risk = get(8002, "/api/risk/status")
    assert {name: risk[name] for name in seen["risk"]} == seen["risk"]
    held = {row["symbol"]: float(row["quantity"]) for row in seen["positions"]}
    assert held == {symbol: row["quantity"] for symbol, row in risk["active_positions"].items()}
    assert {row["service"] for row in seen["services"] if row["model"]} == {
        "xgb-agent", "lgbm-agent", "patchtst-agent", "nhits-agent", "meta-svc",
    }  # fmt: skip
    assert {row["quality"] for row in seen["services"] if row["model"]} <= {"proven", "unproven"}
    lines = quantum("status", "--state-dir", state_dir).output.splitlines()
    assert max(map(len, lines[1:])) <= 80


def test_the_doctor_of_a_fleet_that_runs_finds_nothing_failing(state_dir: Path) -> None:
    found = {row["check"]: row for row in told("doctor", "--state-dir", state_dir)}
    assert found["ports"]["found"].startswith(f"{len(FLEET) + 1} held by the fleet")
    assert found["clock"]["level"] == "ok"
    assert " ms against " in found["clock"]["found"]
    assert found["model xgb"]["level"] in ("ok", "warn")


def test_decision_lines_in_the_log_are_what_meta_counts(state_dir: Path) -> None:
    status = get(8001, "/api/ai/meta/status")
    assert counted(state_dir, "meta_overrides") == status["meta_overrides"]
    assert counted(state_dir, "the sum of fallback_reasons") == sum(status["fallback_reasons"].values())
    assert status["meta_overrides"] + sum(status["fallback_reasons"].values()) == BARS * SYMBOL_COUNT
    for reason in ("strong_consensus", "low_meta_confidence"):
        assert counted(state_dir, f"fallback_reasons.{reason}") == status["fallback_reasons"][reason]
    loaded = "[META-V2] Meta-learning agent loaded (5th layer) · Override threshold: 0.65 · Version: v2"
    assert lines_with(state_dir, "meta-agent", loaded) == 1


def test_verdict_lines_in_the_log_are_what_the_metrics_and_the_archive_count(state_dir: Path) -> None:
    exposed = httpx.get(f"http://127.0.0.1:{8002 + PORT_OFFSET}/metrics", trust_env=False).text
    samples = re.findall(r'^quantum_risk_verdicts_total\{reason="(\w+)"\} (\S+)$', exposed, re.MULTILINE)
    verdicts = Counter({reason: int(float(value)) for reason, value in samples})
    assert verdicts.total() == BARS * SYMBOL_COUNT
    assert counted(state_dir, 'quantum_risk_verdicts_total{reason="APPROVED"}') == verdicts["APPROVED"] > 0
    assert counted(state_dir, '…{reason="LOW_CONFIDENCE"}, and so on') == verdicts["LOW_CONFIDENCE"] > 0
    for reason in verdicts - Counter(APPROVED=verdicts["APPROVED"]):
        assert lines_with(state_dir, "governer-svc", f"REJECTED: {reason}") == verdicts[reason], reason
    days = (state_dir / "archive").glob("*/allocations.jsonl")
    events = [json.loads(line) for day in days for line in day.read_text().splitlines()]
    approved = {event["event_id"] for event in events if event["kind"] == "PositionApproved"}
    assert len(approved) == verdicts["APPROVED"]


def test_every_command_of_the_guide_works_as_written(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(state_dir.parents[1])
    commands = [line for line in guide() if not any(absent in line for absent in NOT_IN_THIS_FLEET)]
    assert len(commands) > 25
    for command in commands:
        if command.startswith("quantum "):
            result = quantum(*shlex.split(command, comments=True)[1:])
            assert result.exit_code == 0, f"{command}: {result.output}"
            continue
        moved = re.sub(r"127\.0\.0\.1:(80\d\d)", lambda port: f"127.0.0.1:{int(port[1]) + PORT_OFFSET}", command)
        done = subprocess.run(
            ["bash", "-c", moved], cwd=state_dir / "logs", capture_output=True, text=True, check=False
        )
        assert done.returncode < 2, f"{command}: {done.stderr}"
        assert done.stderr == "", command
        assert done.stdout or not command.startswith("curl"), command


def test_logs_gives_the_same_lines_as_the_files(state_dir: Path) -> None:
    options = ("-n", 10_000, "--state-dir", state_dir)
    merged = quantum("logs", "meta-svc", "governer-svc", *options).output.splitlines()
    times = [row.partition(" | ")[2][:23] for row in merged]
    assert times == sorted(times)
    overrides_and_fallbacks = [row for row in merged if "[META-V2]" in row and "Reason:" in row]
    assert len(overrides_and_fallbacks) == BARS * SYMBOL_COUNT
    only = quantum("logs", "governer-svc", "--grep", "APPROVED", *options).output.splitlines()
    assert len(only) == lines_with(state_dir, "governer-svc", "APPROVED")


def test_the_emergency_stop_reaches_the_fleet_and_flatten_closes_what_is_open(state_dir: Path) -> None:
    there = ("--state-dir", state_dir)
    assert told("emergency-stop", "on", "--reason", "drill", *there)["emergency_stop"] is True
    seen = told("status", *there)
    assert (seen["risk"]["emergency_stop"], seen["risk"]["trading_state"]) == (True, "REDUCING")
    assert seen["positions"], "the drill needs a range of bars at whose end something is open"
    assert told("flatten", "--reason", "drill", "--yes", *there) == {"positions": len(seen["positions"])}
    asyncio.run(eventually(lambda: not get(8002, "/api/risk/status")["active_positions"]))
    assert told("status", *there)["positions"] == []
    assert lines_with(state_dir, "executor-svc", "[EXECUTOR] flatten by ") == 1
    assert told("emergency-stop", "off", "--reason", "drill is over", *there)["emergency_stop"] is False
    assert told("status", *there)["risk"]["trading_state"] == "ACTIVE"

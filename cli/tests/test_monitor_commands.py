"""`quantum monitor` and `quantum validate` as scripts use them, against a monitor that answers over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from browser.line import HOUR_MS, Line
from monitor_svc.app import Monitor
from monitor_svc.settings import Settings
from quantum_cli.control import serving
from quantum_cli.running import RUN_FILE_NAME, RunningFleet, announced
from quantum_common.bus import MemoryBus
from quantum_common.domain import Action
from quantum_common.service import build_app
from quantum_common.testing import eventually, free_port, running_server

NOW = 1_700_000_000_000
BAR = NOW // HOUR_MS * HOUR_MS - HOUR_MS


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A monitor that has seen two bars, and no service."""
    line = Line(MemoryBus(), NOW)
    for number, action in enumerate((Action.BUY, Action.HOLD)):
        await line.bar("BTCUSDT", BAR + number * HOUR_MS)
        await line.votes("BTCUSDT", BAR + number * HOUR_MS, action)
        await line.decide("BTCUSDT", BAR + number * HOUR_MS, action)
    async with httpx.AsyncClient() as client:
        monitor = Monitor(Settings(), line.bus, client, lambda: NOW)
        await monitor.reader.turn()
        async with serving(build_app(monitor.service())) as served:
            yield served


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "quantum_cli", *map(str, arguments)]


async def quantum(*arguments: object, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run, command(*arguments), capture_output=True, text=True, timeout=60, check=False, cwd=folder,
        env={**os.environ, **settings},
    )  # fmt: skip


async def test_monitor_prints_the_dashboard_once_and_as_json(url: str, tmp_path: Path) -> None:
    text = await quantum("monitor", folder=tmp_path, QT_SERVICE_URL=url)
    assert text.returncode == 0, text.stderr
    lines = text.stdout.splitlines()
    assert lines[1] == "   QUANTUM TRADER v5 - ENSEMBLE MONITOR"
    assert "  🔴 xgb-agent          | Predictions:   2 | {'BUY': 1, 'HOLD': 1}" in lines
    assert "  BUY    | ██████████░░░░░░░░░░  50.0% (1/2)" in lines
    answer = await quantum("monitor", "--json", folder=tmp_path, QT_SERVICE_URL=url)
    assert json.loads(answer.stdout)["variety"]["total"] == 2


async def test_validate_fails_with_exit_code_1_and_says_what_to_do(url: str, tmp_path: Path) -> None:
    text = await quantum("validate", folder=tmp_path, QT_SERVICE_URL=url)
    assert text.returncode == 1
    assert "✨ Signal Variety: 2 unique actions - {'BUY', 'HOLD'}" in text.stdout
    assert "❌ ENSEMBLE V5 VALIDATION: FAILED" in text.stdout
    assert "   → governer-svc /api/risk/status: not asked yet" in text.stdout
    answer = await quantum("validate", "--json", folder=tmp_path, QT_SERVICE_URL=url)
    assert answer.returncode == 1
    found = json.loads(answer.stdout)
    assert [check["passed"] for check in found["checks"]] == [False, True, False, False]


@pytest.mark.parametrize("name", ["monitor", "validate"])
async def test_a_monitor_that_does_not_answer_is_exit_code_1_with_a_way_out(name: str, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    text = await quantum(name, folder=tmp_path, QT_SERVICE_URL=nowhere)
    assert text.returncode == 1
    assert f"monitor-svc at {nowhere} does not answer" in text.stderr
    assert "Traceback" not in text.stderr


@pytest.mark.parametrize("name", ["monitor", "validate"])
async def test_an_answer_of_another_shape_is_exit_code_1_in_words(name: str, tmp_path: Path) -> None:
    other = FastAPI()
    other.add_api_route("/api/monitor/view", lambda: {"updated_at_ms": 1})
    async with serving(other) as url:
        text = await quantum(name, folder=tmp_path, QT_SERVICE_URL=url)
    assert text.returncode == 1
    assert "monitor-svc answers in another shape" in text.stderr
    assert "Traceback" not in text.stderr


async def test_two_ways_at_once_are_wrong_usage(tmp_path: Path) -> None:
    assert (await quantum("monitor", "--web", "--json", folder=tmp_path)).returncode == 2


async def test_continuous_goes_on_until_ctrl_c_which_is_exit_code_0(url: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("wb") as file, subprocess.Popen(
        command("monitor", "--continuous"), stdout=file, stderr=file, cwd=tmp_path,
        env={**os.environ, "QT_SERVICE_URL": url, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        try:
            await eventually(lambda: "GOVERNER RISK" in out.read_text() or process.poll() is not None, within_s=30)
            process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait, 15) == 0, out.read_text()
        finally:
            process.kill()
    assert "Traceback" not in out.read_text()


async def test_web_prints_the_address_of_a_monitor_that_runs(url: str, tmp_path: Path) -> None:
    text = await quantum("monitor", "--web", folder=tmp_path, QT_SERVICE_URL=url)
    assert (text.returncode, text.stdout) == (0, f"{url}/\n")


async def test_web_runs_the_monitor_of_a_fleet_that_has_none(tmp_path: Path) -> None:
    offset = free_port() - 8050
    run = {"models": "m", "symbols": ["BTCUSDT"], "timeframe": "15m"}
    (tmp_path / RUN_FILE_NAME).write_text(json.dumps(run))
    with running_server(tmp_path / "server") as redis_url:
        fleet = RunningFleet(os.getpid(), redis_url, "http://127.0.0.1:1", 1, offset)
        with announced(tmp_path, fleet), subprocess.Popen(
            command("monitor", "--web", "--state-dir", tmp_path), stdout=subprocess.PIPE, text=True
        ) as process:  # fmt: skip
            try:
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{8050 + offset}") as client:

                    async def seen() -> str:
                        try:
                            view = (await client.get("/api/monitor/view")).json()
                        except httpx.HTTPError:
                            return ""
                        return str(view["timeframe"])

                    assert await eventually(seen, within_s=30) == "15m"
                process.send_signal(signal.SIGINT)
                printed, _ = await asyncio.to_thread(process.communicate, None, 15)
            finally:
                process.kill()
    assert process.returncode == 0
    assert printed.startswith(f"http://127.0.0.1:{8050 + offset}/")

"""A real Prometheus over the real fleet: whatever a rule or a panel asks for is there, and an alert fires and resolves.

How each rule behaves in time is tested by promtool: ops/prometheus/alerts.test.yml.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.expressions import OPS
from e2e.local_prometheus import MISSING, is_installed, running_prometheus
from e2e.prometheus_check import Finding, check, check_within, firing
from quantum_cli.fleet import FLEET, VENUE
from quantum_common.domain import SERVICE_PORTS
from quantum_common.testing import wait_until

Run = Any  # the Market of conftest.py, which importlib mode cannot import
PORT_OFFSET = 20_700
BARS_PER_S = 8
SERVICES = {member.name for member in (VENUE, *FLEET)}

pytestmark = pytest.mark.skipif(not is_installed(), reason=MISSING)


def address(service: str, path: str) -> str:
    return f"http://127.0.0.1:{SERVICE_PORTS[service] + PORT_OFFSET}{path}"


def decides() -> bool:
    try:
        return bool(httpx.get(address("meta-svc", "/api/ai/meta/status")).json()["total_predictions"])
    except httpx.TransportError:
        return False


@contextmanager
def running_fleet(market: Run, state_dir: Path) -> Iterator[None]:
    """A replay that is under way, and stays when its bars are over."""
    command = [
        "up", "--data", market.data_dir, "--venue", market.venue, "--symbols", "BTCUSDT,ETHUSDT,SOLUSDT",
        "--timeframe", "1h", "--from", "2024-05-05", "--to", "2024-05-15", "--models", market.models_dir,
        "--state-dir", state_dir, "--port-offset", PORT_OFFSET, "--label-threshold", "0.004",
        "--speed", BARS_PER_S * 3600,
    ]  # fmt: skip
    environment = {**os.environ, "QT_MIN_CONFIDENCE_THRESHOLD": "0.40"}
    process = subprocess.Popen(
        [sys.executable, "-m", "quantum_cli", *map(str, command)], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        wait_until(decides, within_s=60)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


def stop_trading(state_dir: Path, active: bool) -> None:
    token = (state_dir / "api-token").read_text().strip()
    httpx.post(
        address("governer-svc", "/api/risk/emergency_stop"),
        json={"active": active, "reason": "a test"},
        headers={"Authorization": f"Bearer {token}"},
    ).raise_for_status()


def with_a_panel_without_data(folder: Path) -> Path:
    """Our rules and dashboards, with one panel that asks for what is not there."""
    ops = folder / "ops"
    shutil.copytree(OPS, ops)
    fleet = ops / "grafana/dashboards/fleet.json"
    text = fleet.read_text()
    assert "sum(quantum:service_live)" in text
    fleet.write_text(text.replace("sum(quantum:service_live)", "sum(quantum_nobody_tells)", 1))
    return ops


def test_everything_that_rules_and_panels_ask_for_is_there_and_an_alert_fires(market: Run, tmp_path: Path) -> None:
    with running_fleet(market, tmp_path / "state"), running_prometheus(tmp_path, SERVICES, PORT_OFFSET) as url:
        report = check_within(url, 60)
        assert not report.findings, str(report)
        assert report.firing == ()
        assert report.targets == len(SERVICES) + 1  # Prometheus itself is one
        assert report.expressions > 100
        assert check(url, with_a_panel_without_data(tmp_path)).findings == (
            Finding("fleet.json: Services live A", "no data: sum(quantum_nobody_tells)"),
        )
        stop_trading(tmp_path / "state", active=True)
        wait_until(lambda: firing(url) == ("TradingStopNear",), within_s=30)
        stop_trading(tmp_path / "state", active=False)
        wait_until(lambda: firing(url) == (), within_s=15)
        print(report)

"""The real service with a real training: cut short in the middle, it goes on and releases."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from quantum_common.candles import write_candles
from quantum_common.domain import AGENTS
from quantum_common.models import current_version
from quantum_common.testing import free_port, running_server, wait_until
from quantum_research.testing import synthetic_candles

SYMBOLS = ("AUSDT", "BUSDT")
IDLE_MB = 130.0


@dataclass
class Service:
    """trainer-svc as a process, and its HTTP."""

    folder: Path
    url: str
    port: int

    def __post_init__(self) -> None:
        settings = {
            "QT_REDIS_URL": self.url, "QT_PORT": str(self.port), "QT_STATE_DIR": str(self.folder / "state"),
            "QT_MODELS_DIR": str(self.folder / "models"), "QT_TRAIN_DATA_DIR": str(self.folder / "candles"),
            "QT_TRAIN_VENUE": "synthetic", "QT_SYMBOLS": ",".join(SYMBOLS), "QT_TRAIN_QUICK": "true",
        }  # fmt: skip
        self.process = subprocess.Popen([sys.executable, "-m", "trainer_svc"], env={**os.environ, **settings})

    def status(self) -> dict[str, Any]:
        try:
            return dict(httpx.get(f"http://127.0.0.1:{self.port}/api/training/status", trust_env=False).json())
        except httpx.HTTPError:
            return {"running": None, "stage": None, "ended": []}

    def stop(self) -> float:
        """How long it took, s."""
        started = time.monotonic()
        self.process.terminate()
        assert self.process.wait(10) == 0
        return time.monotonic() - started


@pytest.mark.slow
def test_a_fleet_without_models_gets_them_though_the_service_is_stopped_on_the_way(tmp_path: Path) -> None:
    for seed, symbol in enumerate(SYMBOLS):
        write_candles(tmp_path / "candles", "synthetic", symbol, "1h", synthetic_candles(2_600, seed))
    with running_server(tmp_path / "server") as url:
        first = Service(tmp_path, url, free_port())
        wait_until(lambda: first.status()["stage"] not in (None, "starting", "libraries", "features"), within_s=120)
        own_mb = psutil.Process(first.process.pid).memory_full_info().pss / 1e6
        children = psutil.Process(first.process.pid).children(recursive=True)
        run = first.status()["running"]
        assert run["reason"] == "no_model"
        assert first.stop() < 5.0
        assert not any(child.is_running() for child in children)
        assert current_version(tmp_path / "models", "xgb") is None
        assert own_mb < IDLE_MB, "the training's libraries are in the service"

        second = Service(tmp_path, url, free_port())
        ended = wait_until(lambda: second.status()["ended"], within_s=200)
        assert (ended[0]["outcome"], ended[0]["run"]["run_id"]) == ("released", run["run_id"])
        assert ended[0]["run"]["to_ms"] == run["to_ms"]
        assert all(current_version(tmp_path / "models", name) for name in (*AGENTS, "meta"))
        second.stop()

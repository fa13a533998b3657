"""Telling a running agent about a release, and asking it what it serves: a real agent on a real server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from quantum_cli.errors import UsageError
from quantum_cli.running import RunningFleet, announced
from quantum_cli.serving import refusals, reload, serving_fleets
from quantum_common.models import promote, publish
from quantum_common.service import FleetSettings
from quantum_common.testing import free_port, running_server, wait_until
from quantum_common.testing.http import answers
from quantum_research.testing import linear_candidate

XGB_PORT = 8011


def release(models_dir: Path, version: str) -> None:
    model = linear_candidate("xgb", (0.2, 0.6, 0.2), known_to_ms=0, name=version)
    publish(models_dir, model.manifest, model.onnx_bytes)
    promote(models_dir, "xgb", version, reason="test", at_ms=0)


def fleet_at(redis_url: str, port_offset: int) -> FleetSettings:
    return FleetSettings(redis_url=SecretStr(redis_url), port_offset=port_offset)


def found(models_dir: Path, state_dir: Path | None = None) -> list[tuple[str, str]]:
    """Server and xgb-agent of each fleet that would be told."""
    return [
        (fleet.redis_url.get_secret_value(), fleet.url_of("xgb-agent"))
        for fleet in serving_fleets(models_dir, state_dir)
    ]


@dataclass(frozen=True)
class Running:
    models_dir: Path
    fleet: FleetSettings


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("serving")
    release(folder / "models", "v1")
    offset = free_port() - XGB_PORT
    with running_server(folder / "server") as url:
        settings = {
            "QT_REDIS_URL": url, "QT_PORT_OFFSET": str(offset), "QT_MODELS_DIR": str(folder / "models"),
            "QT_STATE_DIR": str(folder),
        }  # fmt: skip
        agent = subprocess.Popen([sys.executable, "-m", "xgb_agent"], env={**os.environ, **settings})
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{XGB_PORT + offset}/health/ready"), within_s=30)
            yield Running(folder / "models", fleet_at(url, offset))
        finally:
            agent.terminate()
            agent.wait(10)


def test_an_agent_that_was_told_serves_the_release_and_refuses_nothing(running: Running) -> None:
    release(running.models_dir, "v2")
    assert reload([running.fleet]) == "running agents were told"
    assert refusals([running.fleet], {"xgb": "v2", "nhits": "v9", "meta": "v9"}) == []


def test_an_agent_that_cannot_load_a_version_is_named_with_what_it_serves(running: Running) -> None:
    release(running.models_dir, "v3")
    (running.models_dir / "xgb/v3/model.onnx").write_bytes(b"damaged")
    reload([running.fleet])
    (refusal,) = refusals([running.fleet], {"xgb": "v3"}, within_s=2.0)
    assert refusal.startswith("xgb serves v2 (")
    assert "instead of v3" in refusal


def test_a_fleet_that_cannot_be_told_is_said_and_is_no_failure() -> None:
    nobody = fleet_at(f"redis://127.0.0.1:{free_port()}/0", free_port() - XGB_PORT)
    assert "was not told" in reload([nobody])
    assert refusals([nobody], {"xgb": "v1"}) == []
    assert reload([]) == "no fleet runs"


def test_the_fleets_that_use_the_models_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QT_REDIS_URL", raising=False)
    models = tmp_path / "models"
    for name, used in (("mine", models), ("other", tmp_path / "elsewhere")):
        (tmp_path / "state" / name).mkdir(parents=True)
        (tmp_path / "state" / name / "run.json").write_text(f'{{"models": "{used}"}}')
    mine = RunningFleet(os.getpid(), "redis://mine", "", port_offset=7)
    with (
        announced(Path("state/mine"), mine),
        announced(Path("state/other"), RunningFleet(os.getpid(), "redis://other", "")),
    ):
        assert found(models) == [("redis://mine", "http://127.0.0.1:8018")]
        assert found(models, Path("state/other")) == [("redis://other", "http://127.0.0.1:8011")]
        monkeypatch.setenv("QT_REDIS_URL", "redis://named")
        assert found(models) == [("redis://named", "http://127.0.0.1:8011")]
    monkeypatch.delenv("QT_REDIS_URL")
    (tmp_path / "qt_redis_url").write_text("redis://container")
    monkeypatch.setenv("QT_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("QT_SERVICE_URL", "http://{service}:{port}")
    assert found(models) == [("redis://container", "http://xgb-agent:8011")]
    with pytest.raises(UsageError, match="no fleet runs"):
        serving_fleets(models, Path("state/mine"))

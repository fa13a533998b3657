"""`quantum status`, `doctor`, `emergency-stop` and `flatten`: a real governer and server, and nothing else running."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner, Result

from quantum_cli.control import serving
from quantum_cli.doctor import Finding, settings_class
from quantum_cli.errors import UsageError
from quantum_cli.fleet import SERVICES
from quantum_cli.main import app
from quantum_cli.reach import find_fleet
from quantum_cli.running import RunningFleet, announced
from quantum_common.domain import SERVICE_PORTS
from quantum_common.testing import free_port, running_server, wait_until
from quantum_common.testing.http import answers

TOKEN = "token-of-this-test"
CHOOSING = ("QT_SERVICE_URL", "QT_PORT_OFFSET", "QT_API_TOKEN", "QT_SECRETS_DIR", "QT_REDIS_URL", "QT_STATE_DIR")


@dataclass(frozen=True)
class Lone:
    """A governer-svc without the rest of its fleet."""

    state_dir: Path
    redis_url: str
    port_offset: int

    @contextmanager
    def announced(self) -> Iterator[None]:
        with announced(self.state_dir, RunningFleet(os.getpid(), self.redis_url, "", 1, self.port_offset)):
            yield


@pytest.fixture(scope="module")
def governer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lone]:
    folder = tmp_path_factory.mktemp("operator")
    state_dir = folder / "state" / "run"
    state_dir.mkdir(parents=True)
    (state_dir / "api-token").touch(mode=0o600)
    (state_dir / "api-token").write_text(TOKEN)
    (state_dir / "run.json").write_text(json.dumps({"models": str(folder / "models")}))
    offset = free_port() - SERVICE_PORTS["governer-svc"]
    with running_server(folder / "server") as url:
        settings = {
            "QT_REDIS_URL": url, "QT_PORT_OFFSET": str(offset), "QT_STATE_DIR": str(state_dir), "QT_API_TOKEN": TOKEN,
        }  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "governer_svc"], env={**os.environ, **settings})
        try:
            status = f"http://127.0.0.1:{SERVICE_PORTS['governer-svc'] + offset}/api/risk/status"
            wait_until(lambda: answers(status), within_s=30)
            yield Lone(state_dir, url, offset)
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder where no fleet runs, and nothing exported that names one."""
    monkeypatch.chdir(tmp_path)
    for name in CHOOSING:
        monkeypatch.delenv(name, raising=False)


def quantum(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), env=environment)


def told(*arguments: object, **environment: str) -> Any:
    return json.loads(quantum(*arguments, "--json", **environment).stdout)


def test_a_named_folder_counts_before_the_exported_address_and_that_before_the_fleet_that_runs_here(
    governer: Lone, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_fleet(None).url_of("meta-svc") == "http://127.0.0.1:8001"
    monkeypatch.chdir(governer.state_dir.parents[1])
    with governer.announced():
        here = find_fleet(None)
        assert here.url_of("meta-svc") == f"http://127.0.0.1:{8001 + governer.port_offset}"
        assert here.token == TOKEN
        monkeypatch.setenv("QT_SERVICE_URL", "http://{service}:{port}")
        assert find_fleet(None).url_of("meta-svc") == "http://meta-svc:8001"
        assert find_fleet(governer.state_dir).url_of("meta-svc") == here.url_of("meta-svc")


async def test_dead_letters_are_unknown_until_the_recorder_has_looked() -> None:
    told = {"looked_at_ms": None, "problem": "the server is away", "alarms": [], "streams": []}
    recorder = FastAPI()
    recorder.add_api_route("/api/streams", lambda: told)
    async with serving(recorder) as url:
        said = await asyncio.to_thread(quantum, "status", "--json", QT_SERVICE_URL=url)
        assert json.loads(said.stdout)["dead_letters"] is None
        told |= {"looked_at_ms": 1, "streams": [{"stream": "{p00}:features", "dead_letters": 0}]}
        said = await asyncio.to_thread(quantum, "status", "--json", QT_SERVICE_URL=url)
        assert json.loads(said.stdout)["dead_letters"] == {}


def test_in_a_container_the_token_comes_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QT_SERVICE_URL", "http://{service}:{port}")
    with pytest.raises(UsageError, match="QT_SECRETS_DIR"):
        _ = find_fleet(None).token
    (tmp_path / "qt_api_token").write_text("from a file")
    monkeypatch.setenv("QT_SECRETS_DIR", str(tmp_path))
    assert find_fleet(None).token == "from a file"


def test_a_folder_without_a_fleet_and_a_setting_that_does_not_validate_are_wrong_usage(tmp_path: Path) -> None:
    assert quantum("status", "--state-dir", tmp_path).exit_code == 2
    result = quantum("status", QT_PORT_OFFSET="much")
    assert result.exit_code == 2
    assert "QT_PORT_OFFSET" in result.output


def test_status_says_who_is_silent_and_who_is_not_ready_and_why(governer: Lone) -> None:
    with governer.announced():
        seen = told("status", "--state-dir", governer.state_dir)
        assert quantum("status", "--state-dir", governer.state_dir).exit_code == 1
    rows = {row["service"]: row for row in seen["services"]}
    assert rows.keys() == SERVICE_PORTS.keys()
    assert rows["governer-svc"]["live"]
    assert not rows["governer-svc"]["ready"]
    assert rows["governer-svc"]["reasons"] == ["not ready: no account state from the venue yet"]
    assert rows["meta-svc"]["reasons"] == [f"nothing answers at http://127.0.0.1:{8001 + governer.port_offset}"]
    assert not seen["good"]
    silent = {problem.partition(":")[0] for problem in seen["problems"]}
    assert silent == SERVICE_PORTS.keys() - {"trainer-svc"}
    assert seen["risk"]["trading_state"] == "ACTIVE"
    assert seen["meta"] is None


def test_the_paper_venue_is_needed_on_paper_only(governer: Lone) -> None:
    seen = told("status", QT_PORT_OFFSET=str(governer.port_offset), QT_MODE="live")
    assert "exchange-sim" not in {problem.partition(":")[0] for problem in seen["problems"]}


def test_a_stranger_at_a_service_s_port_is_not_that_service(governer: Lone) -> None:
    offset = SERVICE_PORTS["governer-svc"] + governer.port_offset - SERVICE_PORTS["meta-svc"]
    rows = {row["service"]: row for row in told("status", QT_PORT_OFFSET=str(offset))["services"]}
    assert rows["meta-svc"]["reasons"] == ["governer-svc answers at its address"]
    assert not rows["meta-svc"]["live"]


def test_the_emergency_stop_is_set_with_who_and_why_and_read_back(governer: Lone) -> None:
    with governer.announced():
        there = ("--state-dir", governer.state_dir)
        on = quantum("emergency-stop", "on", "--reason", "venue trouble", *there)
        assert on.exit_code == 0, on.output
        assert "emergency stop is on, trading state REDUCING" in on.output
        assert told("emergency-stop", "off", "--reason", "over", *there)["emergency_stop"] is False
    config = httpx.get(f"http://127.0.0.1:{8002 + governer.port_offset}/api/risk/config", trust_env=False).json()
    assert [change["why"] for change in config["changes"]][-2:] == ["venue trouble", "over"]


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "cause"),
    [
        (("on",), {"QT_API_TOKEN": TOKEN}, 2, "--reason"),
        (("on", "--reason", " "), {"QT_API_TOKEN": TOKEN}, 2, "say why"),
        (("maybe", "--reason", "x"), {"QT_API_TOKEN": TOKEN}, 2, "maybe"),
        (("off", "--reason", "x", "--flatten"), {"QT_API_TOKEN": TOKEN}, 2, "goes with on"),
        (("on", "--reason", "x"), {}, 2, "no token"),
        (("on", "--reason", "x"), {"QT_API_TOKEN": "wrong"}, 1, "refuses (401)"),
        (("on", "--reason", "x" * 501), {"QT_API_TOKEN": TOKEN}, 1, "body.reason"),
    ],
)
def test_an_emergency_stop_that_is_refused_says_why(
    governer: Lone, arguments: tuple[str, ...], environment: dict[str, str], code: int, cause: str
) -> None:
    result = quantum("emergency-stop", *arguments, QT_PORT_OFFSET=str(governer.port_offset), **environment)
    assert (result.exit_code, cause in result.output) == (code, True), result.output
    status = httpx.get(f"http://127.0.0.1:{8002 + governer.port_offset}/api/risk/status", trust_env=False).json()
    assert status["emergency_stop"] is False


def test_an_order_to_a_service_that_is_silent_fails(governer: Lone) -> None:
    away = {"QT_PORT_OFFSET": str(governer.port_offset), "QT_API_TOKEN": TOKEN}
    result = quantum("flatten", "--reason", "x", "--yes", **away)
    assert result.exit_code == 1
    assert "executor-svc does not answer" in result.output


def test_flatten_asks_first_and_is_not_done_where_nobody_can_answer(governer: Lone) -> None:
    result = quantum("flatten", "--reason", "x", QT_PORT_OFFSET=str(governer.port_offset), QT_API_TOKEN=TOKEN)
    assert result.exit_code == 2
    assert "--yes" in result.output


def findings(**environment: str) -> dict[str, list[Finding]]:
    by_check: dict[str, list[Finding]] = {}
    for row in told("doctor", **environment):
        by_check.setdefault(row["check"], []).append(Finding(**row))
    return by_check


def test_the_doctor_finds_nothing_wrong_where_no_fleet_runs() -> None:
    result = quantum("doctor", QT_PORT_OFFSET="21000", OMP_NUM_THREADS="1")
    assert result.exit_code == 0, result.output
    found = findings(QT_PORT_OFFSET="21000", OMP_NUM_THREADS="2")
    assert found["threads"][0].level == "warn"
    assert found["models"][0].fix
    assert all(row.fix for rows in found.values() for row in rows if row.level == "fail")


@pytest.mark.parametrize(
    ("environment", "check", "named"),
    [
        ({"QT_SYMBOL": "X"}, "setting names", "QT_SYMBOL"),
        ({"META_OVERIDE": "1"}, "setting names", "META_OVERIDE"),
        ({"QT_WIN_RATE": "7"}, "settings", "QT_WIN_RATE"),
        ({"QT_LOOK_EVERY_S": "-1"}, "settings", "QT_LOOK_EVERY_S"),
        ({"QT_MODE": "live"}, "mode", "QT_LIVE_CONFIRM"),
        ({"QT_REDIS_URL": "redis://user:hidden@127.0.0.1:1"}, "server", "127.0.0.1:1"),
    ],
)
def test_the_doctor_names_the_variable_that_is_wrong_and_hides_its_password(
    environment: dict[str, str], check: str, named: str
) -> None:
    result = quantum("doctor", QT_PORT_OFFSET="21000", **environment)
    assert result.exit_code == 1
    assert "hidden" not in result.output
    failed = [row for row in findings(QT_PORT_OFFSET="21000", **environment)[check] if row.level == "fail"]
    assert [row for row in failed if named in row.found and row.fix], failed


def test_the_doctor_names_a_port_that_a_stranger_holds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        offset = stranger.getsockname()[1] - SERVICE_PORTS["meta-svc"]
        [finding] = [row for row in findings(QT_PORT_OFFSET=str(offset))["ports"] if row.level == "fail"]
    assert "meta-svc" in finding.found
    assert f"pid {os.getpid()}" in finding.found


def test_the_doctor_knows_the_fleet_s_own_ports_and_its_server(governer: Lone) -> None:
    found = findings(QT_PORT_OFFSET=str(governer.port_offset), QT_REDIS_URL=governer.redis_url)
    assert found["ports"][0].level == found["server"][0].level == "ok"
    assert found["server"][0].found.startswith("version ")
    assert found["model xgb"][0].level == "fail"  # the fleet runs, and its agents have nothing to serve


def test_the_doctor_refuses_a_server_that_forgets(tmp_path: Path) -> None:
    with running_server(tmp_path / "lax", appendfsync="everysec") as url:
        [finding] = findings(QT_PORT_OFFSET="21000", QT_REDIS_URL=url)["server"]
    assert finding.level == "fail"
    assert "CONFIG SET appendfsync always" in finding.found


def test_the_doctor_names_secrets_that_everyone_can_read(tmp_path: Path) -> None:
    (tmp_path / "qt_api_token").touch(mode=0o600)
    environment = {"QT_PORT_OFFSET": "21000", "QT_SECRETS_DIR": str(tmp_path), "QT_REDIS_URL": "redis://127.0.0.1:1"}
    assert findings(**environment)["secrets"][0].level == "ok"
    (tmp_path / "qt_api_token").chmod(0o644)
    [finding] = findings(**environment)["secrets"]
    assert finding.level == "fail"
    assert finding.fix == f"chmod o-r {tmp_path / 'qt_api_token'}"


def test_the_doctor_works_in_an_image_that_holds_only_some_of_the_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "executor_svc.settings", None)  # an import of it fails as if it were not there
    found = findings(QT_PORT_OFFSET="21000")
    assert found["mode"][0].found.startswith("not checked here")
    assert found["clock"][0].found.startswith("not compared here")
    assert found["settings"][0].level == "ok"


def test_every_service_s_settings_are_checked() -> None:
    assert {settings_class(member.module).service for member in SERVICES} == SERVICE_PORTS.keys()  # type: ignore[attr-defined]

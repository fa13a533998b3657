"""Redeploys of real child processes through the real HTTP app."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from typer.testing import CliRunner, Result

from quantum_cli.control import control_app, serving
from quantum_cli.main import app
from quantum_cli.running import RunningFleet, announced, token_path
from quantum_cli.supervisor import Child, Supervisor
from quantum_common.testing import eventually

TOKEN = "let-me-in"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
DRAINS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("up", flush=True)
time.sleep(600)
"""
STUBBORN = DRAINS.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")
FAILS_TO_DRAIN = DRAINS.replace("sys.exit(0)", "sys.exit(3)")


class Fleet:
    """A supervised fleet with its control surface, and what it reported."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.crashes: list[tuple[str, int]] = []
        self.said: list[str] = []
        self.supervisor = Supervisor(lambda child, code: self.crashes.append((child.name, code)))
        self.url = ""

    @asynccontextmanager
    async def running(self, scripts: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
        async with AsyncExitStack() as stack:
            self.url = await stack.enter_async_context(serving(control_app(self.supervisor, TOKEN, self.said.append)))
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=self.url, headers=HEADERS, timeout=30))
            await stack.enter_async_context(self.supervisor)
            for name, script in scripts.items():
                child = Child(name, [sys.executable, "-c", script], {}, self.folder / f"{name}.log")
                await self.supervisor.start(child)
                await eventually(lambda child=child: "up" in child.last_lines(), within_s=10)  # type: ignore[misc]
            yield client

    def child(self, name: str) -> Child:
        return next(child for child in self.supervisor.children if child.name == name)

    def pid(self, name: str) -> int:
        process = self.child(name).process
        assert process is not None
        return process.pid


def running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


async def test_a_redeployed_child_is_a_new_process_and_no_crash(fleet: Fleet) -> None:
    async with fleet.running({"worker": DRAINS, "other": DRAINS}) as http:
        before, other = fleet.pid("worker"), fleet.pid("other")
        response = await http.post("/fleet/worker/redeploy")
        done = response.json()
        assert response.status_code == 200
        assert (done["good"], done["exit_code"], done["killed"], done["ready"]) == (True, 0, False, True)
        assert fleet.pid("worker") != before
        assert running(fleet.pid("worker"))
        assert not running(before)
        assert fleet.pid("other") == other
    assert fleet.crashes == []
    assert fleet.said[0].startswith("worker redeployed: drained in 0.")


async def test_a_redeployed_child_that_crashes_later_is_started_again(fleet: Fleet) -> None:
    async with fleet.running({"worker": DRAINS}) as http:
        await http.post("/fleet/worker/redeploy")
        redeployed = fleet.pid("worker")
        await eventually(lambda: fleet.child("worker").last_lines().count("up") == 2, within_s=10)
        psutil.Process(redeployed).kill()
        await eventually(lambda: fleet.pid("worker") != redeployed, within_s=10)
    assert fleet.crashes == [("worker", -signal.SIGKILL)]


async def test_the_fleet_is_listed_with_pids_restarts_and_start_times(fleet: Fleet) -> None:
    async with fleet.running({"worker": DRAINS}) as http:
        first = (await http.get("/fleet")).json()
        await http.post("/fleet/worker/redeploy")
        second = (await http.get("/fleet")).json()
        assert [row["name"] for row in second] == ["worker"]
        assert second[0]["pid"] == fleet.pid("worker") != first[0]["pid"]
        assert second[0]["restarts"] == 0
        assert second[0]["up_since"] > first[0]["up_since"]


async def test_a_child_that_ignores_sigterm_is_killed_started_again_and_the_answer_says_so(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantum_cli.supervisor.STOP_WAIT_S", 0.3)
    async with fleet.running({"worker": STUBBORN}) as http:
        response = await http.post("/fleet/worker/redeploy")
        done = response.json()
        assert response.status_code == 500
        assert (done["good"], done["exit_code"], done["killed"], done["ready"]) == (False, -signal.SIGKILL, True, True)
        assert running(fleet.pid("worker"))
    assert fleet.crashes == []


async def test_a_child_that_drains_with_an_error_is_no_good_redeploy(fleet: Fleet) -> None:
    async with fleet.running({"worker": FAILS_TO_DRAIN}) as http:
        response = await http.post("/fleet/worker/redeploy")
        assert response.status_code == 500
        assert (response.json()["exit_code"], response.json()["killed"]) == (3, False)


async def test_a_child_that_does_not_come_back_is_reported_with_its_last_lines(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never() -> bool:
        return False

    monkeypatch.setattr("quantum_cli.control.READY_WITHIN_S", 0.5)
    async with fleet.running({"worker": DRAINS}) as http:
        fleet.child("worker").ready = never
        response = await http.post("/fleet/worker/redeploy")
        assert response.status_code == 500
        assert (response.json()["exit_code"], response.json()["ready"]) == (0, False)
        assert "worker did not become ready" in response.json()["problem"]


async def test_a_child_in_the_pause_after_a_crash_is_started_at_once_and_only_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantum_cli.supervisor.FIRST_PAUSE_S", 1.0)
    async with fleet.running({"worker": DRAINS}) as http:
        psutil.Process(fleet.pid("worker")).kill()
        await eventually(lambda: fleet.crashes)
        done = (await http.post("/fleet/worker/redeploy")).json()
        assert (done["good"], done["exit_code"]) == (True, None)
        redeployed = fleet.pid("worker")
        await asyncio.sleep(1.2)  # the pause is over: nobody started a second one
        assert fleet.pid("worker") == redeployed
        assert running(redeployed)


async def test_crashes_of_long_ago_do_not_shorten_the_wait_for_a_redeployed_child(fleet: Fleet) -> None:
    answers = iter([False, True])

    async def at_the_second_look() -> bool:
        return next(answers)

    async with fleet.running({"worker": DRAINS}) as http:
        fleet.child("worker").restarts, fleet.child("worker").ready = 5, at_the_second_look
        assert (await http.post("/fleet/worker/redeploy")).json()["good"]


async def test_an_unknown_service_is_answered_with_the_names_there_are(fleet: Fleet) -> None:
    async with fleet.running({"worker": DRAINS, "other": DRAINS}) as http:
        response = await http.post("/fleet/wroker/redeploy")
        assert response.status_code == 404
        assert "worker, other" in response.json()["detail"]


async def test_a_second_redeploy_of_the_same_service_is_refused_while_one_is_under_way(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantum_cli.supervisor.STOP_WAIT_S", 1.0)
    async with fleet.running({"worker": STUBBORN, "other": DRAINS}) as http:
        first = asyncio.create_task(http.post("/fleet/worker/redeploy"))
        await eventually(lambda: fleet.child("worker").stopping)
        assert (await http.post("/fleet/worker/redeploy")).status_code == 409
        assert (await http.post("/fleet/other/redeploy")).status_code == 200
        assert (await first).json()["killed"]
        assert (await http.post("/fleet/worker/redeploy")).status_code != 409


@pytest.mark.parametrize("headers", [{"Authorization": ""}, {"Authorization": "Bearer wrong"}])
async def test_nothing_is_told_or_done_without_the_token(fleet: Fleet, headers: dict[str, str]) -> None:
    async with fleet.running({"worker": DRAINS}) as http:
        before = fleet.pid("worker")
        assert (await http.get("/fleet", headers=headers)).status_code == 401
        assert (await http.post("/fleet/worker/redeploy", headers=headers)).status_code == 401
        assert fleet.pid("worker") == before


async def test_a_fleet_that_ends_during_a_redeploy_starts_nothing_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantum_cli.supervisor.STOP_WAIT_S", 0.5)
    async with AsyncExitStack() as outside:
        http = await outside.enter_async_context(httpx.AsyncClient(headers=HEADERS, timeout=30))
        async with fleet.running({"worker": STUBBORN}):
            redeploy = asyncio.create_task(http.post(f"{fleet.url}/fleet/worker/redeploy"))
            await eventually(lambda: fleet.child("worker").stopping)
        assert (await redeploy).status_code == 503
    assert not running(fleet.pid("worker"))


async def quantum(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, arguments)


async def test_the_command_redeploys_and_says_how_it_went_in_its_exit_code(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantum_cli.supervisor.STOP_WAIT_S", 0.5)
    token_path(fleet.folder).write_text(TOKEN)
    here = ("--state-dir", str(fleet.folder))
    async with fleet.running({"worker": DRAINS, "stubborn": STUBBORN}):
        with announced(fleet.folder, RunningFleet(psutil.Process().pid, "redis://127.0.0.1:1", fleet.url)):
            good = await quantum("redeploy", "worker", *here)
            as_json = await quantum("redeploy", "worker", "--json", *here)
            killed = await quantum("redeploy", "stubborn", *here)
            unknown = await quantum("redeploy", "wroker", *here)
            token_path(fleet.folder).write_text("wrong")
            refused = await quantum("redeploy", "worker", *here)
    assert (good.exit_code, as_json.exit_code, killed.exit_code) == (0, 0, 1)
    assert "drained in" in good.output
    assert '"exit_code": 0' in as_json.output
    assert "was killed" in killed.output
    assert unknown.exit_code == 2
    assert "worker, stubborn" in unknown.output
    assert refused.exit_code == 1
    assert (await quantum("redeploy", "worker", *here)).exit_code == 2

"""Trainings as processes: one at a time, bounded, ended at will, continued after a restart. The processes are real."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from quantum_common.service import Stop
from quantum_common.testing import eventually
from trainer_svc.child import CRASHED, OUT_OF_MEMORY
from trainer_svc.core import Due, Reason
from trainer_svc.errors import AlreadyRunning, StateDamaged
from trainer_svc.settings import Settings
from trainer_svc.state import Ended, Run
from trainer_svc.trainings import MOST_STARTS, Trainings, deploy_command

NOW = 1_750_000_000_000
WISH = Due(Reason.MANUAL, "test")
SAY = "import sys, json, time, os; say = lambda **row: print(json.dumps(row), flush=True)\n"
SUCCEED = SAY + "say(stage='xgb fold 1/2', fraction=0.5); say(step=4, stage='trees', detail='trained')\n"
SUCCEED += "say(outcome='released', detail='xgb v2')"
LAST = SAY + "say(stage='xgb', fraction=0.1); time.sleep(60)"
STUBBORN = SAY + "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + LAST
WITH_GRANDCHILD = (
    SAY + "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n" + LAST
)
HUNGRY = (
    SAY + "say(stage='eating', fraction=0.0); kept = [bytearray(b'x' * 10_000_000) for _ in range(30)]; time.sleep(60)"
)


def settings(folder: Path, **changes: object) -> Settings:
    return Settings(state_dir=folder, models_dir=folder / "models", **changes)  # type: ignore[arg-type]


def trainings(folder: Path, script: str, **changes: object) -> Trainings:
    def command(_: Settings, run: Run, work_dir: Path) -> Sequence[str]:
        return [sys.executable, "-c", script, str(work_dir)]

    return Trainings(settings(folder, **changes), lambda: NOW, command)


@asynccontextmanager
async def turning(of: Trainings) -> AsyncIterator[Stop]:
    """Its loop runs; leaving stops it as SIGTERM does."""
    stop = Stop()
    loop = asyncio.create_task(of.run(stop, lambda: None))
    try:
        yield stop
    finally:
        stop.request()
        await asyncio.wait_for(loop, 10)


async def ended(of: Trainings) -> Ended:
    rows = await eventually(lambda: of.state.ended, within_s=20)
    return rows[-1]


def children() -> list[psutil.Process]:
    """Those that live: what another test's child left in the process table has no command line any more."""
    found = psutil.Process(os.getpid()).children(recursive=True)
    return [child for child in found if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


async def started(of: Trainings) -> None:
    await eventually(lambda: of.document()["stage"] not in (None, "starting"), within_s=20)


async def test_a_training_runs_and_its_own_word_is_its_outcome(tmp_path: Path) -> None:
    one = trainings(tmp_path, SUCCEED)
    async with turning(one):
        run = one.start(WISH)
        end = await ended(one)
    assert (end.run.run_id, end.outcome, end.detail) == (run.run_id, "released", "xgb v2")
    assert [step["stage"] for step in one.document()["steps"]] == ["trees"]
    assert one.running is None


async def test_there_is_one_training_at_a_time(tmp_path: Path) -> None:
    one = trainings(tmp_path, LAST)
    async with turning(one):
        one.start(WISH)
        with pytest.raises(AlreadyRunning, match="manual"):
            one.start(WISH)
        await started(one)
        with pytest.raises(AlreadyRunning):
            one.start(WISH)
        assert await one.cancel()


@pytest.mark.parametrize("script", [LAST, STUBBORN, WITH_GRANDCHILD])
async def test_a_cancelled_training_and_what_it_started_are_gone(tmp_path: Path, script: str) -> None:
    before = children()
    one = trainings(tmp_path, script)
    async with turning(one):
        one.start(WISH)
        await started(one)
        assert len(children()) > len(before)
        async with asyncio.timeout(5):
            assert await one.cancel()
        assert (await ended(one)).outcome == "cancelled"
        assert not await one.cancel()
    await eventually(lambda: len(children()) == len(before))


async def test_what_a_training_left_running_is_gone_when_it_ended(tmp_path: Path) -> None:
    start = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', sys.argv[1]], stdout=-3)\n"
    one = trainings(tmp_path, SAY + "import subprocess\n" + start + "say(outcome='released')")
    async with turning(one):
        one.start(WISH)
        assert (await ended(one)).outcome == "released"
    await eventually(lambda: not [p for p in psutil.process_iter(["cmdline"]) if named(p, tmp_path)])


def named(process: psutil.Process, folder: Path) -> bool:
    return any(str(folder) in part for part in process.info["cmdline"] or ())


async def test_a_training_that_was_not_taken_up_yet_can_be_cancelled(tmp_path: Path) -> None:
    one = trainings(tmp_path, LAST)
    one.start(WISH)
    assert await one.cancel()
    assert one.state.ended[-1].outcome == "cancelled"


async def test_it_has_only_the_time_that_nobody_else_wants(tmp_path: Path) -> None:
    one = trainings(tmp_path, LAST)
    async with turning(one):
        one.start(WISH)
        await started(one)
        child = next(child for child in children() if child.cmdline()[-1] == str(tmp_path / "trainer/work"))
        assert child.nice() == 19
        if hasattr(os, "sched_getscheduler"):
            assert os.sched_getscheduler(child.pid) == os.SCHED_IDLE
        await one.cancel()


async def test_one_that_uses_too_much_memory_is_ended_and_says_so(tmp_path: Path) -> None:
    one = trainings(tmp_path, HUNGRY, train_max_rss_mb=150)
    async with turning(one):
        one.start(WISH)
        end = await ended(one)
    assert end.outcome == OUT_OF_MEMORY
    assert "150 MB are allowed" in end.detail


async def test_one_that_crashes_is_not_repeated_by_itself(tmp_path: Path) -> None:
    one = trainings(tmp_path, "raise SystemExit(3)")
    async with turning(one):
        one.start(WISH)
        end = await ended(one)
    assert (end.outcome, end.detail) == (CRASHED, "exit code 3; see training.log")


RESUMED = (
    SAY
    + """
from pathlib import Path
folder = Path(sys.argv[1]); folder.mkdir(parents=True, exist_ok=True)
if (folder / "half").exists():
    say(outcome="released", detail="went on")
else:
    (folder / "half").touch(); say(stage="xgb", fraction=0.5); time.sleep(60)
"""
)


async def test_a_training_goes_on_after_a_restart_of_the_service_with_the_same_range(tmp_path: Path) -> None:
    first = trainings(tmp_path, RESUMED)
    async with turning(first):
        run = first.start(WISH)
        await started(first)
    assert first.running == run
    second = trainings(tmp_path, RESUMED)
    async with turning(second):
        end = await ended(second)
    assert (end.run.to_ms, end.outcome, end.detail) == (run.to_ms, "released", "went on")
    assert not (tmp_path / "trainer/work").exists()


async def test_a_training_during_which_the_service_is_killed_again_and_again_is_given_up(tmp_path: Path) -> None:
    killed = trainings(tmp_path, LAST)
    killed.start(WISH)
    for number in range(MOST_STARTS):
        service = trainings(tmp_path, LAST)
        loop = asyncio.create_task(service.run(Stop(), lambda: None))
        await started(service)
        loop.cancel()
        await asyncio.wait({loop})
        assert trainings(tmp_path, LAST).running.starts == number + 1  # type: ignore[union-attr]
    last = trainings(tmp_path, LAST)
    async with turning(last):
        assert (await ended(last)).outcome == "failed"


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/state.json").write_text('{"first_start_ms": "yesterday"}')
    with pytest.raises(StateDamaged, match=r"state\.json.*first_start_ms.*remove the file"):
        trainings(tmp_path, LAST)


def test_the_command_carries_the_fleets_data_label_and_clock(tmp_path: Path) -> None:
    chosen = settings(tmp_path, symbols="BTCUSDT,ETHUSDT", timeframe="15m", shadow_bars=7, train_quick=True)
    run = Run(run_id="r", reason=Reason.MANUAL, detail="", meta_only=True, to_ms=NOW, started_ms=NOW)
    command = " ".join(deploy_command(chosen, run, tmp_path / "work"))
    for part in (
        "-m quantum_cli deploy",
        "--symbols BTCUSDT,ETHUSDT --timeframe 15m --to 2025-06-15T15:06:40",
        "--label-threshold 0.004 --horizon 5",
        "--shadow-bars 7 --at 2025-06-15T15:06:40",
        "--quick --only meta",
    ):
        assert part in command
    assert "--data" not in command
    assert f"--data {tmp_path}" in " ".join(deploy_command(settings(tmp_path, train_data_dir=tmp_path), run, tmp_path))

"""Which fleet a command means: what a killed one left behind confuses nobody."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from quantum_cli.errors import UsageError
from quantum_cli.running import FILE_NAME, RunningFleet, announced, choose_fleet, running_in

ME = RunningFleet(os.getpid(), "redis://127.0.0.1:1/0", "http://127.0.0.1:1")


def write(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / FILE_NAME).write_text(text)


def gone_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_behind(pid: int) -> str:
    return f'{{"pid": {pid}, "redis_url": "redis://127.0.0.1:1/0", "control_url": "http://127.0.0.1:1"}}'


def test_a_fleet_is_found_while_it_runs_and_its_file_is_for_its_user_only(tmp_path: Path) -> None:
    with announced(tmp_path, ME):
        assert running_in(tmp_path) == ME
        assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
        assert choose_fleet(tmp_path) == (tmp_path, ME)
    assert running_in(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_killed_fleet_counts_as_none(tmp_path: Path) -> None:
    write(tmp_path / "a", left_behind(gone_pid()))
    assert running_in(tmp_path / "a") is None
    with announced(tmp_path / "a", ME):  # the next run of the folder
        assert running_in(tmp_path / "a") == ME


def test_a_killed_process_that_nobody_has_waited_for_is_gone_too(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "print()"], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.read()
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        write(tmp_path / "a", left_behind(process.pid))
        assert running_in(tmp_path / "a") is None


def test_a_process_that_got_the_pid_of_a_killed_fleet_is_not_that_fleet(tmp_path: Path) -> None:
    write(tmp_path / "a", left_behind(os.getpid()))
    assert running_in(tmp_path / "a") == ME
    os.utime(tmp_path / "a" / FILE_NAME, (1_000_000_000, 1_000_000_000))
    assert running_in(tmp_path / "a") is None


@pytest.mark.parametrize("text", ["", "{", "{}", '{"pid": "x"}', left_behind(0), left_behind(-5), left_behind(2**40)])
def test_a_file_that_says_nothing_useful_counts_as_none(tmp_path: Path, text: str) -> None:
    write(tmp_path / "a", text)
    assert running_in(tmp_path / "a") is None


def test_without_a_folder_the_only_fleet_below_state_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"no fleet runs from a folder below .*state: .*--state-dir"):
        choose_fleet(None)
    write(tmp_path / "state" / "killed", left_behind(gone_pid()))
    for name in ("one", "two"):
        (tmp_path / "state" / name).mkdir()
    with announced(Path("state/one"), ME):
        assert choose_fleet(None) == (Path("state/one"), ME)
        with (
            announced(Path("state/two"), ME),
            pytest.raises(UsageError, match=r"several fleets run \(state/one, state/two\): .*--state-dir"),
        ):
            choose_fleet(None)


def test_a_named_folder_without_a_running_fleet_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no fleet runs from"):
        choose_fleet(tmp_path)

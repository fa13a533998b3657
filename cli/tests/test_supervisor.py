"""No orphan process, ever: children end with the supervisor however it ends, and come back when they crash."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from quantum_cli.errors import RunFailed, UsageError
from quantum_cli.fleet import VENUE, check_ports_free
from quantum_cli.supervisor import Child, Supervisor
from quantum_common.testing import eventually

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]
PARENT = """
import asyncio, sys
from pathlib import Path
from quantum_cli.supervisor import Child, Supervisor

async def main():
    async with Supervisor(lambda child, code: None) as supervisor:
        for number in range(3):
            child = Child(str(number), [sys.executable, "-c", "import time; time.sleep(600)"], {}, Path(sys.argv[1]))
            await supervisor.start(child)
            print(child.process.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_killing_the_supervisor_leaves_no_child_behind(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert parent.stdout is not None
    pids = [int(await asyncio.to_thread(parent.stdout.readline)) for _ in range(3)]
    assert all(running(pid) for pid in pids)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    await eventually(lambda: not any(running(pid) for pid in pids))


async def test_a_crashed_child_is_started_again_and_reported(tmp_path: Path) -> None:
    crashes: list[tuple[str, int]] = []
    async with Supervisor(lambda child, code: crashes.append((child.name, code))) as supervisor:
        child = Child("worker", SLEEPER, {}, tmp_path / "log")
        await supervisor.start(child)
        assert child.process is not None
        first = child.process.pid
        child.process.kill()
        await eventually(lambda: child.process is not None and child.process.pid != first, within_s=10)
        assert child.restarts == 1
    assert crashes == [("worker", -signal.SIGKILL)]


async def test_leaving_the_supervisor_ends_children_that_ignore_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantum_cli.supervisor.STOP_WAIT_S", 0.3)
    async with Supervisor(lambda child, code: None) as supervisor:
        child = Child("stubborn", STUBBORN, {}, tmp_path / "log")
        await supervisor.start(child)
        await eventually(lambda: "up" in child.last_lines(), within_s=10)
    assert child.process is not None
    assert child.process.returncode == -signal.SIGKILL


async def test_a_child_in_the_pause_after_a_crash_is_not_started_while_the_others_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantum_cli.supervisor.STOP_WAIT_S", 1.5)
    monkeypatch.setattr("quantum_cli.supervisor.FIRST_PAUSE_S", 0.5)
    crashes: list[str] = []
    async with Supervisor(lambda child, code: crashes.append(child.name)) as supervisor:
        await supervisor.start(Child("server", SLEEPER, {}, tmp_path / "server.log"))
        stubborn = Child("stubborn", STUBBORN, {}, tmp_path / "stubborn.log")
        await supervisor.start(stubborn)
        await eventually(lambda: "up" in stubborn.last_lines(), within_s=10)
        child = Child("worker", SLEEPER, {}, tmp_path / "worker.log")
        await supervisor.start(child)
        assert child.process is not None
        crashed = child.process.pid
        child.process.kill()
        await eventually(lambda: crashes)
    assert child.process.pid == crashed


async def test_a_stop_during_a_start_ends_the_process_that_is_being_started(tmp_path: Path) -> None:
    child = Child("worker", SLEEPER, {}, tmp_path / "log")
    starting = asyncio.create_task(child.start())
    await asyncio.sleep(0)
    ended = await child.stop()
    process = await starting
    assert ended.exit_code == process.returncode == -signal.SIGTERM


async def test_a_child_that_never_gets_ready_is_named_with_its_last_lines(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    async with Supervisor(lambda child, code: None) as supervisor:
        child = Child("worker", [sys.executable, "-c", "print('no such venue')"], {}, tmp_path / "log", ready=never)
        await supervisor.start(child)
        with pytest.raises(RunFailed, match=r"worker did not become ready(.|\n)*no such venue"):
            await supervisor.wait_until_ready(child, within_s=1.0)


async def test_a_taken_port_is_named_with_its_holder_before_anything_starts() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(UsageError, match=rf"port taken: {port} \(exchange-sim; held by .*--port-offset"):
            check_ports_free(port - VENUE.port)
    finally:
        server.close()

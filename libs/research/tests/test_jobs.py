"""The same jobs in this process, in several and on a real Ray cluster."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import psutil
import pytest

from quantum_research import ResearchError
from quantum_research.jobs import RAY_LOCAL, open_workers, run_jobs

WORKERS = 2
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
work = import_module("worker_functions")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two nodes of one CPU on this machine."""
    ray_cluster = pytest.importorskip("ray.cluster_utils").Cluster
    node = {
        "num_cpus": 1,
        "object_store_memory": 100 * 1024**2,
        "include_dashboard": False,
        "node_ip_address": "127.0.0.1",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
        started = ray_cluster(initialize_head=True, head_node_args=node)
        started.add_node(**node)
    yield f"127.0.0.1:{started.address.rpartition(':')[2]}"
    started.shutdown()


def test_processes_give_what_this_process_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    shared = np.arange(1000.0)
    here = dict(run_jobs(work.scaled_sum, [1, 2, 3, 4, 5], shared))
    there = dict(run_jobs(work.scaled_sum, [1, 2, 3, 4, 5], shared, workers=WORKERS))
    assert {i: value[0] for i, value in there.items()} == {i: value[0] for i, value in here.items()}
    assert {value[1] for value in there.values()} == {"1"}
    assert os.getpid() not in {value[2] for value in there.values()}
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_a_ray_cluster_gives_what_this_process_gives(cluster: str) -> None:
    shared = np.arange(1000.0)
    here = dict(run_jobs(work.scaled_sum, [1, 2, 3, 4, 5], shared))
    there = dict(run_jobs(work.scaled_sum, [1, 2, 3, 4, 5], shared, ray_address=cluster))
    assert {i: value[0] for i, value in there.items()} == {i: value[0] for i, value in here.items()}
    assert {value[1] for value in there.values()} == {"1"}


def test_workers_stay_for_several_rounds_and_are_gone_after_them() -> None:
    with open_workers(np.ones(3), workers=WORKERS) as run:
        rounds = [dict(run(work.scaled_sum, [1, 2, 3, 4])) for _ in range(2)]
        pids = {value[2] for results in rounds for value in results.values()}
        assert len(pids) <= WORKERS
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_the_first_failure_is_raised_as_it_was_and_cancels_what_has_not_started(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="two"):
        list(run_jobs(work.fails_at_two, range(1, 30), tmp_path, workers=WORKERS))
    assert len(list(tmp_path.iterdir())) < 20


@pytest.mark.timeout(60)
def test_a_failure_ends_the_jobs_that_are_running(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="one"):
        list(run_jobs(work.waits_or_fails, [0, 1], tmp_path, workers=WORKERS))
    assert not psutil.pid_exists(int((tmp_path / "0.pid").read_text()))


def test_a_failure_on_ray_is_raised_as_it_was(tmp_path: Path, cluster: str) -> None:
    with pytest.raises(LookupError, match=r"^two$") as failure:
        list(run_jobs(work.fails_at_two, [1, 2], tmp_path, ray_address=cluster))
    assert failure.type is LookupError


def test_a_worker_that_dies_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ResearchError, match="use fewer jobs"):
        list(run_jobs(work.dies, [1, 2], None, workers=WORKERS))


@pytest.mark.timeout(60)
def test_a_worker_that_cannot_take_in_what_all_share_is_an_error_and_no_wait_for_ever() -> None:
    more_than_a_pipe_holds = [work.NotHere(), bytes(1_000_000)]
    with pytest.raises(ResearchError, match="as told above"):
        list(run_jobs(work.ignores, [1, 2], more_than_a_pipe_holds, workers=WORKERS))


def test_a_ray_instance_that_is_started_here_listens_on_loopback_only() -> None:
    pytest.importorskip("ray")
    with open_workers(None, workers=1, ray_address=RAY_LOCAL):
        family = psutil.Process().children(recursive=True)
        addresses = {
            connection.laddr.ip
            for process in family
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_an_address_without_a_cluster_is_refused() -> None:
    with pytest.raises(ResearchError, match=r"no Ray cluster at '127\.0\.0\.1:9'"):
        list(run_jobs(work.scaled_sum, [1], np.ones(1), ray_address="127.0.0.1:9"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_leaves_no_worker(how: signal.Signals, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); from worker_functions import waits\n"
        "from quantum_research.jobs import run_jobs\n"
        "list(run_jobs(waits, range(4), Path(sys.argv[2]), workers=2))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(HERE), str(tmp_path)])
    pids = eventually_pids(tmp_path)
    parent.send_signal(how)
    assert parent.wait(30) != 0
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=30)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def eventually_pids(folder: Path) -> list[int]:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        found = [path.read_text() for path in folder.glob("*.pid")]
        if len(found) == WORKERS and all(found):
            return [int(text) for text in found]
        time.sleep(0.05)
    raise AssertionError("the workers did not start")

"""The same work in this process, in several processes or on a Ray cluster: one function over many arguments.

What is computed must depend on the shared value and the argument only; then it is the same wherever it runs.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from ipaddress import ip_address
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

from quantum_research import ResearchError

A = TypeVar("A")
R = TypeVar("R")
S = TypeVar("S")

RAY_LOCAL = "local"
"""The address that starts a Ray instance on this machine for the time of the work."""
RAY_STORE_BYTES = 256 * 1024**2
"""Object store of an instance that is started here; it holds the shared value once."""
RAY_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's switch for its processes to stay on 127.0.0.1, named after the systems where it is the default."""
CONNECT_TIMEOUT_S = 5.0
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
"""Set for the workers before they load a library: parallel is between jobs, not within one."""


class Run(Protocol):
    """Runs `function(shared, argument)` for every argument where the workers are; yields (index, result) as they end.

    The first failure is raised as the function raised it; what has not started by then is cancelled with the workers.
    """

    def __call__(self, function: Callable[[Any, A], R], arguments: Sequence[A], /) -> Iterator[tuple[int, R]]: ...


def run_jobs(
    function: Callable[[S, A], R],
    arguments: Sequence[A],
    shared: S,
    *,
    workers: int = 1,
    ray_address: str | None = None,
) -> Iterator[tuple[int, R]]:
    """Run `function(shared, argument)` for every argument; see `open_workers` for where, and `Run` for failures."""
    with open_workers(shared, workers=workers, ray_address=ray_address) as run:
        yield from run(function, arguments)


@contextmanager
def open_workers(shared: Any, *, workers: int = 1, ray_address: str | None = None) -> Iterator[Run]:
    """Workers that hold `shared` and are gone at the end, whichever way that comes.

    One worker and no address: this process, in order. Several: processes, each of which takes a pickled `shared` once.
    `ray_address`: "host:port" or "auto" joins a running cluster, whose size decides how many jobs run at once; "local"
    starts one with `workers` CPUs. Ray gives a job one thread by itself. Functions must be importable by name where
    they run. Raises ResearchError.
    """
    if ray_address is not None:
        with _on_ray(shared, workers, ray_address) as run:
            yield run
    elif workers > 1:
        with _in_processes(shared, workers) as run:
            yield run
    else:
        yield _Here(shared)


class _Here:
    def __init__(self, shared: Any) -> None:
        self._shared = shared

    def __call__(self, function: Callable[[Any, A], R], arguments: Sequence[A], /) -> Iterator[tuple[int, R]]:
        for index, argument in enumerate(arguments):
            yield index, function(self._shared, argument)


_shared: Any = None
"""In a worker process: the value that all its jobs share."""


@contextmanager
def _in_processes(shared: Any, workers: int) -> Iterator[Run]:
    """Spawned, because a fork of a process with threads can hang. They end when the lifeline closes: at the end of the
    block, and by the operating system when this process dies, however it dies."""
    context = get_context("spawn")
    lifeline, held = context.Pipe(duplex=False)
    # As bytes, which a worker takes in before anything is imported: one that failed half-way (a missing library) would
    # leave this process writing for ever to a pipe that it holds open itself.
    initargs = (pickle.dumps(shared), lifeline)
    executor = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=initargs)
    try:
        with _exported(ONE_THREAD):  # all the time: a process starts when there is work for it
            yield _Processes(executor)
        executor.shutdown(wait=True)  # idle ones end by themselves, and tidy up; after a failure nobody waits for them
    finally:
        held.close()
        executor.shutdown(wait=True, cancel_futures=True)
        lifeline.close()


def _start_worker(shared: bytes, lifeline: Connection) -> None:
    global _shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the parent decides
    threading.Thread(target=_die_with, args=(lifeline,), daemon=True).start()
    _shared = pickle.loads(shared)


def _die_with(lifeline: Connection) -> None:
    lifeline.poll(None)
    os._exit(1)


def _call(function: Callable[[Any, A], R], argument: A) -> R:
    return function(_shared, argument)


class _Processes:
    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self._executor = executor

    def __call__(self, function: Callable[[Any, A], R], arguments: Sequence[A], /) -> Iterator[tuple[int, R]]:
        futures = {self._executor.submit(_call, function, argument): i for i, argument in enumerate(arguments)}
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=futures.__getitem__):
                    yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise ResearchError(
                "a worker process died, for want of memory (use fewer jobs) or as told above"
            ) from error


@contextmanager
def _exported(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _on_ray(shared: Any, workers: int, address: str) -> Iterator[Run]:
    try:
        import ray
        from ray._private import ray_constants
    except ImportError as error:
        raise ResearchError(f"{error}; install quantum-research with its extra 'ray'") from error
    if address == RAY_LOCAL or _check_reachable(address):
        # Ray would take the machine's outer address for loopback: listen there, and look for a cluster there.
        ray_constants.ENABLE_RAY_CLUSTER = False
    own: dict[str, Any] = {"num_cpus": workers, "object_store_memory": RAY_STORE_BYTES, "_node_ip_address": "127.0.0.1"}
    try:
        with _exported(RAY_ON_LOOPBACK if address == RAY_LOCAL else {}):
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                **(own if address == RAY_LOCAL else {}),
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ResearchError(f"no Ray cluster at {address!r}: {error}") from error
    try:
        yield _Ray(ray.put(shared))
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> bool:
    """Whether the address is loopback. Asked first, because Ray itself tries a wrong address for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return False
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S) as connection:
            return ip_address(connection.getpeername()[0]).is_loopback
    except (OSError, ValueError) as error:
        raise ResearchError(f"no Ray cluster at {address!r}: {error}") from error


class _Ray:
    def __init__(self, shared: Any) -> None:
        self._shared = shared

    def __call__(self, function: Callable[[Any, A], R], arguments: Sequence[A], /) -> Iterator[tuple[int, R]]:
        import ray

        task = ray.remote(num_cpus=1)(function)
        pending = {task.remote(self._shared, argument): index for index, argument in enumerate(arguments)}
        try:
            while pending:
                done, _ = ray.wait(list(pending), num_returns=1)
                index = pending.pop(done[0])
                yield index, ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        finally:
            for task_ref in pending:
                ray.cancel(task_ref, force=True)

"""The training process: low priority, bounded memory, ended at will. It prints progress and result as JSON lines."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import psutil

log = logging.getLogger(__name__)

MEASURE_EVERY_S = 0.5
TERMINATE_WAIT_S = 2.0
LONGEST_LINE_BYTES = 1_048_576
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class Result(msgspec.Struct, frozen=True):
    """How a process ended. `outcome`: its own word for it, or ours when it could not say."""

    outcome: str
    detail: str
    peak_rss_mb: float
    wall_s: float


class Line(msgspec.Struct, frozen=True):
    """A line of the child: progress, a finished step, or its result."""

    stage: str | None = None
    fraction: float | None = None
    step: int | None = None
    outcome: str | None = None
    detail: str = ""


OUT_OF_MEMORY = "out_of_memory_budget"
CANCELLED = "cancelled"
INTERRUPTED = "interrupted"
CRASHED = "crashed"
_line_decoder = msgspec.json.Decoder(Line)


def _stay_in_the_background() -> None:
    """In the child before it runs: ends with its parent, and has only what CPU nobody else wants."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(19)
    with contextlib.suppress(OSError, AttributeError):  # not on every kernel
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


class TrainingProcess:
    """One process and whatever it starts. `on_line` sees every line it prints."""

    def __init__(self, *, max_rss_mb: float, on_line: Callable[[Line], None], log_path: Path) -> None:
        self._max_rss_mb, self._on_line, self._log_path = max_rss_mb, on_line, log_path
        self._ending: str | None = None
        self._told = asyncio.Event()
        self._said = Line()
        self.rss_mb = self.peak_rss_mb = 0.0

    async def run(self, command: Sequence[str], environment: Mapping[str, str]) -> Result:
        """Start it and wait for its end. Cancellation kills it."""
        started = time.monotonic()
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, **environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                preexec_fn=_stay_in_the_background,
                limit=LONGEST_LINE_BYTES,
            )
        with contextlib.suppress(psutil.Error, AttributeError):  # Linux only
            psutil.Process(process.pid).ionice(psutil.IOPRIO_CLASS_IDLE)
        guard = asyncio.create_task(self._guard(process))
        try:
            await self._read(process)
            code = await process.wait()
        finally:
            guard.cancel()
            _signal(process.pid, signal.SIGKILL)  # what it started goes with it
            await process.wait()
        outcome, detail = self._verdict(code)
        return Result(outcome, detail, round(self.peak_rss_mb, 1), round(time.monotonic() - started, 1))

    def end(self, outcome: str) -> None:
        """End it: SIGTERM, and SIGKILL for what is left after `TERMINATE_WAIT_S`. `run` then returns this outcome."""
        self._ending = self._ending or outcome
        self._told.set()

    def _verdict(self, code: int) -> tuple[str, str]:
        if self._said.outcome is not None and code in (0, 1):
            return self._said.outcome, self._said.detail
        if self._ending == OUT_OF_MEMORY:
            return OUT_OF_MEMORY, f"used {self.peak_rss_mb:.0f} MB, {self._max_rss_mb:.0f} MB are allowed"
        if self._ending is not None:
            return self._ending, ""
        return CRASHED, f"exit code {code}; see {self._log_path.name}"

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for data in process.stdout:
            try:
                line = _line_decoder.decode(data)
            except msgspec.DecodeError:
                log.info("training: %s", data.decode(errors="replace").rstrip())
                continue
            if line.outcome is not None and line.step is None:
                self._said = line
            self._on_line(line)

    async def _guard(self, process: asyncio.subprocess.Process) -> None:
        """Measure memory, and carry out the wish to end."""
        while self._ending is None:
            self.rss_mb = await asyncio.to_thread(_rss_mb, process.pid)
            self.peak_rss_mb = max(self.peak_rss_mb, self.rss_mb)
            if self.rss_mb > self._max_rss_mb:
                log.error("training uses %.0f MB of %.0f MB: it is ended", self.rss_mb, self._max_rss_mb)
                self.end(OUT_OF_MEMORY)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MEASURE_EVERY_S):
                    await self._told.wait()
        _signal(process.pid, signal.SIGKILL if self._ending == OUT_OF_MEMORY else signal.SIGTERM)
        await asyncio.sleep(TERMINATE_WAIT_S)
        _signal(process.pid, signal.SIGKILL)


def _rss_mb(pid: int) -> float:
    """Resident memory of a process and its descendants, MB; pages they share count for each."""
    total = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # ended meanwhile
                total += process.memory_info().rss
    return total / 1e6


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)

"""Trainings: one at a time, in a process of its own, cancelled at will, continued after a restart."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from quantum_common.domain import timeframe_ms
from quantum_common.service import Stop
from trainer_svc import metrics
from trainer_svc.child import CANCELLED, INTERRUPTED, Line, Result, TrainingProcess
from trainer_svc.core import Due
from trainer_svc.errors import AlreadyRunning
from trainer_svc.settings import Settings
from trainer_svc.state import Ended, Run, TrainerState, read, write

log = logging.getLogger(__name__)

TURN_S = 1.0
LOOK_S = 0.2
"""At a process that runs."""
MOST_STARTS = 5
"""A training during which this service was killed so often is given up: it may be what kills it."""
GAVE_UP = "failed"

Command = Callable[[Settings, Run, Path], Sequence[str]]


def deploy_command(settings: Settings, run: Run, work_dir: Path) -> list[str]:
    """`quantum deploy` for a run."""
    label = settings.label
    command = [
        *(sys.executable, "-m", "quantum_cli", "deploy", "--progress-json", "--work-dir", str(work_dir)),
        *("--venue", settings.train_venue, "--symbols", ",".join(settings.symbols)),
        *("--timeframe", settings.timeframe, "--to", _iso(run.to_ms)),
        *("--models", str(settings.models_dir), "--report", str(settings.folder / "reports" / run.run_id)),
        *("--label-threshold", repr(label.threshold), "--horizon", str(label.horizon_bars)),
        *("--shadow-bars", str(settings.shadow_bars), "--at", _iso(run.started_ms)),
    ]
    for option, path in (("--data", settings.train_data_dir), ("--parameters", settings.train_parameters)):
        command += [option, str(path)] if path else []
    command += ["--quick"] if settings.train_quick else []
    return command + (["--only", "meta"] if run.meta_only else [])


def _iso(ts_ms: int) -> str:
    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class Trainings:
    """`now_ms`: market time."""

    def __init__(self, settings: Settings, now_ms: Callable[[], int], command: Command = deploy_command) -> None:
        self._settings, self._now_ms, self._command = settings, now_ms, command
        self._path = settings.folder / "state.json"
        self._work_dir = settings.folder / "work"
        self._state = read(self._path, TrainerState)
        self._wanted, self._idle = asyncio.Event(), asyncio.Event()
        self._process: TrainingProcess | None = None
        self._stage = Line()
        self._steps: list[Line] = []
        if self._state is not None and self._state.running is not None:
            self._wanted.set()
        else:
            self._idle.set()

    @property
    def state(self) -> TrainerState:
        if self._state is None:  # at the first use and not before: a replay's clock is not set when we are made
            self._keep(TrainerState(first_start_ms=self._now_ms()))
        assert self._state is not None
        return self._state

    @property
    def running(self) -> Run | None:
        return self._state.running if self._state else None

    def start(self, due: Due) -> Run:
        """Ask for a training; the loop starts it. Raises AlreadyRunning."""
        if running := self.running:
            raise AlreadyRunning(f"training {running.run_id} ({running.reason}) runs")
        now_ms = self._now_ms()
        to_ms = now_ms - now_ms % timeframe_ms(self._settings.timeframe)
        run = Run(
            run_id=datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%S"),
            reason=due.reason,
            detail=due.detail,
            meta_only=due.meta_only,
            to_ms=to_ms,
            started_ms=now_ms,
        )
        log.info("training %s is due: %s (%s)", run.run_id, due.reason, due.detail)
        shutil.rmtree(self._work_dir, ignore_errors=True)
        self._keep(self.state.started(run))
        self._idle.clear()
        self._wanted.set()
        return run

    async def cancel(self) -> bool:
        """End the training that runs and wait until it has ended; False when none runs."""
        run = self.running
        if run is None:
            return False
        if self._process is None:  # the loop has not taken it up yet
            self._end(run, Result(CANCELLED, "", 0.0, 0.0))
        else:
            self._process.end(CANCELLED)
        await self._idle.wait()
        return True

    async def run(self, stop: Stop, beat: Callable[[], None]) -> None:
        """The loop: starts what was asked for and keeps its end."""
        while not stop.requested:
            beat()
            if not self._wanted.is_set():
                await stop.wait(TURN_S)
                continue
            run = self.running
            assert run is not None
            await self._carry_out(run, stop, beat)

    async def _carry_out(self, run: Run, stop: Stop, beat: Callable[[], None]) -> None:
        if run.starts >= MOST_STARTS:
            self._end(run, Result(GAVE_UP, f"this service ended {run.starts} times while it ran", 0.0, 0.0))
            return
        self._keep(self.state.started(msgspec.structs.replace(run, starts=run.starts + 1)))
        self._stage, self._steps = Line("starting", 0.0), []
        self._process = process = TrainingProcess(
            max_rss_mb=self._settings.train_max_rss_mb,
            on_line=self._took,
            log_path=self._settings.folder / "training.log",
        )
        metrics.RUNNING.set(1)
        task = asyncio.create_task(process.run(self._command(self._settings, run, self._work_dir), {}))
        try:
            while not task.done():
                beat()
                if stop.requested:
                    process.end(INTERRUPTED)
                metrics.MEMORY.set(process.rss_mb * 1e6)
                await asyncio.wait({task}, timeout=LOOK_S)
            result = task.result()
        finally:
            task.cancel()
            self._process = None
            metrics.RUNNING.set(0)
            metrics.MEMORY.set(0)
        if result.outcome == INTERRUPTED:
            self._keep(self.state.started(run))
            log.info("training %s is interrupted and goes on at the next start", run.run_id)
        else:
            self._end(run, result)

    def _took(self, line: Line) -> None:
        if line.step is not None:
            self._steps.append(line)
            log.info("training step %d/8: %s: %s", line.step, line.stage, line.detail or line.outcome)
        elif line.stage is not None:
            self._stage = line

    def _end(self, run: Run, result: Result) -> None:
        outcome = result.outcome if result.outcome in metrics.OUTCOMES else "other"
        metrics.TRAININGS.labels(run.reason, outcome).inc()
        metrics.LAST_END.set(self._now_ms() / 1000)
        metrics.LAST_DURATION.set(result.wall_s)
        ended = Ended(
            run=run, outcome=result.outcome, detail=result.detail, ended_ms=self._now_ms(), wall_s=result.wall_s
        )
        self._keep(self.state.finished(ended))
        shutil.rmtree(self._work_dir, ignore_errors=True)
        self._wanted.clear()
        self._idle.set()
        log.info(
            "training %s ended: %s %s (%.0f s, %.0f MB)",
            *(run.run_id, result.outcome, result.detail, result.wall_s, result.peak_rss_mb),
        )

    def _keep(self, state: TrainerState) -> None:
        write(self._path, state)
        self._state = state

    def document(self) -> dict[str, Any]:
        """For people."""
        running = self.running
        return {
            "automatic": self._settings.train_automatic,
            "running": msgspec.to_builtins(running) if running else None,
            "stage": self._stage.stage if running else None,
            "fraction": self._stage.fraction if running else None,
            "steps": [msgspec.to_builtins(line) for line in self._steps],
            "memory_mb": round(self._process.rss_mb, 1) if self._process else None,
            "ended": [msgspec.to_builtins(row) for row in reversed(self.state.ended)],
        }

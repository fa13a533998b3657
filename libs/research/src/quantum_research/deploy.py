"""`deploy`: check, train, gate, publish and reload, validate, in eight named steps.

It stops at the first failure and names the step; until step 7 nothing has moved, and step 7 is undone if step 8 fails.
With a work folder a deployment that was killed goes on: finished folds are used again, and pointers that the gate had
decided on are moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import msgspec

from quantum_common import QuantumError
from quantum_research import ResearchError
from quantum_research.deploy_plan import (
    DeployRequest,
    described,
    is_complete,
    keep,
    kept_plan,
    make_plan,
    undecided_rows,
)
from quantum_research.gate import Decision, Judged
from quantum_research.released import move, store, undo, validate
from quantum_research.rivals import Trained, judge_all
from quantum_research.train import Progress, TrainRequest

STEPS = (
    "check existing models", "PatchTST", "N-HiTS", "trees", "meta", "gate", "publish and hot reload", "validation",
)  # fmt: skip
CHECK, PATCHTST, NHITS, TREES, META_STEP, GATE, PUBLISH, VALIDATE = range(1, 9)
_STEP_OF_STAGE = (
    ("patchtst", PATCHTST), ("nhits", NHITS), ("xgb", TREES), ("lgbm", TREES), ("meta", META_STEP), ("evaluate", GATE),
)  # fmt: skip


class DeployFailed(QuantumError):
    """A step failed; the models that served go on serving."""

    def __init__(self, step: int, problem: str) -> None:
        super().__init__(f"step {step}/8 ({STEPS[step - 1]}): {problem}")
        self.step = step


Fit = Callable[[TrainRequest, Progress | None], Trained]


@dataclass(frozen=True, slots=True)
class Shell:
    """What a deployment does outside the models' folder."""

    fit: Fit
    on_step: Callable[[int, str, float], None] = lambda step, outcome, seconds: None
    """Called with the step's number, its outcome and its wall time."""
    on_progress: Progress = lambda stage, fraction: None
    reload: Callable[[], str] = lambda: "no fleet runs"
    """Tell running agents to look at the pointers; returns what was done."""
    refusals: Callable[[Mapping[str, str]], Sequence[str]] = lambda expected: ()
    """Running agents that do not serve the expected version within a bounded time, and why."""


@dataclass(frozen=True, slots=True)
class DeployReport:
    outcome: str
    """released, shadow, kept or undecided."""
    decisions: tuple[Judged, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    """Step → wall time."""

    @property
    def good(self) -> bool:
        return self.outcome in ("released", "shadow")

    @property
    def detail(self) -> str:
        return "; ".join(f"{row.agent} {row.version} {row.decision}: {row.reason}" for row in self.decisions)


def deploy(request: DeployRequest, shell: Shell) -> DeployReport:
    """All eight steps. Raises DeployFailed."""
    steps = _Steps(shell)
    models_dir = request.train.models_dir
    with steps.run(CHECK):
        plan = kept_plan(request) or make_plan(request)
        keep(request, plan)
        steps.outcome = described(plan)
    if plan.test_from_ms is None and is_complete(plan):
        return steps.report("undecided", undecided_rows(plan))
    if plan.decisions is None:
        trained = steps.train(request, plan.test_from_ms)
        with steps.run(GATE):
            decisions = judge_all(request, plan, trained)
            store(models_dir, trained.candidates)
            plan = msgspec.structs.replace(plan, decisions=decisions)
            keep(request, plan)
            steps.outcome = ", ".join(f"{row.agent} {row.decision}" for row in decisions)
    decisions = plan.decisions or []
    moved = [row for row in decisions if row.decision in (Decision.RELEASE, Decision.SHADOW)]
    if not moved:
        undecided = any(row.decision is Decision.UNDECIDED for row in decisions)
        return steps.report("undecided" if undecided else "kept", decisions)
    with steps.run(PUBLISH):
        move(models_dir, moved, shadow_bars=request.shadow_bars, at_ms=request.at_ms)
        steps.outcome = shell.reload()
    try:
        with steps.run(VALIDATE):
            validate(models_dir, moved)
            released = {row.agent: row.version for row in moved if row.decision is Decision.RELEASE}
            if refusals := shell.refusals(released):
                raise ResearchError("; ".join(refusals))
            steps.outcome = f"{len(moved)} models load and give their golden rows"
    except DeployFailed:
        undo(models_dir, moved, champions=plan.champions, at_ms=request.at_ms)
        shell.reload()
        raise
    released_any = any(row.decision is Decision.RELEASE for row in moved)
    return steps.report("released" if released_any else "shadow", decisions)


class _Steps:
    """Where a deployment is, for people and for the error."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self.outcome = ""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def run(self, step: int) -> Iterator[None]:
        """A step: its end is told, and what goes wrong in it carries its name."""
        started, self.outcome = time.monotonic(), "done"
        try:
            yield
        except (QuantumError, OSError) as error:
            raise DeployFailed(step, str(error)) from error
        self._done(step, self.outcome, time.monotonic() - started)

    def train(self, request: DeployRequest, test_from_ms: int | None) -> Trained:
        """Steps 2 to 5, which training reports as stages."""
        step, started = PATCHTST, time.monotonic()

        def on_stage(stage: str, fraction: float) -> None:
            nonlocal step, started
            reached = next((number for word, number in _STEP_OF_STAGE if word in stage), step)
            while step < reached:
                if step <= META_STEP:
                    self._done(step, "trained", time.monotonic() - started)
                step, started = step + 1, time.monotonic()
            self._shell.on_progress(stage, fraction)

        try:
            trained = self._shell.fit(replace(request.train, test_from_ms=test_from_ms), on_stage)
        except (QuantumError, OSError) as error:
            raise DeployFailed(step, str(error)) from error
        on_stage("evaluate", 1.0)
        return trained

    def _done(self, step: int, outcome: str, seconds: float) -> None:
        self.seconds[STEPS[step - 1]] = round(seconds, 2)
        self._shell.on_step(step, outcome, seconds)

    def report(self, outcome: str, decisions: Sequence[Judged]) -> DeployReport:
        return DeployReport(outcome, tuple(decisions), self.seconds)

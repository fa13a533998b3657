"""Models of a run: are they there, may they decide this range, and training the first ones."""

from __future__ import annotations

import asyncio
import os
import sys

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from meta_svc.versions import meta_version
from quantum_cli.errors import RunFailed, UsageError
from quantum_cli.plan import RunPlan, iso
from quantum_cli.supervisor import Child
from quantum_common.domain import AGENTS
from quantum_common.models import ModelRefused, current_version, read_manifest

TRAINING_JOBS = 2
"""Each takes about 700 MB; the machines this is made for have two cores and 4 GB."""


def needed_models() -> tuple[str, ...]:
    """The agents and the meta learner that META_VERSION asks for. Raises UnknownMetaVersion."""
    return (*AGENTS, meta_version(os.environ.get("META_VERSION", "v2")).folder)


def models_present(plan: RunPlan) -> bool:
    """True when every agent and the meta model have a current version; some but not all is a usage error."""
    needed = needed_models()
    have = [name for name in needed if current_version(plan.models_dir, name)]
    if have and len(have) < len(needed):
        raise UsageError(
            f"{plan.models_dir} has models of {', '.join(have)} only: train all of them or choose --models"
        )
    return bool(have)


def refuse_models_that_do_not_fit(plan: RunPlan) -> None:
    """UsageError for models of another timeframe or label, or whose labels reach into the range (F30)."""
    for name in needed_models():
        try:
            manifest = read_manifest(plan.models_dir, name)
        except ModelRefused as error:
            raise UsageError(str(error)) from error
        if manifest.label != (plan.timeframe, plan.horizon_bars, plan.label_threshold, "fixed"):
            raise UsageError(
                f"{name} {manifest.version} was trained for {manifest.timeframe} bars, {manifest.label_scaling} label "
                f"threshold {manifest.label_threshold} and horizon {manifest.horizon_bars}: choose other --models, or "
                "--timeframe, --label-threshold and --horizon to match"
            )
        if manifest.labels_to_ms > plan.from_ms:
            raise UsageError(
                f"{name} {manifest.version} was trained on labels that reach into the range: "
                "choose a later --from or another --models"
            )


async def train_first_models(plan: RunPlan, console: Console) -> None:
    """Train in a process of its own, on bars before the range only, with its progress drawn here."""
    command = [
        *(sys.executable, "-m", "quantum_cli", "train", "--quick", "--progress-json"),
        *("--data", str(plan.data_dir), "--venue", plan.venue, "--symbols", ",".join(plan.symbols)),
        *("--timeframe", plan.timeframe, "--to", iso(plan.from_ms), "--models", str(plan.models_dir)),
        *("--label-threshold", repr(plan.label_threshold), "--horizon", str(plan.horizon_bars)),
        *("--jobs", str(min(TRAINING_JOBS, len(os.sched_getaffinity(0))))),
    ]
    console.print(
        f"no models in {plan.models_dir}: training the first ones on bars before {iso(plan.from_ms)}, a few minutes",
        soft_wrap=True,
    )
    child = Child("train", command, {"PYTHONUNBUFFERED": "1"}, plan.state_dir / "logs" / "train.out")
    process = await child.start(piped=True)
    try:
        await _show_progress(process, console)
        code = await process.wait()
    finally:
        await child.stop()
    if code:
        raise RunFailed(f"training ended with code {code}; last lines of {child.log_path}:\n{child.last_lines(8)}")


async def _show_progress(process: asyncio.subprocess.Process, console: Console) -> None:
    assert process.stdout is not None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=1.0)
        stage = ""
        async for line in process.stdout:
            row = msgspec.json.decode(line)
            progress.update(task, completed=row["fraction"], description=f"training: {row['stage']}")
            if not console.is_terminal and row["stage"] != stage:
                stage = row["stage"]
                console.print(f"  training {row['fraction']:4.0%}: {stage}")

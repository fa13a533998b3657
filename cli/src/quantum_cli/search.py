"""`quantum train --search N`: options in, progress bar and a table of gains beside the defaults' out."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from quantum_cli.errors import UsageError
from quantum_cli.plan import iso
from quantum_cli.terminal import progress_bar
from quantum_common.domain import AGENTS

if TYPE_CHECKING:  # they bring the training frameworks
    from quantum_research.dataset import Dataset
    from quantum_research.search import AgentResult
    from quantum_research.train import TrainRequest


@dataclass(frozen=True, slots=True)
class SearchOptions:
    trials: int
    """Per agent."""
    jobs: int
    ray_address: str | None
    folder: Path | None
    """None is `search` beside the models."""
    agents: tuple[str, ...]


def parse_agents(value: str) -> tuple[str, ...]:
    agents = tuple(part.strip() for part in value.split(",") if part.strip())
    if not agents or not set(agents) <= set(AGENTS):
        raise UsageError(f"--agents {value!r}: give some of {','.join(AGENTS)}")
    return agents


def run_search(request: TrainRequest, options: SearchOptions, as_json: bool, console: Console) -> None:
    """Search inside the request's range, write `best.json` and show it. Nothing is published."""
    from quantum_common.domain import timeframe_ms
    from quantum_research.forecaster import installed_trainers, with_parameters
    from quantum_research.search import Search, Task, search, write_best
    from quantum_research.train import effort_of, labelled_rows

    started_s = time.perf_counter()
    trainers = with_parameters(installed_trainers(), request.parameters)
    data, _, _ = labelled_rows(request)
    task = Task(
        trainers={agent: trainers[agent] for agent in options.agents},
        data=data,
        effort=effort_of(request),
        embargo_ms=request.horizon_bars * timeframe_ms(request.timeframe),
    )
    how = Search(
        trials=options.trials,
        folder=options.folder or request.models_dir.parent / "search",
        workers=options.jobs,
        ray_address=options.ray_address,
    )
    with progress_bar() as bar:
        shown = bar.add_task("search", total=options.trials * len(options.agents) * task.effort.folds)
        results = search(task, how, lambda step: bar.update(shown, advance=1, description=step))
        bar.update(shown, completed=bar.tasks[shown].total)
    about = {**_about(request, data), "folds": task.effort.folds, "seconds": round(time.perf_counter() - started_s, 1)}
    path = write_best(how.folder, results, about)
    if as_json:
        sys.stdout.write(path.read_text())
    else:
        console.print(_table(results))
        console.print(f"quantum train --parameters {path} trains with them", soft_wrap=True)


def _about(request: TrainRequest, data: Dataset) -> dict[str, Any]:
    return {
        "timeframe": request.timeframe,
        "symbols": list(data.symbols),
        "horizon_bars": request.horizon_bars,
        "rows": len(data),
        "from": iso(int(data.ts_ms.min())),
        "labels_to": iso(int(data.label_end_ms.max())),
        "seed": request.seed,
    }


def _table(results: dict[str, AgentResult]) -> Table:
    table = Table("agent", "trials (pruned)", "gain", "gain of the defaults", "parameters")
    for agent, result in results.items():
        parameters = ", ".join(f"{name} {value:.4g}" for name, value in result.parameters.items())
        trials = f"{result.trials} ({result.pruned})"
        table.add_row(agent, trials, f"{result.gain:.5f}", f"{result.default_gain:.5f}", parameters)
    return table

"""`quantum train`: options in, progress bar and a table of honest figures out."""

from __future__ import annotations

import sys
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console

from quantum_cli.plan import check_timeframe, read_all
from quantum_cli.search import SearchOptions, run_search
from quantum_cli.terminal import progress_bar

if TYPE_CHECKING:
    from quantum_research.labels import LabelScaling


def run_training(
    *,
    data_dir: Path,
    venue: str,
    symbols: tuple[str, ...],
    timeframe: str,
    from_ms: int | None,
    to_ms: int | None,
    test_from_ms: int | None,
    models_dir: Path,
    report_dir: Path | None,
    work_dir: Path | None,
    quick: bool,
    label_threshold: float | None,
    label_scaling: LabelScaling,
    horizon_bars: int,
    jobs: int,
    ray_address: str | None,
    parameters: Path | None,
    search: SearchOptions | None,
    as_json: bool,
    progress_json: bool,
    console: Console,
) -> None:
    """Train, publish, and show the report; or search instead. Progress goes to stdout as JSON lines for a parent."""
    check_timeframe(timeframe)
    read_all(data_dir, venue, symbols, timeframe)
    from quantum_research.search import read_parameters  # here, because they bring the training frameworks
    from quantum_research.train import TrainRequest, train

    request = TrainRequest(
        data_dir=data_dir,
        venue=venue,
        symbols=symbols,
        timeframe=timeframe,
        from_ms=from_ms,
        to_ms=to_ms,
        test_from_ms=test_from_ms,
        models_dir=models_dir,
        report_dir=report_dir,
        work_dir=work_dir,
        quick=quick,
        label_threshold=label_threshold,
        label_scaling=label_scaling,
        horizon_bars=horizon_bars,
        jobs=jobs,
        ray_address=ray_address,
        parameters=read_parameters(parameters) if parameters else {},
    )
    if search is not None:
        run_search(request, search, as_json, console)
        return
    if progress_json:
        train(request, _print_progress)
        return
    with progress_bar() as bar:
        task = bar.add_task("training", total=1.0)
        report = train(request, lambda stage, done: bar.update(task, completed=done, description=stage))
    if as_json:
        sys.stdout.write(msgspec.json.encode(_plain(report)).decode() + "\n")
    else:
        _print_report(_plain(report), console)


def _print_progress(stage: str, fraction: float) -> None:
    sys.stdout.write(msgspec.json.encode({"stage": stage, "fraction": fraction}).decode() + "\n")
    sys.stdout.flush()


def _plain(report: Any) -> dict[str, Any]:
    return asdict(report) if is_dataclass(report) and not isinstance(report, type) else msgspec.to_builtins(report)


def _print_report(report: dict[str, Any], console: Console) -> None:
    console.print_json(data=report)

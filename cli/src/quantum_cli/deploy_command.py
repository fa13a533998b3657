"""`quantum deploy`: new models from the newest candles into the running fleet, in eight steps."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from quantum_cli.options import (
    DEFAULT_MODELS,
    DEFAULT_SYMBOLS,
    CandleFolder,
    From,
    Horizon,
    LabelThreshold,
    Models,
    Parameters,
    Quick,
    Report,
    Symbols,
    Timeframe,
    To,
    VenueId,
    VenueUrl,
)
from quantum_cli.plan import check_timeframe, parse_date, parse_symbols, read_all
from quantum_cli.serving import refusals, reload, serving_fleets
from quantum_cli.terminal import console, errors, failing_with_a_message
from quantum_common.service.clock import wall_ms


def deploy(
    data: CandleFolder = None,
    venue: VenueId = "binance",
    venue_url: VenueUrl = None,
    symbols: Symbols = DEFAULT_SYMBOLS,
    timeframe: Timeframe = "1h",
    from_: From = None,
    to: To = None,
    models: Models = None,
    report: Report = None,
    quick: Quick = False,
    label_threshold: LabelThreshold = None,
    horizon: Horizon = 5,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that fit at the same time")] = 1,
    parameters: Parameters = None,
    shadow_bars: Annotated[
        int, typer.Option(min=0, help="Labelled bars a winner predicts beside the champion first; 0: it serves at once")
    ] = 0,
    only: Annotated[str | None, typer.Option(help="Models that may be released, separated by commas")] = None,
    min_fresh_days: Annotated[
        float, typer.Option(min=0.0, help="Days of bars unknown to the champions that the judgement needs")
    ] = 28.0,
    state_dir: Annotated[Path | None, typer.Option(help="State folder of the fleet whose agents are told")] = None,
    work_dir: Annotated[
        Path | None, typer.Option(help="Keeps finished parts: the same command given again goes on there")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON")] = False,
    progress_json: Annotated[bool, typer.Option("--progress-json", hidden=True)] = False,
    at: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train, judge against the models that serve, publish and reload. Stops at the first step that fails."""
    from quantum_cli.history import download_all

    with failing_with_a_message():
        names, from_ms, to_ms = parse_symbols(symbols), parse_date(from_, "--from"), parse_date(to, "--to")
        check_timeframe(timeframe)
        models_dir = models or DEFAULT_MODELS
        data_dir = data or download_all(
            models_dir.parent / "candles", venue, venue_url, names, timeframe, from_ms, to_ms, errors
        )
        read_all(data_dir, venue, names, timeframe)
        good = run_deployment(
            {
                "data_dir": data_dir,
                "venue": venue,
                "symbols": names,
                "timeframe": timeframe,
                "models_dir": models_dir,
                "from_ms": from_ms,
                "to_ms": to_ms,
                "quick": quick,
                "label_threshold": label_threshold,
                "horizon_bars": horizon,
                "report_dir": report,
                "work_dir": work_dir,
                "jobs": jobs,
            },
            parameters=parameters,
            at_ms=parse_date(at, "--at") or wall_ms(),
            shadow_bars=shadow_bars,
            only=tuple(part.strip() for part in only.split(",") if part.strip()) if only else (),
            min_fresh_days=min_fresh_days,
            state_dir=state_dir,
            as_json=as_json,
            progress_json=progress_json,
        )
    if not good:
        raise typer.Exit(1)


def run_deployment(
    options: dict[str, Any],
    *,
    parameters: Path | None,
    state_dir: Path | None,
    as_json: bool,
    progress_json: bool,
    **rest: Any,
) -> bool:
    """Carry it out and print it; whether something was released. With `progress_json` all of it as JSON lines."""
    # Here and not above, because it brings the training frameworks.

    from quantum_research.deploy import STEPS, DeployFailed, Shell, deploy
    from quantum_research.deploy_plan import DeployRequest
    from quantum_research.search import read_parameters
    from quantum_research.train import TrainRequest, fit_models

    fleets = serving_fleets(options["models_dir"], state_dir)
    quiet = as_json or progress_json

    def on_step(step: int, outcome: str, seconds: float) -> None:
        if progress_json:
            _line(step=step, stage=STEPS[step - 1], detail=outcome)
        elif not quiet:
            console.print(f"[{step}/8] {STEPS[step - 1]}: {outcome} ({seconds:.0f} s)", markup=False, soft_wrap=True)

    def on_progress(stage: str, fraction: float) -> None:
        if progress_json:
            _line(stage=stage, fraction=fraction)
        elif not quiet and errors.is_terminal:
            errors.print(f"      {fraction:4.0%} {stage}", end="\r", markup=False)

    shell = Shell(fit_models, on_step, on_progress, partial(reload, fleets), partial(refusals, fleets))
    request = TrainRequest(**options, parameters=read_parameters(parameters) if parameters else {})
    try:
        report = deploy(DeployRequest(request, **rest), shell)
    except DeployFailed as error:
        if progress_json:
            _line(outcome="failed", detail=str(error))
        if as_json:
            _line(outcome="failed", step=error.step, detail=str(error))
        raise
    if progress_json:
        _line(outcome=report.outcome, detail=report.detail)
    elif as_json:
        sys.stdout.write(msgspec.json.encode(asdict(report)).decode() + "\n")
    else:
        console.print(f"{report.outcome}: {report.detail}", markup=False, soft_wrap=True)
    return report.good


def _line(**fields: Any) -> None:
    """One line for a parent process, written at once."""
    sys.stdout.write(msgspec.json.encode(fields).decode() + "\n")
    sys.stdout.flush()

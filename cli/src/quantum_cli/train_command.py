"""The command `quantum train`: training, a search, checks for leaks, or meta models from an archive."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

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
from quantum_cli.plan import parse_date, parse_symbols
from quantum_cli.terminal import console, errors, failing_with_a_message
from quantum_common.domain import AGENTS


class Scaling(StrEnum):
    FIXED = "fixed"
    VOLATILITY = "volatility"


def train(
    data: CandleFolder = None,
    venue: VenueId = "binance",
    venue_url: VenueUrl = None,
    symbols: Symbols = DEFAULT_SYMBOLS,
    timeframe: Timeframe = "1h",
    from_: From = None,
    to: To = None,
    test_from: Annotated[
        str | None, typer.Option(help="Fit nothing on bars from here on, and judge the models there; ISO date, UTC")
    ] = None,
    models: Models = None,
    report: Report = None,
    quick: Quick = False,
    label_threshold: LabelThreshold = None,
    label_scaling: Annotated[
        Scaling,
        typer.Option(help="volatility: the threshold is a multiple of the move that is expected; not for fleets"),
    ] = Scaling.FIXED,
    horizon: Horizon = 5,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that fit, or search, at the same time")] = 1,
    ray: Annotated[
        str | None,
        typer.Option(help="Fit or search on a Ray cluster: host:port, auto, or local for one of --jobs CPUs"),
    ] = None,
    work_dir: Annotated[
        Path | None, typer.Option(help="Keep finished fits here: the same training, started again, goes on")
    ] = None,
    parameters: Parameters = None,
    search: Annotated[
        int | None, typer.Option(min=1, help="Search hyperparameters with so many trials per agent; trains nothing")
    ] = None,
    search_dir: Annotated[Path | None, typer.Option(help="Folder of the search; given again, it goes on")] = None,
    agents: Annotated[str, typer.Option(help="Agents to search for, separated by commas")] = ",".join(AGENTS),
    meta_from: Annotated[
        Path | None, typer.Option(help="Train only the meta models, on this archive of a fleet's own predictions")
    ] = None,
    min_date: Annotated[str | None, typer.Option(help="With --meta-from: first bar, ISO date, UTC")] = None,
    min_samples: Annotated[int, typer.Option(min=1, help="With --meta-from: fewest labelled bars")] = 1000,
    check_leaks: Annotated[
        bool, typer.Option("--check-leaks", help="Train nothing: plant leaks and see whether each is noticed")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON")] = False,
    progress_json: Annotated[bool, typer.Option("--progress-json", hidden=True)] = False,
) -> None:
    """Train the four agents and the meta models on candles, recorded or asked from the venue, and publish them."""
    from quantum_cli.history import download_all
    from quantum_cli.leak_check import run_leak_check
    from quantum_cli.meta_training import run_meta_training
    from quantum_cli.search import SearchOptions, parse_agents
    from quantum_cli.training import run_training

    models_dir = models or DEFAULT_MODELS
    with failing_with_a_message():
        if meta_from is not None:
            run_meta_training(
                archive_dir=meta_from,
                models_dir=models_dir,
                min_date_ms=parse_date(min_date, "--min-date"),
                min_samples=min_samples,
                report_dir=report,
                as_json=as_json,
                console=console,
            )
            return
        wanted, from_ms, to_ms = parse_symbols(symbols), parse_date(from_, "--from"), parse_date(to, "--to")
        data_dir = data or download_all(
            models_dir.parent / "candles", venue, venue_url, wanted, timeframe, from_ms, to_ms, errors
        )
        if check_leaks:
            run_leak_check(
                data_dir=data_dir,
                venue=venue,
                symbols=wanted,
                timeframe=timeframe,
                from_ms=from_ms,
                to_ms=to_ms,
                label_threshold=label_threshold,
                horizon_bars=horizon,
                as_json=as_json,
                console=console,
            )
            return
        run_training(
            data_dir=data_dir,
            venue=venue,
            symbols=wanted,
            timeframe=timeframe,
            from_ms=from_ms,
            to_ms=to_ms,
            test_from_ms=parse_date(test_from, "--test-from"),
            models_dir=models_dir,
            report_dir=report,
            work_dir=work_dir,
            quick=quick,
            label_threshold=label_threshold,
            label_scaling=label_scaling.value,
            horizon_bars=horizon,
            jobs=jobs,
            ray_address=ray,
            parameters=parameters,
            search=None if search is None else SearchOptions(search, jobs, ray, search_dir, parse_agents(agents)),
            as_json=as_json,
            progress_json=progress_json,
            console=console,
        )

"""Options of the command `quantum`. Exit codes: 0 good, 1 failed, 2 wrong usage."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from quantum_cli.dead_commands import dead_app
from quantum_cli.errors import UsageError
from quantum_cli.fleet import check_ports_free
from quantum_cli.fleet_commands import redeploy
from quantum_cli.models_commands import models_app
from quantum_cli.plan import claim_state_dir, make_plan, parse_date, parse_symbols
from quantum_cli.terminal import console, errors, fail, failing_with_a_message
from quantum_common import QuantumError
from quantum_common.domain import AGENTS
from quantum_common.service.settings import check_names

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.command()(redeploy)
app.add_typer(dead_app, name="dead")
app.add_typer(models_app, name="models")

Data = Annotated[Path | None, typer.Option("--data", help="Folder of <venue>_<SYMBOL>_<timeframe>.parquet files")]
Venue = Annotated[str, typer.Option(help="Venue in the candle files' names")]
Symbols = Annotated[str, typer.Option(help="Symbols, separated by commas")]
Timeframe = Annotated[str, typer.Option(help="1m, 5m, 15m, 1h, 4h or 1d")]
From = Annotated[str | None, typer.Option("--from", help="First bar, ISO date, UTC")]
To = Annotated[str | None, typer.Option("--to", help="End, exclusive, ISO date, UTC")]
Models = Annotated[Path | None, typer.Option(help="Folder of model artifacts")]
LabelThreshold = Annotated[
    float | None, typer.Option(help="Return over the horizon that makes a BUY or SELL, as a fraction")
]
Horizon = Annotated[int, typer.Option(min=1, max=100, help="Bars that a label looks ahead")]

DEFAULT_SYMBOLS = "BTCUSDT,ETHUSDT,BNBUSDT,SOLUSDT,ADAUSDT"


@app.callback()
def _root() -> None:
    """An AI trading fleet for crypto markets, on paper by default."""


@app.command()
def up(
    data: Data = None,
    venue: Venue = "binance",
    symbols: Symbols = DEFAULT_SYMBOLS,
    timeframe: Timeframe = "1h",
    from_: From = None,
    to: To = None,
    speed: Annotated[str | None, typer.Option(help="max, or how many times faster than real time")] = None,
    until_done: Annotated[bool, typer.Option("--until-done", help="Stop when the range has been played")] = False,
    models: Models = None,
    state_dir: Annotated[Path | None, typer.Option(help="Folder of this run; given again, the run goes on")] = None,
    port_offset: Annotated[int, typer.Option(min=0, max=50_000, help="Added to every port")] = 0,
    summary: Annotated[Path | None, typer.Option(help="Write the run's figures and digests as JSON")] = None,
    label_threshold: LabelThreshold = None,
    horizon: Horizon = 5,
) -> None:
    """Run the whole fleet on this machine against the paper venue. Ctrl-C stops it."""
    from quantum_cli.first_models import models_present, refuse_models_that_do_not_fit, train_first_models
    from quantum_cli.report import write_summary
    from quantum_cli.up import LocalFleet, Stopped

    started = time.monotonic()
    try:
        plan, candles = make_plan(
            data_dir=data,
            venue=venue,
            symbols=parse_symbols(symbols),
            timeframe=timeframe,
            from_ms=parse_date(from_, "--from"),
            to_ms=parse_date(to, "--to"),
            speed=speed,
            models_dir=models,
            state_dir=state_dir,
            port_offset=port_offset,
            label_threshold=label_threshold,
            horizon_bars=horizon,
        )
        check_names()
        check_ports_free(plan.port_offset)
        claim_state_dir(plan)
        console.print(
            f"Quantum Trader · {', '.join(plan.symbols)} · {plan.timeframe} · state in {plan.state_dir}", soft_wrap=True
        )

        async def everything() -> None:
            if not models_present(plan):
                await train_first_models(plan, console)
            refuse_models_that_do_not_fit(plan)
            fleet = LocalFleet(plan, candles, console)
            try:
                await fleet.run(until_done)
            finally:
                if fleet.tally.bars:
                    write_summary(plan, fleet.tally, time.monotonic() - started, summary, console)

        uvloop.run(everything())
    except (Stopped, KeyboardInterrupt):
        console.print("stopped")
        raise typer.Exit(1 if until_done else 0) from None
    except QuantumError as error:
        fail(error)


@app.command()
def train(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder of candle files; without it the venue is asked", exists=True, file_okay=False
        ),
    ] = None,
    venue: Annotated[str, typer.Option(help="ccxt id of the venue, as in the candle files' names")] = "binance",
    venue_url: Annotated[
        str | None, typer.Option(help="Without --data: scheme and host instead of the venue's own")
    ] = None,
    symbols: Symbols = DEFAULT_SYMBOLS,
    timeframe: Timeframe = "1h",
    from_: From = None,
    to: To = None,
    models: Models = None,
    report: Annotated[Path | None, typer.Option(help="Folder for the training report")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Newest 10,000 bars a symbol, smaller models")] = False,
    label_threshold: LabelThreshold = None,
    horizon: Horizon = 5,
    parameters: Annotated[
        Path | None, typer.Option(help="best.json of a search: train with its hyperparameters", exists=True)
    ] = None,
    search: Annotated[
        int | None, typer.Option(min=1, help="Search hyperparameters with so many trials per agent; trains nothing")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that search at the same time")] = 1,
    ray: Annotated[
        str | None, typer.Option(help="Search on a Ray cluster: host:port, auto, or local for one with --jobs CPUs")
    ] = None,
    search_dir: Annotated[Path | None, typer.Option(help="Folder of the search; given again, it goes on")] = None,
    agents: Annotated[str, typer.Option(help="Agents to search for, separated by commas")] = ",".join(AGENTS),
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON")] = False,
    meta_from: Annotated[
        Path | None, typer.Option(help="Train only the meta models, on this archive of a fleet's own predictions")
    ] = None,
    min_date: Annotated[str | None, typer.Option(help="With --meta-from: first bar, ISO date, UTC")] = None,
    min_samples: Annotated[int, typer.Option(min=1, help="With --meta-from: fewest labelled bars")] = 1000,
    check_leaks: Annotated[
        bool, typer.Option("--check-leaks", help="Train nothing: plant leaks and see whether each is noticed")
    ] = False,
    progress_json: Annotated[bool, typer.Option("--progress-json", hidden=True)] = False,
) -> None:
    """Train the four agents and the meta models on recorded candles and publish them."""
    from quantum_cli.leak_check import run_leak_check
    from quantum_cli.meta_training import run_meta_training
    from quantum_cli.training import run_training

    with failing_with_a_message():
        if meta_from is not None:
            run_meta_training(
                archive_dir=meta_from,
                models_dir=models or Path("state/models"),
                min_date_ms=parse_date(min_date, "--min-date"),
                min_samples=min_samples,
                report_dir=report,
                as_json=as_json,
                console=console,
            )
            return
        if data is None:
            raise UsageError("--data: give the folder of candle files, or --meta-from an archive")
        if check_leaks:
            run_leak_check(
                data_dir=data,
                venue=venue,
                symbols=parse_symbols(symbols),
                timeframe=timeframe,
                from_ms=parse_date(from_, "--from"),
                to_ms=parse_date(to, "--to"),
                label_threshold=label_threshold,
                horizon_bars=horizon,
                as_json=as_json,
                console=console,
            )
            return
        run_training(
            data_dir=data
            or download_all(models_dir.parent / "candles", venue, venue_url, wanted, timeframe, from_ms, to_ms, errors),
            venue=venue,
            symbols=wanted,
            timeframe=timeframe,
            from_ms=from_ms,
            to_ms=to_ms,
            models_dir=models_dir,
            report_dir=report,
            quick=quick,
            label_threshold=label_threshold,
            horizon_bars=horizon,
            parameters=parameters,
            search=None if search is None else SearchOptions(search, jobs, ray, search_dir, parse_agents(agents)),
            as_json=as_json,
            progress_json=progress_json,
            console=console,
        )

"""Options of the command `quantum`. Exit codes: 0 good, 1 failed, 2 wrong usage."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from quantum_cli.dead_commands import dead_app
from quantum_cli.deploy_command import deploy
from quantum_cli.deployment import first_models, play, redis_setup, secrets
from quantum_cli.doctor_command import doctor
from quantum_cli.fleet import check_ports_free
from quantum_cli.fleet_commands import redeploy
from quantum_cli.logs_command import logs
from quantum_cli.models_commands import models_app
from quantum_cli.monitor_commands import monitor, validate
from quantum_cli.options import (
    DEFAULT_SYMBOLS,
    Data,
    From,
    Horizon,
    LabelThreshold,
    Models,
    Symbols,
    Timeframe,
    To,
    Venue,
)
from quantum_cli.plan import claim_state_dir, make_plan, parse_date, parse_symbols
from quantum_cli.status_command import status
from quantum_cli.steering_commands import emergency_stop, flatten
from quantum_cli.terminal import console, fail
from quantum_cli.train_command import train
from quantum_common import QuantumError
from quantum_common.service.settings import check_names

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.command()(status)
app.command()(doctor)
app.command()(logs)
app.command()(emergency_stop)
app.command()(flatten)
app.command()(redeploy)
app.command()(train)
app.command()(deploy)
app.command()(secrets)
app.command("redis-setup")(redis_setup)
app.command("first-models")(first_models)
app.command()(play)
app.command()(monitor)
app.command()(validate)
app.add_typer(dead_app, name="dead")
app.add_typer(models_app, name="models")


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
    trainer: Annotated[bool, typer.Option("--trainer", help="Renew the models on the way (trainer-svc)")] = False,
) -> None:
    """Run the whole fleet on this machine against the paper venue. Ctrl-C stops it."""
    from quantum_cli.first_models import models_present, refuse_models_that_do_not_fit, train_first_models
    from quantum_cli.market import Stopped
    from quantum_cli.report import write_summary
    from quantum_cli.up import LocalFleet

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
            fleet = LocalFleet(plan, candles, console, trainer=trainer)
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

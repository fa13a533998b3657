"""The parts of `quantum up` that a deployed fleet runs as containers of their own: credentials, the server's functions,
first models, and the paper market's clock. They read the settings that the services read."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from pydantic import Field

from exchange_sim import synthetic
from exchange_sim.settings import SimSettings
from quantum_cli.credentials import load_functions, load_users, write_credentials
from quantum_cli.display import RunDisplay, Tally
from quantum_cli.errors import RunFailed
from quantum_cli.fleet import FLEET, VENUE, FleetMember
from quantum_cli.market import Stopped, answers, close_times_ms, conducting, count_dead_letters, until_stopped
from quantum_cli.plan import RunPlan, make_plan, parse_date
from quantum_cli.reach import exported
from quantum_cli.terminal import console, failing_with_a_message
from quantum_common.bus import BusUnavailable, is_cluster
from quantum_common.candles import Candles
from quantum_common.domain.timeframe import DEFAULT_HORIZON_BARS
from quantum_common.service.settings import FleetSettings, check_names

SERVER_WITHIN_S = 60.0
SERVICES_WITHIN_S = 300.0
ASK_EVERY_S = 0.5


class MarketSettings(SimSettings):
    """What the venue reads, and the label that executor-svc and trainer-svc agree on."""

    train_label_threshold: float | None = Field(None, gt=0, lt=1)
    horizon_bars: int = Field(DEFAULT_HORIZON_BARS, ge=1)


def secrets(
    out: Annotated[Path, typer.Option(help="Folder; what it holds already is kept")],
    redis_url: Annotated[str, typer.Option(help="With {user} and {password}")] = (
        "redis://{user}:{password}@redis:6379/0"
    ),
    own: Annotated[bool, typer.Option("--own", help="As root: give each folder to its container's user")] = False,
) -> None:
    """Write passwords and tokens, a folder per service, and the Redis users with their rights."""
    with failing_with_a_message():
        write_credentials(out, redis_url, _settings().account, own=own)
    console.print(f"credentials in {out}", markup=False, soft_wrap=True)


def redis_setup() -> None:
    """Have the server of QT_REDIS_URL know this version's functions and users, as a user who may (admin)."""

    async def load() -> None:
        deadline, url = time.monotonic() + SERVER_WITHIN_S, settings.redis_url.get_secret_value()
        while True:
            try:
                await load_functions(url)
                return None if is_cluster(url) else await load_users(url)  # a cluster's are its operator's business
            except BusUnavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(ASK_EVERY_S)

    with failing_with_a_message():
        settings = _settings()
        asyncio.run(load())
    console.print("the server has the functions and users of this version")


def first_models() -> None:
    """Train models on bars before the market's start, where QT_MODELS_DIR has none; else check that they fit."""
    from quantum_cli.first_models import models_present, refuse_models_that_do_not_fit, train_first_models

    with failing_with_a_message():
        plan, _ = _plan(_settings())
        if not models_present(plan):
            asyncio.run(train_first_models(plan, console))
        refuse_models_that_do_not_fit(plan)
    console.print(f"models in {plan.models_dir}", soft_wrap=True)


def play(
    speed: Annotated[str, typer.Option(help="max, or how many times faster than real time")] = "max",
    to: Annotated[str | None, typer.Option("--to", help="End, exclusive, ISO date, UTC")] = None,
    until_done: Annotated[bool, typer.Option("--until-done", help="Stop when the range has been played")] = False,
    summary: Annotated[Path | None, typer.Option(help="Write the run's figures and digests as JSON")] = None,
) -> None:
    """Move the paper market of a fleet that runs elsewhere, bar by bar, each when the one before is settled."""
    from quantum_cli.report import write_summary

    started, tally = time.monotonic(), Tally()
    with failing_with_a_message():
        settings = _settings()
        plan, candles = _plan(settings, speed, parse_date(to, "--to"))
        times = close_times_ms(plan, candles)
        try:
            uvloop.run(until_stopped(_play(settings, plan, times, tally)))
            if (plan.state_dir / "archive").is_dir():  # the recorder's, where this process may see it
                write_summary(plan, tally, time.monotonic() - started, summary, console)
            if not until_done:
                console.print("the market's data has ended; nothing new is traded")
                uvloop.run(until_stopped(asyncio.sleep(float("inf"))))
        except Stopped:
            console.print("stopped")
            raise typer.Exit(1 if until_done else 0) from None


async def _play(settings: MarketSettings, plan: RunPlan, times: list[int], tally: Tally) -> None:
    redis_url = settings.redis_url.get_secret_value()
    token = settings.api_token.get_secret_value() if settings.api_token else ""
    display = RunDisplay(console, tally, len(times))
    venue_url, step_ms = settings.url_of(VENUE.name), plan.timeframe_ms
    await _until_up(settings, VENUE)
    async with conducting(redis_url, venue_url, token, settings.keys, step_ms, display, lambda _: True) as conductor:
        await conductor.announce()
        for member in FLEET:
            await _until_up(settings, member)
        started = time.monotonic()
        try:
            with display:
                await conductor.run(times, plan.bars_per_s)
        finally:
            tally.market_s = time.monotonic() - started
    tally.dead_letters = await count_dead_letters(redis_url, settings.keys)


async def _until_up(settings: FleetSettings, member: FleetMember) -> None:
    url, deadline = settings.url_of(member.name) + member.awaited, time.monotonic() + SERVICES_WITHIN_S
    while not await answers(url):
        if time.monotonic() > deadline:
            raise RunFailed(f"{member.name} is not up: {url} has not answered 200 for {SERVICES_WITHIN_S:.0f} s")
        await asyncio.sleep(ASK_EVERY_S)


def _settings() -> MarketSettings:
    check_names()
    return exported(MarketSettings)


def _plan(settings: MarketSettings, speed: str = "max", to_ms: int | None = None) -> tuple[RunPlan, dict[str, Candles]]:
    if settings.sim_candle_venue == synthetic.VENUE:
        synthetic.write_market(settings.sim_data_dir, settings.symbols, settings.timeframe)
    return make_plan(
        data_dir=settings.sim_data_dir,
        venue=settings.sim_candle_venue,
        symbols=settings.symbols,
        timeframe=settings.timeframe,
        from_ms=settings.start_ms,
        to_ms=to_ms,
        speed=speed,
        models_dir=settings.models_dir,
        state_dir=settings.state_dir,
        port_offset=settings.port_offset,
        label_threshold=settings.train_label_threshold,
        horizon_bars=settings.horizon_bars,
    )

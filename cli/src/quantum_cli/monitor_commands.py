"""`quantum monitor` and `quantum validate`: what monitor-svc sees, as text, and whether it is as it should be."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from monitor_svc import text, validation
from monitor_svc.view import View
from quantum_cli.errors import RunFailed, UsageError
from quantum_cli.fleet import ACCOUNT
from quantum_cli.fleet_commands import AsJson, StateDir
from quantum_cli.reach import Reach, ask_all, find_fleet, local_fleet
from quantum_cli.running import RunningFleet, choose_fleet, read_run
from quantum_cli.terminal import console, failing_with_a_message, print_json

SERVICE = "monitor-svc"
REFRESH_S = 5.0


def monitor(
    state_dir: StateDir = None,
    continuous: Annotated[bool, typer.Option("--continuous", help="Redraw every 5 s until Ctrl-C")] = False,
    web: Annotated[bool, typer.Option("--web", help="The web dashboard's address; run it if it does not run")] = False,
    as_json: AsJson = False,
) -> None:
    """The dashboard of a fleet: agents, signals, risk."""
    with failing_with_a_message():
        if continuous + web + as_json > 1:
            raise UsageError("choose one of --continuous, --web and --json")
        reach = find_fleet(state_dir)
        if web:
            show_web(reach, state_dir)
        elif continuous:
            redraw(reach)
        elif as_json:
            print_json(ask(reach))
        else:
            print(rendered(reach))


def validate(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Whether agents vote, signals vary, and meta layer and risk controls are active. Exit code 1 when not."""
    with failing_with_a_message():
        found = validation.validate(seen(find_fleet(state_dir)))
    if as_json:
        print_json(found)
    else:
        print(validation.render(found))
    if not found.passed:
        raise typer.Exit(1)


def ask(reach: Reach) -> Any:
    """The view as JSON. RunFailed when monitor-svc does not give it."""
    answer = asyncio.run(ask_all(reach, {SERVICE: (SERVICE, "/api/monitor/view")}))[SERVICE]
    if not answer.good:
        raise RunFailed(
            f"monitor-svc at {reach.url_of(SERVICE)} does not answer ({answer.problem or answer.status}): is the fleet "
            "up? quantum up starts it, quantum monitor --web runs it alone, --state-dir, QT_PORT_OFFSET and "
            "QT_SERVICE_URL say where it is"
        )
    return answer.body


def seen(reach: Reach) -> View:
    """The view. RunFailed for an answer of another shape."""
    try:
        return msgspec.convert(ask(reach), View)
    except msgspec.ValidationError as error:
        raise RunFailed(f"monitor-svc answers in another shape: {error}; are both of the same version?") from error


def rendered(reach: Reach) -> str:
    """The text dashboard."""
    return text.render(seen(reach))


def redraw(reach: Reach) -> None:
    """The text dashboard in place until Ctrl-C; it stays while monitor-svc is away, with the reason below."""
    try:
        shown, problem = rendered(reach), ""
        while True:
            console.clear()  # nothing where the output is no terminal: there one screen follows the other
            print(shown + problem, flush=True)
            time.sleep(REFRESH_S)
            try:
                shown, problem = rendered(reach), ""
            except RunFailed as error:
                problem = f"\n\nOLD: {error}"
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def show_web(reach: Reach, state_dir: Path | None) -> None:
    """Print the address if monitor-svc answers there; else run it, for the chosen fleet, in this process's place."""
    try:
        ask(reach)
    except RunFailed:
        folder, fleet = choose_fleet(state_dir)
        print(f"{local_fleet(folder, fleet).url_of(SERVICE)}/ (Ctrl-C ends it)", flush=True)
        environment = os.environ | settings_of(fleet, folder)
        os.execve(sys.executable, [sys.executable, "-m", "monitor_svc"], environment)
    print(f"{reach.url_of(SERVICE)}/")


def settings_of(fleet: RunningFleet, state_dir: Path) -> dict[str, str]:
    """What monitor-svc needs to know of a running local fleet."""
    run = read_run(state_dir)
    return {
        "QT_REDIS_URL": fleet.redis_url,
        "QT_ACCOUNT": ACCOUNT,
        "QT_PARTITIONS": str(fleet.partitions),
        "QT_PORT_OFFSET": str(fleet.port_offset),
        "QT_PORT": "0",
        "QT_HOST": "127.0.0.1",
        "QT_SYMBOLS": ",".join(run.symbols),
        "QT_TIMEFRAME": run.timeframe,
        "QT_CLOCK": "replay",
        "QT_STATE_DIR": str(state_dir),
    }

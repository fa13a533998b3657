"""`quantum monitor` and `quantum validate`: what monitor-svc sees, as text, and whether it is as it should be."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import httpx
import msgspec
import typer

from quantum_cli.errors import RunFailed, UsageError
from quantum_cli.fleet import ACCOUNT
from quantum_cli.fleet_commands import AsJson, StateDir
from quantum_cli.reach import find_fleet
from quantum_cli.running import RunningFleet, choose_fleet, read_run
from quantum_cli.terminal import console, failing_with_a_message, print_json

SERVICE = "monitor-svc"
REFRESH_S = 5.0
ASK_WITHIN_S = 5.0


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
        url = find_fleet(state_dir).url_of(SERVICE)
        if web:
            show_web(url, state_dir)
        elif continuous:
            redraw(url)
        elif as_json:
            print_json(msgspec.Raw(ask(url)))
        else:
            print(rendered(ask(url)))


def validate(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Whether agents vote, signals vary, and meta layer and risk controls are active. Exit code 1 when not."""
    from monitor_svc.validation import render
    from monitor_svc.validation import validate as judge
    from monitor_svc.view import decode_view

    with failing_with_a_message():
        found = judge(decode_view(ask(find_fleet(state_dir).url_of(SERVICE))))
    if as_json:
        print_json(found)
    else:
        print(render(found))
    if not found.passed:
        raise typer.Exit(1)


def ask(url: str) -> bytes:
    """The view as JSON. RunFailed when monitor-svc does not give it."""
    try:
        response = httpx.get(f"{url}/api/monitor/view", timeout=ASK_WITHIN_S, trust_env=False)
        response.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise RunFailed(
            f"monitor-svc at {url} does not answer ({reason}): is the fleet up? quantum up starts it, quantum monitor "
            "--web runs it alone, --state-dir, QT_PORT_OFFSET and QT_SERVICE_URL say where it is"
        ) from error
    return response.content


def rendered(data: bytes) -> str:
    """The text dashboard. RunFailed for an answer of another shape."""
    from monitor_svc.text import render
    from monitor_svc.view import decode_view

    try:
        return render(decode_view(data))
    except msgspec.DecodeError as error:
        raise RunFailed(f"monitor-svc answers in another shape: {error}; are both of the same version?") from error


def redraw(url: str) -> None:
    """The text dashboard in place until Ctrl-C; it stays while monitor-svc is away, with the reason below."""
    try:
        shown, problem = rendered(ask(url)), ""
        while True:
            console.clear()  # nothing where the output is no terminal: there one screen follows the other
            print(shown + problem, flush=True)
            time.sleep(REFRESH_S)
            try:
                shown, problem = rendered(ask(url)), ""
            except RunFailed as error:
                problem = f"\n\nOLD: {error}"
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def show_web(url: str, state_dir: Path | None) -> None:
    """Print the address if monitor-svc answers there; else run it, for the chosen fleet, in this process's place."""
    try:
        ask(url)
    except RunFailed:
        folder, fleet = choose_fleet(state_dir)
        print(f"{find_fleet(folder).url_of(SERVICE)}/ (Ctrl-C ends it)", flush=True)
        environment = os.environ | settings_of(fleet, folder)
        os.execve(sys.executable, [sys.executable, "-m", "monitor_svc"], environment)
    print(f"{url}/")


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

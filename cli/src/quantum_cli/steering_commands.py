"""`quantum emergency-stop` and `quantum flatten`: what an operator orders, with a reason that is kept."""

from __future__ import annotations

import asyncio
import getpass
from enum import StrEnum
from typing import Annotated, Any

import typer

from quantum_cli.errors import RunFailed, UsageError
from quantum_cli.fleet_commands import AsJson, StateDir
from quantum_cli.reach import Reach, ask_all, change, find_fleet
from quantum_cli.terminal import confirm, console, errors, failing_with_a_message, print_json

Reason = Annotated[str, typer.Option("--reason", help="Why: kept with the change")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask")]


class Switch(StrEnum):
    ON = "on"
    OFF = "off"


def emergency_stop(
    switch: Annotated[Switch, typer.Argument(metavar="on|off", help="on: nothing opens; off: entries may again")],
    reason: Reason,
    flatten: Annotated[bool, typer.Option("--flatten", help="With on: close every open position too")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Stop or allow new entries. Exits always pass; works through any instance of governer-svc."""
    wanted = switch is Switch.ON
    with failing_with_a_message():
        if flatten and not wanted:
            raise UsageError("--flatten closes positions: it goes with on")
        reach = find_fleet(state_dir)
        order = {"active": wanted, "reason": _said(reason), "flatten": flatten, "who": _who()}
        change(reach, "governer-svc", "/api/risk/emergency_stop", order)
        state = _read_back(reach, wanted)
    if as_json:
        print_json(state)
        return
    positions = len(state["active_positions"])
    console.print(f"emergency stop is {switch}, trading state {state['trading_state']}", soft_wrap=True)
    console.print(f"{positions} open positions{', being closed' if flatten and positions else ''}", soft_wrap=True)


def flatten(reason: Reason, yes: Yes = False, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Close every open position at market. Entries go on unless the emergency stop is on."""
    with failing_with_a_message():
        why, reach = _said(reason), find_fleet(state_dir)
        reach.token  # noqa: B018  ask only when it could be done
        errors.print(reach.how, markup=False, soft_wrap=True)
        if not yes:
            confirm("close every open position at market?")
        done = change(reach, "executor-svc", "/api/execution/flatten", {"reason": why, "who": _who()})
    if as_json:
        print_json(done)
    else:
        console.print(f"{done['positions']} positions are being closed", soft_wrap=True)


def _read_back(reach: Reach, wanted: bool) -> Any:
    """What the risk service says now: only this is what counts."""
    answer = asyncio.run(ask_all(reach, {"risk": ("governer-svc", "/api/risk/status")}))["risk"]
    if not answer.good:
        raise RunFailed(f"it was taken, but cannot be read back: {answer.problem or answer.status}")
    if answer.body["emergency_stop"] is not wanted:
        raise RunFailed(
            f"it was taken, but emergency_stop reads {answer.body['emergency_stop']}: someone else changed it"
        )
    return answer.body


def _said(reason: str) -> str:
    if not reason.strip():
        raise UsageError("--reason: say why, it is kept with the change")
    return reason


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user has no name
        return "operator"

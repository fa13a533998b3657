"""`quantum status`: every service, what meta and risk say, positions and dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from quantum_cli.fleet_commands import AsJson, StateDir
from quantum_cli.reach import find_fleet
from quantum_cli.status import FleetStatus, ServiceStatus, look
from quantum_cli.terminal import console, failing_with_a_message, print_json, printable

INSTANCE_WIDTH = 12
"""With it the whole table has its place in 80 columns."""
UNKNOWN = "[red]unknown: its service does not say[/]"


def status(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Every service of a fleet and what it does. Exit code 1 unless all that are needed are live and ready."""
    with failing_with_a_message():
        seen = asyncio.run(look(find_fleet(state_dir)))
    if as_json:
        print_json(seen)
    else:
        _show(seen)
    if not seen.good:
        raise typer.Exit(1)


def _show(seen: FleetStatus) -> None:
    console.print(f"{seen.mode} · {seen.fleet}", markup=False, soft_wrap=True)
    console.print(_table(seen.services))
    console.print()
    for name, text in _facts(seen):
        console.print(f"[bold]{name:<13}[/]{text}", soft_wrap=True)
    if seen.problems:
        console.print()
    for problem in seen.problems:
        console.print(f"[red]●[/] {escape(printable(problem))}", soft_wrap=True)


def _table(services: list[ServiceStatus]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in ("service", "live", "ready", "version", "instance", "model"):
        table.add_column(heading, no_wrap=True)
    for row in services:
        running = row.version is not None
        marks = [_mark(row, good) for good in (row.live, row.ready)] if running or row.needed else ["[dim]-[/]"] * 2
        name = row.service if row.needed else f"[dim]{row.service}[/]"
        model = " ".join(filter(None, (row.model, row.quality)))
        texts = (row.version, _end(row.instance or ""), model)
        table.add_row(name, *marks, *(escape(printable(text or "")) for text in texts))
    return table


def _end(instance: str) -> str:
    """What tells the pods of a service apart stands last in their names."""
    return instance if len(instance) <= INSTANCE_WIDTH else f"…{instance[1 - INSTANCE_WIDTH :]}"


def _mark(row: ServiceStatus, good: bool) -> str:
    return "[green]yes[/]" if good else "[red]no[/]" if row.needed else "no"


def _facts(seen: FleetStatus) -> Iterator[tuple[str, str]]:
    yield from _under("meta", [UNKNOWN] if seen.meta is None else _meta(seen.meta))
    yield from _under("risk", [UNKNOWN] if seen.risk is None else _risk(seen.risk))
    yield from _under("positions", [UNKNOWN] if seen.positions is None else _positions(seen.positions))
    if seen.dead_letters is None:
        yield "dead letters", UNKNOWN
    else:
        places = ", ".join(f"{stream} {count}" for stream, count in seen.dead_letters.items())
        yield "dead letters", f"[red]{escape(places)}[/]: quantum dead list" if places else "none"
    for alarm in seen.alarms:
        yield "alarm", f"[red]{escape(alarm)}[/]"


def _under(name: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    yield from zip([name, *[""] * (len(lines) - 1)], lines, strict=True)


def _meta(meta: dict[str, Any]) -> list[str]:
    share = f"{meta['meta_overrides']} overrides ({meta['override_rate']:.1%})"
    problem = [] if meta["model_ready"] else [f"[red]no model: {escape(printable(str(meta['model_problem'])))}[/]"]
    return [f"{meta['total_predictions']} decisions · {share} · {meta['version']}", *problem]


def _risk(risk: dict[str, Any]) -> list[str]:
    stop = "[red]EMERGENCY STOP ON[/]" if risk["emergency_stop"] else "emergency stop off"
    equity = "equity unknown" if risk["equity"] is None else f"equity {risk['equity']:,.2f} USD"
    trades = f"{risk['daily_trades']} of {risk['max_daily_trades']} trades today"
    return [f"{risk['trading_state']} · {stop}", f"{equity} · drawdown {risk['drawdown']:.2%} · {trades}"]


def _positions(rows: list[dict[str, Any]]) -> list[str]:
    return [escape(f"{row['symbol']} {row['side']} {row['quantity']} at {row['entry_price']:g}") for row in rows] or [
        "none open"
    ]

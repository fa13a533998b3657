"""`quantum train --check-leaks`: plants leaks in the pipeline and says whether each was noticed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from quantum_cli.plan import check_timeframe, read_all, threshold_for
from quantum_common.candles import Candles

if TYPE_CHECKING:
    from quantum_research.leaks import LeakReport

_MOST_BARS = 24_000
"""Of all symbols together, the newest: enough for a clear verdict in about a minute."""
_FEWEST_BARS = 3_000
"""Of one symbol: warm-up, window and a walk-forward."""


def run_leak_check(
    *,
    data_dir: Path,
    venue: str,
    symbols: tuple[str, ...],
    timeframe: str,
    from_ms: int | None,
    to_ms: int | None,
    label_threshold: float | None,
    horizon_bars: int,
    as_json: bool,
    console: Console,
) -> None:
    """Run the checks on the newest candles of the range and conclude."""
    check_timeframe(timeframe)
    threshold = threshold_for(timeframe, label_threshold)
    bars = max(_MOST_BARS // len(symbols), _FEWEST_BARS)
    candles = read_all(data_dir, venue, symbols, timeframe)
    market = {symbol: known.between(from_ms, to_ms).slice(-bars, None) for symbol, known in candles.items()}
    conclude(_checked(market, timeframe, horizon_bars, threshold), as_json, console)


def conclude(report: LeakReport, as_json: bool, console: Console) -> None:
    """Print the verdicts; exit code 1 unless every plant was noticed and the clean pipeline was not flagged."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(report.as_json()).decode() + "\n")
    else:
        _print(report, console)
    if not report.passed:
        raise typer.Exit(1)


def _checked(market: Mapping[str, Candles], timeframe: str, horizon_bars: int, threshold: float) -> LeakReport:
    from quantum_research.forecaster import installed_trainers  # here, because they bring the training frameworks
    from quantum_research.leaks import check_leaks

    with Console(stderr=True).status("training frameworks") as status:
        return check_leaks(
            market,
            timeframe,
            installed_trainers(),
            horizon_bars=horizon_bars,
            threshold=threshold,
            step=lambda name: status.update(f"checking {name}"),
        )


def _print(report: LeakReport, console: Console) -> None:
    table = Table(title=f"Leak checks · {', '.join(report.symbols)} · {report.timeframe} · {report.rows} bars")
    for column in ("check", "clean", "planted", "plant noticed", "clean pipeline"):
        table.add_column(column)
    for name, check in report.checks.items():
        table.add_row(
            name,
            f"{check.clean:.4g}",
            f"{check.planted:.4g}",
            "yes" if check.caught else "[red]NO[/]",
            "[red]FLAGGED[/]" if check.clean_flagged else "not flagged",
        )
    console.print(table)
    for name, check in report.checks.items():
        looks_at = "" if check.evidence == check.score else f"; judged by the {check.evidence}"
        console.print(f"{name}: {check.score}{looks_at}", soft_wrap=True)

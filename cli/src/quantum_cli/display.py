"""What a run shows while it goes on: a bar on a terminal, a line now and then elsewhere; and what it has counted."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from quantum_cli.plan import iso
from quantum_common.contracts import DecisionMade, Envelope

SECONDS_BETWEEN_LINES = 10.0


@dataclass
class Tally:
    """Counts of this process; a resumed run counts only its own bars."""

    started: float = field(default_factory=time.monotonic)
    first_decision_s: float | None = None
    bars: int = 0
    """Symbol bars settled."""
    decisions: int = 0
    dead_letters: int = 0
    market_s: float = 0.0
    """Wall seconds in which the market moved."""
    peak_pss_mb: float = 0.0


class RunDisplay:
    """Called by the conductor at every bar and decision. Use as a context manager while the market moves."""

    def __init__(self, console: Console, tally: Tally, bar_times: int) -> None:
        self._console, self._tally = console, tally
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("bars", total=bar_times)
        self._last_line = time.monotonic()

    def __enter__(self) -> RunDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def on_bar(self, bar_ts_ms: int, published: int) -> None:
        self._tally.bars += published
        line = f"{iso(bar_ts_ms)} · {self._tally.decisions} decisions"
        self._progress.update(self._task, advance=1, description=line)
        if not self._console.is_terminal and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._console.print(line)

    def on_decision(self, event: Envelope[DecisionMade]) -> None:
        self._tally.decisions += 1
        if self._tally.first_decision_s is None:
            self._tally.first_decision_s = time.monotonic() - self._tally.started
            made = event.payload
            self._console.print(
                f"first decision after {self._tally.first_decision_s:.1f} s: {event.symbol} {made.action.value} "
                f"{made.confidence:.3f} ({made.reason})"
            )

"""`quantum train` without --data: candles from the venue first, with a progress bar and a word on what is missing."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from quantum_cli.plan import BARS_BEFORE_FIRST_DECISION, check_timeframe, iso
from quantum_cli.terminal import progress_bar
from quantum_common.domain.timeframe import timeframe_ms

SHOWN_GAPS = 3


def download_all(
    folder: Path,
    venue: str,
    venue_url: str | None,
    symbols: tuple[str, ...],
    timeframe: str,
    from_ms: int | None,
    to_ms: int | None,
    console: Console,
) -> Path:
    """Bring the folder's candle files up to now, or to `to_ms`; with enough before `from_ms` to warm up."""
    from quantum_research.history import download, make_exchange

    step_ms = timeframe_ms(check_timeframe(timeframe))
    now_ms = int(time.time() * 1000)
    first_ms = None if from_ms is None else from_ms - BARS_BEFORE_FIRST_DECISION * step_ms
    exchange = make_exchange(venue, venue_url)
    try:
        with progress_bar() as bar:
            for symbol in symbols:
                shown = bar.add_task(f"{venue} {symbol} {timeframe}", total=1.0)
                done = download(
                    exchange,
                    folder,
                    symbol,
                    timeframe,
                    from_ms=first_ms,
                    to_ms=min(now_ms, to_ms or now_ms),
                    progress=lambda share, shown=shown: bar.update(shown, completed=share),  # type: ignore[misc]
                )
                bar.update(shown, completed=1.0)
                console.print(escape(_sentence(symbol, done.bars, done.new_bars, done.gaps, step_ms)), soft_wrap=True)
    finally:
        exchange.session.close()
    return folder


def _sentence(symbol: str, bars: int, new_bars: int, gaps: tuple[tuple[int, int], ...], step_ms: int) -> str:
    text = f"{symbol}: {bars} bars, {new_bars} of them new"
    if not gaps:
        return text
    missing = sum((stop - start) // step_ms for start, stop in gaps)
    shown = ", ".join(f"{(stop - start) // step_ms} from {iso(start)}" for start, stop in gaps[-SHOWN_GAPS:])
    return f"{text}; {missing} bars are missing at the venue, newest gaps: {shown}"

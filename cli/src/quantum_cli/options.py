"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
DEFAULT_MODELS = Path("state/models")

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
CandleFolder = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of candle files; without it the venue is asked", exists=True, file_okay=False),
]
VenueId = Annotated[str, typer.Option(help="ccxt id of the venue, as in the candle files' names")]
VenueUrl = Annotated[str | None, typer.Option(help="Without --data: scheme and host instead of the venue's own")]
Report = Annotated[Path | None, typer.Option(help="Folder for report.html, report.json and train.json")]
Quick = Annotated[bool, typer.Option("--quick", help="Newest 10,000 bars a symbol, smaller models")]
Parameters = Annotated[
    Path | None, typer.Option(help="best.json of a search: train with its hyperparameters", exists=True)
]
Models = Annotated[Path | None, typer.Option(help="Folder of model artifacts")]
LabelThreshold = Annotated[
    float | None, typer.Option(help="Return over the horizon that makes a BUY or SELL, as a fraction")
]
Horizon = Annotated[int, typer.Option(min=1, max=100, help="Bars that a label looks ahead")]

DEFAULT_SYMBOLS = "BTCUSDT,ETHUSDT,BNBUSDT,SOLUSDT,ADAUSDT"
DEFAULT_MODELS = Path("state/models")

"""The recorder's archive as learning needs it: features, the champions' predictions and closed trades, by bar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from quantum_common.domain import AGENTS
from quantum_research import ResearchError
from recorder_svc.archive import days, read_day

Triple = tuple[float, float, float]
"""P(SELL), P(HOLD), P(BUY)."""


class ArchiveRefused(ResearchError):
    """There is no archive at this place, or a file in it is none of the recorder's."""


class Candle(msgspec.Struct, frozen=True):
    close: float


class Features(msgspec.Struct, frozen=True):
    candle: Candle
    volatility: float
    trend_strength: float


class _FeaturesEvent(msgspec.Struct, frozen=True):
    event_id: str
    symbol: str
    timeframe: str
    bar_ts_ms: int
    payload: Features


class Prediction(msgspec.Struct, frozen=True):
    agent: str
    role: Literal["champion", "shadow"] = "champion"
    probabilities: Triple | None = None
    """None: it abstained."""
    model_version: str | None = None


class _PredictionEvent(msgspec.Struct, frozen=True):
    event_id: str
    symbol: str
    timeframe: str
    bar_ts_ms: int
    payload: Prediction


class _Execution(msgspec.Struct, frozen=True):
    decision_bar_ts_ms: int = 0
    pnl: Decimal = Decimal(0)


class _ExecutionEvent(msgspec.Struct, frozen=True):
    event_id: str
    kind: str
    symbol: str
    payload: _Execution


_E = TypeVar("_E", _FeaturesEvent, _PredictionEvent, _ExecutionEvent)


class Bar(NamedTuple):
    symbol: str
    ts_ms: int


@dataclass(slots=True)
class ArchiveRows:
    """What stands in the archive of one timeframe; of two events of an agent and bar the first counts, as live."""

    features: dict[Bar, Features] = field(default_factory=dict)
    predictions: dict[Bar, dict[str, Prediction]] = field(default_factory=dict)
    """By agent; votes and abstentions, shadows left out."""
    pnl_usd: dict[Bar, float] = field(default_factory=dict)
    """Net result of the trades that the decision of the bar opened."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Predictions that are not among them, by reason."""


def read_rows(folder: Path, timeframe: str, min_ms: int | None) -> ArchiveRows:
    """Bars from `min_ms` (UTC) on. Raises ArchiveRefused."""
    found = days(folder)
    if not found:
        raise ArchiveRefused(f"{folder} holds no day of an archive: give the recorder's folder <state>/archive")
    since_ms = 0 if min_ms is None else min_ms
    first_day = datetime.fromtimestamp(since_ms / 1000, UTC).date().isoformat()
    rows = ArchiveRows()
    for day in found:
        if day.name >= first_day:
            _read_bars(day, timeframe, since_ms, rows)
            _read_trades(day, rows)
    return rows


def _read_bars(day: Path, timeframe: str, since_ms: int, rows: ArchiveRows) -> None:
    for event in _events(day, "features", _FeaturesEvent):
        if event.timeframe == timeframe and event.bar_ts_ms >= since_ms:
            rows.features.setdefault(Bar(event.symbol, event.bar_ts_ms), event.payload)
    for prediction in _events(day, "predictions", _PredictionEvent):
        if prediction.timeframe != timeframe or prediction.bar_ts_ms < since_ms:
            continue
        said = prediction.payload
        if said.role == "shadow":
            rows.left_out["shadow"] += 1
        elif said.agent not in AGENTS:
            rows.left_out["unknown_agent"] += 1
        else:
            rows.predictions.setdefault(Bar(prediction.symbol, prediction.bar_ts_ms), {}).setdefault(said.agent, said)


def _read_trades(day: Path, rows: ArchiveRows) -> None:
    """A trade may close days after its bar, so the day of the file says nothing about the bar."""
    for event in _events(day, "executions", _ExecutionEvent):
        if event.kind == "TradeClosed":
            bar = Bar(event.symbol, event.payload.decision_bar_ts_ms)
            rows.pnl_usd[bar] = rows.pnl_usd.get(bar, 0.0) + float(event.payload.pnl)


def _events(day: Path, stream: str, row_type: type[_E]) -> Iterator[_E]:
    """Events of a day, each once, from `<stream>.jsonl` and from `<stream>.parquet` with the same columns."""
    seen: set[str] = set()
    for event in chain(read_day(day, stream, row_type), _parquet(day / f"{stream}.parquet", row_type)):
        if event.event_id not in seen:
            seen.add(event.event_id)
            yield event


def _parquet(path: Path, row_type: type[_E]) -> Iterator[_E]:
    if not path.exists():
        return
    import pyarrow.parquet as pq

    try:
        for row in pq.read_table(path, use_threads=False).to_pylist():
            yield msgspec.convert(_without_nulls(row), row_type)
    except (OSError, ValueError) as error:  # also what msgspec raises for a column of another type
        raise ArchiveRefused(f"{path}: {error}") from error


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """In a column of structs the fields of the other kinds of event are null."""
    return {
        name: _without_nulls(value) if isinstance(value, dict) else value
        for name, value in row.items()
        if value is not None
    }

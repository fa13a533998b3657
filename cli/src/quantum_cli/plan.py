"""From the options of `quantum up` and `quantum train` to a checked plan: which candles, which range, which folders."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from exchange_sim import synthetic
from quantum_cli.errors import UsageError
from quantum_cli.running import RUN_FILE_NAME
from quantum_common.bus import connect_client, is_cluster
from quantum_common.candles import CandleFileError, Candles, read_candles
from quantum_common.domain.timeframe import DEFAULT_HORIZON_BARS, DEFAULT_LABEL_THRESHOLD, TIMEFRAME_MS, timeframe_ms
from quantum_common.features import SEQUENCE_BARS, WARMUP_BARS
from quantum_common.service.names import TOOLKIT_NAMES

BARS_BEFORE_FIRST_DECISION = WARMUP_BARS + SEQUENCE_BARS - 1

MOST_PARTITIONS = 99

SYNTHETIC_BARS_PER_S = 1.0


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One run of the fleet over recorded candles. Times are open times of bars, UTC ms; `to_ms` is exclusive."""

    data_dir: Path
    venue: str
    symbols: tuple[str, ...]
    timeframe: str
    from_ms: int
    to_ms: int
    label_threshold: float
    horizon_bars: int
    state_dir: Path
    models_dir: Path
    port_offset: int
    bars_per_s: float | None
    """Market pace in bars per wall second; None = as fast as the fleet settles them."""
    partitions: int = 1
    """Symbol partitions, as exported in QT_PARTITIONS."""
    cluster_url: str | None = None
    """The cluster that the run uses instead of a server of its own, as exported in QT_REDIS_URL."""

    @property
    def timeframe_ms(self) -> int:
        return timeframe_ms(self.timeframe)


def parse_date(value: str | None, option: str) -> int | None:
    """ISO date or date-time, UTC, to milliseconds."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise UsageError(f"{option} {value!r}: give an ISO date such as 2025-01-01 or 2025-01-01T12:00") from None
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)


def iso(ts_ms: int) -> str:
    """UTC milliseconds as an ISO date-time to the minute."""
    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M")


def parse_symbols(value: str) -> tuple[str, ...]:
    symbols = tuple(part.strip().upper() for part in value.split(",") if part.strip())
    if not symbols or len(set(symbols)) != len(symbols):
        raise UsageError(f"--symbols {value!r}: give different symbols separated by commas, such as BTCUSDT,ETHUSDT")
    return symbols


def parse_speed(value: str, timeframe: str) -> float | None:
    """`max`, or how many times faster than real time the market runs; as bars per wall second."""
    if value == "max":
        return None
    try:
        times = float(value)
    except ValueError:
        times = 0.0
    if times <= 0:
        raise UsageError(f"--speed {value!r}: give max, or a positive multiple of real time such as 3600")
    return times * 1000 / timeframe_ms(timeframe)


def check_timeframe(timeframe: str) -> str:
    if timeframe not in TIMEFRAME_MS:
        raise UsageError(f"--timeframe {timeframe!r}: use one of {', '.join(TIMEFRAME_MS)}")
    return timeframe


def threshold_for(timeframe: str, label_threshold: float | None) -> float:
    """The given label threshold, else the timeframe's default."""
    threshold = DEFAULT_LABEL_THRESHOLD[timeframe] if label_threshold is None else label_threshold
    if not 0 < threshold < 1:
        raise UsageError(f"--label-threshold {threshold}: give a fraction between 0 and 1, such as 0.015 for 1.5 %")
    return threshold


def read_all(data_dir: Path, venue: str, symbols: tuple[str, ...], timeframe: str) -> dict[str, Candles]:
    """Candles of every symbol; a missing file is a usage error."""
    try:
        return {symbol: read_candles(data_dir, venue, symbol, timeframe) for symbol in symbols}
    except CandleFileError as error:
        raise UsageError(str(error)) from error


def make_plan(
    *,
    data_dir: Path | None,
    venue: str,
    symbols: tuple[str, ...],
    timeframe: str,
    from_ms: int | None,
    to_ms: int | None,
    speed: str | None,
    models_dir: Path | None,
    state_dir: Path | None,
    port_offset: int,
    label_threshold: float | None,
    horizon_bars: int = DEFAULT_HORIZON_BARS,
) -> tuple[RunPlan, dict[str, Candles]]:
    """Check the options against the candles; UsageError says what does not fit. Without data, makes a market."""
    check_timeframe(timeframe)
    step_ms = timeframe_ms(timeframe)
    if data_dir is None:
        if from_ms is not None or to_ms is not None:
            raise UsageError("--from and --to choose a range of recorded candles: give --data as well")
        venue = synthetic.VENUE
        from_ms = synthetic.trading_from_ms(timeframe)
        bars_per_s = parse_speed(speed, timeframe) if speed else SYNTHETIC_BARS_PER_S
    else:
        bars_per_s = parse_speed(speed or "max", timeframe)
    threshold = threshold_for(timeframe, label_threshold)
    cluster_url = exported_cluster()
    parts: list[Any] = [data_dir and data_dir.resolve(), symbols, from_ms, to_ms, models_dir, threshold, horizon_bars]
    parts += ["cluster"] if cluster_url else []
    state = state_dir or _default_state_dir(venue, timeframe, parts)
    data_dir = data_dir or synthetic.write_market(state / "market", symbols, timeframe)
    candles = read_all(data_dir, venue, symbols, timeframe)
    first, last = _range(candles, from_ms, to_ms, step_ms)
    plan = RunPlan(
        data_dir=data_dir.resolve(),
        venue=venue,
        symbols=symbols,
        timeframe=timeframe,
        from_ms=first,
        to_ms=last,
        label_threshold=threshold,
        horizon_bars=horizon_bars,
        state_dir=state.resolve(),
        models_dir=(models_dir or state / "models").resolve(),
        port_offset=port_offset,
        bars_per_s=bars_per_s,
        partitions=exported_partitions(),
        cluster_url=cluster_url,
    )
    return plan, candles


def _range(candles: dict[str, Candles], from_ms: int | None, to_ms: int | None, step_ms: int) -> tuple[int, int]:
    end = max(int(table.ts[-1]) for table in candles.values()) + step_ms
    last = min(to_ms or end, end)
    if from_ms is None:  # the newest fifth: what comes before is for training
        start = max(int(table.ts[0]) for table in candles.values())
        from_ms = start + int((last - start) * 0.8) // step_ms * step_ms
    if from_ms % step_ms:
        raise UsageError("--from lies between two bars: give the open time of a bar")
    for symbol, table in candles.items():
        before = int((table.ts < from_ms).sum())
        if before < BARS_BEFORE_FIRST_DECISION:
            raise UsageError(
                f"--from: {symbol} has {before} bars before it, and {BARS_BEFORE_FIRST_DECISION} are needed "
                "to warm the features up: choose a later date"
            )
        if not ((table.ts >= from_ms) & (table.ts < last)).any():
            raise UsageError(f"--from/--to: {symbol} has no bar in the range")
    return from_ms, last


def exported_partitions() -> int:
    """UsageError for a number that no line can have."""
    value = os.environ.get("QT_PARTITIONS", "1")
    if not value.isdecimal() or not 1 <= int(value) <= MOST_PARTITIONS:
        raise UsageError(f"QT_PARTITIONS {value!r}: give a number from 1 to {MOST_PARTITIONS}")
    return int(value)


def exported_cluster() -> str | None:
    """None without one: a plain QT_REDIS_URL is meant for services that are started by hand."""
    url = os.environ.get("QT_REDIS_URL", "")
    if not is_cluster(url):
        return None
    try:
        connect_client(url)
    except ValueError as error:
        raise UsageError(f"QT_REDIS_URL: {error}") from error
    return url


def exported_settings() -> dict[str, str]:
    """Settings that the user exported and that change what a run decides: no secrets, logs or addresses."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(("QT_", "META_", "KELLY_"))
        and not name.startswith((*TOOLKIT_NAMES, "QT_LOG_", "QT_REDIS_", "QT_LEDGER_", "QT_DATA_DIR"))
        and not name.endswith(("_KEY", "_SECRET", "_TOKEN"))
    }


def ledger_url(plan: RunPlan) -> str:
    """Where the recorder writes and the summary reads."""
    return os.environ.get("QT_LEDGER_URL", f"sqlite:///{plan.state_dir / 'ledger.sqlite'}")


def _default_state_dir(venue: str, timeframe: str, parts: list[Any]) -> Path:
    """A folder per market, range and settings, so that two different runs never share one by accident."""
    digest = hashlib.sha256(repr([*parts, exported_settings()]).encode()).hexdigest()[:6]
    return Path("state") / f"{venue}-{timeframe}-{digest}"


def claim_state_dir(plan: RunPlan) -> None:
    """Write the plan into a new state folder, or check that the folder's run is this one."""
    path = plan.state_dir / RUN_FILE_NAME
    mine = {
        "data": str(plan.data_dir),
        "venue": plan.venue,
        "symbols": list(plan.symbols),
        "timeframe": plan.timeframe,
        "from": iso(plan.from_ms),
        "to": iso(plan.to_ms),
        "models": str(plan.models_dir),
        "label_threshold": plan.label_threshold,
        "horizon_bars": plan.horizon_bars,
        "settings": exported_settings(),
        "server": "cluster" if plan.cluster_url else "own",
    }
    if not path.exists():
        plan.state_dir.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(mine)))
        return
    kept = {"server": "own", **msgspec.json.decode(path.read_bytes())}
    if changed := [name for name in mine if kept.get(name) != mine[name]]:
        raise UsageError(
            f"{plan.state_dir} holds another run ({', '.join(changed)} differ): "
            "choose another --state-dir, or remove the folder"
        )

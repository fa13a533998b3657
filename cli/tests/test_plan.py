"""Wrong options end with a message that names the option and the fix."""

from pathlib import Path
from typing import Any

import pytest

from exchange_sim.synthetic import generate
from quantum_cli.errors import UsageError
from quantum_cli.plan import (
    BARS_BEFORE_FIRST_DECISION,
    claim_state_dir,
    make_plan,
    parse_date,
    parse_speed,
    parse_symbols,
)
from quantum_cli.up import environment
from quantum_common.candles import write_candles

START_MS, HOUR_MS = 1_704_067_200_000, 3_600_000
BARS = BARS_BEFORE_FIRST_DECISION + 50


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("candles")
    for symbol in ("BTCUSDT", "ETHUSDT"):
        write_candles(folder, "binance", symbol, "1h", generate(symbol, "1h", BARS, START_MS, 1))
    return folder


def planned(data_dir: Path, state_dir: Path, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "venue": "binance",
        "symbols": ("BTCUSDT", "ETHUSDT"),
        "timeframe": "1h",
        "from_ms": START_MS + BARS_BEFORE_FIRST_DECISION * HOUR_MS,
        "to_ms": None,
        "speed": None,
        "models_dir": None,
        "state_dir": state_dir,
        "port_offset": 0,
        "label_threshold": None,
    }
    return make_plan(data_dir=data_dir, **(defaults | options))[0]


def test_a_plan_ends_where_the_candles_end(data_dir: Path, tmp_path: Path) -> None:
    plan = planned(data_dir, tmp_path)
    assert plan.to_ms == START_MS + BARS * HOUR_MS
    assert (plan.label_threshold, plan.bars_per_s) == (0.015, None)
    assert plan.models_dir == (tmp_path / "models").resolve()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symbols": ("NOPEUSDT",)}, "no candle file .*NOPEUSDT"),
        ({"timeframe": "2h"}, "--timeframe '2h': use one of"),
        ({"from_ms": START_MS + 100 * HOUR_MS}, "BTCUSDT has 100 bars before it, and 1063 are needed"),
        ({"from_ms": START_MS + 1100 * HOUR_MS + 5}, "--from lies between two bars"),
        ({"from_ms": START_MS + 9000 * HOUR_MS}, "has no bar in the range"),
        ({"label_threshold": 1.5}, "--label-threshold"),
    ],
)
def test_options_that_do_not_fit_are_named(
    data_dir: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        planned(data_dir, tmp_path, **options)


def test_a_state_folder_resumes_its_run_and_refuses_another(data_dir: Path, tmp_path: Path) -> None:
    claim_state_dir(planned(data_dir, tmp_path))
    claim_state_dir(planned(data_dir, tmp_path))
    with pytest.raises(UsageError, match=r"another run \(to differ\)"):
        claim_state_dir(planned(data_dir, tmp_path, to_ms=START_MS + (BARS - 5) * HOUR_MS))


def test_another_exported_setting_is_another_run(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_state_dir(planned(data_dir, tmp_path))
    monkeypatch.setenv("QT_VENUE_API_SECRET", "never written down")
    claim_state_dir(planned(data_dir, tmp_path))
    monkeypatch.setenv("QT_MIN_CONFIDENCE_THRESHOLD", "0.4")
    with pytest.raises(UsageError, match=r"another run \(settings differ\)"):
        claim_state_dir(planned(data_dir, tmp_path))


def test_different_runs_have_different_default_folders(data_dir: Path) -> None:
    one = planned(data_dir, None)  # type: ignore[arg-type]
    other = planned(data_dir, None, label_threshold=0.004)  # type: ignore[arg-type]
    assert one.state_dir != other.state_dir


def test_dates_are_iso_and_utc() -> None:
    assert parse_date("2024-01-01", "--from") == START_MS
    assert parse_date("2024-01-01T01:00", "--from") == START_MS + HOUR_MS
    with pytest.raises(UsageError, match="--to '1.1.24'"):
        parse_date("1.1.24", "--to")


def test_speed_is_max_or_a_multiple_of_real_time() -> None:
    assert parse_speed("max", "1h") is None
    assert parse_speed("7200", "1h") == 2.0
    with pytest.raises(UsageError, match="--speed"):
        parse_speed("-1", "1h")


def test_symbols_are_distinct() -> None:
    assert parse_symbols("btcusdt, ETHUSDT") == ("BTCUSDT", "ETHUSDT")
    with pytest.raises(UsageError, match="--symbols"):
        parse_symbols("BTCUSDT,BTCUSDT")


def test_the_plan_takes_partitions_and_a_cluster_from_what_is_exported(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QT_REDIS_URL", "redis://127.0.0.1:6379/0")
    plan = planned(data_dir, tmp_path)
    assert (plan.partitions, plan.cluster_url) == (1, None)
    claim_state_dir(plan)
    monkeypatch.setenv("QT_REDIS_URL", "redis+cluster://127.0.0.1:7001")
    monkeypatch.setenv("QT_PARTITIONS", "4")
    plan = planned(data_dir, tmp_path)
    assert (plan.partitions, plan.cluster_url) == (4, "redis+cluster://127.0.0.1:7001")
    assert environment(plan, "")["QT_PARTITIONS"] == "4"
    with pytest.raises(UsageError, match=r"another run \(settings, server differ\)"):
        claim_state_dir(plan)


@pytest.mark.parametrize(
    ("name", "value"),
    [("QT_PARTITIONS", "0"), ("QT_PARTITIONS", "many"), ("QT_REDIS_URL", "redis+cluster://127.0.0.1:7001/5")],
)
def test_an_exported_value_that_cannot_be_is_wrong_usage(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=name):
        planned(data_dir, tmp_path)

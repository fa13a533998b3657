"""Meta training from the recorder's archive: what is joined, what is left out and why, and what is refused."""

import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from meta_svc.serving import load_meta
from meta_svc.versions import VERSIONS
from quantum_common.bus import Entry, Received
from quantum_common.contracts import (
    Candle,
    FeaturesComputed,
    OrderFilled,
    PredictionAbstained,
    PredictionMade,
    Producer,
    TradeClosed,
    encode,
    envelope,
)
from quantum_common.domain import AGENTS, OrderSide, Role
from quantum_common.domain.signal import CLASS_ORDER
from quantum_common.models import Golden, Manifest, current_version, promote, publish
from quantum_research import ResearchError, TooLittleData
from quantum_research.archive import ArchiveRefused
from quantum_research.archive_training import ArchiveRequest, train_from_archive
from quantum_research.archive_votes import ArchivedVotes, archived_votes, known_shares
from recorder_svc.archive import Archive

HOUR_MS = 3_600_000
START_MS = 1_700_006_400_000  # 2023-11-15 00:00
BTC = "BTCUSDT"
BUY = (0.1, 0.2, 0.7)
HOLD = (0.1, 0.8, 0.1)


class Fleet:
    """Writes what a fleet would have sent, with the recorder's own archive."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._archive = Archive(folder)

    def features(self, bar: int, close: float = 100.0, symbol: str = BTC, **changes: Any) -> None:
        payload = FeaturesComputed(
            candle=Candle(close, close, close, close, 1.0),
            values=(0.0,) * 18,
            volatility=changes.pop("volatility", 0.4),
            trend_strength=-0.2,
            feature_hash="hash",
            gap_bars=0,
            live_symbols=1,
        )
        self.send("features", payload, bar, symbol, **changes)

    def vote(self, bar: int, agent: str, said: tuple[float, float, float] = BUY, symbol: str = BTC, **of: Any) -> None:
        best = int(np.argmax(said))
        payload = PredictionMade(
            agent=agent,
            action=CLASS_ORDER[best],
            confidence=said[best],
            probabilities=said,
            model_version=of.pop("version", "1"),
            role=of.pop("role", "champion"),
            inference_ms=0.1,
        )
        key = f"{payload.model_version}|{payload.role}"
        self.send("predictions", payload, bar, symbol, service=f"{agent}-agent", key=key, **of)

    def abstain(self, bar: int, agent: str) -> None:
        payload = PredictionAbstained(agent, "not_enough_history", "3 of 64 bars")
        self.send("predictions", payload, bar, BTC, service=f"{agent}-agent")

    def trade(self, bar: int, pnl: str, closed_bar: int, symbol: str = BTC) -> None:
        one = Decimal(1)
        payload = TradeClosed(
            decision_id=f"{bar}",
            decision_bar_ts_ms=START_MS + bar * HOUR_MS,
            side=OrderSide.BUY,
            quantity=one,
            entry_price=one,
            exit_price=one,
            fees=one,
            funding=one,
            pnl=Decimal(pnl),
            exit_role=Role.EXIT,
            exit_reason="time_stop",
            opened_ts_ms=START_MS + (bar + 1) * HOUR_MS,
            closed_ts_ms=START_MS + closed_bar * HOUR_MS,
        )
        self.send("executions", payload, closed_bar, symbol, key=str(bar))

    def fill(self, bar: int) -> None:
        """An execution of the bar that closes nothing."""
        one = Decimal(1)
        payload = OrderFilled(
            client_order_id="1",
            decision_id="1",
            decision_bar_ts_ms=START_MS + bar * HOUR_MS,
            role=Role.ENTRY,
            trade_id="1",
            side=OrderSide.BUY,
            quantity=one,
            price=one,
            fee=one,
            realized_pnl=one,
            market_ts_ms=START_MS,
            sequence=0,
        )
        self.send("executions", payload, bar, BTC)

    def send(
        self,
        stream: str,
        payload: msgspec.Struct,
        bar: int,
        symbol: str,
        *,
        timeframe: str = "1h",
        service: str = "feature-svc",
        key: str = "",
        times: int = 1,
    ) -> None:
        event = envelope(
            payload,
            producer=Producer(service, "1", "0.1.0"),
            produced_at_ms=1,
            symbol=symbol,
            timeframe=timeframe,
            bar_ts_ms=START_MS + bar * HOUR_MS,
            natural_key=key,
        )
        entry = Entry(f"{{p00}}:{stream}", "1-0", encode(event), "recorder-svc", "1")
        self._archive.append(self._archive.lines([Received(entry, event)] * times))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path / "archive")
    yield fleet
    fleet._archive.close()


def read(fleet: Fleet, labels_end: dict[str, int] | None = None, **changes: Any) -> ArchivedVotes:
    known = {"1": 0} if labels_end is None else labels_end
    given = {"timeframe": "1h", "horizon_bars": 5, "label_threshold": 0.015, **changes}
    return archived_votes(fleet.folder, labels_end=lambda agent, version: known.get(version), **given)


def a_day(fleet: Fleet, bars: int = 12, symbol: str = BTC) -> None:
    """Bars that rise by 1 % each, so that every label is a BUY."""
    for bar in range(bars):
        fleet.features(bar, 100.0 * 1.01**bar, symbol)


def test_a_bar_with_votes_becomes_a_row_with_the_price_label_of_its_horizon(fleet: Fleet) -> None:
    a_day(fleet)
    fleet.vote(2, "xgb")
    fleet.vote(2, "nhits", HOLD)
    found = read(fleet)
    assert found.votes.ts_ms.tolist() == [START_MS + 2 * HOUR_MS]
    assert found.votes.label_end_ms.tolist() == [START_MS + 8 * HOUR_MS]
    assert found.votes.label.tolist() == [2]
    assert found.votes.present.tolist() == [[True, False, True, False]]
    assert found.votes.probabilities[0, 0].tolist() == list(BUY)
    assert found.votes.probabilities[0, 2].tolist() == list(HOLD)
    assert (found.votes.volatility[0], found.votes.trend_strength[0]) == (0.4, -0.2)
    assert (found.symbols, found.left_out) == ((BTC,), {})


def test_threshold_and_horizon_make_the_label(fleet: Fleet) -> None:
    a_day(fleet)
    fleet.vote(2, "xgb")
    assert read(fleet, label_threshold=0.0511).votes.label.tolist() == [1]
    assert read(fleet, label_threshold=0.0509).votes.label.tolist() == [2]
    assert read(fleet, horizon_bars=1).votes.label.tolist() == [1]


def test_shadows_abstentions_and_strangers_do_not_vote_and_are_counted(fleet: Fleet) -> None:
    a_day(fleet)
    fleet.vote(2, "xgb")
    fleet.vote(2, "lgbm", role="shadow", version="2")
    fleet.abstain(2, "nhits")
    fleet.vote(2, "oracle")
    found = read(fleet, {"1": 0, "2": 0})
    assert found.votes.present.tolist() == [[True, False, False, False]]
    assert found.left_out == {"shadow": 1, "abstained": 1, "unknown_agent": 1}


def test_a_shadow_does_not_take_the_place_of_its_champion(fleet: Fleet) -> None:
    a_day(fleet)
    fleet.vote(2, "xgb", HOLD, role="shadow", version="2")
    fleet.vote(2, "xgb", BUY)
    assert read(fleet, {"1": 0, "2": 0}).votes.probabilities[0, 0].tolist() == list(BUY)


def test_of_two_votes_of_an_agent_the_first_counts_and_a_doubled_line_is_one(fleet: Fleet) -> None:
    a_day(fleet)
    fleet.vote(2, "xgb", BUY, times=3)
    fleet.vote(2, "xgb", HOLD, version="2")
    found = read(fleet, {"1": 0, "2": 0})
    assert len(found.votes) == 1
    assert found.votes.probabilities[0, 0].tolist() == list(BUY)


def test_a_prediction_that_came_after_all_others_still_belongs_to_its_bar(fleet: Fleet) -> None:
    a_day(fleet)
    fleet.vote(3, "xgb")
    fleet.vote(2, "xgb")
    fleet.vote(2, "lgbm")
    found = read(fleet)
    assert found.votes.ts_ms.tolist() == [START_MS + 2 * HOUR_MS, START_MS + 3 * HOUR_MS]
    assert found.votes.present.sum(axis=1).tolist() == [2, 1]


def test_f30_a_model_that_had_seen_the_bar_does_not_vote(fleet: Fleet) -> None:
    a_day(fleet)
    fleet.vote(2, "xgb", version="old")
    fleet.vote(3, "xgb", version="old")
    fleet.vote(3, "lgbm", version="forgotten")
    found = read(fleet, {"old": START_MS + 3 * HOUR_MS})
    assert found.votes.ts_ms.tolist() == [START_MS + 3 * HOUR_MS]
    assert found.votes.present.sum() == 1
    assert found.left_out == {"model_had_seen_the_bar": 1, "unknown_model_version": 1, "no_vote": 1}


@pytest.mark.parametrize("said", [(0.2, 0.2, 0.2), (-0.1, 0.4, 0.7), (0.0, 0.5, 1.5)])
def test_numbers_that_are_no_probabilities_do_not_vote(fleet: Fleet, said: tuple[float, float, float]) -> None:
    a_day(fleet)
    fleet.vote(2, "xgb", said)
    fleet.vote(2, "lgbm")
    found = read(fleet)
    assert found.votes.present.tolist() == [[False, True, False, False]]
    assert found.left_out == {"invalid_probabilities": 1}


def test_bars_without_features_label_or_sound_regime_are_left_out_with_the_reason(fleet: Fleet) -> None:
    for bar in (*range(6), *range(7, 14)):  # bar 6 is missing, so the labels of bars 1 to 5 span a gap
        fleet.features(bar, 100.0, volatility=7.0 if bar == 8 else 0.4)
    for bar in (0, 3, 6, 7, 8, 13):
        fleet.vote(bar, "xgb")
    found = read(fleet)
    assert found.votes.ts_ms.tolist() == [START_MS, START_MS + 7 * HOUR_MS]
    assert found.left_out == {"no_label": 2, "no_features": 1, "invalid_regime": 1}


def test_other_timeframes_are_other_bars(fleet: Fleet) -> None:
    fleet.features(4, 1_000_000.0, timeframe="15m")
    a_day(fleet)
    fleet.vote(4, "xgb", timeframe="15m")
    fleet.vote(4, "lgbm")
    found = read(fleet)
    assert found.votes.present.tolist() == [[False, True, False, False]]
    assert found.votes.label.tolist() == [2]


def test_symbols_are_joined_apart_and_rows_are_in_the_order_of_time(fleet: Fleet) -> None:
    a_day(fleet)
    for bar in range(12):
        fleet.features(bar, 100.0 * 0.99**bar, "ETHUSDT")
    fleet.vote(3, "xgb", symbol="ETHUSDT")
    fleet.vote(2, "xgb")
    fleet.vote(3, "xgb")
    found = read(fleet)
    assert found.votes.label.tolist() == [2, 2, 0]
    assert found.symbols == (BTC, "ETHUSDT")


def test_closed_trades_stand_beside_the_bar_that_decided_them_and_do_not_label_it(fleet: Fleet) -> None:
    a_day(fleet, 40)
    for bar in (2, 3, 4):
        fleet.vote(bar, "xgb")
    fleet.trade(2, "-12.5", closed_bar=30)  # closed on the next day
    fleet.trade(4, "3.25", closed_bar=9)
    fleet.trade(3, "9", closed_bar=9, symbol="ETHUSDT")
    fleet.fill(3)
    found = read(fleet)
    assert found.net_pnl_usd[[0, 2]].tolist() == [-12.5, 3.25]
    assert np.isnan(found.net_pnl_usd[1])
    assert found.votes.label.tolist() == [2, 2, 2]


def test_bars_before_the_first_date_are_dropped(fleet: Fleet) -> None:
    a_day(fleet, 60)
    for bar in range(40):
        fleet.vote(bar, "xgb")
    found = read(fleet, min_ms=START_MS + 30 * HOUR_MS)
    assert found.votes.ts_ms.tolist() == [START_MS + bar * HOUR_MS for bar in range(30, 40)]
    assert found.left_out == {}


def test_too_few_samples_are_refused_with_how_many_there_are_and_what_was_left_out(fleet: Fleet) -> None:
    a_day(fleet, 60)
    for bar in range(40):
        fleet.vote(bar, "xgb")
    fleet.abstain(3, "lgbm")
    assert len(read(fleet, min_samples=40).votes) == 40
    with pytest.raises(TooLittleData, match=r"has 40 1h bars .* and 41 are needed .*abstained 1"):
        read(fleet, min_samples=41)
    with pytest.raises(TooLittleData, match="has 0 1h bars"):
        read(fleet, min_ms=START_MS + 100 * HOUR_MS)


def test_a_folder_that_is_no_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveRefused, match="nowhere"):
        read(Fleet(tmp_path / "nowhere"))


def test_the_prior_of_a_row_knows_only_labels_that_had_ended(fleet: Fleet) -> None:
    ts_ms = np.arange(6) * HOUR_MS
    label = np.array([0, 0, 1, 2, 2, 2], np.int8)
    shares = known_shares(label, ts_ms, ts_ms + 2 * HOUR_MS)
    assert shares[0].tolist() == shares[1].tolist() == [1 / 3] * 3
    assert shares[2] == pytest.approx([2 / 4, 1 / 4, 1 / 4])
    assert shares[5] == pytest.approx([3 / 7, 2 / 7, 2 / 7])


def test_parquet_with_the_same_columns_is_read_like_lines(fleet: Fleet, tmp_path: Path) -> None:
    a_day(fleet)
    fleet.vote(2, "xgb")
    fleet.abstain(2, "lgbm")
    fleet.trade(2, "-12.5", closed_bar=9)
    fleet.fill(3)
    other = Fleet(tmp_path / "parquet")
    for day in fleet.folder.iterdir():
        (other.folder / day.name).mkdir(parents=True)
        for file in day.iterdir():
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            pq.write_table(pa.Table.from_pylist(rows), other.folder / day.name / f"{file.stem}.parquet")
    lines, columns = read(fleet), read(other)
    assert columns.left_out == lines.left_out == {"abstained": 1}
    assert columns.net_pnl_usd.tolist() == lines.net_pnl_usd.tolist() == [-12.5]
    for name in ("probabilities", "present", "label", "ts_ms", "prior"):
        assert (getattr(columns.votes, name) == getattr(lines.votes, name)).all()


def test_a_parquet_file_of_something_else_is_named(fleet: Fleet) -> None:
    a_day(fleet)
    fleet.vote(2, "xgb")
    (day,) = fleet.folder.iterdir()
    pq.write_table(pa.table({"price": [1.0]}), day / "features.parquet")
    with pytest.raises(ArchiveRefused, match=r"features\.parquet"):
        read(fleet)


# --- the whole of it


def publish_agents(models_dir: Path, **changes: Any) -> None:
    """Manifests of four agents whose labels end when the archive begins."""
    for agent in AGENTS:
        manifest = Manifest(
            agent=agent,
            version="1",
            kind="row",
            feature_hash="",
            view="relative",
            feature_names=(),
            class_order=("SELL", "HOLD", "BUY"),
            timeframe="1h",
            horizon_bars=5,
            label_threshold=0.015,
            window_bars=1,
            symbols=(BTC,),
            library_versions={},
            data_from_ms=0,
            labels_to_ms=START_MS,
            metrics={},
            quality="proven",
            parameters=1,
            golden=Golden([], []),
        )
        publish(models_dir, msgspec.structs.replace(manifest, **(changes if agent == "lgbm" else {})), b"graph")
        promote(models_dir, agent, manifest.version, reason="test", at_ms=1)


def skilled(fleet: Fleet, bars: int) -> None:
    """A market that moves at random, and agents that lean towards what it will do."""
    random = np.random.default_rng(5)
    close = 100.0 * np.exp(np.cumsum(random.normal(0, 0.009, bars)))
    for bar in range(bars):
        fleet.features(bar, float(close[bar]))
    change = close[5:] / close[:-5] - 1.0
    for bar, moved in enumerate(change):
        label = 2 if moved > 0.015 else 0 if moved < -0.015 else 1
        for agent in AGENTS:
            odds = np.exp(random.normal(size=3) + 1.2 * np.eye(3)[label])
            sell, hold, buy = (odds / odds.sum()).tolist()
            if random.random() > 0.1:
                fleet.vote(bar, agent, (sell, hold, buy))
    fleet.trade(7, "-2", closed_bar=12)
    fleet.trade(90, "5", closed_bar=99)


def test_the_meta_models_are_trained_and_published_from_an_archive(fleet: Fleet, tmp_path: Path) -> None:
    skilled(fleet, 700)
    models = tmp_path / "models"
    publish_agents(models)
    request = ArchiveRequest(fleet.folder, models, min_samples=600, report_dir=tmp_path / "report")
    report = train_from_archive(request)
    for meta in VERSIONS.values():
        served = load_meta(models / meta.folder, meta, "1h")
        metrics = report.models[meta.folder].metrics
        assert served.version == report.models[meta.folder].version
        assert metrics["log_loss"] < metrics["log_loss_prior"] - 0.2
        assert served.loaded.manifest.data_from_ms >= START_MS
    assert report.samples == 695
    assert 550 < report.votes["xgb"] < 660
    assert (report.traded.bars, report.traded.hit_rate, report.traded.net_pnl_usd) == (2, 0.5, 3.0)
    assert json.loads((tmp_path / "report/meta.json").read_text()) == json.loads(json.dumps(report.as_json()))
    again = train_from_archive(replace(request, report_dir=None))
    assert {name: model.version for name, model in again.models.items()} == {
        name: model.version for name, model in report.models.items()
    }


def test_too_small_an_archive_publishes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    skilled(fleet, 60)
    publish_agents(tmp_path / "models")
    with pytest.raises(TooLittleData, match="1000 are needed"):
        train_from_archive(ArchiveRequest(fleet.folder, tmp_path / "models"))
    assert current_version(tmp_path / "models", "meta") is None


def test_agents_with_different_labels_are_named(fleet: Fleet, tmp_path: Path) -> None:
    publish_agents(tmp_path / "models", label_threshold=0.02)
    with pytest.raises(ResearchError, match=r"lgbm 1h/5/0\.02"):
        train_from_archive(ArchiveRequest(fleet.folder, tmp_path / "models"))

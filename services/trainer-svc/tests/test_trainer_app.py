"""trainer-svc on the bus: what it hears decides which version serves, and agents are told."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from meta_svc.versions import VERSIONS
from quantum_common.bus import MemoryBus
from quantum_common.contracts import (
    CONTROL,
    FEATURES,
    PREDICTIONS,
    Candle,
    FeaturesComputed,
    Look,
    PredictionAbstained,
    PredictionMade,
    Producer,
    decode,
    encode,
    envelope,
)
from quantum_common.domain.signal import CLASS_ORDER
from quantum_common.features import FEATURE_NAMES, feature_hash
from quantum_common.models import (
    Golden,
    Manifest,
    current_version,
    promote,
    publish,
    releases,
    set_shadow,
    shadow_version,
)
from quantum_common.service import MarketClock, build_app
from quantum_research.shadow import write_shadow_period
from trainer_svc.app import build
from trainer_svc.core import DAY_MS, Reason
from trainer_svc.live import Label
from trainer_svc.renewal import Renewal
from trainer_svc.settings import META_FOLDERS, Settings
from trainer_svc.state import Run
from trainer_svc.trainings import Trainings
from trainer_svc.watch import StreamWatch

HOUR_MS = 3_600_000
START = 20_000 * DAY_MS
VOTE = (0.2, 0.5, 0.3)
SLEEP = "import time; time.sleep(60)"


def sleeping(_: Settings, run: Run, work_dir: Path) -> Sequence[str]:
    return [sys.executable, "-c", SLEEP]


@dataclass
class Fleet:
    """A trainer, the streams it hears, and a market time that the test moves."""

    folder: Path
    winner: str = "challenger"
    changes: dict[str, Any] = field(default_factory=dict)
    bus: MemoryBus = field(default_factory=MemoryBus)

    def __post_init__(self) -> None:
        self.clock = MarketClock("replay")
        self.clock.advance(START)
        self.models_dir = self.folder / "models"
        self.restart()

    def restart(self) -> None:
        self.settings = Settings(
            state_dir=self.folder,
            models_dir=self.models_dir,
            symbols="BTCUSDT",
            **{"train_automatic": False, **self.changes},
        )
        self.trainings = Trainings(self.settings, self.clock.now_ms, sleeping)
        self.watch = StreamWatch(self.settings, self.bus)
        judge: Any = lambda *_: (self.winner, "said the judge")  # noqa: E731
        self.renewal = Renewal(self.settings, self.bus, self.clock, self.trainings, self.watch, judge)

    def publish(self, version: str, *, agent: str = "xgb", **metrics: float) -> None:
        fields: dict[str, Any] = {
            "agent": agent, "version": version, "kind": "row", "feature_hash": feature_hash("relative"),
            "view": "relative", "feature_names": FEATURE_NAMES, "class_order": tuple(CLASS_ORDER), "timeframe": "1h",
            "horizon_bars": 2, "label_threshold": 0.01, "window_bars": 1, "symbols": ("BTCUSDT",),
            "library_versions": {}, "data_from_ms": 0, "labels_to_ms": START, "metrics": metrics, "quality": "proven",
            "parameters": 1, "golden": Golden([], []),
        }  # fmt: skip
        publish(self.models_dir, Manifest(**fields), b"")

    def release(self, version: str, *, at_ms: int = START) -> None:
        self.publish(version)
        promote(self.models_dir, "xgb", version, reason="test", at_ms=at_ms)

    async def bar(self, number: int, *payloads: msgspec.Struct, close: float = 100.0) -> None:
        """A bar's features and what agents say of it; the market stands at its close."""
        ts_ms = START + number * HOUR_MS
        bar = FeaturesComputed(Candle(close, close, close, close, 1.0), (0.5,) * 18, 0.5, 0.0, "h", 0, 1)
        for payload in (bar, *payloads):
            event = envelope(
                payload, producer=Producer("test", "1", "0"), produced_at_ms=ts_ms, symbol="BTCUSDT", timeframe="1h",
                bar_ts_ms=ts_ms, natural_key=getattr(payload, "role", ""),
            )  # fmt: skip
            spec = FEATURES if payload is bar else PREDICTIONS
            await self.bus.append(self.settings.keys.stream(spec, "BTCUSDT"), encode(event))
        self.clock.advance(ts_ms + HOUR_MS)

    async def bars(self, numbers: range, *payloads: msgspec.Struct) -> None:
        for number in numbers:
            await self.bar(number, *payloads)
            await self.renewal.turn()

    @property
    def serving(self) -> str | None:
        return current_version(self.models_dir, "xgb")

    async def looks(self) -> int:
        entries = await self.bus.newest(self.settings.keys.stream(CONTROL), 100)
        return sum(decode(entry.data).payload == Look("models") for entry in entries)


def vote(version: str, role: Any = "champion") -> PredictionMade:
    return PredictionMade("xgb", CLASS_ORDER[1], VOTE[1], VOTE, version, role, 0.1)


COLLAPSED = PredictionAbstained("xgb", "collapsed", "P(HOLD) spans 0.01", "v2")


async def test_a_collapsed_champion_makes_way_for_the_version_before_it_and_agents_are_told(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.release("v1")
    fleet.release("v2")
    await fleet.bars(range(3), vote("v2"))
    assert (fleet.serving, await fleet.looks()) == ("v2", 0)
    await fleet.bars(range(3, 5), COLLAPSED)
    assert (fleet.serving, await fleet.looks()) == ("v1", 1)
    newest = releases(fleet.models_dir, "xgb")[-1]
    assert (newest.action, newest.reason) == ("rollback", "collapsed: it abstains as collapsed")
    assert newest.at_ms == START + 4 * HOUR_MS


async def test_an_abstention_of_the_version_before_takes_nothing_back(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    for version in ("v1", "v2", "v3"):
        fleet.release(version)
    await fleet.bars(range(4), COLLAPSED)
    assert fleet.serving == "v3"


async def test_with_nothing_to_return_to_the_version_stays_and_the_status_says_so(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.release("v2")
    await fleet.bars(range(4), COLLAPSED)
    assert (fleet.serving, await fleet.looks()) == ("v2", 0)
    assert fleet.renewal.document()["must_go_and_cannot"] == {"xgb": "v2"}


async def test_a_new_version_whose_predictions_drifted_and_are_worse_than_the_prior_makes_way(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, changes={"min_labelled_bars": 100})
    fleet.release("v1")
    for number in range(62 * 24):
        await fleet.bar(number, vote("v1"))
    await fleet.renewal.turn()
    fleet.release("v2", at_ms=fleet.clock.now_ms())
    wrong = msgspec.structs.replace(vote("v2"), probabilities=(0.9, 0.05, 0.05))
    for number in range(62 * 24, 71 * 24):
        await fleet.bar(number, wrong)
        if number % 24 == 0:
            await fleet.renewal.turn()
            if fleet.serving == "v1":
                break
    assert fleet.serving == "v1"
    assert number == 69 * 24  # with its seventh sampled bar complete
    assert releases(fleet.models_dir, "xgb")[-1].reason.startswith("drifted_and_worse_than_prior: xgb P(")


async def test_live_figures_use_the_label_that_the_champion_was_trained_for(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.release("v1")
    for number, close in enumerate([100.0, 100.0, 101.5, 100.0, 100.0]):
        await fleet.bar(number, vote("v1"), close=close)
    await fleet.renewal.turn()
    assert fleet.watch.seen.label == Label(2, 0.01)
    assert [row.label for row in fleet.watch.seen.scores.rows("xgb", "v1")] == [2, 1, 0]
    assert fleet.renewal.document()["champions"]["xgb"]["quality"]["accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("winner", "serving"), [("challenger", "v2"), ("champion", "v1")])
async def test_a_shadow_period_ends_with_a_promotion_or_without(tmp_path: Path, winner: str, serving: str) -> None:
    fleet = Fleet(tmp_path, winner)
    fleet.release("v1")
    fleet.publish("v2")
    set_shadow(fleet.models_dir, "xgb", "v2")
    write_shadow_period(fleet.models_dir, "xgb", "v2", 10)
    await fleet.renewal.turn()
    await fleet.bars(range(11), vote("v1"), vote("v2", "shadow"))
    assert (fleet.serving, shadow_version(fleet.models_dir, "xgb")) == ("v1", "v2")
    await fleet.bars(range(11, 14), vote("v1"), vote("v2", "shadow"))
    assert (fleet.serving, shadow_version(fleet.models_dir, "xgb")) == (serving, None)
    assert await fleet.looks() == 1


async def test_a_shadow_that_never_speaks_is_sent_away(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, changes={"shadow_bars": 5})
    fleet.release("v1")
    fleet.publish("v2")
    set_shadow(fleet.models_dir, "xgb", "v2")
    await fleet.renewal.turn()
    await fleet.bars(range(9), vote("v1"))
    assert (fleet.serving, shadow_version(fleet.models_dir, "xgb")) == ("v1", None)


async def test_a_restart_goes_on_where_it_was_and_a_new_server_is_read_from_its_start(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.release("v1")
    await fleet.bars(range(5), vote("v1"))
    await fleet.watch.save()
    fleet.restart()
    assert await fleet.watch.catch_up(Label(2, 0.01), lambda: None) == 0
    await fleet.bars(range(5, 7), vote("v1"))
    assert [row.ts_ms for row in fleet.watch.seen.scores.rows("xgb", "v1")] == [START + n * HOUR_MS for n in range(5)]
    fleet.bus = MemoryBus()
    fleet.restart()
    await fleet.bar(7, vote("v1"))
    assert await fleet.watch.catch_up(Label(2, 0.01), lambda: None) == 2


async def test_a_model_that_is_missing_is_trained_once_the_market_time_is_known(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, changes={"train_automatic": True})
    await fleet.renewal.turn()
    assert fleet.trainings.running is not None
    assert fleet.trainings.running.reason is Reason.NO_MODEL
    assert fleet.trainings.running.to_ms == START
    timeless = Fleet(tmp_path / "other", changes={"train_automatic": True})
    timeless.clock = MarketClock("replay")
    timeless.restart()
    await timeless.renewal.turn()
    assert timeless.trainings.running is None


def test_the_folders_of_meta_learners_are_those_of_meta_svc() -> None:
    assert {name: version.folder for name, version in VERSIONS.items()} == META_FOLDERS


async def test_mutations_need_the_token_and_a_second_training_is_a_conflict(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, models_dir=tmp_path, api_token="hidden-token")
    service = build(settings, MemoryBus(), command=sleeping)
    transport = httpx.ASGITransport(build_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://trainer") as client:
        wish = {"reason": "because"}
        assert (await client.post("/api/training/run", json=wish)).status_code == 401
        assert (await client.post("/api/training/cancel")).status_code == 401
        client.headers["Authorization"] = "Bearer hidden-token"
        assert (await client.post("/api/training/run", json={"reason": " "})).status_code == 422
        assert (await client.post("/api/training/run", json=wish)).status_code == 202
        second = await client.post("/api/training/run", json=wish)
        assert (second.status_code, "runs" in second.json()["detail"]) == (409, True)
        status = (await client.get("/api/training/status")).json()
        assert (status["running"]["reason"], status["running"]["detail"]) == ("manual", "because")
        assert (await client.post("/api/training/cancel")).json() == {"cancelled": True}
        status = (await client.get("/api/training/status")).json()
        assert (status["running"], status["ended"][0]["outcome"]) == (None, "cancelled")
        assert "hidden-token" not in (await client.get("/info")).text
        assert "quantum_trainer_trainings_total" in (await client.get("/metrics")).text

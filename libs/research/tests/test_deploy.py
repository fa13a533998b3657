"""Eight steps: what is released, what stops them, what a kill in between leaves behind. Models are linear graphs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quantum_common.candles import write_candles
from quantum_common.domain import AGENTS
from quantum_common.features import WARMUP_BARS
from quantum_common.models import (
    current_version,
    promote,
    publish,
    releases,
    shadow_version,
    withdrawn,
)
from quantum_research import ResearchError, released
from quantum_research.artifacts import Candidate
from quantum_research.dataset import Dataset, build_dataset
from quantum_research.deploy import STEPS, DeployFailed, DeployReport, Shell, deploy
from quantum_research.deploy_plan import DAY_MS, DeployRequest
from quantum_research.shadow import shadow_period
from quantum_research.testing import HOUR_MS, START_MS, linear_candidate, synthetic_candles
from quantum_research.train import Progress, TrainRequest

ALL = (*AGENTS, "meta")
BARS = WARMUP_BARS + 63 + 700
END_MS = START_MS + BARS * HOUR_MS
SYMBOLS = ("S0USDT", "S1USDT")
GOOD, BAD = (0.2, 0.6, 0.2), (0.9, 0.05, 0.05)


@dataclass
class Trained:
    candidates: Sequence[Candidate]
    test: Dataset | None


@dataclass
class House:
    """A folder of candles and models, and a training whose outcome the test chooses."""

    folder: Path
    says: Mapping[str, tuple[float, float, float]] = field(default_factory=lambda: dict.fromkeys(ALL, GOOD))
    steps: list[int] = field(default_factory=list)
    told: int = 0
    trained: list[TrainRequest] = field(default_factory=list)
    fails_at: str | None = None
    refuses: Callable[[Mapping[str, str]], Sequence[str]] = lambda expected: ()

    def __post_init__(self) -> None:
        self.models_dir = self.folder / "models"
        self.candles = {symbol: synthetic_candles(BARS, seed) for seed, symbol in enumerate(SYMBOLS)}
        for symbol, table in self.candles.items():
            write_candles(self.folder, "v", symbol, "1h", table)
        self.request = DeployRequest(
            TrainRequest(self.folder, "v", SYMBOLS, "1h", self.models_dir, work_dir=self.folder / "work"),
            at_ms=END_MS,
            min_fresh_days=14.0,
        )

    def champions(self, *, known_days_ago: float = 20.0, says: tuple[float, float, float] = BAD) -> None:
        for agent in ALL:
            known_to_ms = END_MS - int(known_days_ago * DAY_MS)
            one = linear_candidate(agent, says, known_to_ms=known_to_ms, name="v1")
            publish(self.models_dir, one.manifest, one.onnx_bytes)
            promote(self.models_dir, agent, "v1", reason="test", at_ms=0)

    def fit(self, request: TrainRequest, progress: Progress | None) -> Trained:
        self.trained.append(request)
        for stage in ("features", "patchtst fold 1/2", "nhits final", "xgb final", "lgbm final", "meta", "evaluate"):
            assert progress
            progress(stage, 0.5)
            if stage.startswith(self.fails_at or "-"):
                raise ResearchError("no luck")
        known_to_ms = request.test_from_ms or END_MS
        models = [linear_candidate(agent, self.says[agent], known_to_ms=known_to_ms, name="v2") for agent in ALL]
        test = None
        if request.test_from_ms is not None:
            test = build_dataset(self.candles, "1h", horizon_bars=5, threshold=0.015, from_ms=request.test_from_ms)
        return Trained(models, test)

    def tell(self) -> str:
        self.told += 1
        return "told"

    def deploy(self, **changes: Any) -> DeployReport:
        shell = Shell(
            fit=self.fit,
            on_step=lambda step, outcome, seconds: self.steps.append(step),
            reload=self.tell,
            refusals=self.refuses,
        )
        return deploy(replace(self.request, **changes), shell)

    def serving(self) -> set[str | None]:
        return {current_version(self.models_dir, agent) for agent in ALL}


def test_first_models_are_released_without_a_comparison(tmp_path: Path) -> None:
    house = House(tmp_path)
    report = house.deploy()
    assert (report.outcome, report.good, house.serving()) == ("released", True, {"v2"})
    assert house.steps == list(range(1, len(STEPS) + 1))
    assert house.trained[0].test_from_ms is None
    assert house.told == 1


def test_better_models_replace_the_champions_on_days_that_neither_has_seen(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.champions()
    report = house.deploy()
    assert (report.outcome, house.serving()) == ("released", {"v2"})
    assert house.trained[0].test_from_ms == END_MS - 14 * DAY_MS
    assert releases(house.models_dir, "xgb")[-1].at_ms == END_MS
    assert "better: log-loss" in report.detail


def test_worse_models_are_published_and_nothing_points_to_them(tmp_path: Path) -> None:
    house = House(tmp_path, says=dict.fromkeys(ALL, BAD))
    house.champions(says=GOOD)
    report = house.deploy()
    assert (report.outcome, report.good, house.serving(), house.told) == ("kept", False, {"v1"}, 0)


def test_each_base_model_is_released_on_its_own(tmp_path: Path) -> None:
    house = House(tmp_path, says={**dict.fromkeys(ALL, (0.95, 0.02, 0.03)), "xgb": GOOD})
    house.champions()
    report = house.deploy()
    assert report.outcome == "released"
    assert {agent: current_version(house.models_dir, agent) for agent in ALL} == {
        **dict.fromkeys(ALL, "v1"), "xgb": "v2",
    }  # fmt: skip


def test_a_shadow_period_moves_no_champion_and_says_how_long_it_lasts(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.champions()
    report = house.deploy(shadow_bars=300)
    assert (report.outcome, house.serving()) == ("shadow", {"v1"})
    assert {shadow_version(house.models_dir, agent) for agent in AGENTS} == {"v2"}
    assert shadow_version(house.models_dir, "meta") is None
    assert shadow_period(house.models_dir, "xgb", "v2") == 300


def test_with_too_few_fresh_days_nothing_is_trained(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.champions(known_days_ago=14.5)
    report = house.deploy()
    assert (report.outcome, house.trained, house.steps) == ("undecided", [], [1])
    assert "only 14.5 days" in report.detail


@pytest.mark.parametrize(("stage", "step"), [("features", 2), ("nhits", 3), ("lgbm", 4), ("meta", 5)])
def test_a_failure_names_its_step_and_the_old_models_go_on(tmp_path: Path, stage: str, step: int) -> None:
    house = House(tmp_path, fails_at=stage)
    house.champions()
    with pytest.raises(DeployFailed, match=rf"step {step}/8 \({STEPS[step - 1]}\): no luck") as caught:
        house.deploy()
    assert (caught.value.step, house.serving(), house.told) == (step, {"v1"}, 0)
    assert house.steps == list(range(1, step))


def test_a_champion_that_does_not_load_or_has_another_label_stops_the_first_step(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.champions()
    with pytest.raises(DeployFailed, match=r"step 1/8.*label threshold 0.015: choose other models"):
        house.deploy(train=replace(house.request.train, label_threshold=0.006, work_dir=None))
    (house.models_dir / "lgbm/v1/model.onnx").write_bytes(b"damaged")
    with pytest.raises(DeployFailed, match=r"step 1/8.*checksum_mismatch"):
        house.deploy()


def test_when_running_agents_refuse_a_version_the_release_is_undone_and_they_are_told(tmp_path: Path) -> None:
    house = House(tmp_path, refuses=lambda expected: [f"xgb serves v1 instead of {expected['xgb']}"])
    house.champions()
    with pytest.raises(DeployFailed, match="step 8/8.*xgb serves v1 instead of v2"):
        house.deploy()
    assert (house.serving(), house.told) == ({"v1"}, 2)
    assert withdrawn(house.models_dir, "xgb") == {"v2"}


def test_a_deployment_that_was_killed_between_two_pointers_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path)
    house.champions()
    moved: list[str] = []

    def killed(models_dir: Path, agent: str, version: str, **rest: Any) -> None:
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(agent)
        promote(models_dir, agent, version, **rest)

    with monkeypatch.context() as patched:
        patched.setattr(released, "promote", killed)
        with pytest.raises(KeyboardInterrupt):
            house.deploy()
    assert house.serving() == {"v1", "v2"}
    assert house.deploy().outcome == "released"
    assert house.serving() == {"v2"}
    assert len(house.trained) == 1
    assert [len(releases(house.models_dir, agent)) for agent in ALL] == [2] * 5


def test_a_work_folder_belongs_to_one_deployment(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.champions(known_days_ago=14.5)
    house.deploy()
    with pytest.raises(DeployFailed, match="holds another deployment"):
        house.deploy(shadow_bars=5)
    assert house.deploy(at_ms=END_MS + 1).outcome == "undecided"


def test_the_report_can_be_printed_as_json(tmp_path: Path) -> None:
    house = House(tmp_path)
    rows = msgspec.to_builtins(house.deploy())["decisions"]
    assert {row["agent"]: row["decision"] for row in rows} == dict.fromkeys(ALL, "release")

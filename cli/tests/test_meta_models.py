"""Which meta model a run needs, and training the meta models from an archive."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner, Result

from meta_svc.errors import UnknownMetaVersion
from quantum_cli.errors import UsageError
from quantum_cli.first_models import models_present, needed_models, refuse_models_that_do_not_fit
from quantum_cli.main import app
from quantum_cli.plan import RunPlan
from quantum_common.domain import AGENTS
from quantum_common.models import Golden, Manifest, promote, publish

DAY_MS = 86_400_000


@dataclass
class Plan:
    """The part of a plan that says which models fit it."""

    models_dir: Path
    timeframe: str = "1h"
    label_threshold: float = 0.015
    horizon_bars: int = 5
    from_ms: int = 100 * DAY_MS


def plan_of(folder: Path, **changes: Any) -> RunPlan:
    return cast(RunPlan, Plan(folder, **changes))


def publish_models(folder: Path, *names: str, labels_to_ms: int = 50 * DAY_MS) -> None:
    for name in names:
        manifest = Manifest(
            agent=name,
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
            symbols=("BTCUSDT",),
            library_versions={},
            data_from_ms=0,
            labels_to_ms=labels_to_ms,
            metrics={},
            quality="proven",
            parameters=1,
            golden=Golden([], []),
        )
        publish(folder, manifest, b"graph")
        promote(folder, name, "1", reason="test", at_ms=1)


def quantum(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.mark.parametrize(
    ("version", "folder"), [(None, "meta"), ("v2", "meta"), ("v2p", "meta-v2p"), ("v1", "meta-v1")]
)
def test_a_run_needs_the_agents_and_only_the_meta_model_that_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, folder: str
) -> None:
    monkeypatch.delenv("META_VERSION", raising=False)
    if version is not None:
        monkeypatch.setenv("META_VERSION", version)
    assert needed_models() == (*AGENTS, folder)
    plan = plan_of(tmp_path)
    assert not models_present(plan)
    publish_models(tmp_path, *AGENTS)
    with pytest.raises(UsageError, match="only"):
        models_present(plan)
    publish_models(tmp_path, folder)
    assert models_present(plan)
    refuse_models_that_do_not_fit(plan)
    shutil.rmtree(tmp_path / folder)
    publish_models(tmp_path, folder, labels_to_ms=101 * DAY_MS)
    with pytest.raises(UsageError, match=f"{folder} 1 was trained on labels that reach into the range"):
        refuse_models_that_do_not_fit(plan)


def test_a_meta_version_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("META_VERSION", "v3")
    with pytest.raises(UnknownMetaVersion, match="META_VERSION=v3"):
        needed_models()


def test_an_archive_without_a_day_is_refused_by_its_path(tmp_path: Path) -> None:
    publish_models(tmp_path / "models", *AGENTS)
    result = quantum("--meta-from", tmp_path / "nowhere", "--models", tmp_path / "models")
    assert result.exit_code == 1
    assert "nowhere" in result.output.replace("\n", "")


def test_too_few_samples_are_refused_with_their_number(tmp_path: Path) -> None:
    publish_models(tmp_path / "models", *AGENTS)
    (tmp_path / "archive" / "2024-01-01").mkdir(parents=True)
    options = ("--models", tmp_path / "models", "--min-date", "2024-01-01", "--min-samples", 12)
    result = quantum("--meta-from", tmp_path / "archive", *options)
    assert result.exit_code == 1
    assert "has 0 1h bars" in result.output.replace("\n", "")
    assert "12 are needed" in result.output.replace("\n", "")


def test_a_date_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    result = quantum("--meta-from", tmp_path, "--min-date", "yesterday")
    assert result.exit_code == 2
    assert "--min-date 'yesterday'" in result.output

"""The stable Python interface, and the settings."""

import math
import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from meta_svc import MetaAgentV2
from meta_svc.errors import UnknownMetaSetting
from meta_svc.settings import Settings, check_meta_names

SPLIT = {
    "xgb": {"action": "BUY", "confidence": 0.60},
    "lgbm": {"action": "BUY", "confidence": 0.60},
    "nhits": {"action": "HOLD", "confidence": 0.90},
    "patchtst": {"action": "SELL", "confidence": 0.50},
}
REGIME = {"volatility": 0.52, "trend_strength": 0.15}


def agent_with(tmp_path, publish_meta, **changes):
    publish_meta(tmp_path, "v1", **{"class_bias": (0.0, 0.0, 9.0), **changes})
    return MetaAgentV2(
        model_dir=tmp_path / "meta", meta_threshold=0.65, consensus_threshold=0.75, enable_regime_features=True
    )


def test_predict_returns_the_documented_fields(tmp_path, publish_meta):
    result = agent_with(tmp_path, publish_meta).predict(SPLIT, regime_info=REGIME, symbol="BTCUSDT")
    assert set(result) >= {
        *("use_meta", "action", "confidence", "reason", "meta_confidence", "base_ensemble_action"),
        *("base_ensemble_confidence", "consensus_strength", "explanation"),
    }
    assert (result["use_meta"], result["action"], result["reason"]) == (True, "BUY", "meta_override_buy")
    assert result["confidence"] == result["meta_confidence"] > 0.65
    why = result["explanation"]
    assert (len(why["votes"]), len(why["inputs"]), len(why["contributions"])) == (4, 26, 26)


def test_without_a_model_the_base_ensemble_is_kept():
    meta = MetaAgentV2()
    result = meta.predict(base_predictions=SPLIT, regime_info=REGIME, symbol="BTCUSDT")
    assert (meta.is_ready(), result["reason"], result["action"]) == (False, "model_not_loaded", "BUY")


def test_statistics_count_every_prediction_and_reset(tmp_path, publish_meta):
    meta = agent_with(tmp_path, publish_meta)
    meta.predict(SPLIT, REGIME)
    meta.predict({agent: {"action": "HOLD", "confidence": 0.8} for agent in SPLIT}, REGIME)
    meta.predict({}, REGIME)
    shown = meta.get_statistics()
    assert (shown["total_predictions"], shown["meta_overrides"], shown["model_ready"]) == (3, 1, True)
    assert shown["override_rate"] == pytest.approx(1 / 3)
    assert shown["fallback_reasons"]["strong_consensus"] == shown["fallback_reasons"]["no_predictions"] == 1
    meta.reset_statistics()
    assert meta.get_statistics()["total_predictions"] == 0
    assert len(meta.get_statistics()["fallback_reasons"]) == 9


def test_f11_a_lower_case_action_votes_like_any_other():
    result = MetaAgentV2().predict({"xgb": {"action": "buy", "confidence": 0.7}})
    assert (result["action"], result["confidence"]) == ("BUY", pytest.approx(0.7))


@pytest.mark.parametrize(
    "unreadable",
    [
        None,
        {},
        {"action": "LONG", "confidence": 0.7},
        {"action": "BUY"},
        {"action": "BUY", "confidence": None},
        {"action": "BUY", "confidence": "high"},
        {"action": "BUY", "confidence": math.nan},
        {"action": "BUY", "confidence": 1.1},
        {"action": None, "confidence": 0.7},
    ],
)
def test_f09_a_vote_that_cannot_be_read_abstains_instead_of_voting_hold(unreadable):
    result = MetaAgentV2().predict({"xgb": unreadable, "lgbm": {"action": "SELL", "confidence": 0.6}})
    assert (result["action"], result["consensus_strength"]) == ("SELL", 0.25)
    assert result["explanation"]["votes"]["xgb"] is None


@pytest.mark.parametrize("volatility", [math.nan, 1.5, "calm"])
def test_a_regime_that_is_no_number_in_range_is_a_feature_error(tmp_path, publish_meta, volatility):
    meta = agent_with(tmp_path, publish_meta)
    assert meta.predict(SPLIT, {"volatility": volatility})["reason"] == "feature_error"


def test_a_missing_regime_is_neutral(tmp_path, publish_meta):
    why = agent_with(tmp_path, publish_meta).predict(SPLIT)["explanation"]
    assert (why["inputs"]["volatility"], why["inputs"]["trend_strength"]) == (0.5, 0.0)


def test_a_model_that_was_refused_is_no_model(tmp_path, publish_meta):
    assert not agent_with(tmp_path, publish_meta, coefficient=0.0).is_ready()


def test_failing_closed_forces_hold():
    result = MetaAgentV2(fail_open=False).predict(SPLIT)
    assert (result["action"], result["confidence"], result["reason"]) == ("HOLD", 0.0, "model_not_loaded")


# --- settings


def test_the_defaults_are_the_documented_ones(monkeypatch):
    for name in ("META_AGENT_ENABLED", "META_OVERRIDE_THRESHOLD", "META_FAIL_OPEN", "META_VERSION"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings()
    assert (settings.enabled, settings.override_threshold, settings.fail_open, settings.version) == (
        True,
        0.65,
        True,
        "v2",
    )
    assert (settings.consensus_threshold, settings.join_deadline_ms, settings.listen_port) == (0.75, 2000, 8001)
    assert settings.weights == {"xgb": 0.25, "lgbm": 0.25, "nhits": 0.30, "patchtst": 0.20}
    assert settings.model_dir.parts[-2:] == ("models", "meta")


def test_the_documented_names_are_read_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("META_AGENT_ENABLED", "false")
    monkeypatch.setenv("META_OVERRIDE_THRESHOLD", "0.7")
    monkeypatch.setenv("META_FAIL_OPEN", "false")
    monkeypatch.setenv("META_V2_MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("META_WEIGHTS", '{"xgb": 1, "lgbm": 1, "nhits": 2, "patchtst": 1}')
    monkeypatch.setenv("QT_RESET_STATS_NEEDS_TOKEN", "true")
    settings = Settings()
    assert (settings.policy.enabled, settings.policy.meta_threshold, settings.policy.fail_open) == (False, 0.7, False)
    assert (settings.model_dir, settings.policy.weights["nhits"], settings.reset_stats_needs_token) == (
        tmp_path,
        2.0,
        True,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("META_OVERRIDE_THRESHOLD", "1.2"),
        ("META_OVERRIDE_THRESHOLD", "nan"),
        ("META_CONSENSUS_THRESHOLD", "0"),
        ("META_FAIL_OPEN", "perhaps"),
        ("META_VERSION", "v1"),
        ("META_WEIGHTS", '{"xgb": 1}'),
        ("META_WEIGHTS", '{"xgb": 0, "lgbm": 1, "nhits": 2, "patchtst": 1}'),
        ("META_WEIGHTS", '{"xgb": NaN, "lgbm": 1, "nhits": 2, "patchtst": 1}'),
        ("META_JOIN_DEADLINE_MS", "0"),
    ],
)
def test_a_setting_that_makes_no_sense_stops_start_up_by_its_name(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_f13_a_mistyped_name_stops_start_up():
    check_meta_names(["META_VERSION", "META_WEIGHTS", "METAL", "PATH"])
    with pytest.raises(UnknownMetaSetting, match="META_OVERRIDE_TRESHOLD"):
        check_meta_names(["META_OVERRIDE_TRESHOLD"])


@pytest.mark.parametrize(("name", "value"), [("META_VERSION", "v1"), ("META_OVERRIDE_TRESHOLD", "0.7")])
def test_the_process_ends_with_a_message_that_names_the_setting(name, value):
    ended = subprocess.run(
        [sys.executable, "-m", "meta_svc"], env={**os.environ, name: value}, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert name in ended.stderr
    assert "Traceback" not in ended.stderr

"""The stable Python interface, and the settings."""

import math
import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from meta_svc import MetaAgentV2
from meta_svc.errors import MissingProbabilities, UnknownMetaSetting, UnknownMetaVersion
from meta_svc.settings import Settings, check_meta_names
from meta_svc.versions import V1, V2P, VERSIONS

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


# --- the other learners


def spread(action, confidence):
    """A vote with its three probabilities."""
    rest = (1.0 - confidence) / 2
    probabilities = [confidence if action == each else rest for each in ("SELL", "HOLD", "BUY")]
    return {"action": action, "confidence": confidence, "probabilities": probabilities}


def test_v2p_sees_the_logarithms_of_the_probabilities(tmp_path, publish_meta):
    publish_meta(tmp_path, "v1", meta=V2P)
    meta = MetaAgentV2(tmp_path / "meta-v2p", version="v2p")
    result = meta.predict({agent: spread(**vote) for agent, vote in SPLIT.items()}, REGIME)
    why = result["explanation"]
    assert (len(why["inputs"]), len(why["contributions"])) == (38, 38)
    assert why["inputs"]["nhits_log_hold"] == math.log(0.9)
    assert meta.get_statistics()["version"] == "v2p"


@pytest.mark.parametrize("wrong", [None, "0.1", [0.1, 0.9], ["low", 0.2, 0.3], 0.4])
def test_v2p_names_the_vote_whose_probabilities_are_missing_or_unreadable(tmp_path, publish_meta, wrong):
    publish_meta(tmp_path, "v1", meta=V2P)
    meta = MetaAgentV2(tmp_path / "meta-v2p", version="v2p")
    votes = {**{agent: spread(**vote) for agent, vote in SPLIT.items()}, "lgbm": {**SPLIT["lgbm"]}}
    votes["lgbm"] |= {} if wrong is None else {"probabilities": wrong}
    with pytest.raises(MissingProbabilities, match=r"base_predictions\.lgbm\.probabilities"):
        meta.predict(votes, REGIME)
    assert meta.get_statistics()["total_predictions"] == 0
    assert meta.predict({**votes, "lgbm": None}, REGIME)["explanation"]["inputs"]["lgbm_log_buy"] == 0.0


def test_probabilities_out_of_range_are_a_feature_error_of_v2p(tmp_path, publish_meta):
    publish_meta(tmp_path, "v1", meta=V2P)
    votes = {"xgb": {**SPLIT["xgb"], "probabilities": [0.1, math.nan, 0.6]}}
    assert MetaAgentV2(tmp_path / "meta-v2p", version="v2p").predict(votes, REGIME)["reason"] == "feature_error"


def test_v1_explains_itself_with_its_inputs_and_no_contributions(tmp_path, publish_meta):
    publish_meta(tmp_path, "v1", meta=V1, class_bias=(0.0, 9.0, 0.0))
    meta = MetaAgentV2(tmp_path / "meta-v1", version="v1")
    result = meta.predict(SPLIT, REGIME)
    why = result["explanation"]
    assert (result["use_meta"], result["action"]) == (True, "HOLD")
    assert list(why["inputs"].values()) == [0.6, 0.6, 0.5, 0.9, 2.0, 2.0, 0.0, 1.0]
    assert (why["contributions"], why["bias"]) == (None, None)
    assert meta.get_statistics()["meta_threshold"] == 0.60


def test_an_unknown_learner_is_named():
    with pytest.raises(UnknownMetaVersion, match="v3"):
        MetaAgentV2(version="v3")


@pytest.mark.parametrize(("version", "folder"), [("v2", "meta"), ("v2p", "meta-v2p"), ("v1", "meta-v1")])
def test_every_learner_has_a_folder_of_its_own_and_only_v2_heeds_its_setting(monkeypatch, tmp_path, version, folder):
    monkeypatch.setenv("META_VERSION", version)
    monkeypatch.setenv("QT_MODELS_DIR", str(tmp_path / "models"))
    assert Settings().model_dir == tmp_path / "models" / folder
    assert Settings().policy.version is VERSIONS[version]
    monkeypatch.setenv("META_V2_MODEL_DIR", str(tmp_path / "mine"))
    assert (Settings().model_dir == tmp_path / "mine") is (version == "v2")


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
        ("META_VERSION", "v3"),
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


@pytest.mark.parametrize(("name", "value"), [("META_VERSION", "v3"), ("META_OVERRIDE_TRESHOLD", "0.7")])
def test_the_process_ends_with_a_message_that_names_the_setting(name, value):
    ended = subprocess.run(
        [sys.executable, "-m", "meta_svc"], env={**os.environ, name: value}, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert name in ended.stderr
    assert "Traceback" not in ended.stderr

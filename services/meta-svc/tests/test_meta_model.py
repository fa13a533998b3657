"""The model that serves: loading, refusing, swapping."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_svc.core import Policy
from meta_svc.decide import decide
from meta_svc.explain import explain
from meta_svc.inputs import FEATURE_NAMES_V2, build_inputs
from meta_svc.question import Question, Regime
from meta_svc.serving import MetaSlot, load_meta
from meta_svc.versions import V1, V2P, VERSIONS
from quantum_common.domain import AGENTS, Action
from quantum_common.models import ModelRefused, rollback

VOTES = {"xgb": (Action.BUY, 0.6), "lgbm": (Action.BUY, 0.6), "nhits": (Action.HOLD, 0.9), "patchtst": None}


def slot_at(models_dir, timeframe="1h"):
    slot = MetaSlot(models_dir / "meta", Policy(), timeframe)
    slot.look()
    return slot


def test_a_published_model_serves(tmp_path, publish_meta):
    publish_meta(tmp_path, "v1")
    slot = slot_at(tmp_path)
    assert (slot.model.version, slot.model.quality, slot.model.width, slot.problem) == ("v1", "proven", 26, None)


def test_the_explanation_sums_to_the_logits_of_the_graph(tmp_path, publish_meta):
    publish_meta(tmp_path, "v1")
    model = load_meta(tmp_path / "meta")
    (outcome,) = decide([Question(VOTES, Regime(0.4, -0.1))], Policy(), model)
    rows = np.array([build_inputs(VOTES, 0.4, -0.1)], np.float32)
    probabilities = model.predict(rows)[0]
    assert outcome.meta_confidence == probabilities[outcome.meta_action.class_index]
    logits = []
    for action in Action:
        why = explain(FEATURE_NAMES_V2, outcome.explanation.inputs, action, model.linear)
        logits.append(math.fsum(why.contributions) + why.bias)
    softmax = np.exp(logits) / np.exp(logits).sum()
    assert softmax == pytest.approx(probabilities, abs=1e-6)
    assert math.fsum(outcome.explanation.contributions) + outcome.explanation.bias == pytest.approx(max(logits))


a_vote = st.none() | st.tuples(st.sampled_from(Action), st.floats(0, 1))
some_votes = st.fixed_dictionaries(dict.fromkeys(AGENTS, a_vote))


def test_a_batch_gives_bit_for_bit_what_its_rows_give_alone(tmp_path, publish_meta):
    publish_meta(tmp_path, "v1")
    model = load_meta(tmp_path / "meta")

    @given(st.lists(some_votes, min_size=1, max_size=12))
    def check(many):
        questions = [Question(votes, Regime(0.3, 0.2)) for votes in many]
        alone = [decide([question], Policy(), model)[0] for question in questions]
        assert decide(questions, Policy(), model) == alone

    check()


def test_a_folder_without_a_model_is_said_and_not_called_a_failed_validation(tmp_path):
    slot = slot_at(tmp_path)
    assert slot.model is None
    assert "no current version" in slot.problem


def test_a_model_with_constant_output_is_refused_in_the_documented_words(tmp_path, publish_meta, caplog):
    publish_meta(tmp_path, "v1", coefficient=0.0)
    slot = slot_at(tmp_path)
    assert slot.model is None
    assert slot.problem.startswith("Model produces constant output")
    assert caplog.messages == [f"[MetaV2] VALIDATION FAILED: {slot.problem}"]


def test_a_loaded_model_is_announced_in_the_documented_words(tmp_path, publish_meta, caplog):
    caplog.set_level("INFO")
    publish_meta(tmp_path, "v1")
    slot_at(tmp_path)
    assert caplog.messages == [
        "[META-V2] Meta-learning agent loaded (5th layer) · Override threshold: 0.65 · Version: v2"
    ]


@pytest.mark.parametrize(
    ("meta", "line"),
    [
        (V1, "[META] Meta-learning agent loaded (5th layer) · Override threshold: 0.60 · Version: v1"),
        (V2P, "[META-V2] Meta-learning agent loaded (5th layer) · Override threshold: 0.65 · Version: v2p"),
    ],
)
def test_the_other_learners_load_from_their_own_folders(tmp_path, publish_meta, caplog, meta, line):
    caplog.set_level("INFO")
    publish_meta(tmp_path, "v1", meta=meta)
    slot = MetaSlot(tmp_path / meta.folder, Policy(version=meta), "1h")
    slot.look()
    assert slot.model.width == len(meta.feature_names)
    assert (slot.model.linear is None) is (meta is V1)
    assert caplog.messages == [line]


@pytest.mark.parametrize("asked", VERSIONS.values())
@pytest.mark.parametrize("found", VERSIONS.values())
def test_a_learner_does_not_take_the_model_of_another(tmp_path, publish_meta, asked, found):
    publish_meta(tmp_path, "v1", meta=found)
    if asked is found:
        assert load_meta(tmp_path / found.folder, asked).version == "v1"
        return
    with pytest.raises(ModelRefused, match="feature_names_mismatch"):
        load_meta(tmp_path / found.folder, asked)


@pytest.mark.parametrize("meta", VERSIONS.values())
@pytest.mark.parametrize(
    ("changes", "reason"), [({"coefficient": 0.0}, "constant_output"), ({"parameters": 0}, "no_parameters")]
)
def test_every_learner_is_checked_before_it_may_serve(tmp_path, publish_meta, meta, changes, reason):
    publish_meta(tmp_path, "v1", meta=meta, **changes)
    with pytest.raises(ModelRefused, match=reason):
        load_meta(tmp_path / meta.folder, meta)


def test_a_v2p_model_whose_linear_form_is_not_the_graphs_is_refused(tmp_path, publish_meta):
    true = publish_meta(tmp_path / "true", "v1", meta=V2P)
    told = msgspec.structs.replace(true, intercept=[9.0, 0.0, 0.0])
    publish_meta(tmp_path / "told", "v1", meta=V2P, told=told)
    with pytest.raises(ModelRefused, match="linear_mismatch"):
        load_meta(tmp_path / "told" / "meta-v2p", V2P)


@pytest.mark.parametrize("wrong", ["intercept", "scale", "temperature", "coefficients"])
def test_a_linear_form_that_is_not_the_graphs_is_refused(tmp_path, publish_meta, wrong):
    true = publish_meta(tmp_path / "true", "v1")
    changes = {
        "intercept": [9.0, 0.0, 0.0],
        "scale": [0.0] * 26,
        "temperature": 0.0,
        "coefficients": [[0.0] * 25] * 3,
    }
    told = msgspec.structs.replace(true, **{wrong: changes[wrong]})
    publish_meta(tmp_path / "told", "v1", told=told)
    with pytest.raises(ModelRefused, match=r"linear_(mismatch|invalid)"):
        load_meta(tmp_path / "told" / "meta")


def test_a_model_of_another_timeframe_is_refused(tmp_path, publish_meta):
    publish_meta(tmp_path, "v1", timeframe="1m")
    assert "timeframe_mismatch" in slot_at(tmp_path).problem


def test_a_refused_model_leaves_the_running_one_in_place(tmp_path, publish_meta):
    publish_meta(tmp_path, "v1")
    slot = slot_at(tmp_path)
    publish_meta(tmp_path, "v2", coefficient=0.0)
    slot.look()
    assert slot.model.version == "v1"
    assert "constant output" in slot.problem


def test_a_damaged_file_is_refused_and_tried_again_when_asked(tmp_path, publish_meta):
    publish_meta(tmp_path, "v1")
    file = tmp_path / "meta" / "v1" / "model.onnx"
    good = file.read_bytes()
    file.write_bytes(good + b"x")
    slot = slot_at(tmp_path)
    assert "checksum_mismatch" in slot.problem
    file.write_bytes(good)
    slot.look()
    assert slot.model is None  # the pointer has not moved: a refused version is not loaded every few seconds
    slot.look(again=True)
    assert (slot.model.version, slot.problem) == ("v1", None)


def test_moving_the_pointer_swaps_the_model_and_back(tmp_path, publish_meta):
    publish_meta(tmp_path, "v1")
    slot = slot_at(tmp_path)
    publish_meta(tmp_path, "v2", seed=2, quality="unproven")
    slot.look()
    assert (slot.model.version, slot.model.quality) == ("v2", "unproven")
    assert rollback(tmp_path, "meta", reason="test", at_ms=2) == "v1"
    slot.look()
    assert slot.model.version == "v1"


def test_a_pointer_that_cannot_be_read_refuses_instead_of_raising(tmp_path):
    (tmp_path / "meta" / "current").mkdir(parents=True)
    assert "unreadable" in slot_at(tmp_path).problem

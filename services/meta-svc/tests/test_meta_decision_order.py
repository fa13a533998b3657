"""The decision order, row by row, at the edges of every threshold."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_svc.core import Policy, conclude, draft
from meta_svc.decide import decide
from meta_svc.ensemble import DEFAULT_WEIGHTS, base_ensemble, consensus
from meta_svc.lines import decision_line
from meta_svc.question import Question, Regime
from meta_svc.versions import V2
from quantum_common.domain import AGENTS, Action
from quantum_common.models import LinearModel

BUY, HOLD, SELL = Action.BUY, Action.HOLD, Action.SELL
SPLIT = {"xgb": (BUY, 0.6), "lgbm": (BUY, 0.6), "nhits": (HOLD, 0.9), "patchtst": (SELL, 0.5)}
"""Base ensemble: BUY 0.30, HOLD 0.27, SELL 0.10."""
REGIME = Regime(0.52, 0.15)
LINEAR = LinearModel(
    coefficients=tuple(tuple(0.1 * (row + 1) * (column % 5 - 2) for column in range(26)) for row in range(3)),
    intercept=(0.1, 0.5, -0.2),
    mean=tuple(0.01 * column for column in range(26)),
    scale=tuple(1.0 + 0.1 * column for column in range(26)),
    temperature=1.7,
    class_bias=(0.3, -0.1, 0.05),
)


class FixedModel:
    """Answers the same for every row; raises when given an error."""

    version, quality, linear = "v-test", "proven", LINEAR

    def __init__(self, *probabilities, width=26, error=None):
        self.width, self._probabilities, self._error, self.batches = width, probabilities, error, []

    def predict(self, rows):
        self.batches.append(len(rows))
        if self._error is not None:
            raise self._error
        return np.tile(np.array(self._probabilities, dtype=np.float64), (len(rows), 1))


def decided(votes=SPLIT, model=None, regime=REGIME, **policy):
    return decide([Question(votes, regime)], Policy(**policy), model)[0]


def all_say(action, confidence=0.7):
    return dict.fromkeys(AGENTS, (action, confidence))


# --- base ensemble


def test_the_action_with_the_highest_weighted_score_wins_and_its_score_is_the_confidence():
    base = base_ensemble(SPLIT, DEFAULT_WEIGHTS)
    assert (base.action, base.confidence) == (BUY, pytest.approx(0.30))


def test_the_score_is_over_the_weights_of_the_agents_present():
    base = base_ensemble({"xgb": (BUY, 0.6), "nhits": None}, DEFAULT_WEIGHTS)
    assert (base.action, base.confidence) == (BUY, pytest.approx(0.6))


def test_an_exact_tie_is_a_hold_with_the_score_of_hold():
    base = base_ensemble({"xgb": (BUY, 0.6), "lgbm": (SELL, 0.6)}, DEFAULT_WEIGHTS)
    assert (base.action, base.confidence) == (HOLD, 0.0)


def test_scores_that_tie_in_decimals_tie_although_their_floats_differ():
    assert 0.25 * 0.4 + 0.2 * 0.25 != 0.3 * 0.5
    votes = {"xgb": (BUY, 0.4), "patchtst": (BUY, 0.25), "nhits": (SELL, 0.5)}
    assert base_ensemble(votes, DEFAULT_WEIGHTS).action is HOLD


def test_a_hair_above_a_tie_is_no_tie():
    votes = {"xgb": (BUY, 0.600001), "lgbm": (SELL, 0.6)}
    assert base_ensemble(votes, DEFAULT_WEIGHTS).action is BUY


# --- rows 0 to 7


def test_row_0_nobody_voted():
    result = decided(dict.fromkeys(AGENTS), FixedModel(0.1, 0.1, 0.8))
    assert (result.action, result.confidence, result.reason) == (HOLD, 0.0, "no_predictions")
    assert (result.consensus_strength, result.explanation, result.use_meta) == (0.0, None, False)


def test_row_0_comes_before_disabled_and_not_loaded():
    assert decided({}, None, enabled=False).reason == "no_predictions"


def test_row_1_disabled_defers_although_the_model_is_sure():
    result = decided(model=FixedModel(0.01, 0.01, 0.98), enabled=False)
    assert (result.action, result.confidence, result.reason) == (BUY, pytest.approx(0.3), "meta_disabled")
    assert result.meta_confidence is None


def test_row_1_is_no_error_so_failing_closed_does_not_force_hold():
    assert decided(model=None, enabled=False, fail_open=False).action is BUY


def test_row_2_without_a_model_defers_even_on_strong_consensus():
    result = decided(all_say(SELL), None)
    assert (result.action, result.reason, result.consensus_strength) == (SELL, "model_not_loaded", 1.0)


@pytest.mark.parametrize("action", list(Action))
def test_row_3_three_of_four_are_a_strong_consensus(action):
    other = HOLD if action is not HOLD else BUY
    votes = {"xgb": (action, 0.6), "lgbm": (action, 0.8), "nhits": (action, 0.5), "patchtst": (other, 0.9)}
    result = decided(votes, FixedModel(1.0, 0.0, 0.0))
    assert result.reason == f"strong_consensus_{action.lower()}"
    assert (result.action, result.consensus_strength, result.use_meta) == (action, 0.75, False)
    assert result.confidence == pytest.approx((0.25 * 0.6 + 0.25 * 0.8 + 0.30 * 0.5) / 0.80)


def test_row_3_takes_the_agreed_action_although_a_loud_single_agent_wins_the_weighted_vote():
    votes = {"xgb": (BUY, 0.34), "lgbm": (BUY, 0.34), "patchtst": (BUY, 0.34), "nhits": (SELL, 0.99)}
    result = decided(votes, FixedModel(0.2, 0.2, 0.6))
    assert (result.base.action, result.action, result.confidence) == (SELL, BUY, pytest.approx(0.34))


def test_row_3_half_is_below_the_threshold_and_exactly_the_threshold_is_enough():
    votes = {"xgb": (BUY, 0.6), "lgbm": (BUY, 0.6), "nhits": (HOLD, 0.6)}
    assert decided(votes, FixedModel(0.3, 0.4, 0.3)).reason == "meta_low_confidence_0.40"
    assert decided(votes, FixedModel(0.3, 0.4, 0.3), consensus_threshold=0.5).reason == "strong_consensus_buy"
    assert decided(votes, FixedModel(0.3, 0.4, 0.3), consensus_threshold=0.51).reason == "meta_low_confidence_0.40"


def test_row_3_abstentions_count_against_the_consensus():
    votes = {"xgb": (BUY, 0.9), "lgbm": (BUY, 0.9), "nhits": None, "patchtst": None}
    result = decided(votes, FixedModel(0.3, 0.4, 0.3))
    assert (result.reason, result.consensus_strength) == ("meta_low_confidence_0.40", 0.5)


def test_row_3_two_against_two_is_no_consensus_at_any_threshold():
    votes = {"xgb": (BUY, 0.6), "lgbm": (BUY, 0.6), "nhits": (SELL, 0.6), "patchtst": (SELL, 0.6)}
    assert decided(votes, FixedModel(0.3, 0.4, 0.3), consensus_threshold=0.5).reason == "meta_low_confidence_0.40"


def test_row_3_asks_the_model_for_the_explanation_only():
    result = decided(all_say(HOLD), FixedModel(0.0, 0.0, 1.0))
    assert (result.reason, result.action) == ("strong_consensus_hold", HOLD)
    assert (result.meta_action, result.meta_confidence) == (BUY, 1.0)
    assert result.explanation is not None


def test_row_3_holds_although_the_model_raises_and_no_vector_can_be_built():
    assert decided(all_say(BUY), FixedModel(error=ValueError("boom"))).reason == "strong_consensus_buy"
    assert decided(all_say(BUY), FixedModel(0.1, 0.1, 0.8), Regime(math.nan, 0.0)).reason == "strong_consensus_buy"


def test_row_4_a_regime_out_of_range_is_a_feature_error():
    result = decided(model=FixedModel(0.01, 0.01, 0.98), regime=Regime(1.5, 0.0))
    assert (result.reason, result.action, result.explanation) == ("feature_error", BUY, None)


def test_row_4_switched_off_regime_features_cannot_be_in_error():
    result = decided(model=FixedModel(0.01, 0.01, 0.98), regime=Regime(1.5, 0.0), regime_features=False)
    assert result.reason == "meta_override_buy"
    assert result.explanation.inputs[-2:] == (0.5, 0.0)


def test_row_4_a_model_of_another_width_is_a_dimension_mismatch():
    model = FixedModel(0.01, 0.01, 0.98, width=38)
    assert decided(model=model).reason == "feature_dim_mismatch"
    assert model.batches == []


def test_row_5_a_model_that_raises_is_a_prediction_error():
    assert decided(model=FixedModel(error=RuntimeError("boom"))).reason == "prediction_error"


@pytest.mark.parametrize("bad", [(math.nan, 0.5, 0.5), (-0.1, 0.5, 0.6), (0.0, 0.0, 1.5), (math.inf, 0.0, 0.0)])
def test_row_5_a_probability_that_is_none_is_an_invalid_confidence(bad):
    result = decided(model=FixedModel(*bad))
    assert (result.reason, result.meta_confidence, result.use_meta) == ("invalid_confidence", None, False)


@pytest.mark.parametrize("action", list(Action))
def test_row_6_a_sure_model_overrides(action):
    probabilities = [0.1, 0.1, 0.1]
    probabilities[action.class_index] = 0.8
    result = decided(model=FixedModel(*probabilities))
    assert (result.action, result.confidence, result.use_meta) == (action, 0.8, True)
    assert (result.reason, result.meta_confidence) == (f"meta_override_{action.lower()}", 0.8)
    assert (result.base.action, result.base.confidence) == (BUY, pytest.approx(0.3))


def test_row_6_exactly_the_threshold_overrides_and_just_below_does_not():
    assert decided(model=FixedModel(0.2, 0.15, 0.65)).reason == "meta_override_buy"
    below = math.nextafter(0.65, 0)
    assert decided(model=FixedModel(0.2, 0.15, below)).use_meta is False


def test_row_7_an_unsure_model_keeps_the_base_ensemble():
    result = decided(model=FixedModel(0.22, 0.2, 0.58))
    assert (result.action, result.confidence) == (BUY, pytest.approx(0.3))
    assert (result.reason, result.meta_action, result.meta_confidence) == ("meta_low_confidence_0.58", BUY, 0.58)


def test_a_tie_of_the_model_is_a_hold_and_never_an_override_of_its_own():
    result = decided(model=FixedModel(0.45, 0.1, 0.45), meta_threshold=0.4)
    assert (result.meta_action, result.use_meta, result.reason) == (HOLD, False, "meta_low_confidence_0.10")


ERROR_CASES = {
    "model_not_loaded": {"model": None},
    "feature_error": {"model": FixedModel(0.1, 0.1, 0.8), "regime": Regime(math.nan, 0.0)},
    "feature_dim_mismatch": {"model": FixedModel(0.1, 0.1, 0.8, width=8)},
    "prediction_error": {"model": FixedModel(error=RuntimeError("boom"))},
    "invalid_confidence": {"model": FixedModel(math.nan, 0.1, 0.8)},
}


@pytest.mark.parametrize("reason", ERROR_CASES)
def test_errors_fail_open_to_the_base_ensemble_and_closed_to_hold_with_the_same_reason(reason):
    opened = decided(**ERROR_CASES[reason], fail_open=True)
    closed = decided(**ERROR_CASES[reason], fail_open=False)
    assert (opened.reason, opened.action, opened.confidence) == (reason, BUY, pytest.approx(0.3))
    assert (closed.reason, closed.action, closed.confidence) == (reason, HOLD, 0.0)
    assert (closed.base.action, closed.base.confidence) == (BUY, pytest.approx(0.3))


def test_row_7_is_no_error_so_failing_closed_does_not_force_hold():
    assert decided(model=FixedModel(0.22, 0.2, 0.58), fail_open=False).action is BUY


# --- failures that must not be possible


def test_f09_an_abstention_never_votes():
    abstained = {"xgb": (BUY, 0.6), "lgbm": None, "nhits": None, "patchtst": None}
    result = decided(abstained, None)
    assert (result.action, result.confidence, result.consensus_strength) == (BUY, pytest.approx(0.6), 0.25)


# --- laws

a_vote = st.none() | st.tuples(st.sampled_from(Action), st.floats(0, 1))
some_votes = st.fixed_dictionaries(dict.fromkeys(AGENTS, a_vote))
some_probabilities = st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))


@given(votes=some_votes, order=st.permutations(AGENTS), probabilities=some_probabilities)
def test_the_outcome_does_not_depend_on_the_order_of_votes(votes, order, probabilities):
    shuffled = {agent: votes[agent] for agent in order}
    assert decided(votes, FixedModel(*probabilities)) == decided(shuffled, FixedModel(*probabilities))


@given(votes=some_votes, probabilities=some_probabilities, fail_open=st.booleans(), loaded=st.booleans())
def test_confidence_is_a_probability_and_consensus_strength_is_always_filled(votes, probabilities, fail_open, loaded):
    result = decided(votes, FixedModel(*probabilities) if loaded else None, fail_open=fail_open)
    assert 0.0 <= result.confidence <= 1.0
    assert result.consensus_strength == consensus(votes, DEFAULT_WEIGHTS).strength
    actions = [vote[0] for vote in votes.values() if vote]
    assert result.consensus_strength == max((actions.count(action) for action in Action), default=0) / 4


@given(st.lists(some_votes, min_size=1, max_size=6))
def test_an_outcome_does_not_depend_on_the_rest_of_its_batch(many):
    model = FixedModel(0.1, 0.2, 0.7)
    together = decide([Question(votes, REGIME) for votes in many], Policy(), model)
    assert together == [decided(votes, FixedModel(0.1, 0.2, 0.7)) for votes in many]
    assert len(model.batches) <= 1


def test_one_row_on_which_the_model_raises_does_not_spoil_its_neighbours():
    class PoisonedByVolatility(FixedModel):
        def predict(self, rows):
            if (rows[:, -2] > 0.9).any():
                raise RuntimeError("boom")
            return super().predict(rows)

    questions = [Question(SPLIT, Regime(volatility, 0.0)) for volatility in (0.1, 0.95, 0.2)]
    outcomes = decide(questions, Policy(), PoisonedByVolatility(0.1, 0.1, 0.8))
    assert [outcome.reason for outcome in outcomes] == ["meta_override_buy", "prediction_error", "meta_override_buy"]


@pytest.mark.parametrize("chosen", list(Action))
def test_contributions_and_bias_sum_to_the_calibrated_logit(chosen):
    probabilities = [0.05, 0.05, 0.05]
    probabilities[chosen.class_index] = 0.9
    drafted = draft(Question(SPLIT, REGIME), Policy(), 26)
    why = conclude(drafted, probabilities, Policy(), LINEAR).explanation
    k = chosen.class_index
    standardised = (np.array(drafted.inputs) - LINEAR.mean) / LINEAR.scale
    logit = (standardised @ np.array(LINEAR.coefficients[k]) + LINEAR.intercept[k]) / LINEAR.temperature
    assert math.fsum(why.contributions) + why.bias == pytest.approx(logit + LINEAR.class_bias[k], abs=1e-12)
    assert len(why.feature_names) == len(why.inputs) == len(why.contributions) == 26


# --- documented lines


def test_the_override_line_reads_as_documented():
    votes = {"xgb": (HOLD, 0.68), "nhits": (HOLD, 0.68)}
    result = decided(votes, FixedModel(0.08, 0.1, 0.82))
    assert decision_line("BTCUSDT", result, V2) == (
        "[META-V2] BTCUSDT: OVERRIDE (base=HOLD@0.68 → meta=BUY@0.82) | Reason: meta_override_buy"
    )


def test_the_fallback_line_reads_as_documented():
    result = decided(all_say(HOLD, 0.75), FixedModel(0.1, 0.8, 0.1))
    assert decision_line("ETHUSDT", result, V2) == (
        "[META-V2] ETHUSDT: FALLBACK (keeping base=HOLD@0.75) | Reason: strong_consensus_hold"
    )


def test_every_pattern_of_votes_and_abstentions_gets_a_counted_reason():
    from meta_svc.statistics import COUNTERS, counter_of

    choices = [None, (BUY, 0.6), (HOLD, 0.6), (SELL, 0.6)]
    for pattern in itertools.product(choices, repeat=4):
        result = decided(dict(zip(AGENTS, pattern, strict=True)), FixedModel(0.2, 0.2, 0.6))
        assert counter_of(result.reason) in COUNTERS

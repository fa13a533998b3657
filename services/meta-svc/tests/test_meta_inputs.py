"""The 26 inputs, in their order."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_svc.errors import FeatureError
from meta_svc.inputs import FEATURE_NAMES_V2, build_inputs
from quantum_common.domain import AGENTS, Action

BUY, HOLD, SELL = Action.BUY, Action.HOLD, Action.SELL

a_vote = st.none() | st.tuples(st.sampled_from(Action), st.floats(0, 1))
some_votes = st.fixed_dictionaries(dict.fromkeys(AGENTS, a_vote))


def named(votes, volatility=0.5, trend_strength=0.0):
    return dict(zip(FEATURE_NAMES_V2, build_inputs(votes, volatility, trend_strength), strict=True))


def test_the_names_are_the_documented_26_in_order():
    assert (
        *("xgb_sell", "xgb_hold", "xgb_buy", "xgb_conf", "lgbm_sell", "lgbm_hold", "lgbm_buy", "lgbm_conf"),
        *("nhits_sell", "nhits_hold", "nhits_buy", "nhits_conf"),
        *("patchtst_sell", "patchtst_hold", "patchtst_buy", "patchtst_conf"),
        *("mean_confidence", "max_confidence", "min_confidence", "confidence_std"),
        *("vote_buy_pct", "vote_sell_pct", "vote_hold_pct", "disagreement", "volatility", "trend_strength"),
    ) == FEATURE_NAMES_V2


def test_a_full_house_gives_these_inputs():
    votes = {"xgb": (BUY, 0.7), "lgbm": (BUY, 0.5), "nhits": (HOLD, 0.8), "patchtst": (SELL, 0.4)}
    agents = [0, 0, 1, 0.7, 0, 0, 1, 0.5, 0, 1, 0, 0.8, 1, 0, 0, 0.4]
    others = [0.6, 0.8, 0.4, math.sqrt(0.025), 0.5, 0.25, 0.25, 0.5, 0.52, 0.15]
    assert build_inputs(votes, 0.52, 0.15) == pytest.approx([*agents, *others])


def test_an_abstaining_agent_is_zeros_and_counts_only_in_the_vote_shares():
    row = named({"xgb": (BUY, 0.6), "lgbm": None, "nhits": (BUY, 0.8)})
    assert [row[f"lgbm_{part}"] for part in ("sell", "hold", "buy", "conf")] == [0, 0, 0, 0]
    assert [row[f"patchtst_{part}"] for part in ("sell", "hold", "buy", "conf")] == [0, 0, 0, 0]
    assert (row["mean_confidence"], row["min_confidence"], row["max_confidence"]) == pytest.approx((0.7, 0.6, 0.8))
    assert (row["vote_buy_pct"], row["disagreement"]) == (0.5, 0.5)


def test_when_everyone_abstains_the_aggregates_are_zero_and_disagreement_is_one():
    row = named({})
    assert row["mean_confidence"] == row["max_confidence"] == row["min_confidence"] == row["confidence_std"] == 0.0
    assert row["disagreement"] == 1.0


def test_a_missing_regime_is_neutral():
    row = named({}, None, None)
    assert (row["volatility"], row["trend_strength"]) == (0.5, 0.0)


@given(votes=some_votes, order=st.permutations(AGENTS))
def test_inputs_do_not_depend_on_the_order_of_votes(votes, order):
    assert build_inputs({agent: votes[agent] for agent in order}, 0.3, -0.2) == build_inputs(votes, 0.3, -0.2)


@given(votes=some_votes)
def test_inputs_are_finite_and_shares_add_up(votes):
    row = named(votes)
    assert len(row) == 26
    assert all(math.isfinite(value) for value in row.values())
    present = sum(vote is not None for vote in votes.values())
    assert row["vote_buy_pct"] + row["vote_sell_pct"] + row["vote_hold_pct"] == present / 4
    assert row["min_confidence"] - 1e-12 <= row["mean_confidence"] <= row["max_confidence"] + 1e-12


@pytest.mark.parametrize(
    ("votes", "volatility", "trend_strength", "named_in_message"),
    [
        ({"xgb": (BUY, math.nan)}, 0.5, 0.0, "xgb_conf"),
        ({"nhits": (BUY, 1.01)}, 0.5, 0.0, "nhits_conf"),
        ({"lgbm": (BUY, -0.1)}, 0.5, 0.0, "lgbm_conf"),
        ({}, math.nan, 0.0, "volatility"),
        ({}, 1.1, 0.0, "volatility"),
        ({}, 0.5, math.inf, "trend_strength"),
        ({"svm": (BUY, 0.5)}, 0.5, 0.0, "svm"),
    ],
)
def test_a_vector_that_cannot_be_built_names_the_input(votes, volatility, trend_strength, named_in_message):
    with pytest.raises(FeatureError, match=named_in_message):
        build_inputs(votes, volatility, trend_strength)

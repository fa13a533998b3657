"""The inputs of v2p and V1, and the batch that training builds: bit for bit the rows that are served."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_svc.batch import batch_inputs
from meta_svc.errors import FeatureError
from meta_svc.inputs import (
    FEATURE_NAMES_V1,
    FEATURE_NAMES_V2,
    FEATURE_NAMES_V2P,
    build_inputs,
    build_inputs_v1,
    build_inputs_v2p,
)
from meta_svc.question import Question, Regime
from meta_svc.versions import VERSIONS
from quantum_common.domain import AGENTS, Action
from quantum_common.domain.signal import CLASS_ORDER

BUY, HOLD, SELL = Action.BUY, Action.HOLD, Action.SELL
VOTES = {"xgb": (BUY, 0.7), "lgbm": None, "nhits": (HOLD, 0.8), "patchtst": (SELL, 1.0)}
STATED = {"xgb": (0.1, 0.2, 0.7), "nhits": (0.1, 0.8, 0.1), "patchtst": (1.0, 0.0, 0.0)}


def test_v2p_appends_twelve_logarithms_in_the_order_of_agents_and_classes():
    assert FEATURE_NAMES_V2P[:26] == FEATURE_NAMES_V2
    assert FEATURE_NAMES_V2P[26:] == tuple(
        f"{agent}_log_{part}" for agent in AGENTS for part in ("sell", "hold", "buy")
    )
    row = build_inputs_v2p(VOTES, STATED, 0.5, 0.1)
    assert row[:26] == build_inputs(VOTES, 0.5, 0.1)
    assert row[26:29] == [math.log(0.1), math.log(0.2), math.log(0.7)]
    assert row[29:32] == [0.0, 0.0, 0.0]
    assert row[35:] == [0.0, math.log(1e-6), math.log(1e-6)]


def test_an_abstaining_agents_probabilities_are_not_looked_at():
    assert build_inputs_v2p(VOTES, {**STATED, "lgbm": (0.2, 0.2, 0.6)}, 0.5, 0.1) == build_inputs_v2p(
        VOTES, STATED, 0.5, 0.1
    )


@pytest.mark.parametrize("wrong", [None, (0.5, 0.5), (math.nan, 0.5, 0.5), (0.1, 0.2, 1.7), (-0.1, 0.2, 0.7)])
def test_v2p_names_the_agent_whose_probabilities_make_no_vector(wrong):
    stated = {agent: given for agent, given in {**STATED, "xgb": wrong}.items() if given is not None}
    with pytest.raises(FeatureError, match="xgb_probabilities"):
        build_inputs_v2p(VOTES, stated, 0.5, 0.1)


def test_v1_has_four_confidences_and_four_codes_in_its_own_order():
    assert (
        *("xgb_conf", "lgbm_conf", "patchtst_conf", "nhits_conf"),
        *("xgb_action", "lgbm_action", "patchtst_action", "nhits_action"),
    ) == FEATURE_NAMES_V1
    assert build_inputs_v1(VOTES) == [0.7, 0.0, 1.0, 0.8, 2.0, 1.0, 0.0, 1.0]
    assert build_inputs_v1({}) == [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("votes", "named"), [({"svm": (BUY, 0.5)}, "svm"), ({"nhits": (BUY, math.nan)}, "nhits_conf")])
def test_v1_names_what_it_cannot_read(votes, named):
    with pytest.raises(FeatureError, match=named):
        build_inputs_v1(votes)


@st.composite
def tables(draw):
    """Probabilities (rows, 4, 3), presence (rows, 4) and the regime."""
    rows = draw(st.integers(1, 12))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    sharpness = draw(st.sampled_from([0.1, 1.0, 8.0, 300.0]))
    logits = random.normal(size=(rows, 4, 3)) * sharpness
    odds = np.exp(logits - logits.max(axis=2, keepdims=True))
    probabilities = odds / odds.sum(axis=2, keepdims=True)
    present = random.random((rows, 4)) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    return probabilities, present, random.random(rows), random.uniform(-1, 1, rows)


def asked(probabilities, present, volatility, trend_strength):
    """One row as the service is asked."""
    stated = {agent: tuple(map(float, row)) for agent, row in zip(AGENTS, probabilities, strict=True)}
    votes = {
        agent: (CLASS_ORDER[int(np.argmax(row))], max(row)) if here else None
        for (agent, row), here in zip(stated.items(), present, strict=True)
    }
    return Question(votes, Regime(float(volatility), float(trend_strength)), stated)


@pytest.mark.parametrize("meta", VERSIONS.values(), ids=VERSIONS)
@given(table=tables())
def test_a_batch_is_bit_for_bit_what_its_rows_are(meta, table):
    rows = np.array([meta.build(asked(*row)) for row in zip(*table, strict=True)])
    batch = batch_inputs(meta.feature_names, *table)
    assert batch.shape == rows.shape
    assert batch.tobytes() == rows.tobytes()


def test_columns_are_ordered_by_the_names_and_an_unknown_name_is_refused():
    table = (np.full((2, 4, 3), 1 / 3), np.ones((2, 4), bool), np.array([0.1, 0.2]), np.array([0.3, 0.4]))
    assert batch_inputs(["trend_strength", "volatility"], *table).tolist() == [[0.3, 0.1], [0.4, 0.2]]
    with pytest.raises(KeyError, match="moon_phase"):
        batch_inputs(["moon_phase"], *table)

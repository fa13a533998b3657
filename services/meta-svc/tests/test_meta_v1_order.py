"""The decision order of V1, row by row: no consensus rule, and an override strictly above 0.60."""

import itertools
import math

import numpy as np
import pytest

from meta_svc.core import Policy
from meta_svc.decide import decide
from meta_svc.inputs import FEATURE_NAMES_V1
from meta_svc.lines import decision_line, refused_line
from meta_svc.question import Question, Regime
from meta_svc.statistics import COUNTERS, counter_of
from meta_svc.versions import V1
from quantum_common.domain import AGENTS, Action

BUY, HOLD, SELL = Action.BUY, Action.HOLD, Action.SELL
SPLIT = {"xgb": (BUY, 0.6), "lgbm": (BUY, 0.6), "nhits": (HOLD, 0.9), "patchtst": (SELL, 0.5)}
"""Base ensemble: BUY 0.30."""
AGREED = dict.fromkeys(AGENTS, (SELL, 0.7))
NOBODY = dict.fromkeys(AGENTS)
REGIME = Regime(0.52, 0.15)
SURE = (0.1, 0.8, 0.1)
UNSURE = (0.2, 0.58, 0.22)


class FixedNetwork:
    """Answers the same for every row; raises when given an error. It has no linear form."""

    version, quality, linear = "v-test", "proven", None

    def __init__(self, *probabilities, width=8, error=None):
        self.width, self._probabilities, self._error = width, probabilities, error

    def predict(self, rows):
        if self._error is not None:
            raise self._error
        return np.tile(np.array(self._probabilities, dtype=np.float64), (len(rows), 1))


def decided(votes=SPLIT, model=None, regime=REGIME, **policy):
    return decide([Question(votes, regime)], Policy(version=V1, **policy), model)[0]


# votes, model, enabled → reason, action, whether the model decided
TRUTH = [
    (NOBODY, FixedNetwork(*SURE), True, "no_predictions", HOLD, False),
    (NOBODY, None, False, "no_predictions", HOLD, False),
    (SPLIT, FixedNetwork(*SURE), False, "meta_disabled", BUY, False),
    (SPLIT, None, True, "model_not_loaded", BUY, False),
    (AGREED, None, True, "model_not_loaded", SELL, False),
    (AGREED, FixedNetwork(*SURE), True, "meta_override_hold", HOLD, True),
    (AGREED, FixedNetwork(*UNSURE), True, "meta_low_confidence_0.58", SELL, False),
    (SPLIT, FixedNetwork(*SURE), True, "meta_override_hold", HOLD, True),
    (SPLIT, FixedNetwork(*UNSURE), True, "meta_low_confidence_0.58", BUY, False),
    (SPLIT, FixedNetwork(0.4, 0.6, 0.0), True, "meta_low_confidence_0.60", BUY, False),
    (SPLIT, FixedNetwork(0.4, math.nextafter(0.6, 1), 0.0), True, "meta_override_hold", HOLD, True),
    (SPLIT, FixedNetwork(0.61, 0.05, 0.61), True, "meta_low_confidence_0.05", BUY, False),
    (SPLIT, FixedNetwork(*SURE, width=26), True, "feature_dim_mismatch", BUY, False),
    (SPLIT, FixedNetwork(error=RuntimeError("boom")), True, "prediction_error", BUY, False),
    (SPLIT, FixedNetwork(math.nan, 0.5, 0.5), True, "invalid_confidence", BUY, False),
    ({"lgbm": (SELL, 0.6), "svm": (BUY, 0.6)}, FixedNetwork(*SURE), True, "feature_error", SELL, False),
]


@pytest.mark.parametrize(("votes", "model", "enabled", "reason", "action", "use_meta"), TRUTH)
def test_v1_decides_in_this_order(votes, model, enabled, reason, action, use_meta):
    result = decided(votes, model, enabled=enabled)
    assert (result.reason, result.action, result.use_meta) == (reason, action, use_meta)


@pytest.mark.parametrize(
    ("reason", "model"),
    [
        ("model_not_loaded", None),
        ("feature_dim_mismatch", FixedNetwork(*SURE, width=26)),
        ("prediction_error", FixedNetwork(error=RuntimeError("boom"))),
        ("invalid_confidence", FixedNetwork(math.nan, 0.5, 0.5)),
    ],
)
def test_v1_fails_open_to_the_base_ensemble_and_closed_to_hold(reason, model):
    opened, closed = decided(model=model), decided(model=model, fail_open=False)
    assert (opened.reason, opened.action, opened.confidence) == (reason, BUY, pytest.approx(0.3))
    assert (closed.reason, closed.action, closed.confidence) == (reason, HOLD, 0.0)


@pytest.mark.parametrize("policy", [{"enabled": False}, {"fail_open": False}])
def test_what_is_no_error_of_v1_does_not_force_hold_when_it_fails_closed(policy):
    assert decided(model=FixedNetwork(*UNSURE), **policy).action is BUY


def test_the_threshold_of_v1_is_its_own_and_not_the_setting():
    assert decided(model=FixedNetwork(*SURE), meta_threshold=0.99).use_meta
    assert not decided(model=FixedNetwork(*UNSURE), meta_threshold=0.1).use_meta


def test_a_consensus_is_measured_although_it_decides_nothing():
    assert decided(AGREED, FixedNetwork(*SURE)).consensus_strength == 1.0


def test_v1_does_not_look_at_the_regime_so_a_wrong_one_is_no_error():
    assert decided(model=FixedNetwork(*SURE), regime=Regime(math.nan, 7.0)).use_meta


def test_v1_is_explained_by_its_inputs_without_contributions():
    why = decided(model=FixedNetwork(*UNSURE)).explanation
    assert why.feature_names == FEATURE_NAMES_V1
    assert why.inputs == (0.6, 0.6, 0.5, 0.9, 2.0, 2.0, 0.0, 1.0)
    assert (why.contributions, why.bias) == ((), 0.0)
    assert decided(model=None).explanation is None


def test_every_pattern_of_votes_and_abstentions_gets_a_counted_reason():
    choices = [None, (BUY, 0.6), (HOLD, 0.6), (SELL, 0.6)]
    for pattern in itertools.product(choices, repeat=4):
        result = decided(dict(zip(AGENTS, pattern, strict=True)), FixedNetwork(*SURE))
        assert counter_of(result.reason) in COUNTERS
        assert result.use_meta is any(pattern)


def test_the_lines_of_v1_read_as_documented():
    override = decided(model=FixedNetwork(0.1, 0.821, 0.079))
    assert decision_line("BTCUSDT", override, V1) == "[META] BTCUSDT override: BUY→HOLD (conf=0.821)"
    kept = decided(model=FixedNetwork(*UNSURE))
    assert decision_line("ETHUSDT", kept, V1) == (
        "[META] ETHUSDT: FALLBACK (keeping base=BUY@0.30) | Reason: meta_low_confidence_0.58"
    )
    assert refused_line("it is broken", V1) == "[MetaV1] VALIDATION FAILED: it is broken"

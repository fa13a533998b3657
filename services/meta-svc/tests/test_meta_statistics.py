"""Counters, their law, and the warning about too many overrides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta_svc.statistics import (
    COUNTERS,
    FALLBACK_REASONS,
    FEWEST_TO_JUDGE,
    OVERRIDE_WINDOW,
    OverrideWatch,
    WeightWatch,
    counter_of,
    statistics,
)

DETAILS = {"model_ready": True, "meta_threshold": 0.65, "consensus_threshold": 0.75, "version": "v2"}


@given(st.dictionaries(st.sampled_from(COUNTERS), st.integers(0, 10**9)))
def test_the_total_is_overrides_plus_fallbacks_at_every_instant(counts):
    shown = statistics(counts, **DETAILS)
    assert shown["total_predictions"] == shown["meta_overrides"] + sum(shown["fallback_reasons"].values())
    assert tuple(shown["fallback_reasons"]) == FALLBACK_REASONS
    assert 0.0 <= shown["override_rate"] <= 1.0


def test_without_a_decision_every_key_is_there_and_zero():
    shown = statistics({}, **DETAILS)
    assert (shown["total_predictions"], shown["override_rate"]) == (0, 0.0)
    assert set(shown["fallback_reasons"]) == {
        *("strong_consensus", "low_meta_confidence", "model_not_loaded", "feature_dim_mismatch", "invalid_confidence"),
        *("feature_error", "prediction_error", "meta_disabled", "no_predictions"),
    }
    assert set(shown["fallback_reasons"].values()) == {0}


@pytest.mark.parametrize(
    ("reason", "counter"),
    [
        ("meta_override_buy", "meta_overrides"),
        ("strong_consensus_hold", "strong_consensus"),
        ("meta_low_confidence_0.58", "low_meta_confidence"),
        *((reason, reason) for reason in FALLBACK_REASONS if reason not in ("strong_consensus", "low_meta_confidence")),
    ],
)
def test_every_reason_has_its_counter(reason, counter):
    assert counter_of(reason) == counter


def test_an_unknown_reason_is_refused_so_that_the_law_cannot_break_silently():
    with pytest.raises(KeyError):
        counter_of("felt_like_it")


def test_a_rate_above_40_percent_warns_once_in_the_documented_words():
    watch = OverrideWatch()
    said = [watch.add(number % 25 < 13) for number in range(OVERRIDE_WINDOW)]
    assert [line for line in said if line] == ["High override rate: 52 % (threshold: 40 %)"]


def test_exactly_40_percent_does_not_warn():
    watch = OverrideWatch()
    assert not any(watch.add(number % 5 >= 3) for number in range(OVERRIDE_WINDOW))


def test_a_few_overrides_at_the_start_do_not_warn():
    watch = OverrideWatch()
    assert not any(watch.add(True) for _ in range(FEWEST_TO_JUDGE - 1))
    assert watch.add(True) == "High override rate: 100 % (threshold: 40 %)"


def test_only_the_last_500_decisions_count():
    watch = OverrideWatch()
    for _ in range(OVERRIDE_WINDOW):
        watch.add(True)
    for _ in range(OVERRIDE_WINDOW):
        watch.add(False)
    assert (watch.rate, watch.high) == (0.0, False)


def test_f08_an_agent_that_abstains_has_no_weight_and_the_others_share_it():
    watch = WeightWatch({"xgb": 0.25, "lgbm": 0.25, "nhits": 0.30, "patchtst": 0.20})
    assert watch.shares() == {}
    watch.add(["xgb", "lgbm"])
    watch.add(["lgbm", "nhits", "patchtst", "xgb"])
    assert watch.shares() == pytest.approx({"xgb": 0.375, "lgbm": 0.375, "nhits": 0.15, "patchtst": 0.10})
    watch.add([])
    assert sum(watch.shares().values()) == pytest.approx(2 / 3)


def test_f08_only_the_newest_decisions_count_for_the_weights():
    watch = WeightWatch({"xgb": 0.5, "lgbm": 0.5})
    watch.add(["xgb"])
    for _ in range(OVERRIDE_WINDOW):
        watch.add(["lgbm"])
    assert watch.shares() == {"xgb": 0.0, "lgbm": 1.0}

"""When a training is due, when a version must go, and how a shadow period ends: rules without a clock or a bus."""

import msgspec
import numpy as np
import pytest

from trainer_svc.core import DAY_MS, Champion, Facts, Policy, Promise, Reason, due
from trainer_svc.drift import Column, Drift
from trainer_svc.live import Quality, Row
from trainer_svc.release_watch import LONGEST_PERIODS, Outcome, ReturnReason, ShadowEnd, must_return, shadow_end

NOW = 1_000 * DAY_MS
POLICY = Policy()
DRIFTED = Drift(0.8, (Column("rsi", 0.8, 1e-6),))
CALM = Drift(0.2)


def quality(**changes: object) -> Quality:
    base = Quality(
        rows=1_000, days=20, accuracy=0.72, accuracy_majority=0.72, edge_error=0.01, log_loss=0.70, log_loss_prior=0.75
    )
    return msgspec.structs.replace(base, **changes)


def champion(**changes: object) -> Champion:
    base = Champion(
        version="v1", released_ms=NOW - 3 * DAY_MS, promise=Promise(0.73, 0.72), quality=quality(), drift=CALM
    )
    return msgspec.structs.replace(base, **changes)


def facts(one: Champion | None = None, **changes: object) -> Facts:
    base = Facts(
        now_ms=NOW,
        first_start_ms=NOW - 5 * DAY_MS,
        last_end_ms=NOW - 2 * DAY_MS,
        last_drift_end_ms=None,
        champions={"xgb": one or champion()},
        meta_released_ms=NOW - 3 * DAY_MS,
        features=CALM,
    )
    return msgspec.structs.replace(base, **changes)


def reason(of: Facts, policy: Policy = POLICY) -> Reason | None:
    found = due(of, policy)
    return found.reason if found else None


def test_nothing_is_due_while_all_is_well() -> None:
    assert due(facts(), POLICY) is None


def test_a_week_without_a_training_asks_for_one() -> None:
    old = champion(released_ms=NOW - 8 * DAY_MS)
    weekly = {"first_start_ms": NOW - 9 * DAY_MS, "meta_released_ms": NOW - 8 * DAY_MS}
    assert reason(facts(old, last_end_ms=None, **weekly)) is Reason.WEEKLY
    assert reason(facts(old, last_end_ms=NOW - 7 * DAY_MS, **weekly)) is Reason.WEEKLY
    assert reason(facts(old, last_end_ms=NOW - 6 * DAY_MS, **weekly)) is None
    assert reason(facts(champion(), last_end_ms=None, first_start_ms=NOW - 9 * DAY_MS)) is None


def test_a_service_that_starts_for_the_first_time_waits_a_week() -> None:
    old = champion(released_ms=NOW - 90 * DAY_MS)
    assert reason(facts(old, last_end_ms=None, meta_released_ms=NOW, first_start_ms=NOW)) is None


def test_a_missing_model_is_trained_and_a_failed_attempt_waits_for_the_pause() -> None:
    assert reason(facts(missing=("nhits",))) is Reason.NO_MODEL
    assert reason(facts(missing=("nhits",), last_end_ms=NOW - POLICY.pause_ms + 1)) is None


def test_meta_follows_a_base_model_that_was_released_after_it() -> None:
    found = due(facts(champion(released_ms=NOW - DAY_MS)), POLICY)
    assert found is not None
    assert (found.reason, found.meta_only) == (Reason.BASE_MODEL_CHANGED, True)
    assert due(facts(champion(released_ms=NOW - DAY_MS), meta_released_ms=NOW - DAY_MS), POLICY) is None
    assert due(facts(champion(released_ms=NOW - 3 * DAY_MS), meta_released_ms=None), POLICY) is None


def test_a_fall_of_accuracy_over_the_majority_asks_for_a_training() -> None:
    fallen = champion(quality=quality(accuracy=0.62, accuracy_majority=0.68))
    found = due(facts(fallen), POLICY)
    assert found is not None
    assert found.reason is Reason.ACCURACY_DROP
    assert "0.620 (majority 0.680)" in found.detail


@pytest.mark.parametrize(
    "live",
    [
        quality(accuracy=0.62, accuracy_majority=0.61),  # the market became wilder: HOLD is rarer for every model
        quality(accuracy=0.62, accuracy_majority=0.68, rows=499),
        quality(accuracy=0.62, accuracy_majority=0.68, edge_error=0.05),  # days differ by that much anyway
        quality(accuracy=0.69, accuracy_majority=0.72),
        None,
    ],
)
def test_a_wild_market_few_bars_and_chance_are_no_fall(live: Quality | None) -> None:
    assert due(facts(champion(quality=live)), POLICY) is None


def test_a_regime_shift_asks_once_until_the_tested_stretch_is_a_new_one() -> None:
    assert reason(facts(features=DRIFTED)) is Reason.REGIME_SHIFT
    assert reason(facts(champion(drift=DRIFTED))) is Reason.REGIME_SHIFT
    assert reason(facts(features=DRIFTED, last_drift_end_ms=NOW - 13 * DAY_MS)) is None
    assert reason(facts(features=DRIFTED, last_drift_end_ms=NOW - 14 * DAY_MS)) is Reason.REGIME_SHIFT


def returned(of: Champion, *, since_ms: int = NOW - DAY_MS, collapsed_bar_ms: int | None = None) -> ReturnReason | None:
    found = must_return(
        of,
        serving_since_ms=since_ms,
        collapsed_bar_ms=collapsed_bar_ms,
        now_ms=NOW,
        within_ms=14 * DAY_MS,
        min_labelled_bars=500,
    )
    return found.reason if found else None


def test_a_collapsed_champion_must_go_at_any_age() -> None:
    assert returned(champion(), collapsed_bar_ms=NOW) is ReturnReason.COLLAPSED
    assert returned(champion(), since_ms=NOW - 90 * DAY_MS, collapsed_bar_ms=NOW) is ReturnReason.COLLAPSED
    assert returned(champion(), collapsed_bar_ms=NOW - 2 * DAY_MS) is None  # before it was brought back


def test_drifted_predictions_go_only_when_young_and_worse_than_the_prior() -> None:
    bad = quality(log_loss=0.80)
    assert returned(champion(drift=DRIFTED, quality=bad)) is ReturnReason.DRIFTED
    assert returned(champion(drift=DRIFTED)) is None
    assert returned(champion(quality=bad)) is None
    assert returned(champion(drift=DRIFTED, quality=bad), since_ms=NOW - 15 * DAY_MS) is None
    assert returned(champion(drift=DRIFTED, quality=quality(log_loss=0.80, rows=499))) is None


def rows(bars: range) -> list[Row]:
    return [Row(bar * 3_600_000, "BTC", bar % 3, 0.01 * (bar % 3 - 1), (0.2, 0.5, 0.3)) for bar in bars]


def ended(champion_rows: list[Row], shadow_rows: list[Row], winner: str = "challenger") -> ShadowEnd | None:
    def judge(a: np.ndarray, b: np.ndarray, labels: np.ndarray, change: np.ndarray, ts: np.ndarray) -> tuple[str, str]:
        assert a.shape == b.shape == (len(labels), 3)
        assert len(change) == len(ts) == len(labels)
        return winner, "said the judge"

    return shadow_end(champion_rows, shadow_rows, needed_bars=100, judge=judge)  # type: ignore[arg-type]


def outcome(*arguments: object, **more: object) -> Outcome | None:
    end = ended(*arguments, **more)  # type: ignore[arg-type]
    return end.outcome if end else None


def test_a_shadow_that_wins_is_promoted_and_one_that_loses_is_sent_away() -> None:
    assert outcome(rows(range(100)), rows(range(100))) is Outcome.PROMOTED
    assert outcome(rows(range(100)), rows(range(100)), winner="champion") is Outcome.LOST


def test_a_shadow_period_lasts_until_there_are_enough_bars_and_a_verdict() -> None:
    assert outcome(rows(range(99)), rows(range(99))) is None
    assert outcome(rows(range(100)), rows(range(100)), winner="undecided") is None
    long = range(100 * LONGEST_PERIODS)
    assert outcome(rows(long), rows(long), winner="undecided") is Outcome.LOST


def test_a_shadow_that_was_silent_on_a_bar_or_never_spoke_failed() -> None:
    assert outcome(rows(range(100)), [row for row in rows(range(100)) if row.ts_ms != 50 * 3_600_000]) is Outcome.FAILED
    assert outcome(rows(range(100)), []) is Outcome.FAILED
    assert outcome(rows(range(100)), rows(range(5, 100))) is Outcome.PROMOTED  # it was loaded a few bars late

"""Live labels and figures: what training calls a label, whatever the order in which events arrive."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_research.labels import step_labels
from trainer_svc.live import KEPT_BARS, KEPT_ROWS, Label, LiveScores, Prediction, Row, every_nth, is_kept, quality_of

HOUR_MS = 3_600_000
LABEL = Label(horizon_bars=3, threshold=0.02)
DAY_MS = 24 * HOUR_MS


def said(version: str = "v1", probabilities: tuple[float, float, float] = (0.2, 0.5, 0.3)) -> Prediction:
    return Prediction("xgb", version, probabilities)


def scored(scores: LiveScores, version: str = "v1") -> list[tuple[int, int]]:
    return [(row.ts_ms // HOUR_MS, row.label) for row in scores.rows("xgb", version)]


@given(
    order=st.permutations([("close", bar) for bar in range(8)] + [("said", bar) for bar in range(8)]),
    closes=st.lists(st.floats(90.0, 110.0), min_size=8, max_size=8),
)
def test_labels_are_those_of_training_in_whatever_order_events_arrive(
    order: list[tuple[str, int]], closes: list[float]
) -> None:
    scores = LiveScores()
    for kind, bar in order:
        if kind == "close":
            scores.take_close("BTC", bar * HOUR_MS, closes[bar], HOUR_MS, LABEL)
        else:
            scores.take_prediction("BTC", bar * HOUR_MS, said(), HOUR_MS, LABEL)
    trained = step_labels(
        np.arange(8) * HOUR_MS, np.array(closes), bar_ms=HOUR_MS, horizon_bars=3, threshold=LABEL.threshold
    )[:, -1]
    assert dict(scored(scores)) == {bar: int(trained[bar]) for bar in range(5)}  # the last three have no label yet


def test_a_span_with_a_missing_bar_has_no_label() -> None:
    scores = LiveScores()
    scores.take_prediction("BTC", 0, said(), HOUR_MS, LABEL)
    for bar in (0, 1, 3, 4):
        scores.take_close("BTC", bar * HOUR_MS, 100.0 + bar, HOUR_MS, LABEL)
    assert scored(scores) == []


def test_what_is_kept_is_bounded_and_the_oldest_version_goes_first() -> None:
    scores, label = LiveScores(), Label(1, 0.02)
    for bar in range(2 * KEPT_ROWS):
        scores.take_prediction("BTC", bar * HOUR_MS, said(f"v{bar // 1_400}"), HOUR_MS, label)
        scores.take_close("BTC", bar * HOUR_MS, 100.0, HOUR_MS, label)
    assert len(scores.closes["BTC"]) <= KEPT_BARS + 1
    assert len(scores.waiting["BTC"]) <= KEPT_BARS + 1
    assert set(scores.scored["xgb"]) == {"v2", "v3", "v4"}
    for bar in range(2 * KEPT_ROWS, 4 * KEPT_ROWS):
        scores.take_prediction("BTC", bar * HOUR_MS, said("v4"), HOUR_MS, label)
        scores.take_close("BTC", bar * HOUR_MS, 100.0, HOUR_MS, label)
    assert len(scores.rows("xgb", "v4")) == KEPT_ROWS


@pytest.mark.parametrize(("symbols", "bar_ms"), [(5, HOUR_MS), (500, HOUR_MS), (5, 60_000)])
def test_kept_rows_cover_three_weeks_whatever_the_symbols_and_the_timeframe(symbols: int, bar_ms: int) -> None:
    nth = every_nth(symbols, bar_ms)
    bars = 20 * DAY_MS // bar_ms
    kept = sum(is_kept(f"S{s}", bar * bar_ms, bar_ms, nth) for s in range(symbols) for bar in range(0, bars, 7))
    assert kept * 7 <= 1.2 * KEPT_ROWS
    assert kept > 0


def test_quality_stands_beside_its_baselines() -> None:
    hold, buy = (0.1, 0.8, 0.1), (0.2, 0.2, 0.6)
    rows = [Row(day * DAY_MS, "BTC", label, 0.0, p) for day, (label, p) in enumerate([(1, hold), (1, buy), (2, buy)])]
    quality = quality_of(rows)
    assert quality is not None
    assert quality.rows == quality.days == 3
    assert quality.accuracy == pytest.approx(2 / 3)
    assert quality.accuracy_majority == pytest.approx(2 / 3)
    assert quality.log_loss == pytest.approx(-(np.log(0.8) + np.log(0.2) + np.log(0.6)) / 3)
    assert quality.log_loss_prior == pytest.approx(-(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)))
    assert quality_of([]) is None


def test_rows_of_one_day_say_nothing_about_chance() -> None:
    rows = [Row(bar * HOUR_MS, "BTC", bar % 2, 0.0, (0.1, 0.8, 0.1)) for bar in range(20)]
    quality = quality_of(rows)
    assert quality is not None
    assert quality.edge_error == float("inf")

"""Which bars are refused, and under which reason."""

from __future__ import annotations

import pytest

from quantum_common.features.hygiene import Bar, is_stale, missing_bars, refusal, sift

MINUTE = 60_000
GOOD = Bar(0, 2.0, 3.0, 1.0, 2.5, 7.0)


def test_a_sane_bar_is_not_refused() -> None:
    assert refusal(GOOD, MINUTE) is None
    assert refusal(GOOD._replace(volume=0.0), MINUTE) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"open": float("nan")}, "open_not_finite"),
        ({"high": float("inf")}, "high_not_finite"),
        ({"low": 0.0}, "low_not_positive"),
        ({"close": -1.0}, "close_not_positive"),
        ({"high": 1e15}, "high_out_of_range"),
        ({"low": 1e-15}, "low_out_of_range"),
        ({"volume": -1e-9}, "volume_negative"),
        ({"volume": float("nan")}, "volume_not_finite"),
        ({"volume": 1e-300}, "volume_out_of_range"),
        ({"low": 4.0}, "high_below_low"),
        ({"low": 2.2}, "open_below_low"),
        ({"open": 3.1}, "open_above_high"),
        ({"close": 0.9}, "close_below_low"),
        ({"close": 3.1}, "close_above_high"),
        ({"ts": 1}, "ts_off_grid"),
    ],
)
def test_an_insane_bar_is_refused_by_the_field_at_fault(change: dict[str, float], reason: str) -> None:
    assert refusal(GOOD._replace(**change), MINUTE) == reason


def bar(minute: int, close: float = 2.5) -> list[float]:
    return [minute * MINUTE, 2.0, 3.0, 1.0, close, 7.0]


def test_a_fetch_is_sorted_and_its_repetitions_dropped() -> None:
    sifted = sift([bar(3), bar(1), bar(2), bar(1, close=1.5)], bar_ms=MINUTE, last_ts=0)
    assert [(b.ts // MINUTE, b.close) for b in sifted.bars] == [(1, 2.5), (2, 2.5), (3, 2.5)]
    assert sifted.duplicates == 1
    assert not sifted.refused


def test_a_bar_older_than_the_last_one_is_refused_across_fetches() -> None:
    sifted = sift([bar(4), bar(5), bar(6)], bar_ms=MINUTE, last_ts=5 * MINUTE)
    assert [b.ts // MINUTE for b in sifted.bars] == [6]
    assert [(r.bar.ts // MINUTE, r.reason) for r in sifted.refused] == [(4, "ts_out_of_order")]
    assert sifted.duplicates == 1


def test_the_open_candle_is_left_out() -> None:
    sifted = sift([bar(1), bar(2)], bar_ms=MINUTE, last_ts=None, now_ms=3 * MINUTE - 1)
    assert [b.ts // MINUTE for b in sifted.bars] == [1]
    assert not sifted.refused


def test_missing_numbers_are_refused_not_raised() -> None:
    sifted = sift([[0, None, 3.0, 1.0, 2.5, 7.0], [None, 1, 1, 1, 1, 1], [MINUTE, 1.0]], bar_ms=MINUTE, last_ts=None)
    assert [r.reason for r in sifted.refused] == ["open_not_finite", "ts_not_finite", "high_not_finite"]
    assert not sifted.bars


def test_f32_a_symbol_is_stale_when_its_newest_bar_closed_two_timeframes_ago() -> None:
    closed_at = 10 * MINUTE
    assert not is_stale(closed_at - MINUTE, MINUTE, closed_at + 2 * MINUTE)
    assert is_stale(closed_at - MINUTE, MINUTE, closed_at + 2 * MINUTE + 1)
    assert is_stale(None, MINUTE, 0)


def test_missing_bars_between_two() -> None:
    assert missing_bars(None, 5 * MINUTE, MINUTE) == 0
    assert missing_bars(4 * MINUTE, 5 * MINUTE, MINUTE) == 0
    assert missing_bars(2 * MINUTE, 5 * MINUTE, MINUTE) == 2

"""The pure step of feature-svc, and how it asks a venue."""

from __future__ import annotations

import numpy as np
import pytest

from feature_svc.core import Rules, SymbolState, decode_state, encode_state, is_publishable, skip, take, window_member
from feature_svc.source import Row, fetch, fetch_history
from quantum_common.candles import Candles
from quantum_common.features import batch, unpack_vectors
from quantum_common.features.hygiene import Bar

MINUTE = 60_000
RULES = Rules(MINUTE, warmup_bars=100)


def bars(count: int, first: int = 0, seed: int = 1) -> list[Bar]:
    random = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(random.normal(0.0, 0.01, count)))
    volume = random.exponential(10.0, count)
    return [
        Bar((first + i) * MINUTE, float(c), float(c) * 1.01, float(c) * 0.99, float(c), float(v))
        for i, (c, v) in enumerate(zip(close, volume, strict=True))
    ]


def without(rows: list[Bar], start: int, stop: int) -> list[Bar]:
    return [bar for bar in rows if not start * MINUTE <= bar.ts < stop * MINUTE]


def table_of(rows: list[Bar]) -> batch.FeatureTable:
    columns = list(zip(*rows, strict=True))
    candles = Candles(np.array(columns[0], np.int64), *(np.array(column) for column in columns[1:]))
    return batch.compute(candles, "1m", warmup_bars=RULES.warmup_bars)


@pytest.mark.parametrize("missing", [(0, 0), (150, 174), (150, 175)], ids=["no gap", "24 missing", "25 missing"])
def test_the_service_and_the_batch_see_the_same_bars_the_same_way(missing: tuple[int, int]) -> None:
    rows = without(bars(400), *missing)
    table = table_of(rows)
    state = SymbolState()
    for i, bar in enumerate(rows):
        taken = take(state, bar, RULES)
        state = taken.state
        assert taken.gap_bars == table.gap_bars[i]
        assert is_publishable(taken, RULES) == table.publishable[i]
        member = window_member(taken, RULES)
        assert (member is not None) == table.valid[i]
        if member is not None:
            ts, vector = unpack_vectors([member])
            assert ts[0] == bar.ts
            assert vector.tobytes() == table.vectors()[i].tobytes()


def test_a_step_leaves_the_state_it_was_given_alone() -> None:
    state = SymbolState()
    before = list(state.recursion)
    take(state, bars(1)[0], RULES)
    assert state.recursion == before
    assert state.last_ts is None


def test_a_refused_bar_moves_the_cursor_and_counts_as_missing() -> None:
    rows = bars(3)
    state = skip(take(SymbolState(), rows[0], RULES).state, rows[1].ts)
    assert (state.last_ts, state.cursor_ts) == (rows[0].ts, rows[1].ts)
    assert take(state, rows[2], RULES).gap_bars == 1


def test_a_stored_state_comes_back_and_goes_on_the_same() -> None:
    rows = bars(300)
    state = SymbolState()
    for bar in rows[:-1]:
        state = take(state, bar, RULES).state
    restored = decode_state(encode_state(state, RULES), RULES)
    assert restored == state
    assert restored is not None
    assert take(restored, rows[-1], RULES) == take(state, rows[-1], RULES)


def test_a_state_of_other_features_or_another_timeframe_is_not_used() -> None:
    data = encode_state(SymbolState(), RULES)
    assert decode_state(data, Rules(MINUTE, warmup_bars=101)) is None
    assert decode_state(data, Rules(5 * MINUTE, warmup_bars=100)) is None
    assert decode_state(b"not a state", RULES) is None
    assert decode_state(None, RULES) is None


class PagedVenue:
    """A venue that hands out at most `page` bars, and keeps some back until asked a second time."""

    def __init__(self, rows: list[Bar], page: int = 50, shy: frozenset[int] = frozenset()) -> None:
        self.rows, self.page, self.shy = rows, page, set(shy)
        self.asked: list[tuple[int, int]] = []

    async def candles(self, symbol: str, since_ms: int, limit: int) -> list[Row]:
        self.asked.append((since_ms, limit))
        found = [row for row in self.rows if row.ts >= since_ms][: min(limit, self.page)]
        held_back = {row.ts for row in found} & self.shy
        self.shy -= held_back
        return [list(row) for row in found if row.ts not in held_back]

    async def close(self) -> None:
        return None


async def test_a_fetch_goes_on_page_by_page_and_ends_with_the_closed_bars() -> None:
    venue = PagedVenue(bars(200))
    rows = await fetch(venue, "X", 10 * MINUTE, 180 * MINUTE, MINUTE)
    assert [row[0] // MINUTE for row in rows if row[0] < 180 * MINUTE] == list(range(10, 180))


async def test_bars_missing_at_first_are_asked_for_again() -> None:
    venue = PagedVenue(bars(100), page=1000, shy=frozenset({20 * MINUTE, 21 * MINUTE}))
    rows = await fetch(venue, "X", 0, 100 * MINUTE, MINUTE)
    assert sorted(row[0] // MINUTE for row in rows) == list(range(100))


async def test_bars_that_the_venue_does_not_have_are_not_invented() -> None:
    venue = PagedVenue(without(bars(100), 20, 30), page=1000)
    rows = await fetch(venue, "X", 0, 100 * MINUTE, MINUTE)
    assert sorted(row[0] // MINUTE for row in rows) == [*range(20), *range(30, 100)]


async def test_a_page_without_a_number_for_the_time_ends_the_fetch() -> None:
    class Broken(PagedVenue):
        async def candles(self, symbol: str, since_ms: int, limit: int) -> list[Row]:
            return [[None, 1.0, 1.0, 1.0, 1.0, 1.0]]  # type: ignore[list-item]

    assert len(await fetch(Broken([]), "X", 0, 100 * MINUTE, MINUTE)) == 1


async def history(rows: list[Bar], first: int) -> list[int]:
    found = await fetch_history(PagedVenue(rows, page=1000), "X", first * MINUTE, (first + 1) * MINUTE, RULES)
    return sorted({int(row[0]) // MINUTE for row in found if row[0] < first * MINUTE})


async def test_the_history_reaches_back_for_the_warm_up_and_a_window() -> None:
    assert len(await history(bars(2000), 1500)) >= RULES.bars_before_first == 163


async def test_the_history_reaches_further_back_where_bars_are_missing() -> None:
    rows = bars(2000)
    for start in range(1300, 1500, 25):
        rows = without(rows, start, start + 20)
    assert len(await history(rows, 1500)) >= 163


async def test_the_history_stops_at_the_listing_and_at_a_gap_that_restarts_the_warm_up() -> None:
    assert await history(bars(100, first=1450), 1500) == list(range(1450, 1500))
    broken = await history(without(bars(2000), 1400, 1430), 1500)
    assert broken[-70:] == list(range(1430, 1500))
    assert len(broken) < 300

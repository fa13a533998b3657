"""A closed bar: time stops before it, one AccountUpdated after it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import msgspec

from executor_svc.core.account import take_account
from executor_svc.core.approvals import Rules, want_exit
from executor_svc.core.book import Book, Outcome
from executor_svc.core.venue_facts import AccountSnapshot
from quantum_common.domain.timeframe import timeframe_ms


def time_stops(book: Book, market_now_ms: int, rules: Rules) -> Book:
    """Wish every position closed whose label horizon is over: its last bar has closed by now."""
    for symbol in sorted(book.positions):
        position = book.positions[symbol]
        bars = 1 + rules.horizon_bars
        if market_now_ms >= position.decision_bar_ts_ms + bars * timeframe_ms(position.timeframe):
            book = want_exit(book, symbol, "time_stop")
    return book


def finish_bar(
    book: Book,
    bar_ts_ms: int,
    snapshot: AccountSnapshot,
    *,
    market_now_ms: int,
    min_notional_usd: Mapping[str, Decimal],
) -> Outcome:
    """Move the barrier and tell it: exactly one AccountUpdated(cause=bar) per bar."""
    book = msgspec.structs.replace(book, bar_ts_ms=bar_ts_ms)
    return take_account(book, snapshot, "bar", market_now_ms=market_now_ms, min_notional_usd=min_notional_usd)

"""The venue's account: what is told to the others, and whether it is what the book expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple

import msgspec

from executor_svc.core.book import ZERO, Book, Draft, Outcome, with_position
from executor_svc.core.venue_facts import AccountSnapshot, Funding, VenuePosition
from quantum_common.contracts import AccountPosition, AccountUpdated, FundingPaid, PositionDrifted
from quantum_common.domain.signal import OrderSide

WALLET_TOLERANCE = Decimal("0.01")
"""A smaller difference is rounding at the venue."""

Cause = Literal["start", "bar", "fill", "reconcile"]


class Drift(NamedTuple):
    """Signed base quantities; long positive."""

    expected: Decimal
    at_venue: Decimal


def expected_quantity(book: Book, symbol: str) -> Decimal:
    position = book.positions.get(symbol)
    if position is None:
        return ZERO
    return position.quantity if position.side is OrderSide.BUY else -position.quantity


def position_drifts(book: Book, snapshot: AccountSnapshot) -> dict[str, Drift]:
    """Symbols where venue and book disagree."""
    found = {}
    for symbol in sorted({*book.positions, *snapshot.positions}):
        drift = Drift(expected_quantity(book, symbol), snapshot.quantity(symbol))
        if drift.expected != drift.at_venue:
            found[symbol] = drift
    return found


def wallet_drift(book: Book, snapshot: AccountSnapshot) -> Decimal:
    """Venue's wallet less what the book expects; 0 while the book has no expectation."""
    return ZERO if book.wallet_expected is None else snapshot.wallet_balance - book.wallet_expected


def take_account(
    book: Book,
    snapshot: AccountSnapshot,
    cause: Cause,
    *,
    market_now_ms: int,
    min_notional_usd: Mapping[str, Decimal],
) -> Outcome:
    """Emit one AccountUpdated, and PositionDrifted for every disagreement that appeared, changed or went."""
    book, drifted = take_drifts(book, position_drifts(book, snapshot))
    sequence = book.account_sequence + 1
    book = msgspec.structs.replace(
        _take_wallet(book, snapshot, trusted=cause == "start"),
        account_sequence=sequence,
        account_due="",
        snapshot=snapshot,
    )
    payload = AccountUpdated(
        cause=cause,
        wallet_balance=snapshot.wallet_balance,
        equity=snapshot.equity,
        positions=tuple(_told(book, symbol, held) for symbol, held in sorted(snapshot.positions.items())),
        as_of_ms=market_now_ms,
        bar_ts_ms=max(book.bar_ts_ms, 0),
        sequence=sequence,
        min_notional_usd=dict(min_notional_usd),
    )
    return book, (*drifted, Draft(payload, str(sequence)))


def _take_wallet(book: Book, snapshot: AccountSnapshot, *, trusted: bool) -> Book:
    """A difference stays until something booked explains it; only a start (`trusted`) takes the wallet as it is."""
    drift = wallet_drift(book, snapshot)
    if trusted or abs(drift) <= WALLET_TOLERANCE:
        return msgspec.structs.replace(book, wallet_expected=snapshot.wallet_balance, wallet_drift=ZERO)
    return msgspec.structs.replace(book, wallet_drift=drift)


def take_drifts(book: Book, now: Mapping[str, Drift]) -> Outcome:
    """PositionDrifted for every disagreement that appeared, changed or went."""
    events = []
    for symbol in sorted({*book.drifts, *now}):
        drift = now.get(symbol)
        if drift is None:
            quantity = expected_quantity(book, symbol)
            payload = PositionDrifted(symbol, quantity, quantity, resolved=True)
        elif book.drifts.get(symbol) != drift.at_venue:
            payload = PositionDrifted(symbol, drift.expected, drift.at_venue, resolved=False)
        else:
            continue
        sequence = book.drift_sequence + 1
        book = msgspec.structs.replace(book, drift_sequence=sequence)
        events.append(Draft(payload, f"{symbol}:{sequence}", symbol))
    return msgspec.structs.replace(book, drifts={s: drift.at_venue for s, drift in now.items()}), tuple(events)


def _told(book: Book, symbol: str, held: VenuePosition) -> AccountPosition:
    quantity = abs(held.quantity)
    long = held.quantity > 0
    own = book.positions.get(symbol)
    # The venue's account call has no entry price; for a position that is not ours it follows from mark and profit.
    implied = (held.notional_usd - (held.unrealised_pnl if long else -held.unrealised_pnl)) / quantity
    return AccountPosition(
        symbol=symbol,
        side=OrderSide.BUY if long else OrderSide.SELL,
        quantity=quantity,
        entry_price=own.entry_price if own and own.entry_quantity else implied,
        notional_usd=held.notional_usd,
        unrealised_pnl=held.unrealised_pnl,
    )


def take_funding(book: Book, symbol: str, payments: Sequence[Funding], checked_ts_ms: int) -> Outcome:
    """Book payments newer than the last one taken in; the symbol is then known to be complete up to that time."""
    events = []
    for payment in sorted(payments, key=lambda payment: (payment.market_ts_ms, payment.payment_id)):
        key = (payment.market_ts_ms, payment.payment_id)
        position = book.positions.get(symbol)
        if position is None or payment.symbol != symbol or key <= book.last_funding.get(symbol, (0, "")):
            continue
        book = with_position(book, msgspec.structs.replace(position, funding=position.funding + payment.amount))
        wallet = None if book.wallet_expected is None else book.wallet_expected + payment.amount
        book = msgspec.structs.replace(book, last_funding={**book.last_funding, symbol: key}, wallet_expected=wallet)
        payload = FundingPaid(payment.amount, payment.market_ts_ms)
        events.append(Draft(payload, payment.payment_id, symbol, position.timeframe, position.decision_bar_ts_ms))
    if position := book.positions.get(symbol):
        book = with_position(book, msgspec.structs.replace(position, funding_checked_ts_ms=checked_ts_ms))
    return book, tuple(events)

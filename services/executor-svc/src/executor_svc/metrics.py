"""Metrics of the executor, declared in one place. Labels are enumerations."""

from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

from executor_svc.core.book import Book, Draft
from executor_svc.core.guards import DRIFTS, REASONS
from executor_svc.core.states import TERMINAL, OrderState
from quantum_common.contracts import OrderCanceled, OrderFilled, OrderRejected, OrderSubmitted, TradeClosed
from quantum_common.domain.signal import Role

POSITIONS = Gauge("quantum_executor_open_positions", "Positions in the book")
ORDERS = Gauge("quantum_executor_live_orders", "Orders in the book by state", ["state"])
SUBMITTED = Counter("quantum_executor_orders_submitted_total", "Orders whose intent was written", ["role"])
REJECTED = Counter(
    "quantum_executor_orders_rejected_total",
    "Orders refused, by our own reason code or REFUSED_BY_VENUE, whose code is in the log and the ledger",
    ["role", "reason"],
)
ENDED = Counter("quantum_executor_orders_ended_total", "Orders that left the book, by their last state", ["state"])
CANCELED = Counter("quantum_executor_orders_canceled_total", "Orders that ended unfilled or partly filled", ["role"])
FILLS = Counter("quantum_executor_fills_total", "Venue trades taken in", ["role"])
CLOSED = Counter("quantum_executor_trades_closed_total", "Positions closed", ["exit_reason"])
SUBMIT_LATENCY = Histogram(
    "quantum_executor_submit_latency_seconds",
    "Order request to the venue's answer",
    ["role"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
EQUITY = Gauge("quantum_executor_equity_usd", "Wallet plus unrealised profit, as the venue says")
WALLET = Gauge("quantum_executor_wallet_usd", "Wallet balance, as the venue says")
WALLET_DRIFT = Gauge("quantum_executor_wallet_drift_usd", "Venue's wallet less what fills, fees and funding explain")
DRIFTED = Gauge(
    "quantum_executor_drifted", "1 while venue and book disagree, which stops new entries, by reason", ["reason"]
)
POSITION_DRIFTS = Gauge("quantum_executor_position_drifts", "Symbols on which venue and book disagree")
FOREIGN_TRADES = Counter("quantum_executor_foreign_trades_total", "Trades on the account that are not from our orders")
VENUE_ERRORS = Counter("quantum_executor_venue_errors_total", "Failed venue requests", ["kind"])
SKEW = Gauge("quantum_executor_clock_skew_seconds", "Our clock less the venue's")

LIVE_STATES = tuple(state for state in OrderState if state not in TERMINAL)
EXIT_REASONS = ("stop", "take_profit", "time_stop", "opposite_signal", "flatten", "unprotected", "external")
REFUSED_BY_VENUE = "REFUSED_BY_VENUE"


def begin() -> None:
    """Show the counters at 0: the first event would be no increase of a counter that was not there."""
    for role in Role:
        for counter in (SUBMITTED, CANCELED, FILLS, SUBMIT_LATENCY):
            counter.labels(role)
        for reason in (*REASONS, REFUSED_BY_VENUE):
            REJECTED.labels(role, reason)
    for state in TERMINAL:
        ENDED.labels(state)
    for reason in EXIT_REASONS:
        CLOSED.labels(reason)
    for kind in ("unreachable", "refused"):
        VENUE_ERRORS.labels(kind)


def count(before: Book, book: Book, drafts: Iterable[Draft]) -> None:
    """After a commit: what it said, and what the book looks like now."""
    ended: dict[str, OrderState] = {}
    for draft in drafts:
        match draft.payload:
            case OrderSubmitted(role=role):
                SUBMITTED.labels(role).inc()
            case OrderRejected(client_order_id=identity, role=role, reason=reason):
                REJECTED.labels(role, reason if reason in REASONS else REFUSED_BY_VENUE).inc()
                ended[identity] = OrderState.REJECTED
            case OrderCanceled(client_order_id=identity, role=role):
                CANCELED.labels(role).inc()
                ended[identity] = OrderState.CANCELED
            case OrderFilled(role=role):
                FILLS.labels(role).inc()
            case TradeClosed(exit_reason=reason):
                CLOSED.labels(reason).inc()
    for identity in before.orders.keys() - book.orders.keys():
        ended.setdefault(identity, OrderState.FILLED)
    for state in ended.values():
        ENDED.labels(state).inc()
    show(book)


def show(book: Book) -> None:
    """What the book looks like now."""
    states = [order.state for order in book.orders.values()]
    for state in LIVE_STATES:
        ORDERS.labels(state).set(states.count(state))
    POSITIONS.set(sum(bool(position.quantity) for position in book.positions.values()))
    POSITION_DRIFTS.set(len(book.drifts))
    for reason, drifted in zip(DRIFTS, (book.drifts, book.wallet_drift, book.foreign_orders), strict=True):
        DRIFTED.labels(reason).set(bool(drifted))
    if book.snapshot:
        EQUITY.set(float(book.snapshot.equity))
        WALLET.set(float(book.snapshot.wallet_balance))

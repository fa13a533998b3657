"""Metrics of the executor, declared in one place. Labels are enumerations."""

from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

from executor_svc.core.book import Book, Draft
from quantum_common.contracts import OrderCanceled, OrderFilled, OrderRejected, OrderSubmitted, TradeClosed

ORDERS = Gauge("quantum_executor_live_orders", "Orders in the book by state", ["state"])
SUBMITTED = Counter("quantum_executor_orders_submitted_total", "Orders whose intent was written", ["role"])
REJECTED = Counter("quantum_executor_orders_rejected_total", "Orders refused by us or the venue", ["role", "reason"])
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
POSITION_DRIFTS = Gauge("quantum_executor_position_drifts", "Symbols on which venue and book disagree")
FOREIGN_TRADES = Counter("quantum_executor_foreign_trades_total", "Trades on the account that are not from our orders")
VENUE_ERRORS = Counter("quantum_executor_venue_errors_total", "Failed venue requests", ["kind"])
SKEW = Gauge("quantum_executor_clock_skew_seconds", "Our clock less the venue's")


def count(book: Book, drafts: Iterable[Draft]) -> None:
    """After a commit: what it said, and what the book looks like now."""
    for draft in drafts:
        match draft.payload:
            case OrderSubmitted(role=role):
                SUBMITTED.labels(role).inc()
            case OrderRejected(role=role, reason=reason):
                REJECTED.labels(role, reason).inc()
            case OrderCanceled(role=role):
                CANCELED.labels(role).inc()
            case OrderFilled(role=role):
                FILLS.labels(role).inc()
            case TradeClosed(exit_reason=reason):
                CLOSED.labels(reason).inc()
    states = [order.state for order in book.orders.values()]
    for state in ("submitting", "open", "canceling", "settling"):
        ORDERS.labels(state).set(states.count(state))  # type: ignore[arg-type]
    POSITION_DRIFTS.set(len(book.drifts))
    if book.snapshot:
        EQUITY.set(float(book.snapshot.equity))
        WALLET.set(float(book.snapshot.wallet_balance))

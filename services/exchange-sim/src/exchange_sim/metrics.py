"""Metrics of the paper venue. Labels are bounded: routes are the endpoint table's, codes those of `errors.py`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from exchange_sim import account
from exchange_sim.errors import MESSAGES
from exchange_sim.venue import Venue

REQUEST_SECONDS = Histogram(
    "quantum_sim_request_seconds",
    "Time to answer a request of a client, its commit included",
    ["method", "route"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
)
REFUSALS = Counter("quantum_sim_refusals_total", "Requests refused, by the venue's error code", ["code"])
ORDERS = Counter("quantum_sim_orders_total", "Orders taken, ordinary or conditional", ["kind"])
HALTS = Counter("quantum_sim_halts_total", "Times the clock halted at a fill or trigger until it was called again")
TRADES = Gauge("quantum_sim_last_trade_id", "Trades of the account since it was opened")
OPEN_ORDERS = Gauge("quantum_sim_open_orders", "Orders that rest, ordinary or conditional", ["kind"])
OPEN_POSITIONS = Gauge("quantum_sim_open_positions", "Positions of the account")
EQUITY = Gauge("quantum_sim_equity_usd", "Wallet plus unrealised profit at the last price")
MARKET_TIME = Gauge("quantum_sim_market_timestamp_seconds", "Where the market clock stands")

ORDER, ALGO = "order", "algo"


def show(venue: Venue) -> None:
    """Have the gauges tell of this venue, asked anew at every scrape; counters begin at 0."""
    for code in MESSAGES:
        REFUSALS.labels(str(code))
    for kind in (ORDER, ALGO):
        ORDERS.labels(kind)
    TRADES.set_function(lambda: venue.state.last_trade_id)
    OPEN_ORDERS.labels(ORDER).set_function(lambda: len(venue.state.open_orders))
    OPEN_ORDERS.labels(ALGO).set_function(lambda: len(venue.state.open_algos))
    OPEN_POSITIONS.set_function(lambda: sum(1 for each in venue.state.positions.values() if each.quantity))
    EQUITY.set_function(lambda: float(account.equity(venue.state, venue.mark)))
    MARKET_TIME.set_function(lambda: venue.state.now_ms / 1000)

"""Pure transitions of the account's book: no clock, network, environment, randomness or Redis."""

from executor_svc.core.account import Drift, position_drifts, take_account, take_drifts, take_funding
from executor_svc.core.approvals import Rules, approve_close, approve_open, entry_again, flatten, refuse_open
from executor_svc.core.bars import finish_bar, time_stops
from executor_svc.core.book import Book, Draft, Market, Order, Outcome, Position, Unfolding
from executor_svc.core.fills import adopt, pass_over, take_trades
from executor_svc.core.guards import refusal
from executor_svc.core.plan import plan
from executor_svc.core.reports import OrderReport, refuse, resubmit, take_report
from executor_svc.core.states import OrderState, ReportStatus
from executor_svc.core.venue_facts import AccountSnapshot, Funding, OpenOrder, Quote, Trade

__all__ = [
    "AccountSnapshot",
    "Book",
    "Draft",
    "Drift",
    "Funding",
    "Market",
    "OpenOrder",
    "Order",
    "OrderReport",
    "OrderState",
    "Outcome",
    "Position",
    "Quote",
    "ReportStatus",
    "Rules",
    "Trade",
    "Unfolding",
    "adopt",
    "approve_close",
    "approve_open",
    "entry_again",
    "finish_bar",
    "flatten",
    "pass_over",
    "plan",
    "position_drifts",
    "refusal",
    "refuse",
    "refuse_open",
    "resubmit",
    "take_account",
    "take_drifts",
    "take_funding",
    "take_report",
    "take_trades",
    "time_stops",
]

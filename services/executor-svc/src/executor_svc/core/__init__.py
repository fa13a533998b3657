"""Pure transitions of the account's book: no clock, network, environment, randomness or Redis."""

from executor_svc.core.account import Drift, take_account, take_funding
from executor_svc.core.approvals import Rules, approve_close, approve_open, flatten
from executor_svc.core.bars import finish_bar, start_bar
from executor_svc.core.book import Book, Draft, Market, Order, Outcome, Position, Unfolding
from executor_svc.core.fills import take_trades
from executor_svc.core.guards import refusal
from executor_svc.core.plan import plan
from executor_svc.core.reports import OrderReport, refuse, resubmit, take_report
from executor_svc.core.states import OrderState, ReportStatus
from executor_svc.core.venue_facts import AccountSnapshot, Funding, Quote, Trade

__all__ = [
    "AccountSnapshot",
    "Book",
    "Draft",
    "Drift",
    "Funding",
    "Market",
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
    "approve_close",
    "approve_open",
    "finish_bar",
    "flatten",
    "plan",
    "refusal",
    "refuse",
    "resubmit",
    "start_bar",
    "take_account",
    "take_funding",
    "take_report",
    "take_trades",
]

"""Metrics of the risk service. Labels are bounded: reason codes come from the checks."""

from prometheus_client import Counter, Gauge

from governer_svc.checks import REASONS
from governer_svc.config import RiskConfig, TradingState
from governer_svc.state import RiskState

VERDICTS = Counter("quantum_risk_verdicts_total", "Verdicts on decisions by reason code", ["reason"])
APPROVALS_RELEASED = Counter("quantum_risk_approvals_released_total", "Approvals that ended unfilled")
EXPOSURE = Gauge("quantum_risk_exposure_usd", "Open positions and reservations together")
BALANCE = Gauge("quantum_risk_balance_usd", "Wallet balance as the venue last reported it")
EQUITY = Gauge("quantum_risk_equity_usd", "Equity as the venue last reported it")
DRAWDOWN = Gauge("quantum_risk_drawdown_fraction", "Equity lost against its peak")
MAX_EXPOSURE = Gauge("quantum_risk_max_exposure_usd", "What exposure may come to at most: a share of the balance")
MAX_DRAWDOWN = Gauge("quantum_risk_max_drawdown_fraction", "Drawdown above which entries stop")
MAX_DAILY_TRADES = Gauge("quantum_risk_max_daily_trades", "Entries that may be approved in a UTC day")
TRADING_STATE = Gauge(
    "quantum_risk_trading_state", "1 for the state in force: ACTIVE, REDUCING (exits only) or HALTED", ["state"]
)
DAILY_TRADES = Gauge("quantum_risk_daily_trades", "Entries approved this UTC day of the market clock")
EMERGENCY_STOP = Gauge("quantum_risk_emergency_stop_active", "1 while the emergency stop is on")
DECISIONS_WAITING = Gauge("quantum_risk_decisions_waiting", "Decisions held until their bar is complete")

for _reason in REASONS:  # the first event would be no increase of a counter that was not there
    VERDICTS.labels(_reason)


def show(state: RiskState, config: RiskConfig) -> None:
    """What the account looks like now, and what it may do."""
    EXPOSURE.set(float(state.exposure_usd))
    DRAWDOWN.set(float(state.drawdown))
    DAILY_TRADES.set(state.daily_trades)
    EMERGENCY_STOP.set(config.emergency_stop)
    MAX_DRAWDOWN.set(config.max_drawdown_pct)
    MAX_DAILY_TRADES.set(config.max_daily_trades)
    for each in TradingState:
        TRADING_STATE.labels(each).set(each is config.effective_state)
    if state.account:
        BALANCE.set(float(state.account.wallet_balance))
        EQUITY.set(float(state.account.equity))
        MAX_EXPOSURE.set(config.max_total_exposure_pct * float(state.account.wallet_balance))

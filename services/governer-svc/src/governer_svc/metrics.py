"""Metrics of the risk service. Labels are bounded: reason codes come from the checks."""

from prometheus_client import Counter, Gauge

VERDICTS = Counter("quantum_risk_verdicts_total", "Verdicts on decisions by reason code", ["reason"])
APPROVALS_RELEASED = Counter("quantum_risk_approvals_released_total", "Approvals that ended unfilled")
EXPOSURE = Gauge("quantum_risk_exposure_usd", "Open positions and reservations together")
BALANCE = Gauge("quantum_risk_balance_usd", "Wallet balance as the venue last reported it")
EQUITY = Gauge("quantum_risk_equity_usd", "Equity as the venue last reported it")
DRAWDOWN = Gauge("quantum_risk_drawdown_fraction", "Equity lost against its peak")
DAILY_TRADES = Gauge("quantum_risk_daily_trades", "Entries approved this UTC day of the market clock")
EMERGENCY_STOP = Gauge("quantum_risk_emergency_stop_active", "1 while the emergency stop is on")
DECISIONS_WAITING = Gauge("quantum_risk_decisions_waiting", "Decisions held until their bar is complete")

"""The text dashboard: a pure function of the view, in the documented order and look."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from monitor_svc.view import View
from monitor_svc.view_of_fleet import AgentRow, Risk, Share, Source

RULE = "=" * 47
CELLS = 20
UNKNOWN = "–"


def render(view: View) -> str:
    """Lines without an end of line at the end."""
    return "\n".join(
        [
            RULE,
            "   QUANTUM TRADER v5 - ENSEMBLE MONITOR",
            RULE,
            f"Last updated: {utc(view.updated_at_ms)} UTC",
            "",
            f"🤖 ACTIVE MODELS ({view.window.heading}):{_aged(view.activity.source)}",
            *map(_agent, view.activity.agents),
            f"✨ SIGNAL VARIETY:{_aged(view.variety.source)}",
            *(_share(share, view.variety.total) for share in view.variety.shares),
            f"🛡️  GOVERNER RISK MANAGEMENT:{_aged(view.risk.source)}",
            *_risk(view.risk),
        ]
    )


def utc(ts_ms: int) -> str:
    """Date and time to the second."""
    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def usd(amount: Decimal | None) -> str:
    return UNKNOWN if amount is None else f"${amount:,.2f}"


def _aged(source: Source) -> str:
    """Nothing while the source is fresh; else how old it is and why."""
    if not source.stale:
        return ""
    age = "never read" if source.age_s is None else f"{source.age_s:.0f} s old"
    return f" [{age}: {source.problem}]"


def _agent(row: AgentRow) -> str:
    lamp = "🟢" if row.green else "🔴"
    abstained = f" + {row.abstentions} abstained" if row.abstentions else ""
    return f"  {lamp} {row.name:<19}| Predictions: {row.predictions:>3} | {row.actions}{abstained}"


def _share(share: Share, total: int) -> str:
    full = round(share.pct / 100 * CELLS)
    bar = "█" * full + "░" * (CELLS - full)
    return f"  {share.action:<6} | {bar} {share.pct:>5.1f}% ({share.count}/{total})"


def _risk(risk: Risk) -> list[str]:
    drawdown = UNKNOWN if risk.drawdown_pct is None else f"{risk.drawdown_pct:.2f}%"
    rate = UNKNOWN if risk.win_rate_pct is None else f"{risk.win_rate_pct:.1f}%"
    today = UNKNOWN if risk.trades_today is None else f"{risk.trades_today} / {risk.max_trades_today}"
    return [
        f"  Balance: {usd(risk.balance_usd)}",
        f"  Peak Balance: {usd(risk.peak_balance_usd)}",
        f"  Drawdown: {drawdown}",
        f"  Recent Win Rate: {rate} ({risk.wins}/{risk.recent_trades})",
        f"  Today's Trades: {today}",
    ]

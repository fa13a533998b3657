"""Position size by the Kelly criterion (J. L. Kelly 1956), a quarter of it by default, scaled by confidence."""

from __future__ import annotations

from collections.abc import Sequence

from governer_svc.config import RiskConfig
from governer_svc.state import ClosedTrade

CONFIDENCE_AT_PAR = 0.70
"""Confidence at which the Kelly fraction applies unscaled."""
PRIOR_TRADES = 20
"""Weight of the priors in adaptive mode, in trades."""


def kelly_optimal(confidence: float, config: RiskConfig, history: Sequence[ClosedTrade]) -> float:
    """Fraction of the balance before any clamp: (p·b − q)/b × kelly_fraction × confidence/0.70."""
    p, b = (config.win_rate, config.avg_win_loss_ratio)
    if config.kelly_mode == "adaptive":
        p, b = _shrunk(p, b, history)
    edge = round((p * b - (1.0 - p)) / b, 12)  # no edge is exactly 0, not what float subtraction leaves of it
    return edge * config.kelly_fraction * confidence / CONFIDENCE_AT_PAR


def _shrunk(win_rate: float, ratio: float, history: Sequence[ClosedTrade]) -> tuple[float, float]:
    """Win rate and win/loss ratio of `history`, as if PRIOR_TRADES trades at the priors came before it."""
    returns = [float(trade.pnl / trade.position_size_usd) for trade in history if trade.position_size_usd > 0]
    wins = [value for value in returns if value > 0]
    losses = [-value for value in returns if value < 0]
    weight = len(returns) + PRIOR_TRADES
    shrunk_rate = (len(wins) + PRIOR_TRADES * win_rate) / weight
    if not wins or not losses:
        return shrunk_rate, ratio
    own = (sum(wins) / len(wins)) / (sum(losses) / len(losses))
    return shrunk_rate, (len(returns) * own + PRIOR_TRADES * ratio) / weight

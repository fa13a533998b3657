"""One plain sentence about a model, made from its numbers and from nothing else."""

from __future__ import annotations

from quantum_research.bootstrap import Estimate
from quantum_research.evaluation import ModelEvaluation
from quantum_research.scores import Score
from quantum_research.signal_result import TOP_MOVES

CHANCE = 0.5
_CLEAR_MOVE_AUC = 0.65
_CLEAR_DIRECTION_AUC = 0.60
_SLIGHT_AUC = 0.55
HONEST_CALIBRATION_ERROR = 0.02


def number(value: float | None, decimals: int = 4) -> str:
    """As in tables of the field: .0624, −.0031, 1.0912; a dash where nothing is known."""
    if value is None:
        return "–"
    shown = f"{abs(value):.{decimals}f}"
    sign = "−" if value < 0 and float(shown) else ""
    return sign + (shown[1:] if shown.startswith("0.") else shown)


def interval(estimate: Estimate | None, decimals: int = 4) -> str:
    if estimate is None or estimate.low is None:
        return ""
    return f"[{number(estimate.low, decimals)}, {number(estimate.high, decimals)}]"


def sentence(model: ModelEvaluation) -> str:
    """What the model knows, whether that beats knowing the class shares, and whether it paid its fees."""
    parts = [_knowledge(model.overall), _gain(model.overall), _calibration(model), _money(model)]
    return " ".join(parts)


def _knowledge(score: Score) -> str:
    move, direction = score.auc_move, score.auc_direction
    if move is None or direction is None:
        return "The price never moved enough here to say what it knows."
    whether, where = (f"(AUC {number(auc.value, 3)})" for auc in (move, direction))
    if not _above_chance(move):
        return f"Does not know whether the price will move {whether}, {_where(direction)} {where}."
    how = "Knows" if move.value >= _CLEAR_MOVE_AUC else "Knows a little"
    return f"{how} whether the price will move {whether}, {_where(direction)} {where}."


def _where(direction: Estimate) -> str:
    if not _above_chance(direction):
        return "not where"
    if direction.value >= _CLEAR_DIRECTION_AUC:
        return "and where"
    return "a little where" if direction.value >= _SLIGHT_AUC else "hardly where"


def _above_chance(auc: Estimate) -> bool:
    """With an interval its lower end decides, without one the value."""
    return (auc.value if auc.low is None else auc.low) > CHANCE


def _gain(score: Score) -> str:
    gain = score.gain
    if gain.above_zero:
        return f"Beats the class prior by {number(gain.value)} {interval(gain)}."
    if gain.high is not None and gain.high < 0.0:
        return f"Is worse than the class prior by {number(-gain.value)}."
    return f"Is not better than the class prior for certain: {number(gain.value)} {interval(gain)}."


def _calibration(model: ModelEvaluation) -> str:
    error, gap = model.reliability.error, model.reliability.top.gap
    honest = "Its confidence means what it says" if error <= HONEST_CALIBRATION_ERROR else "Its confidence is off"
    if gap.contains_zero:
        return f"{honest} (error {number(error)})."
    if gap.low is None:
        return f"{honest} (error {number(error)}; too few days to judge the most confident bars)."
    way = f"too {'high' if gap.value > 0 else 'low'} by {number(abs(gap.value), 3)}"
    return f"{honest} (error {number(error)}), but in the most confident bars it is {way}."


def _money(model: ModelEvaluation) -> str:
    """Of one rule that is fixed beforehand: the best of several would look good by chance."""
    top = next(result for result in model.signals if result.rule == TOP_MOVES)
    if top.net_mean_bps is None:
        return "Its signals were never traded."
    net = f"{number(top.net_mean_bps.value, 0)} bp a trade after fees {interval(top.net_mean_bps, 0)}"
    certain = "earned" if top.net_mean_bps.above_zero else "did not earn for certain"
    return f"Trading the 1 % of bars likeliest to move {certain}: {net}, {top.trades} trades."

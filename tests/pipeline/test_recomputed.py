"""Bars of a whole-fleet replay, worked out again from the candles by code that shares nothing with the fleet.

The definitions are written here a second time, with pandas and numpy over whole series: features, view, windows, base
ensemble, meta model, decision order, verdict and size. Only the candles and the published models are taken as given.
"""

import json
import random
import re
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from numpy.lib.stride_tricks import sliding_window_view

Run = Any  # a Replay or the Market of conftest.py, which importlib mode cannot import
Bar = tuple[str, int]  # symbol and open time
HOUR_MS = 3_600_000
CHOSEN_BARS, SEED = 20, 20_250_101
WINDOW_BARS, BARS_BEFORE_FIRST = 64, 1_063  # 1,000 bars of warm-up and the 63 older bars of the first window
ACTIONS, HOLD = ("SELL", "HOLD", "BUY"), 1
WEIGHTS = {"xgb": 0.25, "lgbm": 0.25, "nhits": 0.30, "patchtst": 0.20}  # in the order of the meta model's inputs
CONSENSUS_THRESHOLD, META_THRESHOLD, MIN_CONFIDENCE = 0.75, 0.65, 0.40
FEATURE_TOLERANCE, PROBABILITY_TOLERANCE = 1e-9, 1e-5
FEATURES = [
    "rsi", "macd", "macd_signal", "ema_10", "ema_20", "ema_50", "bb_upper", "bb_lower", "volume_ma_ratio",
    "volume_change", "volume_ratio", "momentum_10", "momentum_20", "ema_10_20_cross", "ema_10_50_cross",
    "close_to_bb_upper", "close_to_bb_lower", "rsi_category",
]  # fmt: skip
REGIME = ["volatility", "trend_strength"]
VERDICTS = ("PositionApproved", "PositionRejected")


class Decision(NamedTuple):
    action: int
    confidence: float
    reason: str  # of a low meta confidence, without its two decimals
    base_action: int
    base_confidence: float
    consensus_strength: float


class Recomputed(NamedTuple):
    """One bar from the candles on: nothing of the archive enters."""

    features: pd.Series
    votes: dict[str, np.ndarray]
    inputs: np.ndarray  # the meta model's 26
    meta: np.ndarray
    parts: np.ndarray  # (3, 26) contributions to the calibrated logits
    biases: np.ndarray
    decision: Decision


Chosen = dict[Bar, Recomputed]


def feature_table(candles: pd.DataFrame) -> pd.DataFrame:
    """The 18 raw features, the regime and the log return of every bar; early rows hold NaN."""
    close, volume, before = candles["close"], candles["volume"], candles["volume"].shift()
    table = pd.DataFrame(index=candles.index)
    table["rsi"] = wilder_rsi(close)
    table["macd"] = ema(close, 12) - ema(close, 26)
    table["macd_signal"] = ema(table["macd"], 9)
    for span in (10, 20, 50):
        table[f"ema_{span}"] = ema(close, span)
    middle, deviation, usual = rolling(close, 20, np.mean), rolling(close, 20, np.std), rolling(volume, 20, np.mean)
    table["bb_upper"], table["bb_lower"] = middle + 2 * deviation, middle - 2 * deviation
    table["volume_ma_ratio"] = (volume / usual).where(usual != 0, 0.0)
    table["volume_change"] = (volume / before - 1).where(before != 0, 0.0)
    table["volume_ratio"] = (volume / before).where(before != 0, 0.0)
    table["momentum_10"], table["momentum_20"] = close.pct_change(10), close.pct_change(20)
    table["ema_10_20_cross"] = (table["ema_10"] > table["ema_20"]).astype(float)
    table["ema_10_50_cross"] = (table["ema_10"] > table["ema_50"]).astype(float)
    table["close_to_bb_upper"] = (table["bb_upper"] - close) / close
    table["close_to_bb_lower"] = (close - table["bb_lower"]) / close
    table["rsi_category"] = np.select([table["rsi"] < 30, table["rsi"] > 70], [0.0, 2.0], 1.0)
    table["log_return"] = np.log(close).diff()
    spread = rolling(table["log_return"], 20, np.std)
    table["volatility"] = rolling(spread, 500, lambda rows, axis: np.mean(rows <= rows[:, -1:], axis=axis))
    table["trend_strength"] = close.diff(20) / rolling(close.diff().abs(), 20, np.sum)
    return table


def ema(values: pd.Series, span: int) -> pd.Series:
    return values.ewm(span=span, adjust=False).mean()


def wilder_rsi(close: pd.Series) -> pd.Series:
    """RSI of 14 bars from Wilder's averages; how they are seeded is forgotten 1,000 bars later."""
    change = close.diff().fillna(0.0)
    gain, loss = (part.clip(lower=0.0).ewm(alpha=1 / 14, adjust=False).mean() for part in (change, -change))
    return 100 * gain / (gain + loss)


def rolling(values: pd.Series, bars: int, statistic: Any) -> pd.Series:
    """A statistic of each window, computed anew: pandas' own rolling sums run on and collect rounding errors."""
    result = np.full(len(values), np.nan)
    result[bars - 1 :] = statistic(sliding_window_view(values.to_numpy(), bars), axis=1)
    return pd.Series(result, index=values.index)


def model_input(table: pd.DataFrame, close: pd.Series) -> pd.DataFrame:
    """The log return and the relative view of the 18 features: what one row of a 64-bar window holds."""
    view = table[["log_return", *FEATURES]].copy()
    view[FEATURES[1:8]] = view[FEATURES[1:8]].div(close, axis=0)
    view[FEATURES[3:8]] -= 1.0
    view[FEATURES[8:11]] = view[FEATURES[8:11]].clip(upper=50.0)
    return view


def vote(session: onnxruntime.InferenceSession, window: pd.DataFrame) -> np.ndarray:
    """Probabilities of SELL, HOLD, BUY: a sequence model reads the window, a tree its last row without the return."""
    rows = window.to_numpy(np.float32)
    batch = rows[None] if len(session.get_inputs()[0].shape) == 3 else rows[-1:, 1:]
    return np.asarray(session.run(["probabilities"], {"input": batch})[0][0], dtype=float)


def meta_inputs(votes: dict[str, np.ndarray], regime: pd.Series) -> np.ndarray:
    """The 26 inputs of V2 when all four agents voted."""
    actions = [int(probabilities.argmax()) for probabilities in votes.values()]
    confidences = np.array([probabilities.max() for probabilities in votes.values()])
    coded = [[*np.eye(3)[action], confidence] for action, confidence in zip(actions, confidences, strict=True)]
    aggregates = [confidences.mean(), confidences.max(), confidences.min(), confidences.std()]
    sell, hold, buy = (actions.count(action) / len(WEIGHTS) for action in range(3))
    return np.array([*np.concatenate(coded), *aggregates, buy, sell, hold, 1 - max(sell, hold, buy), *regime])


def winner(scores: np.ndarray) -> int:
    best = np.flatnonzero(scores == scores.max())
    return int(best[0]) if len(best) == 1 else HOLD


def decide(votes: dict[str, np.ndarray], meta: np.ndarray) -> Decision:
    """Rows 3, 6 and 7 of the decision order: the others need a missing vote, model or number, and none is missing."""
    weighted, weights, counts = np.zeros(3), np.zeros(3), np.zeros(3)
    for agent, probabilities in votes.items():
        action = probabilities.argmax()
        weighted[action] += WEIGHTS[agent] * probabilities.max()
        weights[action] += WEIGHTS[agent]
        counts[action] += 1
    scores, common, override = weighted / weights.sum(), int(counts.argmax()), winner(meta)
    base, strength = winner(scores), float(counts.max()) / len(WEIGHTS)
    if strength >= CONSENSUS_THRESHOLD:
        agreed = float(weighted[common] / weights[common])
        chosen = (common, agreed, f"strong_consensus_{ACTIONS[common].lower()}")
    elif meta[override] >= META_THRESHOLD:
        chosen = (override, float(meta[override]), f"meta_override_{ACTIONS[override].lower()}")
    else:
        chosen = (base, float(scores[base]), "meta_low_confidence")
    return Decision(*chosen, base, float(scores[base]), strength)


def current_model(models_dir: Path, agent: str) -> Path:
    return models_dir / agent / (models_dir / agent / "current").read_text().strip()


def recompute(market: Run, bars: list[Bar], first_ms: int) -> Chosen:
    """The bars, from candles read at the same first bar of warm-up as the fleet's."""
    sessions = {a: onnxruntime.InferenceSession(current_model(market.models_dir, a) / "model.onnx") for a in WEIGHTS}
    manifest = json.loads((current_model(market.models_dir, "meta") / "manifest.json").read_text())
    linear = {name: np.array(numbers) for name, numbers in manifest["linear"].items()}
    result = {}
    for symbol in {symbol for symbol, _ in bars}:
        candles = pd.read_parquet(market.data_dir / f"{market.venue}_{symbol}_1h.parquet").set_index("ts")
        candles = candles.loc[first_ms - BARS_BEFORE_FIRST * HOUR_MS :]
        table = feature_table(candles)
        models_see = model_input(table, candles["close"])
        for ts_ms in {ts_ms for of_symbol, ts_ms in bars if of_symbol == symbol}:
            window = models_see.loc[:ts_ms].tail(WINDOW_BARS)
            votes = {agent: vote(session, window) for agent, session in sessions.items()}
            result[symbol, ts_ms] = stack(table.loc[ts_ms], votes, linear)
    return result


def stack(features: pd.Series, votes: dict[str, np.ndarray], linear: dict[str, np.ndarray]) -> Recomputed:
    """The votes of one bar through the linear meta model and the decision order."""
    inputs = meta_inputs(votes, features[REGIME])
    parts = linear["coefficients"] * (inputs - linear["mean"]) / linear["scale"] / linear["temperature"]
    biases = linear["intercept"] / linear["temperature"] + linear["class_bias"]
    powers = np.exp(parts.sum(axis=1) + biases)
    meta = powers / powers.sum()
    return Recomputed(features, votes, inputs, meta, parts, biases, decide(votes, meta))


def payloads(run: Run, stream: str, *kinds: str) -> dict[Bar, dict[str, Any]]:
    return {(e["symbol"], e["bar_ts_ms"]): e["payload"] for e in run.events(stream) if e["kind"] in kinds}


@pytest.fixture(scope="module")
def recomputed(first: Run, market: Run) -> Chosen:
    """20 bars drawn by lot, and the first bar of every action, verdict and intent that occurs."""
    decisions, verdicts = payloads(first, "decisions", "DecisionMade"), payloads(first, "allocations", *VERDICTS)
    of_a_kind: dict[tuple[str, ...], Bar] = {}
    for bar, verdict in sorted(verdicts.items()):
        of_a_kind.setdefault((decisions[bar]["action"], verdict["reason"], verdict.get("intent", "")), bar)
    drawn = random.Random(SEED).sample(sorted(decisions), CHOSEN_BARS)
    return recompute(market, [*drawn, *of_a_kind.values()], min(ts_ms for _, ts_ms in decisions))


def agree(archived: Any, own: Any, tolerance: float, bar: Bar) -> None:
    """Within the tolerance, relative above 1."""
    a, b = np.asarray(archived, dtype=float), np.asarray(own, dtype=float)
    assert a.shape == b.shape, bar
    assert (np.abs(a - b) <= tolerance * np.maximum(1.0, np.abs(b))).all(), (bar, np.abs(a - b), b)


def test_the_chosen_bars_hold_a_trade_signal_and_an_approval_if_any(first: Run, recomputed: Chosen) -> None:
    assert any(own.decision.action != HOLD for own in recomputed.values())
    approved = payloads(first, "allocations", "PositionApproved").keys()
    assert approved & recomputed.keys() or not approved


def test_the_archived_features_follow_from_the_candles(first: Run, recomputed: Chosen) -> None:
    archived = payloads(first, "features", "FeaturesComputed")
    for bar, own in recomputed.items():
        agree(archived[bar]["values"], own.features[FEATURES], FEATURE_TOLERANCE, bar)
        agree([archived[bar][name] for name in REGIME], own.features[REGIME], FEATURE_TOLERANCE, bar)


def test_the_archived_votes_follow_from_the_models(first: Run, market: Run, recomputed: Chosen) -> None:
    events = [event for event in first.events("predictions") if (event["symbol"], event["bar_ts_ms"]) in recomputed]
    assert len(events) == len(WEIGHTS) * len(recomputed)
    for event in events:
        bar, cast = (event["symbol"], event["bar_ts_ms"]), event["payload"]
        probabilities = recomputed[bar].votes[cast["agent"]]
        agree(cast["probabilities"], probabilities, PROBABILITY_TOLERANCE, bar)
        agree(cast["confidence"], probabilities.max(), PROBABILITY_TOLERANCE, bar)
        assert cast["action"] == ACTIONS[probabilities.argmax()], bar
        assert cast["model_version"] == current_model(market.models_dir, cast["agent"]).name


def test_the_archived_decisions_follow_from_the_votes(first: Run, recomputed: Chosen) -> None:
    decisions = payloads(first, "decisions", "DecisionMade")
    for bar, own in recomputed.items():
        archived, expected = decisions[bar], own.decision
        assert archived["action"] == ACTIONS[expected.action], bar
        assert archived["base_ensemble_action"] == ACTIONS[expected.base_action], bar
        assert archived["use_meta"] == expected.reason.startswith("meta_override"), bar
        assert archived["consensus_strength"] == expected.consensus_strength, bar
        agree(archived["confidence"], expected.confidence, PROBABILITY_TOLERANCE, bar)
        agree(archived["base_ensemble_confidence"], expected.base_confidence, PROBABILITY_TOLERANCE, bar)
        low = re.fullmatch(r"(meta_low_confidence)_(\d\.\d\d)", archived["reason"])
        assert expected.reason == (low[1] if low else archived["reason"]), bar
        assert low is None or abs(float(low[2]) - own.meta.max()) <= 0.005 + PROBABILITY_TOLERANCE, bar


def test_the_archived_explanations_follow_from_the_linear_meta_model(first: Run, recomputed: Chosen) -> None:
    decisions = payloads(first, "decisions", "DecisionMade")
    for bar, own in recomputed.items():
        archived, explained, chosen = decisions[bar], decisions[bar]["explanation"], winner(own.meta)
        assert archived["meta_action"] == ACTIONS[chosen], bar
        agree(archived["meta_confidence"], own.meta[chosen], PROBABILITY_TOLERANCE, bar)
        agree(explained["inputs"], own.inputs, PROBABILITY_TOLERANCE, bar)
        agree(explained["contributions"], own.parts[chosen], PROBABILITY_TOLERANCE, bar)
        agree(explained["bias"], own.biases[chosen], PROBABILITY_TOLERANCE, bar)


def test_hold_and_a_low_confidence_are_what_the_decision_alone_rejects(first: Run, recomputed: Chosen) -> None:
    verdicts, decisions = payloads(first, "allocations", *VERDICTS), payloads(first, "decisions", "DecisionMade")
    for bar, own in recomputed.items():
        if own.decision.action == HOLD:
            assert verdicts[bar]["reason"] == verdicts[bar]["detail"] == "HOLD_SIGNAL", bar
        elif own.decision.confidence < MIN_CONFIDENCE:
            assert verdicts[bar]["reason"] == "LOW_CONFIDENCE", bar
            assert verdicts[bar]["detail"] == f"LOW_CONFIDENCE ({decisions[bar]['confidence']:.3f} < 0.400)", bar
        else:
            assert verdicts[bar]["reason"] not in ("HOLD_SIGNAL", "LOW_CONFIDENCE"), bar


def test_the_archived_sizes_are_a_quarter_of_kelly_by_confidence(first: Run, recomputed: Chosen) -> None:
    """No size is cut by the room left: three symbols at a tenth each stay below half of the balance."""
    updates = (event["payload"] for event in first.events("executions") if event["kind"] == "AccountUpdated")
    accounts = {update["bar_ts_ms"]: update for update in updates if update["cause"] == "bar"}
    for bar, approval in payloads(first, "allocations", "PositionApproved").items():
        if bar not in recomputed or approval["intent"] != "open":
            continue
        account, share = accounts[bar[1]], kelly_share(approval["confidence"])
        size = Decimal(approval["position_size_usd"])
        agree(approval["confidence"], recomputed[bar].decision.confidence, PROBABILITY_TOLERANCE, bar)
        agree(approval["kelly_optimal"], share, FEATURE_TOLERANCE, bar)
        assert bar[0] not in {position["symbol"] for position in account["positions"]}
        assert size == cents(Decimal(share) * Decimal(account["wallet_balance"])), bar
        assert Decimal(approval["risk_amount_usd"]) == cents(size * Decimal("0.02")), bar


def kelly_share(confidence: float) -> float:
    win_rate, payoff = 0.55, 1.5
    kelly = (win_rate * payoff - (1 - win_rate)) / payoff
    return min(max(kelly * 0.25 * confidence / 0.70, 0.0), 0.10)


def cents(usd: Decimal) -> Decimal:
    return usd.quantize(Decimal("0.01"), ROUND_DOWN)

"""Leak checks: mistakes that tell a model its future are planted and must be noticed; the pipeline must be clean.

Each check runs on the real functions of training and knows nothing of the plant: it changes the future and looks
whether the past moves, or watches which rows a model is fitted on and asked about. So it finds the next mistake of its
kind too. Sources: Kaufman et al. (2012), Leakage in Data Mining; López de Prado (2018), chapter 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from quantum_research.forecaster import Effort, Trainer
from quantum_research.leak_evidence import (
    explained_share_lost_by_delay,
    gain_over_prior,
    largest_change_by_start,
    largest_moved_prediction,
    rows_moved_by_the_future,
    share_asked_too_early,
)
from quantum_research.leak_pipeline import Build, Market, Pipeline, builder
from quantum_research.leak_plants import (
    PROBE,
    SHORT_WARMUP_BARS,
    ProbeTrainer,
    scale_of_everything,
    shuffled_out_of_fold,
    with_future_column,
)

JUDGE = "lgbm"
"""The agent whose gain shows what a plant is worth: a tree model finds any column that gives the answer away."""
CHECK_EFFORT = Effort(max_trees=120, patience_trees=15, max_epochs=1, patience_epochs=1, folds=3)

_NONE = 0.0
_EXPLAINED_SHARE = 0.2
"""Of the prior's log-loss. Measured on 1h bars: an honest model loses .01 when its features are a horizon older."""
_PREDICTION_TOLERANCE = 1e-6
_START_TOLERANCE = 1e-6
"""In standard deviations of a feature: rounding gives 1e-9."""

Step = Callable[[str], None]
"""Called with the name of the check that starts."""


class Verdict(msgspec.Struct, frozen=True):
    """One check on the pipeline as it is (clean) and with the mistake put in (planted)."""

    clean: float
    planted: float
    score: str
    """What `clean` and `planted` are."""
    evidence: str
    """What the check looks at, without knowing of the plant."""
    evidence_clean: float
    evidence_planted: float
    limit: float
    """Evidence above it is a leak."""

    @property
    def caught(self) -> bool:
        return self.evidence_planted > self.limit

    @property
    def clean_flagged(self) -> bool:
        return self.evidence_clean > self.limit


class LeakReport(msgspec.Struct, frozen=True):
    symbols: list[str]
    timeframe: str
    rows: int
    checks: dict[str, Verdict]

    @property
    def passed(self) -> bool:
        return all(check.caught and not check.clean_flagged for check in self.checks.values())

    def as_json(self) -> dict[str, object]:
        checks = {
            name: {**msgspec.to_builtins(check), "caught": check.caught, "clean_flagged": check.clean_flagged}
            for name, check in self.checks.items()
        }
        return {**msgspec.to_builtins(self), "checks": checks, "passed": self.passed}


@dataclass(frozen=True, slots=True)
class _Setting:
    """What every check needs."""

    market: Market
    build: Build
    trainers: Mapping[str, Trainer]
    effort: Effort

    @property
    def clean(self) -> Pipeline:
        return Pipeline(self.build, {JUDGE: self.trainers[JUDGE]})


def check_leaks(
    market: Market,
    timeframe: str,
    trainers: Mapping[str, Trainer],
    *,
    horizon_bars: int,
    threshold: float,
    effort: Effort = CHECK_EFFORT,
    build: Build | None = None,
    step: Step = lambda name: None,
) -> LeakReport:
    """Run every check on these candles. `build` stands in the place of the pipeline's own dataset.

    Raises TooLittleData when the candles are too few for a walk-forward, or a class does not occur in a part of them.
    """
    setting = _Setting(market, build or builder(timeframe, horizon_bars, threshold), trainers, effort)
    short = builder(timeframe, horizon_bars, threshold, warmup_bars=SHORT_WARMUP_BARS)
    rows = len(setting.build(market))
    step("warmup")
    checks = {"warmup": _warmup(setting, short)}
    for name, check in _CHECKS.items():
        step(name)
        checks[name] = check(setting)
    return LeakReport(sorted(market), timeframe, rows, checks)


def _warmup(setting: _Setting, short: Build) -> Verdict:
    clean, planted = (largest_change_by_start(build, setting.market) for build in (setting.build, short))
    what = "largest change of a bar's features with the start of the history, in standard deviations"
    return Verdict(clean, planted, what, what, clean, planted, _START_TOLERANCE)


def _future_column(setting: _Setting) -> Verdict:
    build, leaky = setting.build, with_future_column(setting.build)
    specs = [trainer.model for trainer in setting.trainers.values()]
    return Verdict(
        clean=gain_over_prior(setting.clean, setting.market, setting.effort),
        planted=gain_over_prior(Pipeline(leaky, setting.clean.trainers), setting.market, setting.effort),
        score="log-loss gained over the prior",
        evidence="rows whose inputs change when only later candles do",
        evidence_clean=rows_moved_by_the_future(build, specs, setting.market),
        evidence_planted=rows_moved_by_the_future(leaky, specs, setting.market),
        limit=_NONE,
    )


def _too_good(setting: _Setting) -> Verdict:
    leaky = Pipeline(with_future_column(setting.build), setting.clean.trainers)
    clean, planted = (
        explained_share_lost_by_delay(pipeline, setting.market, setting.effort) for pipeline in (setting.clean, leaky)
    )
    what = "share of the prior's log-loss that is no longer explained when the features are a horizon older"
    return Verdict(clean, planted, what, what, clean, planted, _EXPLAINED_SHARE)


def _shuffled_split(setting: _Setting) -> Verdict:
    shuffled = Pipeline(setting.build, setting.clean.trainers, shuffled_out_of_fold)
    return Verdict(
        clean=gain_over_prior(setting.clean, setting.market, setting.effort),
        planted=gain_over_prior(shuffled, setting.market, setting.effort),
        score="log-loss gained over the prior",
        evidence="share of the rows a model is asked about that open before the labels it has seen are over",
        evidence_clean=share_asked_too_early(setting.clean, setting.market, setting.effort),
        evidence_planted=share_asked_too_early(shuffled, setting.market, setting.effort),
        limit=_NONE,
    )


def _scaler(setting: _Setting) -> Verdict:
    """Clean are all agents and the probe; planted is the probe, because the agents' own scalers are no arguments."""
    clean = Pipeline(setting.build, {PROBE: ProbeTrainer()})
    leaky = Pipeline(setting.build, {PROBE: ProbeTrainer(scale_of_everything)})
    agents = Pipeline(setting.build, {**setting.trainers, **clean.trainers})
    return Verdict(
        clean=gain_over_prior(clean, setting.market, setting.effort),
        planted=gain_over_prior(leaky, setting.market, setting.effort),
        score="log-loss gained over the prior",
        evidence="largest change of a probability on fitted rows when only later candles change",
        evidence_clean=largest_moved_prediction(agents, setting.market, setting.effort),
        evidence_planted=largest_moved_prediction(leaky, setting.market, setting.effort),
        limit=_PREDICTION_TOLERANCE,
    )


_CHECKS: dict[str, Callable[[_Setting], Verdict]] = {
    "future_column": _future_column,
    "too_good": _too_good,
    "shuffled_split": _shuffled_split,
    "scaler": _scaler,
}

"""Log lines whose wording is documented: people grep for them."""

from __future__ import annotations

from meta_svc.core import Outcome
from meta_svc.versions import V1, MetaVersion


def decision_line(symbol: str, outcome: Outcome, version: MetaVersion) -> str:
    """One line per decision: what the meta model changed, or what was kept and why."""
    if outcome.use_meta and version is V1:
        return f"[META] {symbol} override: {outcome.base.action}→{outcome.action} (conf={outcome.confidence:.3f})"
    if outcome.use_meta:
        base = f"{outcome.base.action}@{outcome.base.confidence:.2f}"
        meta = f"{outcome.action}@{outcome.confidence:.2f}"
        return f"{version.log_prefix} {symbol}: OVERRIDE (base={base} → meta={meta}) | Reason: {outcome.reason}"
    kept = f"{outcome.action}@{outcome.confidence:.2f}"
    return f"{version.log_prefix} {symbol}: FALLBACK (keeping base={kept}) | Reason: {outcome.reason}"


def loaded_line(override_threshold: float, version: MetaVersion) -> str:
    return (
        f"{version.log_prefix} Meta-learning agent loaded (5th layer)"
        f" · Override threshold: {override_threshold:.2f} · Version: {version.name}"
    )


def refused_line(problem: str, version: MetaVersion) -> str:
    return f"{version.refusal_prefix} VALIDATION FAILED: {problem}"

"""Log lines whose wording is documented: people grep for them."""

from __future__ import annotations

from meta_svc.core import Outcome


def decision_line(symbol: str, outcome: Outcome) -> str:
    """One line per decision: what the meta model changed, or what was kept and why."""
    if outcome.use_meta:
        base = f"{outcome.base.action}@{outcome.base.confidence:.2f}"
        meta = f"{outcome.action}@{outcome.confidence:.2f}"
        return f"[META-V2] {symbol}: OVERRIDE (base={base} → meta={meta}) | Reason: {outcome.reason}"
    kept = f"{outcome.action}@{outcome.confidence:.2f}"
    return f"[META-V2] {symbol}: FALLBACK (keeping base={kept}) | Reason: {outcome.reason}"


def loaded_line(meta_threshold: float, version: str) -> str:
    return (
        "[META-V2] Meta-learning agent loaded (5th layer)"
        f" · Override threshold: {meta_threshold:.2f} · Version: {version}"
    )


def refused_line(problem: str) -> str:
    return f"[MetaV2] VALIDATION FAILED: {problem}"

"""`quantum validate`: five lines about the view, and what to do about each that failed. Pure."""

from __future__ import annotations

import msgspec

from monitor_svc.view import View
from quantum_common.domain import AGENTS

SMALLEST_HOLD_RANGE = 0.02
"""Of P(HOLD) where only HOLD occurred: as the live collapse detector of the agents has it."""
ACTION_ORDER = ("BUY", "SELL", "HOLD")


class Check(msgspec.Struct, frozen=True):
    """One line, whether it passed, and what to do when it did not."""

    line: str
    passed: bool
    to_do: str = ""


class Validation(msgspec.Struct, frozen=True):
    passed: bool
    checks: tuple[Check, ...]


def validate(view: View) -> Validation:
    """Judge the fleet as it is now; whatever is unknown or stale does not pass."""
    checks = (_models(view), _variety(view), _meta(view), _governer(view))
    return Validation(all(check.passed for check in checks), checks)


def render(validation: Validation) -> str:
    """The documented lines; after a failure one more per thing to do."""
    verdict = "✅ ENSEMBLE V5 VALIDATION: PASSED" if validation.passed else "❌ ENSEMBLE V5 VALIDATION: FAILED"
    to_do = [f"   → {check.to_do}" for check in validation.checks if not check.passed]
    return "\n".join(["ENSEMBLE V5 VALIDATION", *(check.line for check in validation.checks), verdict, *to_do])


def _models(view: View) -> Check:
    base = [row for row in view.activity.agents if row.name != "meta-agent"]
    active = sum(row.green for row in base)
    red = "; ".join(f"{row.name}: {row.why}" for row in base if not row.green)
    source = view.activity.source
    to_do = f"{source.name}: {source.problem}" if source.stale else f"{red} (its log says more)"
    return Check(f"📈 Active Models: {active}/{len(AGENTS)}", active == len(AGENTS) and not source.stale, to_do)


def _variety(view: View) -> Check:
    variety = view.variety
    occurred = [share.action for share in variety.shares if share.count]
    shown = ", ".join(repr(action) for action in ACTION_ORDER if action in occurred)
    label = "✨ Signal Variety:"
    if variety.source.stale or not occurred:
        problem = variety.source.problem or "no decision in the window"
        return Check(f"{label} unknown", False, f"{variety.source.name}: {problem}")
    if len(occurred) > 1:
        return Check(f"{label} {len(occurred)} unique actions - {{{shown}}}", True)
    low, high = variety.hold_range or (0.0, 0.0)
    spread = f"spread of P(HOLD) {high - low:.3f} ({low:.3f} to {high:.3f})"
    wrong = (
        f"every decision of the window is {occurred[0]}"
        if occurred != ["HOLD"]
        else f"every agent says nearly the same of each bar (P(HOLD) spreads less than {SMALLEST_HOLD_RANGE})"
    )
    return Check(
        f"{label} 1 unique action - {{{shown}}}, {spread}",
        occurred == ["HOLD"] and high - low >= SMALLEST_HOLD_RANGE,
        f"{wrong}: look at what serves (quantum models list), roll back or train again",
    )


def _meta(view: View) -> Check:
    meta, label = view.meta, "🎯 Meta-Agent:"
    row = next(row for row in view.activity.agents if row.name == "meta-agent")
    if meta.source.stale or meta.override_rate is None:
        return Check(f"{label} UNKNOWN", False, f"{meta.source.name}: {meta.source.problem}")
    ratio = f"(override ratio: {meta.override_rate:.2f})"
    if not meta.enabled:
        return Check(
            f"{label} DISABLED {ratio}", False, "META_AGENT_ENABLED is false: set it to true and redeploy meta-svc"
        )
    if not meta.model_ready:
        return Check(f"{label} NO MODEL {ratio}", False, "publish a meta model: quantum train or quantum deploy")
    if not row.green:
        return Check(f"{label} SILENT {ratio}", False, f"meta-agent: {row.why}")
    return Check(f"{label} ACTIVE {ratio}", True)


def _governer(view: View) -> Check:
    risk, label = view.risk, "🛡️ Governer:"
    row = next(row for row in view.services.rows if row.name == "governer-svc")
    if risk.source.stale or risk.trading_state is None:
        return Check(f"{label} UNKNOWN", False, f"{risk.source.name}: {risk.source.problem}")
    if risk.emergency_stop or risk.trading_state != "ACTIVE":
        why = (
            "the emergency stop is on"
            if risk.emergency_stop
            else f"an operator set the trading state {risk.trading_state}"
        )
        return Check(
            f"{label} {risk.trading_state} (risk controls enabled)", False, f"{why}: nothing opens until it is resumed"
        )
    if row.state != "ready":
        return Check(f"{label} NOT READY", False, f"governer-svc is {row.state}: {'; '.join(row.reasons)}")
    return Check(f"{label} ACTIVE (risk controls enabled)", True)

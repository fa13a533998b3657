"""The text dashboard and the validation read as documented, to the letter."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from msgspec.structs import replace

from monitor_svc import text, validation
from monitor_svc.core import Place, view
from monitor_svc.facts import Facts
from monitor_svc.view import View, encode_view
from monitor_svc.view_of_fleet import AgentRow, MetaLayer, Risk, ServiceRow, Share, Source, Variety, Window
from quantum_common.domain import SERVICE_PORTS

FRESH = Source("somewhere", 1.0, False)
STALE = Source("somewhere", 42.0, True, "governer-svc cannot be reached")


def agent(name: str, **actions: int) -> AgentRow:
    green = bool(actions)
    return AgentRow(name, green, "" if green else "no heartbeat for 60 s", 1.0, sum(actions.values()), actions, 0, ())


def healthy() -> View:
    """A fleet of which the documented example could be told."""
    nothing = view(Facts.empty("1m", SERVICE_PORTS), Place("paper", "1m", "live"), 1_768_228_245_000)
    agents = tuple(
        agent(name, BUY=12, HOLD=33) for name in ("xgb-agent", "patchtst-agent", "nhits-agent", "lgbm-agent")
    )
    shares = (Share("BUY", 27, 19.3), Share("HOLD", 100, 71.4), Share("SELL", 13, 9.3))
    return replace(
        nothing,
        window=Window("last 5 min", 0, 1),
        activity=replace(nothing.activity, source=FRESH, agents=(*agents, agent("meta-agent", HOLD=45))),
        variety=Variety(FRESH, 140, shares, (0.2, 0.9)),
        risk=Risk(
            source=FRESH,
            balance_usd=Decimal("10250.5"),
            peak_balance_usd=Decimal("10300"),
            drawdown_pct=0.48,
            wins=13,
            recent_trades=20,
            win_rate_pct=65.0,
            trades_today=8,
            max_trades_today=20,
            trading_state="ACTIVE",
            emergency_stop=False,
        ),
        meta=MetaLayer(FRESH, True, True, "v2", 140, 0.34),
        services=replace(nothing.services, rows=(ServiceRow("governer-svc", "ready", (), 1.0, "0.1.0"),)),
    )


SCREEN = """\
===============================================
   QUANTUM TRADER v5 - ENSEMBLE MONITOR
===============================================
Last updated: 2026-01-12 14:30:45 UTC

🤖 ACTIVE MODELS (last 5 min):
  🟢 xgb-agent          | Predictions:  45 | {'BUY': 12, 'HOLD': 33}
  🔴 patchtst-agent     | Predictions:   0 | {}
  🟢 nhits-agent        | Predictions:  45 | {'BUY': 12, 'HOLD': 33}
  🟢 lgbm-agent         | Predictions:  40 | {'HOLD': 40} + 5 abstained
  🟢 meta-agent         | Predictions:  45 | {'HOLD': 45}
✨ SIGNAL VARIETY:
  BUY    | ████░░░░░░░░░░░░░░░░  19.3% (27/140)
  HOLD   | ██████████████░░░░░░  71.4% (100/140)
  SELL   | ██░░░░░░░░░░░░░░░░░░   9.3% (13/140)
🛡️  GOVERNER RISK MANAGEMENT:
  Balance: $10,250.50
  Peak Balance: $10,300.00
  Drawdown: 0.48%
  Recent Win Rate: 65.0% (13/20)
  Today's Trades: 8 / 20"""


def with_agent(seen: View, row: AgentRow) -> View:
    rows = tuple(row if each.name == row.name else each for each in seen.activity.agents)
    return replace(seen, activity=replace(seen.activity, agents=rows))


def test_the_text_dashboard_reads_as_documented() -> None:
    seen = with_agent(healthy(), agent("patchtst-agent"))
    seen = with_agent(seen, replace(agent("lgbm-agent", HOLD=40), abstentions=5))
    assert text.render(seen) == SCREEN


def test_the_view_survives_its_way_as_json() -> None:
    assert msgspec.json.decode(encode_view(healthy()), type=View) == healthy()
    assert msgspec.json.decode(encode_view(healthy()))["risk"]["balance_usd"] == "10250.5"


def test_what_is_stale_says_so_and_what_is_unknown_is_a_dash() -> None:
    lines = text.render(replace(healthy(), risk=Risk(STALE))).splitlines()
    assert lines[-6:] == [
        "🛡️  GOVERNER RISK MANAGEMENT: [42 s old: governer-svc cannot be reached]",
        "  Balance: –",
        "  Peak Balance: –",
        "  Drawdown: –",
        "  Recent Win Rate: – (0/0)",
        "  Today's Trades: –",
    ]


def test_a_healthy_fleet_passes_in_the_documented_words() -> None:
    found = validation.validate(healthy())
    assert found.passed
    assert validation.render(found).splitlines() == [
        "ENSEMBLE V5 VALIDATION",
        "📈 Active Models: 4/4",
        "✨ Signal Variety: 3 unique actions - {'BUY', 'SELL', 'HOLD'}",
        "🎯 Meta-Agent: ACTIVE (override ratio: 0.34)",
        "🛡️ Governer: ACTIVE (risk controls enabled)",
        "✅ ENSEMBLE V5 VALIDATION: PASSED",
    ]


ONLY_HOLD = (Share("BUY", 0, 0.0), Share("HOLD", 140, 100.0), Share("SELL", 0, 0.0))
ONLY_BUY = (Share("BUY", 140, 100.0), Share("HOLD", 0, 0.0), Share("SELL", 0, 0.0))


def test_only_hold_passes_while_the_probabilities_move() -> None:
    found = validation.validate(replace(healthy(), variety=Variety(FRESH, 140, ONLY_HOLD, (0.612, 0.825))))
    assert found.passed
    assert found.checks[1].line == (
        "✨ Signal Variety: 1 unique action - {'HOLD'}, spread of P(HOLD) 0.213 (0.612 to 0.825)"
    )


@pytest.mark.parametrize(
    ("seen", "line", "to_do"),
    [
        (with_agent(healthy(), agent("nhits-agent")), "📈 Active Models: 3/4", "nhits-agent: no heartbeat for 60 s"),
        (
            replace(healthy(), activity=replace(healthy().activity, source=STALE)),
            "📈 Active Models: 4/4",
            "cannot be reached",
        ),
        (
            replace(healthy(), variety=Variety(FRESH, 140, ONLY_HOLD, (0.7, 0.71))),
            "spread of P(HOLD) 0.010",
            "nearly the same",
        ),
        (
            replace(healthy(), variety=Variety(FRESH, 140, ONLY_BUY, (0.1, 0.9))),
            "1 unique action - {'BUY'}",
            "every decision of the window is BUY",
        ),
        (replace(healthy(), variety=Variety(FRESH, 0, (), None)), "Signal Variety: unknown", "no decision"),
        (replace(healthy(), meta=MetaLayer(STALE)), "Meta-Agent: UNKNOWN", "cannot be reached"),
        (replace(healthy(), meta=MetaLayer(FRESH, False, True, "v2", 1, 0.1)), "DISABLED", "META_AGENT_ENABLED"),
        (replace(healthy(), meta=MetaLayer(FRESH, True, False, "v2", 1, 0.1)), "NO MODEL", "quantum train"),
        (with_agent(healthy(), agent("meta-agent")), "Meta-Agent: SILENT", "no heartbeat"),
        (replace(healthy(), risk=Risk(STALE)), "Governer: UNKNOWN", "cannot be reached"),
        (
            replace(healthy(), risk=replace(healthy().risk, emergency_stop=True, trading_state="REDUCING")),
            "Governer: REDUCING",
            "the emergency stop is on",
        ),
        (
            replace(healthy(), risk=replace(healthy().risk, trading_state="HALTED")),
            "Governer: HALTED",
            "an operator set",
        ),
        (
            replace(
                healthy(),
                services=replace(
                    healthy().services, rows=(ServiceRow("governer-svc", "not ready", ("no account",), 1.0, "1"),)
                ),
            ),
            "Governer: NOT READY",
            "no account",
        ),
    ],
)
def test_each_fault_fails_on_its_own_line_and_says_what_to_do(seen: View, line: str, to_do: str) -> None:
    found = validation.validate(seen)
    (failed,) = [check for check in found.checks if not check.passed]
    assert line in failed.line
    assert to_do in failed.to_do
    told = validation.render(found).splitlines()
    assert told[5] == "❌ ENSEMBLE V5 VALIDATION: FAILED"
    assert told[6] == f"   → {failed.to_do}"

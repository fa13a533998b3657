"""Metrics are declared in one module per service, by names that can be found, with labels that are bounded."""

import re

from e2e.metrics import ROOT, declared
from executor_svc.core.guards import REASONS as REFUSALS
from governer_svc.checks import REASONS as VERDICTS
from quantum_common.features.hygiene import REASONS as BAD_BARS
from quantum_common.features.hygiene import Bar, refusal

CODE = re.compile(r"\"([A-Z]+(?:_[A-Z]+)+)\"")
UNITS = ("_total", "_seconds", "_usd", "_ratio", "_fraction", "_bytes")
COUNTS_AND_FLAGS = {
    "quantum_build_info", "quantum_live", "quantum_ready", "quantum_stale_symbols", "quantum_bus_lease_held",
    "quantum_agent_confidence", "quantum_agent_effective_weight", "quantum_agent_model_info",
    "quantum_agent_shadow_info", "quantum_meta_held_bars", "quantum_meta_model_info", "quantum_meta_model_ready",
    "quantum_risk_daily_trades", "quantum_risk_max_daily_trades", "quantum_risk_decisions_waiting",
    "quantum_risk_emergency_stop_active", "quantum_risk_trading_state", "quantum_executor_drifted",
    "quantum_executor_live_orders", "quantum_executor_open_positions", "quantum_executor_position_drifts",
    "quantum_recorder_alarms", "quantum_recorder_dead_letters_waiting", "quantum_recorder_group_lag",
    "quantum_recorder_group_lag_unknown", "quantum_recorder_group_missing", "quantum_recorder_group_pending",
    "quantum_recorder_stream_length", "quantum_recorder_trim_blocked", "quantum_sim_last_trade_id",
    "quantum_sim_open_orders", "quantum_sim_open_positions", "quantum_trainer_cannot_return",
    "quantum_trainer_drift_distance", "quantum_trainer_drift_found", "quantum_trainer_live_accuracy",
    "quantum_trainer_live_accuracy_majority", "quantum_trainer_live_labelled_bars", "quantum_trainer_live_log_loss",
    "quantum_trainer_live_log_loss_prior", "quantum_trainer_running",
}  # fmt: skip
"""Metrics that have no unit."""


def test_every_metric_is_declared_in_a_metrics_module_under_a_name_of_ours() -> None:
    found = declared()
    assert len(found) > 80
    assert [name for name in found if not name.startswith("quantum_")] == []
    assert [name for name, path in found.items() if path.name != "metrics.py"] == []


def test_every_metric_ends_with_its_unit_or_counts_things() -> None:
    unitless = {name for name in declared() if not name.endswith(UNITS)}
    assert unitless - COUNTS_AND_FLAGS == set()
    assert set(COUNTS_AND_FLAGS) - unitless == set(), "no longer declared"


def test_the_risk_service_has_a_counter_for_every_reason_in_its_code() -> None:
    package = ROOT / "services/governer-svc/src/governer_svc"
    found = {code for name in ("checks.py", "core.py") for code in CODE.findall((package / name).read_text())}
    assert found | {"APPROVED"} == set(VERDICTS)


def test_the_executor_has_a_counter_for_every_refusal_in_its_core() -> None:
    core = ROOT / "services/executor-svc/src/executor_svc/core"
    found = {
        code for name in ("guards.py", "approvals.py", "sizing.py") for code in CODE.findall((core / name).read_text())
    }
    assert found | {"EXPIRED"} == set(REFUSALS)


def test_every_reason_for_which_a_bar_is_refused_is_on_the_list() -> None:
    bad, good = (float("nan"), -1.0, 1e20, 3.0, 0.5), [0, 1.0, 2.0, 0.9, 1.5, 10.0]
    reasons = {refusal_of([*good[:at], value, *good[at + 1 :]]) for at in range(1, 6) for value in bad}
    assert reasons - {None} <= set(BAD_BARS)
    assert len(reasons) > 12


def refusal_of(row: list[float]) -> str | None:
    return refusal(Bar(int(row[0]), *row[1:]), 1)

"""What the executor counts: each order once, under its last state, and refusals under bounded reasons."""

from decimal import Decimal
from typing import Any

from prometheus_client import REGISTRY

from executor_svc import core, metrics


def told(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"quantum_executor_{name}", labels) or 0.0


class Counted:
    """A bench whose steps are counted as the journal does after a commit."""

    def __init__(self, bench: Any) -> None:
        metrics.begin()
        self._bench, self._book, self._said = bench, bench.book, 0

    def commit(self) -> None:
        metrics.count(self._book, self._bench.book, self._bench.events[self._said :])
        self._book, self._said = self._bench.book, len(self._bench.events)


def test_every_order_of_a_trade_ends_once_under_its_last_state(bench):
    before = {state: told("orders_ended_total", state=state) for state in ("filled", "canceled", "rejected")}
    counted = Counted(bench)
    bench.approve()
    counted.commit()
    bench.fill_entry()
    counted.commit()
    quantity = str(bench.order("take_profit").quantity)
    bench.report("take_profit", core.ReportStatus.FILLED, executed=Decimal(quantity), spawned_order_id="99")
    bench.trades(bench.trade("take_profit", quantity, "20600", realized_pnl=Decimal("29.4")))
    bench.plan()
    counted.commit()
    assert told("live_orders", state="canceling") == 1
    bench.report("stop", core.ReportStatus.CANCELED)
    bench.plan()
    counted.commit()
    ended = {state: told("orders_ended_total", state=state) - count for state, count in before.items()}
    assert ended == {"filled": 2, "canceled": 1, "rejected": 0}
    assert told("open_positions") == told("live_orders", state="open") == 0


def test_a_refusal_counts_under_our_own_code_or_as_the_venues(bench):
    venues, ours = {"role": "entry", "reason": "REFUSED_BY_VENUE"}, {"role": "entry", "reason": "MIN_NOTIONAL"}
    before = told("orders_rejected_total", **venues), told("orders_rejected_total", **ours)
    counted = Counted(bench)
    bench.approve()
    counted.commit()
    bench.take(core.refuse(bench.book, bench.order("entry"), "-2019", "Margin is insufficient."))
    counted.commit()
    bench.approve(position_size_usd=Decimal(90), decision_id="another", bar_ts_ms=1_700_002_800_000)
    counted.commit()
    after = told("orders_rejected_total", **venues), told("orders_rejected_total", **ours)
    assert after == (before[0] + 1, before[1] + 1)
    assert not told("orders_rejected_total", role="entry", reason="-2019")

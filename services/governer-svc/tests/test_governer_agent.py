"""The public interface: `from governer_svc import GovernerAgent, RiskConfig, PositionAllocation`."""

from decimal import Decimal

import pytest

from governer_svc import GovernerAgent, PositionAllocation, RiskConfig

NOW = 1_700_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ms = NOW

    def __call__(self) -> int:
        return self.now_ms


def test_a_position_is_allocated_from_balance_and_confidence() -> None:
    agent = GovernerAgent(RiskConfig(), clock=Clock())
    allocation = agent.allocate_position("BTCUSDT", "BUY", 0.92, 10_000, meta_override=True)
    assert isinstance(allocation, PositionAllocation)
    assert (allocation.approved, allocation.position_size_usd) == (True, Decimal("821.42"))


@pytest.mark.parametrize("override", [True, False])
def test_f10_a_meta_override_changes_no_verdict(override: bool) -> None:
    agent = GovernerAgent(RiskConfig(), clock=Clock())
    allocation = agent.allocate_position("BTCUSDT", "BUY", 0.5, 10_000, override)
    assert allocation.detail == "LOW_CONFIDENCE (0.500 < 0.650)"
    assert allocation.confidence == 0.5


def test_an_approved_position_stands_until_its_result_is_recorded() -> None:
    clock = Clock()
    agent = GovernerAgent(RiskConfig(), clock=clock)
    size = agent.allocate_position("BTCUSDT", "BUY", 0.8, 10_000).position_size_usd
    clock.now_ms += 3_600_000
    assert agent.allocate_position("BTCUSDT", "BUY", 0.8, 10_000).reason == "POSITION_OPEN"
    assert agent.state.exposure_usd == size
    agent.record_trade_result("BTCUSDT", "BUY", 100.0, 98.0, size, -14.28)
    assert agent.state.exposure_usd == 0
    clock.now_ms += 60_000
    assert agent.allocate_position("BTCUSDT", "BUY", 0.8, 9_985.72).detail == "COOLDOWN_ACTIVE (59.0m remaining)"


def test_a_trade_result_moves_balance_and_peak_together() -> None:
    agent = GovernerAgent(RiskConfig(), clock=Clock())
    agent.allocate_position("BTCUSDT", "BUY", 0.8, 10_000)
    agent.record_trade_result("BTCUSDT", "BUY", 100, 110, 714, 71.4)
    assert agent.state.account is not None
    assert agent.state.account.wallet_balance == Decimal("10071.4")
    assert agent.state.peak_equity == Decimal("10071.4")
    agent.record_trade_result("ETHUSDT", "SELL", 100, 110, 5_000, -2_000)
    assert agent.allocate_position("ETHUSDT", "BUY", 0.8, 8_071.4).reason == "MAX_DRAWDOWN_EXCEEDED"


def test_an_opposite_signal_on_an_open_position_closes_it() -> None:
    agent = GovernerAgent(RiskConfig(), clock=Clock())
    agent.allocate_position("BTCUSDT", "BUY", 0.8, 10_000)
    allocation = agent.allocate_position("BTCUSDT", "SELL", 0.8, 10_000)
    assert (allocation.intent, allocation.position_size_usd) == ("close", 0)


def test_a_trade_result_without_an_entry_price_is_an_error() -> None:
    with pytest.raises(ValueError, match="entry_price"):
        GovernerAgent(RiskConfig(), clock=Clock()).record_trade_result("BTCUSDT", "BUY", 0, 1, 1, 1)

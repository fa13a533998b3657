"""Laws of the joint allocation: order of arrival, limits, and what may never come out."""

from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from governer_svc.checks import Signal
from governer_svc.config import RiskConfig
from governer_svc.core import allocate, as_event
from governer_svc.state import Account, OpenPosition, RiskState
from quantum_common.contracts import PositionApproved, PositionRejected
from quantum_common.domain.signal import Intent, OrderSide

BAR = 1_700_000_400_000
CLOSE = BAR + 60_000
SYMBOLS = [f"S{number}USDT" for number in range(12)]


def state_with(balance: Decimal, positions: dict[str, OpenPosition] | None = None) -> RiskState:
    account = Account(balance, balance, CLOSE, BAR, 1, dict.fromkeys(SYMBOLS, Decimal(5)))
    return RiskState(account=account, peak_equity=balance, day_start_equity=balance, positions=positions or {})


def run(state: RiskState, config: RiskConfig, signals: list[Signal]):  # type: ignore[no-untyped-def]
    return allocate(state, config, signals, bar_ts_ms=BAR, timeframe="1m", now_ms=CLOSE)


def signal_of(symbol: str, action: str, confidence: float) -> Signal:
    return Signal(f"id-{symbol}", symbol, action, confidence)


actions = st.sampled_from(["BUY", "SELL", "HOLD"])
confidences = st.one_of(st.floats(0, 1), st.sampled_from([0.65, 0.7, 0.7, 0.9]))
bars = st.lists(
    st.builds(
        lambda symbol, action, conf: Signal(f"id-{symbol}", symbol, action, conf),
        st.sampled_from(SYMBOLS),
        actions,
        confidences,
    ),
    unique_by=lambda signal: signal.symbol,
    min_size=1,
)
configs = st.builds(
    RiskConfig,
    max_position_size_pct=st.floats(0.01, 1),
    max_total_exposure_pct=st.floats(0.01, 1),
    kelly_fraction=st.floats(0.01, 1),
    max_daily_trades=st.integers(0, 6),
    min_confidence_threshold=st.floats(0, 0.9),
)
balances = st.decimals(1, 1_000_000, places=2)


@settings(deadline=None)
@given(bars.flatmap(lambda bar: st.tuples(st.just(bar), st.permutations(bar))), configs, balances)
def test_the_order_of_arrival_does_not_change_a_verdict(arrivals, config, balance) -> None:  # type: ignore[no-untyped-def]
    signals, shuffled = arrivals
    assert run(state_with(balance), config, signals) == run(state_with(balance), config, shuffled)


@settings(deadline=None)
@given(bars, configs, balances)
def test_f15_one_bar_never_exceeds_exposure_size_or_trade_limits(signals, config, balance) -> None:  # type: ignore[no-untyped-def]
    state, verdicts = run(state_with(balance), config, signals)
    opened = [verdict for verdict in verdicts if verdict.intent is Intent.OPEN]
    assert state.exposure_usd == sum(verdict.position_size_usd for verdict in opened)
    assert state.exposure_usd <= Decimal(repr(config.max_total_exposure_pct)) * balance
    assert len(opened) == state.daily_trades <= config.max_daily_trades
    for verdict in opened:
        assert Decimal(5) <= verdict.position_size_usd <= Decimal(repr(config.max_position_size_pct)) * balance
        assert verdict.position_size_usd == verdict.position_size_usd.quantize(Decimal("0.01"))


@settings(deadline=None)
@given(bars, configs, balances, st.sets(st.sampled_from(SYMBOLS)))
def test_f10_no_verdict_creates_an_action_or_raises_a_confidence(signals, config, balance, held) -> None:  # type: ignore[no-untyped-def]
    positions = {symbol: OpenPosition(OrderSide.BUY, Decimal(1), Decimal(1), Decimal(1)) for symbol in held}
    _, verdicts = run(state_with(balance, positions), config, signals)
    given_by_id = {signal.decision_id: signal for signal in signals}
    assert len(verdicts) == len(signals)
    for verdict in verdicts:
        signal = given_by_id.pop(verdict.decision_id)
        event = as_event(verdict)
        assert (event.action, event.confidence) == (signal.action, signal.confidence)
        if isinstance(event, PositionApproved):
            assert signal.action in ("BUY", "SELL")
            assert signal.confidence >= config.min_confidence_threshold
            assert (event.intent is Intent.CLOSE) == (signal.symbol in held)
        else:
            assert isinstance(event, PositionRejected)


def test_f15_scarce_slots_go_to_the_best_confidence_then_to_the_first_symbol() -> None:
    signals = [
        Signal(symbol, symbol, "BUY", conf) for symbol, conf in [("S3USDT", 0.7), ("S1USDT", 0.7), ("S2USDT", 0.9)]
    ]
    _, verdicts = run(state_with(Decimal(10_000)), RiskConfig(max_daily_trades=2), signals)
    assert [(verdict.symbol, verdict.batch_rank, verdict.reason) for verdict in verdicts] == [
        ("S2USDT", 0, "APPROVED"),
        ("S1USDT", 1, "APPROVED"),
        ("S3USDT", 2, "DAILY_TRADE_LIMIT_REACHED"),
    ]


def test_the_last_room_goes_to_the_best_signal_and_the_next_one_is_cut() -> None:
    signals = [signal_of("S1USDT", "BUY", 0.7), signal_of("S2USDT", "BUY", 0.9)]
    _, verdicts = run(state_with(Decimal(10_000)), RiskConfig(max_total_exposure_pct=0.1), signals)
    assert [str(verdict.position_size_usd) for verdict in verdicts] == ["803.57", "196.43"]


def test_f16_two_decisions_on_one_symbol_open_it_once() -> None:
    signals = [Signal("a", "S1USDT", "BUY", 0.9), Signal("b", "S1USDT", "SELL", 0.8)]
    _, verdicts = run(state_with(Decimal(10_000)), RiskConfig(), signals)
    assert [verdict.reason for verdict in verdicts] == ["APPROVED", "POSITION_OPEN"]

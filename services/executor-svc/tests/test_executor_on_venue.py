"""The whole executor, through ccxt, on the paper venue."""

from decimal import Decimal

import pytest

from executor_svc.adapters.venue import CcxtVenue, make_exchange
from executor_svc.errors import RefusesToTrade
from quantum_common.contracts import (
    AccountUpdated,
    OrderAccepted,
    OrderCanceled,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    PositionDrifted,
    TradeClosed,
)
from quantum_common.domain.signal import Action, Intent, Role

HOUR_MS = 3_600_000
BAR = 1_700_000_400_000 // HOUR_MS * HOUR_MS
FLAT = (20000.0, 20020.0, 19980.0, 20000.0)
UP = (20000.0, 20700.0, 19990.0, 20650.0)
DOWN = (20000.0, 20010.0, 19500.0, 19550.0)


async def states(line) -> tuple[int, int, int]:
    status = await line.status()
    return status["open_positions"], status["open_orders"], status["open_algo_orders"]


async def test_an_approval_becomes_a_position_with_a_resting_stop_and_target(make_line):
    line = await make_line([FLAT] * 8)
    await line.start()
    await line.step(BAR)
    await line.approve()
    assert await states(line) == (1, 0, 2)
    submitted = await line.events(OrderSubmitted)
    assert [order.role for order in submitted] == [Role.ENTRY, Role.STOP, Role.TAKE_PROFIT]
    assert len(await line.events(OrderAccepted)) == 3
    fill = (await line.events(OrderFilled))[0]
    assert fill.quantity * fill.price <= 1000
    assert fill.market_ts_ms == BAR + HOUR_MS
    assert submitted[1].trigger_price < fill.price < submitted[2].trigger_price
    updates = [(update.cause, update.sequence) for update in await line.events(AccountUpdated)]
    assert updates == [("start", 1), ("bar", 2), ("fill", 3)]


@pytest.mark.parametrize(
    ("bar", "action", "role"),
    [
        (UP, Action.BUY, Role.TAKE_PROFIT),
        (DOWN, Action.BUY, Role.STOP),
        (UP, Action.SELL, Role.STOP),
        (DOWN, Action.SELL, Role.TAKE_PROFIT),
    ],
)
async def test_the_protective_order_that_fills_closes_the_trade_and_takes_the_other_with_it(
    make_line, bar, action, role
):
    line = await make_line([FLAT, bar, FLAT])
    await line.start()
    await line.step(BAR)
    distances = {"stop_distance_fraction": 0.02, "take_profit_distance_fraction": 0.02}
    await line.approve(action=action, **distances)
    await line.step(BAR + HOUR_MS)
    assert await states(line) == (0, 0, 0)
    closed = (await line.events(TradeClosed))[0]
    assert closed.exit_role is role
    assert (closed.pnl > 0) == (role is Role.TAKE_PROFIT)
    assert BAR + HOUR_MS < closed.closed_ts_ms < BAR + 2 * HOUR_MS
    assert not line.executor.journal.book.exposed
    assert len(await line.events(OrderCanceled)) == 1


async def test_the_time_stop_closes_at_the_horizon_before_the_bars_account_update(make_line):
    line = await make_line([FLAT] * 9)
    await line.start()
    await line.step(BAR)
    await line.approve()
    for bar in range(1, 6):
        assert await states(line) == (1, 0, 2)
        await line.step(BAR + bar * HOUR_MS)
    assert await states(line) == (0, 0, 0)
    closed = (await line.events(TradeClosed))[0]
    assert (closed.exit_role, closed.exit_reason) == (Role.EXIT, "time_stop")
    assert closed.closed_ts_ms == BAR + 6 * HOUR_MS
    assert [update.bar_ts_ms for update in await line.events(AccountUpdated) if update.cause == "bar"] == [
        BAR + bar * HOUR_MS for bar in range(6)
    ]
    last = (await line.events())[-1]
    assert (last.cause, last.positions) == ("bar", ())


async def test_an_opposite_signal_closes_the_position(make_line):
    line = await make_line([FLAT] * 5)
    await line.start()
    await line.step(BAR)
    await line.approve()
    await line.step(BAR + HOUR_MS)
    await line.approve(intent=Intent.CLOSE, action=Action.SELL, bar_ts_ms=BAR + HOUR_MS)
    assert await states(line) == (0, 0, 0)
    assert (await line.events(TradeClosed))[0].exit_reason == "opposite_signal"


async def test_f24_closed_trades_explain_the_venues_wallet_to_the_last_digit(make_line):
    bars = [FLAT, UP, DOWN, FLAT, FLAT, UP, DOWN] * 4
    line = await make_line(bars)
    await line.start()
    for number in range(len(bars) - 1):
        bar = BAR + number * HOUR_MS
        await line.step(bar)
        action = Action.BUY if number % 3 else Action.SELL
        await line.approve(bar_ts_ms=bar, action=action, position_size_usd=Decimal(3000))
    await line.executor.flatten()
    trades = await line.events(TradeClosed)
    status = await line.status()
    assert len(trades) > 8
    assert {trade.exit_role for trade in trades} == {Role.STOP, Role.TAKE_PROFIT, Role.EXIT}
    assert any(trade.funding for trade in trades)
    change = Decimal(status["wallet_balance"]) - Decimal(status["initial_balance"])
    assert sum(trade.pnl for trade in trades) == change
    assert not await line.events(PositionDrifted)
    ids = await line.event_ids()
    assert len(ids) == len(set(ids))


async def test_f20_leverage_and_margin_mode_are_set_and_read_back(make_line):
    line = await make_line([FLAT] * 3)
    venue = CcxtVenue(make_exchange(line.settings))
    line._venues.append(venue)
    await venue._exchange.load_markets()
    before = (await venue._exchange.fetch_margin_modes())["BTC/USDT:USDT"]["info"]
    assert (before["leverage"], before["marginType"]) == (20, "CROSSED")
    await venue.start(["BTCUSDT"])
    after = (await venue._exchange.fetch_margin_modes())["BTC/USDT:USDT"]["info"]
    assert (after["leverage"], after["marginType"]) == (1, "ISOLATED")


async def test_f20_an_account_whose_leverage_stays_wrong_is_refused(make_line):
    line = await make_line([FLAT] * 3)
    exchange = make_exchange(line.settings)

    async def says_yes_and_does_nothing(leverage: int, symbol: str) -> dict[str, str]:
        return {}

    exchange.set_leverage = says_yes_and_does_nothing
    with pytest.raises(RefusesToTrade, match="BTCUSDT"):
        await line.start(venue=CcxtVenue(exchange))


async def test_f21_filters_and_balance_come_from_the_venue(make_line):
    line = await make_line([FLAT] * 3)
    await line.start()
    market = line.venue.markets["BTCUSDT"]
    assert (market.tick_size, market.step_size, market.min_quantity) == (
        Decimal("0.1"),
        Decimal("0.001"),
        Decimal("0.001"),
    )
    update = (await line.events(AccountUpdated))[0]
    assert update.wallet_balance == update.equity == 10_000
    assert update.min_notional_usd == {"BTCUSDT": Decimal(100)}


async def test_f18_a_position_the_book_cannot_explain_stops_entries(make_line):
    line = await make_line([FLAT] * 5)
    await line.start()
    await line.step(BAR)
    await line.venue._exchange.create_order("BTC/USDT:USDT", "market", "buy", "0.01")
    await line.executor._reconcile("reconcile")
    drift = (await line.events(PositionDrifted))[0]
    assert (drift.quantity_expected, drift.quantity_at_venue) == (0, Decimal("0.01"))
    await line.approve()
    assert (await line.events(OrderRejected))[0].reason == "POSITION_DRIFTED"
    await line.venue._exchange.create_order("BTC/USDT:USDT", "market", "sell", "0.01", None, {"reduceOnly": True})
    await line.executor._reconcile("reconcile")
    assert (await line.events(PositionDrifted))[-1].resolved
    await line.approve(bar_ts_ms=BAR + HOUR_MS, expires_at_ms=BAR + 3 * HOUR_MS)
    assert await states(line) == (1, 0, 2)


async def test_f32_an_approval_that_arrives_after_its_expiry_is_refused(make_line):
    line = await make_line([FLAT] * 5)
    await line.start()
    await line.step(BAR)
    await line.advance(BAR + HOUR_MS + 61_000)
    await line.approve()
    assert (await line.events(OrderRejected))[0].reason == "EXPIRED"
    assert await states(line) == (0, 0, 0)


async def test_an_idle_bar_asks_the_venue_nothing_and_commits_once(make_line):
    line = await make_line([FLAT] * 9)
    await line.start()
    await line.step(BAR)
    version = line.executor.journal.version
    asked = line.venue._exchange.last_http_response
    line.venue._exchange.last_http_response = None
    for bar in range(1, 5):
        await line.step(BAR + bar * HOUR_MS)
    assert asked is not None
    assert line.venue._exchange.last_http_response is None
    assert line.executor.journal.version == version + 4

"""What must hold when something goes wrong around the executor: at the venue, on the bus, in its own timing."""

import asyncio
import time
from decimal import Decimal

import pytest

from executor_svc import core
from executor_svc.adapters.venue import CcxtVenue, make_exchange
from executor_svc.errors import VenueRefused, VenueUnreachable
from executor_svc.executor import Executor
from executor_svc.settings import ExecutorSettings
from quantum_common.bus import BusUnavailable, MemoryBus
from quantum_common.contracts import (
    ALLOCATIONS,
    AccountUpdated,
    Look,
    OrderFilled,
    OrderRejected,
    OrderSubmitted,
    TradeClosed,
)
from quantum_common.contracts.streams import dead
from quantum_common.domain.signal import Role
from quantum_common.service import MarketClock
from quantum_common.testing.eventually import eventually

HOUR_MS = 3_600_000
BAR = 1_700_000_400_000 // HOUR_MS * HOUR_MS
FLAT = (20000.0, 20020.0, 19980.0, 20000.0)
DOWN = (20000.0, 20010.0, 19500.0, 19550.0)
BTC = "BTC/USDT:USDT"
QUICK = {"venue_receive_window_ms": 300}


def own_venue(line, **overrides) -> CcxtVenue:
    """The real adapter with some of its methods taken over; they get the real one as their first argument."""
    venue = CcxtVenue(make_exchange(line.settings))
    for name, replacement in overrides.items():
        real = getattr(venue, name)
        setattr(venue, name, lambda *a, _new=replacement, _real=real: _new(_real, *a))
    return venue


async def entered(line, **settings) -> None:
    """A long of about 0.049 BTC with its stop and target."""
    await line.step(BAR)
    await line.approve(**settings)
    assert (await line.status())["open_positions"] == 1


async def resting(line) -> tuple[int, int, int]:
    status = await line.status()
    return status["open_positions"], status["open_orders"], status["open_algo_orders"]


async def reconcile(line) -> None:
    await line.executor._guarded(lambda: line.executor._reconcile("reconcile"))
    await line.settled()


# One bad entry


async def test_f03_f06_a_poison_approval_fails_alone_and_neither_its_neighbour_nor_the_watch_loop_with_it(make_line):
    line = await make_line([FLAT] * 5)
    await line.start()
    await line.step(BAR)
    poison = line.approval(bar_ts_ms=BAR - HOUR_MS, position_size_usd=Decimal("NaN"), expires_at_ms=BAR + 2 * HOUR_MS)
    await line.publish(line.keys.stream(ALLOCATIONS), poison, line.approval())
    await line.turn()
    assert len(await line.bus.newest(dead(line.keys.stream(ALLOCATIONS)), 10)) == 1
    assert await resting(line) == (1, 0, 2)
    assert not line.executor._held
    await line.executor._guarded(line.executor._retry)


async def test_f03_a_held_entry_that_fails_later_is_no_failure_of_another_one(make_line):
    line = await make_line([FLAT] * 5)
    fails: list[type[Exception]] = [VenueUnreachable]

    async def quote(real, symbol):
        if fails:
            raise fails[0]("no")
        return await real(symbol)

    await line.start(own_venue(line, quote=quote))
    await line.step(BAR)
    await line.publish(line.keys.stream(ALLOCATIONS), line.approval())
    await line.consumer.handle(await line.consumer.read(1), line.executor.handle)
    assert len(line.executor._held) == 1
    fails[0] = KeyError
    await line.executor._guarded(line.executor._retry)
    assert not line.executor._held
    await line.bar(BAR + HOUR_MS)
    assert not await line.bus.newest(dead(line.keys.stream(ALLOCATIONS)), 10)


async def test_f06_a_quote_the_venue_refuses_is_a_refusal_of_that_entry(make_line):
    line = await make_line([FLAT] * 5)

    async def quote(real, symbol):
        raise VenueRefused("-1121", "Invalid symbol")

    await line.start(own_venue(line, quote=quote))
    await line.step(BAR)
    await line.approve()
    rejected = (await line.events(OrderRejected))[0]
    assert (rejected.role, rejected.reason) == (Role.ENTRY, "-1121")
    assert not await line.bus.newest(dead(line.keys.stream(ALLOCATIONS)), 10)


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("fetch_my_trades", lambda venue: venue.trades("BTCUSDT", 0)),
        ("fetch_my_trades", lambda venue: venue.newest_trade_id("BTCUSDT")),
        ("fetch_funding_history", lambda venue: venue.funding("BTCUSDT", 0)),
        ("fetch_balance", lambda venue: venue.account()),
        ("fetch_open_orders", lambda venue: venue.open_orders("BTCUSDT")),
        ("fetch_time", lambda venue: venue.measure_skew()),
    ],
)
async def test_f06_a_read_the_venue_refuses_is_asked_again_later(make_line, method, call):
    import ccxt.async_support as ccxt

    line = await make_line([FLAT] * 3)
    await line.start()

    async def refused(*_):
        raise ccxt.ExchangeError('{"code":-1121,"msg":"Invalid symbol."}')

    setattr(line.venue._exchange, method, refused)
    with pytest.raises(VenueUnreachable):
        await call(line.venue)


# The kill switch


@pytest.mark.parametrize("restarted", [False, True])
async def test_f25_an_entry_sent_again_meets_the_kill_switch_thrown_meanwhile(make_line, restarted):
    line = await make_line([FLAT] * 5, **QUICK)

    async def lost(real, order):
        await line.trading("HALTED")
        raise line.Killed if restarted else VenueUnreachable("lost on the way there")

    await line.start(own_venue(line, submit=lost))
    await line.step(BAR)
    await line.approve()
    assert [event.reason for event in await line.events(OrderRejected)] == ["KILL_SWITCH"]
    assert await resting(line) == (0, 0, 0)


async def test_f25_without_a_trading_state_nothing_is_entered(make_line):
    line = await make_line([FLAT] * 5)
    await line.trading("")
    await line.start()
    await line.step(BAR)
    await line.approve()
    assert [event.reason for event in await line.events(OrderRejected)] == ["TRADING_STATE_UNKNOWN"]


# Timing


@pytest.mark.parametrize("error", [VenueUnreachable, BusUnavailable])
async def test_f28_a_look_that_fails_once_in_a_replay_is_repeated(make_line, error):
    line = await make_line([FLAT, DOWN, FLAT])
    failing: list[type[Exception]] = []

    async def trades(real, symbol, after_id):
        if failing:
            raise failing.pop()("one hiccup")
        return await real(symbol, after_id)

    await line.start(own_venue(line, trades=trades))
    await entered(line)
    answer = (await line.http.post("/sim/advance", json={"to_ms": BAR + 2 * HOUR_MS})).json()
    assert answer["halted"]
    line.clock.advance(answer["now_ms"])
    failing.append(error)
    try:
        await line.executor.look(Look("clock", answer["now_ms"]))
    except BusUnavailable:
        assert error is BusUnavailable
    assert not failing
    await line.executor._guarded(line.executor._retry)
    await line.settled()
    assert (await line.events(TradeClosed))[0].exit_role is Role.STOP
    looked = line.venue._exchange.last_http_response = None
    await line.executor._guarded(line.executor._retry)
    assert line.venue._exchange.last_http_response is looked


def test_f29_resizing_a_stop_on_every_partial_fill_never_closes_a_healthy_position(bench):
    bench.approve()
    bench.report("entry", core.ReportStatus.OPEN)
    for _ in range(8):
        bench.trades(bench.trade("entry", "0.005", "20000"))
        for _ in range(3):
            bench.plan()
            for order in [o for o in bench.book.orders.values() if o.role is not Role.ENTRY]:
                if order.state is core.OrderState.SUBMITTING:
                    bench.report(order.role, core.ReportStatus.OPEN)
                elif order.state is core.OrderState.CANCELING:
                    bench.report(order.role, core.ReportStatus.CANCELED)
                    assert not any(bench.book.positions["BTCUSDT"].protect_failures.values())
    position = bench.book.positions["BTCUSDT"]
    assert (position.quantity, position.exit_reason) == (Decimal("0.040"), "")
    assert bench.order("stop").quantity == position.quantity


def test_f29_a_stop_that_the_venue_ends_again_and_again_is_given_up_for_a_market_close(bench):
    bench.approve()
    bench.fill_entry()
    bench.report("stop", core.ReportStatus.CANCELED)
    bench.plan()
    bench.report("stop", core.ReportStatus.OPEN)
    assert bench.book.positions["BTCUSDT"].protect_failures["stop"] == 0
    failures = []
    for _ in range(4):
        if not bench.book.orders_of("BTCUSDT", Role.STOP):
            break
        bench.report("stop", core.ReportStatus.CANCELED)
        failures.append(bench.book.positions["BTCUSDT"].protect_failures["stop"])
        bench.plan()
    assert failures == [1, 2, 3]
    assert bench.book.positions["BTCUSDT"].exit_reason == "unprotected"


async def test_f19_an_entry_that_never_arrived_is_sent_again_at_a_size_the_new_price_allows(make_line):
    line = await make_line([FLAT, *[(21000.0, 21010.0, 20990.0, 21000.0)] * 4], **QUICK)
    left = [1]

    async def lost(real, order):
        if left:
            left.pop()
            await line.http.post("/sim/advance", json={"to_ms": BAR + HOUR_MS + 3000})
            raise VenueUnreachable("lost on the way there")
        return await real(order)

    await line.start(own_venue(line, submit=lost))
    await line.advance(BAR + HOUR_MS - 1)
    await line.publish(line.keys.stream(ALLOCATIONS), line.approval())
    await line.consumer.handle(await line.consumer.read(1), line.executor.handle)
    await line.settled()
    fill = (await line.events(OrderFilled))[0]
    assert fill.quantity * fill.price <= 1000
    announced = [event for event in await line.events(OrderSubmitted) if event.role is Role.ENTRY]
    assert [event.client_order_id for event in announced] == [fill.client_order_id] * 2
    assert announced[-1].quantity == fill.quantity < announced[0].quantity
    assert len(await line.venue._exchange.fetch_orders(BTC)) == 1


@pytest.mark.parametrize("paused_in", ["submit", "create_order"])
async def test_f13_a_sender_paused_beyond_the_receive_window_does_not_send_a_second_time(make_line, paused_in):
    line = await make_line([FLAT] * 5, **QUICK)
    gate = asyncio.Event()
    venue = CcxtVenue(make_exchange(line.settings))
    owner = venue if paused_in == "submit" else venue._exchange
    real = getattr(owner, paused_in)

    async def paused(*arguments):
        await gate.wait()
        return await real(*arguments)

    await line.start(venue)
    setattr(owner, paused_in, paused)
    await line.step(BAR)
    first = line.executor
    await line.publish(line.keys.stream(ALLOCATIONS), line.approval())
    sending = asyncio.create_task(first.handle(await line.consumer.read(1)))
    await eventually(lambda: bool(first.journal.book.orders))
    await line.start()
    await line.settled()
    held = line.executor.journal.book.positions["BTCUSDT"].quantity
    gate.set()
    await sending
    assert (await line.venue.account()).quantity("BTCUSDT") == held
    await reconcile(line)
    assert not line.executor.journal.book.drifts


async def test_f27_an_order_that_waited_too_long_before_it_left_is_asked_for_first(make_line):
    line = await make_line([FLAT] * 5, **QUICK)
    sent: list[int] = []

    async def submit(real, order):
        sent.append(int(time.time() * 1000) - order.submitted_wall_ms)
        return await real(order)

    await line.start(own_venue(line, submit=submit))
    await line.step(BAR)
    real_state = line.executor.journal.trading_state
    pauses = [0.4]

    async def slow_state():
        if pauses:
            await asyncio.sleep(pauses.pop())
        return await real_state()

    line.executor.journal.trading_state = slow_state
    await line.approve()
    assert await resting(line) == (1, 0, 2)
    assert max(sent) <= 300


def test_f29_in_a_replay_no_wall_clock_decides_about_a_triggered_stop(bench):
    assert ExecutorSettings(clock="replay").rules.unfilled_trigger_ms is None
    assert ExecutorSettings(clock="live").rules.unfilled_trigger_ms == 5_000
    bench.approve()
    bench.fill_entry()
    bench.report("stop", core.ReportStatus.OPEN, spawned_order_id="77")
    bench.wall_ms += 1_000_000
    rules = ExecutorSettings(clock="replay").rules
    bench.take(core.plan(bench.book, bench.markets, rules, bench.wall_ms))
    assert not bench.book.orders_of("BTCUSDT", Role.EXIT)


async def test_f32_live_the_time_stop_comes_without_a_bar_from_the_bus(make_line):
    line = await make_line([FLAT] * 5)
    await line.start()
    await entered(line)  # decided on a bar of 2023: on the wall clock its horizon is long over
    live = Executor(line.settings, line.bus, line.venue, MarketClock("live"))
    await line.succeed(live)
    await live._start_once()
    await live._guarded(live._tend)
    assert (await line.events(TradeClosed))[0].exit_reason == "time_stop"
    assert await resting(line) == (0, 0, 0)
    assert (await line.events(AccountUpdated))[-1].positions == ()


# The bus lost its data


async def test_f28_with_its_book_gone_and_a_position_at_the_venue_nothing_is_opened(make_line):
    line = await make_line([FLAT] * 6)
    await line.start()
    await entered(line)
    line.bus = MemoryBus()
    await line.trading("ACTIVE")
    await line.start()
    assert line.executor.not_ready() == [
        "position of BTCUSDT differs from the venue's",
        "open orders of BTCUSDT that are not ours",
    ]
    await line.step(BAR + HOUR_MS)
    await line.approve(bar_ts_ms=BAR + HOUR_MS)
    assert await line.events(OrderSubmitted) == []
    assert await resting(line) == (1, 0, 2), "its stop and target stay where they are"
    await reconcile(line)
    assert await resting(line) == (1, 0, 2)
    [rejected] = await line.events(OrderRejected)
    assert (rejected.role, rejected.reason) == (Role.ENTRY, "POSITION_DRIFTED")
    quantity = str(next(iter(line.executor.journal.book.drifts.values())))
    await line.venue._exchange.create_order(BTC, "market", "sell", quantity, None, {"reduceOnly": True})
    await reconcile(line)
    assert await resting(line) == (0, 0, 0), "what protected the position an operator closed by hand goes"
    await line.start()
    assert line.executor.not_ready() == []

"""Others act on the account: operators, liquidations, transfers, orders nobody knows."""

from decimal import Decimal

import msgspec
import pytest

from executor_svc import core
from executor_svc.adapters.venue import CcxtVenue, make_exchange
from quantum_common.contracts import (
    OrderCanceled,
    OrderFilled,
    OrderRejected,
    PositionDrifted,
    TradeClosed,
)
from quantum_common.domain.signal import Intent, OrderSide, Role

HOUR_MS = 3_600_000
BAR = 1_700_000_400_000 // HOUR_MS * HOUR_MS
FLAT = (20000.0, 20020.0, 19980.0, 20000.0)
BTC = "BTC/USDT:USDT"


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


@pytest.mark.parametrize("seen_by", ["reconcile", "flatten"])
async def test_f18_a_position_an_operator_closed_at_the_venue_is_booked_as_an_external_exit(make_line, seen_by):
    line = await make_line([FLAT] * 5)
    await line.start()
    await entered(line)
    quantity = str(line.executor.journal.book.positions["BTCUSDT"].quantity)
    await line.venue._exchange.create_order(BTC, "market", "sell", quantity, None, {"reduceOnly": True})
    if seen_by == "reconcile":
        await reconcile(line)
    else:
        await line.executor.flatten()
        await line.settled()
    closed = (await line.events(TradeClosed))[0]
    assert (closed.exit_reason, closed.exit_role) == ("external", Role.EXIT)
    assert await resting(line) == (0, 0, 0)
    assert not line.executor.journal.book.exposed
    status = await line.status()
    assert closed.pnl == Decimal(status["wallet_balance"]) - Decimal(status["initial_balance"])
    fills = await line.events(OrderFilled)
    assert [fill.role for fill in fills] == [Role.ENTRY, Role.EXIT]
    assert sum(event.role is Role.EXIT for event in await line.events(OrderRejected)) <= 2
    assert not line.executor.not_ready()
    assert [event.resolved for event in await line.events(PositionDrifted)] == [False, True]


async def test_f18_a_part_an_operator_closed_leaves_the_rest_protected_at_its_size(make_line):
    line = await make_line([FLAT] * 5)
    await line.start()
    await entered(line)
    before = line.executor.journal.book.positions["BTCUSDT"].quantity
    await line.venue._exchange.create_order(BTC, "market", "sell", "0.02", None, {"reduceOnly": True})
    await reconcile(line)
    await line.executor.desk.settle()
    position = line.executor.journal.book.positions["BTCUSDT"]
    assert (position.quantity, position.exit_reason) == (before - Decimal("0.02"), "")
    assert [o.quantity for o in line.executor.journal.book.orders_of("BTCUSDT", Role.STOP)] == [position.quantity]
    assert await resting(line) == (1, 0, 2)


def test_f18_a_trade_of_others_that_left_our_quantity_alone_is_no_exit(bench):
    bench.approve()
    bench.fill_entry()
    before = bench.book.positions["BTCUSDT"]
    bench.book = core.pass_over(bench.book, foreign(bench, "0.010"))
    assert bench.book.positions["BTCUSDT"].foreign
    bench.take(core.adopt(bench.book, "BTCUSDT", before.quantity))
    assert bench.book.positions["BTCUSDT"] == before


def test_f18_of_a_trade_that_turned_the_position_only_our_part_is_booked(bench):
    bench.approve()
    bench.fill_entry()
    held = bench.book.positions["BTCUSDT"].quantity
    bench.book = core.pass_over(bench.book, foreign(bench, str(2 * held)))
    bench.take(core.adopt(bench.book, "BTCUSDT", -held))
    position = bench.book.positions["BTCUSDT"]
    assert (position.quantity, position.exit_quantity) == (0, held)
    assert bench.payloads(OrderFilled)[-1].fee == Decimal("0.25")
    assert bench.payloads(OrderFilled)[-1].realized_pnl == -100 * held


def foreign(bench, quantity: str) -> core.Trade:
    return msgspec.structs.replace(
        bench.trade("stop", quantity, "19900"), venue_order_id="operator", side=OrderSide.SELL, realized_pnl=Decimal(-5)
    )


def test_f18_an_exit_that_keeps_being_refused_waits_longer_each_time(bench):
    bench.approve()
    bench.fill_entry()
    bench.approve(intent=Intent.CLOSE, bar_ts_ms=bench.now_ms)
    for _ in range(10_000):
        bench.plan()
        if bench.book.orders_of("BTCUSDT", Role.EXIT):
            bench.take(core.refuse(bench.book, bench.order("exit"), "-2022"))
        bench.wall_ms += 1
    assert 3 <= bench.book.positions["BTCUSDT"].attempts["exit"] <= 9
    assert bench.book.unsettled
    bench.wall_ms += 30_000
    bench.plan()
    assert bench.order("exit")


async def test_f24_a_wallet_nobody_explains_stops_entries_and_does_not_erase_itself(make_line):
    line = await make_line([FLAT] * 5)
    missing = [Decimal(0)]

    async def account(real):
        snapshot = await real()
        return msgspec.structs.replace(snapshot, wallet_balance=snapshot.wallet_balance - missing[0])

    await line.start(own_venue(line, account=account))
    await line.step(BAR)
    missing[0] = Decimal(3000)
    for _ in range(2):
        await reconcile(line)
        assert any("wallet" in reason for reason in line.executor.not_ready())
    await line.approve()
    assert (await line.events(OrderRejected))[0].reason == "WALLET_DRIFTED"
    missing[0] = Decimal("0.005")
    await reconcile(line)
    assert not line.executor.not_ready()


async def test_f24_an_operator_who_restarts_accepts_the_wallet_as_it_is(make_line):
    line = await make_line([FLAT] * 5)

    async def account(real):
        snapshot = await real()
        return msgspec.structs.replace(snapshot, wallet_balance=snapshot.wallet_balance - 3000)

    await line.start()
    line.venue.account = own_venue(line, account=account).account
    await line.start(own_venue(line, account=account))
    assert not line.executor.not_ready()


@pytest.mark.parametrize("params", [{}, {"stopLossPrice": "19000"}])
async def test_f29_an_order_of_ours_that_the_book_lacks_is_cancelled(make_line, params):
    line = await make_line([FLAT] * 5)
    await line.start()
    kind, side, price = ("market", "sell", None) if params else ("limit", "buy", "15000")
    params = {**params, "clientOrderId": "qtorphan"}
    await line.venue._exchange.create_order(BTC, kind, side, "0.05", price, params)
    assert await resting(line) != (0, 0, 0)
    await reconcile(line)
    assert await resting(line) == (0, 0, 0)
    assert not line.executor.not_ready()


async def test_f18_an_open_order_of_others_is_left_alone_and_stops_entries_until_it_is_gone(make_line):
    line = await make_line([FLAT] * 5)
    await line.start()
    await line.step(BAR)
    order = await line.venue._exchange.create_order(BTC, "limit", "buy", "0.05", "15000")
    await reconcile(line)
    assert await resting(line) == (0, 1, 0)
    assert any("not ours" in reason for reason in line.executor.not_ready())
    await line.approve()
    assert (await line.events(OrderRejected))[0].reason == "FOREIGN_ORDERS"
    await line.venue._exchange.cancel_order(order["id"], BTC)
    await reconcile(line)
    assert not line.executor.not_ready()


async def test_f29_a_reconciliation_leaves_the_books_own_orders_alone(make_line):
    line = await make_line([FLAT] * 5)
    await line.start()
    await entered(line)
    await reconcile(line)
    assert await resting(line) == (1, 0, 2)
    assert not await line.events(OrderCanceled)
    assert not line.executor.not_ready()

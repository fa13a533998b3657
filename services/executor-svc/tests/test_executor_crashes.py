"""Lost replies, kills and outages: every order reaches the venue once, and the ledger is that of the quiet run."""

import contextlib
from decimal import Decimal

import msgspec
import pytest

from executor_svc.adapters.venue import CcxtVenue, make_exchange
from executor_svc.errors import Superseded, VenueUnreachable
from quantum_common.contracts import ALLOCATIONS, OrderFilled, OrderRejected, OrderSubmitted, TradeClosed
from quantum_common.domain.signal import Role

HOUR_MS = 3_600_000
BAR = 1_700_000_400_000 // HOUR_MS * HOUR_MS
FLAT = (20000.0, 20020.0, 19980.0, 20000.0)
UP = (20000.0, 20700.0, 19990.0, 20650.0)
BARS = [FLAT, FLAT, UP, FLAT]
QUICK = {"venue_receive_window_ms": 300}
"""A short receive window, so that "not found" is believed soon."""


class KillSwitch:
    """Stands before a bus or a venue and kills the process at the n-th call of a method, before or after its effect."""

    def __init__(self, killed, inner, method: str, at: int, *, after: bool) -> None:
        self._killed, self._inner, self._method, self._left, self._after = killed, inner, method, at, after
        self.armed = False

    def __getattr__(self, name: str):
        found = getattr(self._inner, name)
        return self._deadly(found) if self.armed and name == self._method else found

    def _deadly(self, call):
        async def wrapped(*arguments, **options):
            self._left -= 1
            if self._left == 0 and not self._after:
                raise self._killed
            result = await call(*arguments, **options)
            if self._left == 0:
                raise self._killed
            return result

        return wrapped


async def play(line) -> None:
    """An entry, a quiet bar, and a bar in which the target is reached."""
    await line.step(BAR)
    await line.approve(take_profit_distance_fraction=0.02)
    await line.step(BAR + HOUR_MS)
    await line.step(BAR + 2 * HOUR_MS)


async def ledger(line) -> dict[str, object]:
    status = await line.status()
    fills = await line.events(OrderFilled)
    return {
        "fills": [(f.role, f.side, f.quantity, f.price, f.market_ts_ms, f.sequence) for f in fills],
        "trades": [(t.pnl, t.exit_role, t.closed_ts_ms) for t in await line.events(TradeClosed)],
        "wallet": status["wallet_balance"],
        "open": (status["open_positions"], status["open_orders"], status["open_algo_orders"]),
        "last_trade_id": status["last_trade_id"],
    }


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("where", "method", "calls"),
    [
        ("bus", "commit", 9),
        ("venue", "submit", 3),
        ("venue", "trades", 3),
        ("venue", "cancel", 1),
        ("venue", "account", 3),
    ],
)
async def test_f26_f28_a_kill_anywhere_leaves_the_ledger_of_the_undisturbed_run(make_line, where, method, calls, after):
    quiet = await make_line(BARS, **QUICK)
    await quiet.start()
    await play(quiet)
    expected = await ledger(quiet)
    assert [fill[0] for fill in expected["fills"]] == [Role.ENTRY, Role.TAKE_PROFIT]
    for at in range(1, calls + 1):
        line = await make_line(BARS, **QUICK)
        venue, bus = CcxtVenue(make_exchange(line.settings)), line.bus
        deadly = KillSwitch(line.Killed, bus if where == "bus" else venue, method, at, after=after)
        await line.start(venue=deadly if where == "venue" else venue, bus=deadly if where == "bus" else bus)
        deadly.armed = True
        await play(line)
        assert await ledger(line) == expected, at
        ids = await line.event_ids()
        assert len(ids) == len(set(ids))


class Flaky:
    """A venue whose next answers are lost: the request arrives (or does not), the caller sees a time-out."""

    def __init__(self, inner, method: str, *, arrives: bool, times: int = 1) -> None:
        self._inner, self._method, self._arrives, self.left = inner, method, arrives, times

    def __getattr__(self, name: str):
        found = getattr(self._inner, name)
        if name != self._method:
            return found

        async def wrapped(*arguments):
            if self.left <= 0:
                return await found(*arguments)
            self.left -= 1
            if self._arrives:
                await found(*arguments)
            raise VenueUnreachable("RequestTimeout")

        return wrapped


@pytest.mark.parametrize("arrives", [True, False])
async def test_f27_a_lost_answer_to_an_order_is_resolved_by_asking_and_never_taken_for_a_rejection(make_line, arrives):
    line = await make_line(BARS, **QUICK)
    await line.start(venue=Flaky(CcxtVenue(make_exchange(line.settings)), "submit", arrives=arrives, times=3))
    await line.step(BAR)
    await line.approve()
    assert not await line.events(OrderRejected)
    assert [order.role for order in await line.events(OrderSubmitted)] == [Role.ENTRY, Role.STOP, Role.TAKE_PROFIT]
    orders = await line.venue._exchange.fetch_orders("BTC/USDT:USDT")
    assert len(orders) == 1
    status = await line.status()
    assert (status["open_positions"], status["open_algo_orders"]) == (1, 2)


async def test_f26_an_order_found_at_the_venue_is_adopted_with_its_fill(make_line):
    line = await make_line(BARS, **QUICK)
    await line.start(venue=Flaky(CcxtVenue(make_exchange(line.settings)), "submit", arrives=True))
    await line.step(BAR)
    await line.approve()
    fill = (await line.events(OrderFilled))[0]
    assert fill.role is Role.ENTRY
    assert fill.quantity * fill.price <= Decimal(1000)


async def test_f32_an_entry_that_never_arrived_is_not_sent_again_after_its_expiry(make_line):
    line = await make_line(BARS, **QUICK)
    await line.start(venue=Flaky(CcxtVenue(make_exchange(line.settings)), "submit", arrives=False))
    await line.step(BAR)
    line.clock.advance(BAR + HOUR_MS)
    approve = line.approve(expires_at_ms=BAR + HOUR_MS)
    line.clock.advance(BAR + HOUR_MS)
    real_look_up = line.venue._inner.look_up

    async def look_up_later(order):
        line.clock.advance(BAR + HOUR_MS + 1)
        return await real_look_up(order)

    line.venue._inner.look_up = look_up_later
    await approve
    assert (await line.events(OrderRejected))[0].reason == "EXPIRED"
    assert (await line.status())["open_positions"] == 0


async def test_an_outage_of_the_venue_holds_bars_and_approvals_until_it_answers_again(make_line):
    line = await make_line(BARS, **QUICK)
    venue = Flaky(CcxtVenue(make_exchange(line.settings)), "quote", arrives=False, times=4)
    await line.start(venue=venue)
    await line.step(BAR)
    await line.approve()
    assert venue.left == 0
    assert (await line.status())["open_positions"] == 1
    assert not line.executor._held


async def test_f17_an_exit_the_venue_cannot_take_is_retried_until_the_position_is_gone(make_line):
    line = await make_line([FLAT] * 8, **QUICK)
    await line.start()
    await line.step(BAR)
    await line.approve()
    venue = line.venue
    line.executor._venue = line.executor.desk._venue = Flaky(venue, "submit", arrives=False, times=3)
    await line.executor.flatten()
    await line.settled()
    assert (await line.status())["open_positions"] == 0
    assert (await line.events(TradeClosed))[0].exit_reason == "flatten"


async def test_a_position_whose_stop_the_venue_refuses_is_closed_at_market(make_line):
    line = await make_line([FLAT] * 4, **QUICK)
    await line.start()
    exchange = line.venue._exchange
    real = exchange.create_order

    async def refuses_stops(symbol, kind, side, amount, price=None, params=None):
        if "stopLossPrice" in (params or {}):
            params = {**params, "stopLossPrice": "30000.0"}  # a sell stop above the market: -2021 at the venue
        return await real(symbol, kind, side, amount, price, params or {})

    exchange.create_order = refuses_stops
    await line.step(BAR)
    await line.approve()
    assert (await line.status())["open_positions"] == 0
    assert (await line.events(TradeClosed))[0].exit_reason == "unprotected"
    assert (await line.status())["open_algo_orders"] == 0


class Counting:
    """A venue that counts the requests of one instance that would change something there."""

    def __init__(self, inner) -> None:
        self._inner, self.requests = inner, 0

    def __getattr__(self, name: str):
        self.requests += name in ("submit", "cancel", "cancel_open")
        return getattr(self._inner, name)


class Overtaken:
    """A bus on which another instance takes the account over right after this one has written something."""

    def __init__(self, line, what: bytes = b"OrderSubmitted") -> None:
        self._line, self._what, self._done = line, what, False

    def __getattr__(self, name: str):
        found = getattr(self._line.bus, name)
        return self._commit if name == "commit" else found

    async def _commit(self, units):
        statuses = await self._line.bus.commit(units)
        written = [state.data for unit in units for state in unit.states]
        written += [output.data for unit in units for output in unit.outputs]
        if not self._done and any(self._what in data for data in written):
            self._done = True
            await overtake(self._line)
        return statuses


async def overtake(line) -> None:
    lease = line.executor.lease
    await line.bus.lease(lease.key, lease._owner, 0)
    await line.bus.lease(lease.key, "2:another", 600_000)


async def test_f13_an_executor_whose_account_was_taken_over_sends_and_writes_nothing_more(make_line):
    line = await make_line(BARS, **QUICK)
    venue = Counting(CcxtVenue(make_exchange(line.settings)))
    await line.start(venue=venue, bus=Overtaken(line))
    await line.step(BAR)
    await line.publish(line.keys.stream(ALLOCATIONS), line.approval())
    batch = await line.consumer.read(1)
    await line.consumer.handle(batch, line.executor.handle)
    assert [order.role for order in await line.events(OrderSubmitted)] == [Role.ENTRY]
    written = await line.event_ids()
    for _ in range(2):
        await line.executor._guarded(line.executor._retry)
        await line.consumer.handle(batch, line.executor.handle)
    assert venue.requests == 0
    assert await line.event_ids() == written
    await line.bus.lease(line.executor.lease.key, "2:another", 0)
    await line.start()
    await line.settled()
    assert [fill.role for fill in await line.events(OrderFilled)] == [Role.ENTRY]
    ids = await line.event_ids()
    assert len(ids) == len(set(ids))


async def test_f13_an_executor_whose_account_was_taken_over_cancels_nothing(make_line):
    line = await make_line([FLAT] * 8, **QUICK)
    await line.start()
    await line.step(BAR)
    await line.approve()
    venue = Counting(line.venue)
    line.executor._venue = line.executor.desk._venue = venue
    line.executor.journal._bus = Overtaken(line, b'"canceling"')
    with contextlib.suppress(Superseded):
        await line.executor.flatten()
    assert (await line.status())["open_algo_orders"] == 2


async def test_f13_an_executor_whose_account_was_taken_over_sweeps_nothing(make_line):
    line = await make_line(BARS, **QUICK)
    await line.start()
    await line.venue._exchange.create_order(
        "BTC/USDT:USDT", "limit", "buy", "0.05", "15000", {"clientOrderId": "qt-of-the-successor"}
    )
    await overtake(line)
    with pytest.raises(Superseded):
        await line.executor.desk.sweep()
    assert (await line.status())["open_orders"] == 1


async def test_f13_a_book_is_not_written_under_a_lease_of_others_even_if_nobody_moved_it(make_line):
    line = await make_line(BARS, **QUICK)
    await line.start()
    await overtake(line)
    journal = line.executor.journal
    with pytest.raises(Superseded, match="FENCED"):
        await journal.commit(msgspec.structs.replace(journal.book, bar_ts_ms=BAR))

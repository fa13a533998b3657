"""Laws of the core, for any order and repetition of what the venue says."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from executor_svc import core
from executor_svc.core.sizing import entry_quantity, trigger_price
from quantum_common.contracts import OrderFilled
from quantum_common.domain.signal import OrderSide, Role

MARKET = core.Market("BTCUSDT", Decimal("0.1"), Decimal("0.001"), Decimal("0.001"), Decimal(1000), Decimal(100))
prices = st.decimals("0.01", "150000", places=2)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    deliveries=st.lists(st.integers(0, 20), max_size=25),
)
def test_f28_any_sequence_and_repetition_of_reports_gives_the_same_book(make_bench, sizes, deliveries):
    bench = make_bench()
    bench.approve(position_size_usd=Decimal(sum(sizes)) * Decimal("200.2"))
    order = bench.order("entry")
    quantities = [Decimal(size) / 100 for size in sizes]
    done = sum(quantities)
    assert order.quantity == done
    trades = [bench.trade("entry", str(quantity), "20000") for quantity in quantities]
    venue_id = f"v-{order.client_order_id}"
    reports = [
        core.OrderReport(order.client_order_id, core.ReportStatus.OPEN, venue_id),
        core.OrderReport(order.client_order_id, core.ReportStatus.FILLED, venue_id, done),
    ]
    inputs = [*reports, *([trade] for trade in trades), trades[: len(trades) // 2 + 1], trades]
    ordered = core.take_trades(bench.book, "BTCUSDT", trades)  # nothing is known yet: nothing is taken
    assert ordered[0] == bench.book

    def deliver(book: core.Book, item: object) -> tuple[core.Book, tuple[core.Draft, ...]]:
        if isinstance(item, core.OrderReport):
            return core.take_report(book, item, 0)
        book, drafts, _ = core.take_trades(book, "BTCUSDT", item)
        return book, drafts

    straight, straight_events = _run(bench.book, [*reports, trades], deliver)
    chosen = [inputs[index % len(inputs)] for index in deliveries if inputs[index % len(inputs)] not in inputs[3:-2]]
    shuffled, events = _run(bench.book, [*chosen, *reports, trades, *reports, trades], deliver)
    assert shuffled == straight
    assert sorted(draft.natural_key for draft in events) == sorted(draft.natural_key for draft in straight_events)


def _run(book, items, deliver):
    events = []
    for item in items:
        book, drafts = deliver(book, item)
        events += drafts
    return book, events


moves = st.lists(
    st.tuples(st.sampled_from(["accept", "fill_some", "fill_all", "cancel", "reject", "plan", "late", "trigger"]),
              st.sampled_from(["entry", "stop", "take_profit", "exit"])),
    max_size=40,
)  # fmt: skip


@given(moves=moves)
def test_f29_whatever_the_venue_does_there_is_never_a_second_live_stop_nor_a_fill_without_its_trade(make_bench, moves):
    bench = make_bench()
    bench.approve()
    made = 0
    for move, role in moves:
        made += _play(bench, move, role)
        position = bench.book.positions.get("BTCUSDT")
        assert len(bench.book.orders_of("BTCUSDT", Role.STOP)) <= 1
        assert len(bench.book.orders_of("BTCUSDT", Role.EXIT)) <= 1
        fills = bench.payloads(OrderFilled)
        assert len(fills) == len({fill.trade_id for fill in fills}) == made
        if position and not position.closed:
            entered = sum((fill.quantity for fill in fills if fill.role is Role.ENTRY), Decimal(0))
            left = sum((fill.quantity for fill in fills if fill.role is not Role.ENTRY), Decimal(0))
            assert position.quantity == entered - left
    keys = [(type(draft.payload), draft.natural_key) for draft in bench.events]
    assert len(keys) == len(set(keys))


def _play(bench, move: str, role: str) -> int:
    """One thing a consistent venue may do to the live order of a role; returns how many trades it made."""
    if move == "plan":
        bench.plan()
        return 0
    if move == "late":
        bench.wall_ms += 6_000
        return 0
    position = bench.book.positions.get("BTCUSDT")
    live = bench.book.orders_of("BTCUSDT", Role(role))
    if not live or position is None:
        return 0
    order = live[0]
    left = order.quantity - order.filled
    if role != "entry":
        left = min(left, position.quantity)
    match move:
        case "accept":
            bench.report(role, core.ReportStatus.OPEN)
        case "trigger" if order.conditional and order.state is core.OrderState.OPEN:
            bench.report(role, core.ReportStatus.OPEN, spawned_order_id=f"spawned-{role}")
        case "cancel":
            bench.report(role, core.ReportStatus.CANCELED, executed=order.filled)
        case "reject" if order.state is core.OrderState.SUBMITTING:
            bench.report(role, core.ReportStatus.REJECTED, reason="-2010")
        case "fill_some" | "fill_all" if order.venue_order_id and left > 0:
            if order.conditional and not order.spawned_order_id:
                return 0
            quantity = left if move == "fill_all" else min(left, Decimal("0.001"))
            trade = bench.trade(role, str(quantity), "20000")
            bench.trades(trade)
            bench.trades(trade)
            return 1
    return 0


@given(usd=st.decimals("1", "1000000", places=2), ask=prices, spread=st.decimals("0", "0.01", places=4))
def test_f19_an_entry_is_never_larger_than_approved_and_stands_on_the_grid(usd, ask, spread):
    deep = Decimal(10**9)
    quote = core.Quote(((ask * (1 - spread), deep),), ((ask, deep),))
    for side in OrderSide:
        quantity, reason = entry_quantity(MARKET, quote, side, usd, Decimal("0.0005"))
        assert quantity * ask * (1 + Decimal("0.0005")) <= usd or side is OrderSide.SELL
        assert quantity * quote.bids[0][0] <= usd
        assert quantity % MARKET.step_size == 0
        if not reason:
            assert quantity >= MARKET.min_quantity


@given(
    usd=st.decimals("100", "100000", places=2),
    levels=st.lists(st.tuples(prices, st.decimals("0.001", "5", places=3)), min_size=1, max_size=6),
)
def test_f19_walking_the_book_never_costs_more_than_approved(usd, levels):
    asks = tuple(sorted(levels))
    quantity, reason = entry_quantity(MARKET, core.Quote((), asks), OrderSide.BUY, usd, Decimal(0))
    if reason:
        return
    left, cost = quantity, Decimal(0)
    for price, size in asks:
        taken = min(left, size)
        cost, left = cost + taken * price, left - taken
    assert cost <= usd


@given(price=st.decimals("1000", "150000", places=2), distance=st.decimals("0.001", "0.5", places=4))
def test_a_rounded_trigger_never_risks_more_than_approved(price, distance):
    for side in OrderSide:
        for gains in (True, False):
            trigger = trigger_price(price, side, distance, gains=gains, tick=Decimal("0.1"))
            assert abs(trigger - price) <= price * distance

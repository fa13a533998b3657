"""Money: the wallet adds up, whatever is traded, and the same commands give the same trades."""

from __future__ import annotations

from decimal import Decimal
from functools import partial

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange_sim import account, book, replay, trading
from exchange_sim.errors import VenueError
from exchange_sim.market import Market, SymbolMarket
from exchange_sim.orders import SymbolConfig
from exchange_sim.requests import parse_algo, parse_order
from exchange_sim.rules import rules_for
from exchange_sim.state import VenueState
from exchange_sim.synthetic import generate

HOUR = 3_600_000
START = 1_704_067_200_000
BTC = rules_for("BTCUSDT")
TERMS = trading.Terms(Decimal(5), Decimal(2), book.BookShape(Decimal(1), Decimal("0.5"), Decimal(25_000)))
SYMBOLS = ("BTCUSDT", "SOLUSDT", "DOGEUSDT")
WORLD = replay.World(
    Market({s: SymbolMarket(s, generate(s, "1h", 200, START, 1), HOUR) for s in SYMBOLS}, "1h", HOUR),
    {s: rules_for(s) for s in SYMBOLS},
    TERMS,
    Decimal("0.0001"),
    {},
)


def new_state(balance: int = 10_000) -> VenueState:
    return VenueState(START, Decimal(balance), Decimal(balance))


def place(state, mark, **params):
    request = parse_order({"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", **params}, BTC)
    return trading.place_order(state, request, BTC, TERMS, mark)


def at(price: int):
    return lambda symbol: Decimal(price)


def test_a_round_trip_leaves_the_price_difference_less_both_fees():
    state = new_state()
    place(state, at(40_000), quantity="0.1")
    place(state, at(41_000), quantity="0.1", side="SELL")

    bought, sold = state.trades
    assert (bought.price, sold.price) == (Decimal("40002.0"), Decimal("40997.9"))
    assert bought.fee == Decimal("0.1") * bought.price * Decimal("0.0005")
    assert state.wallet == 10_000 + (sold.price - bought.price) * Decimal("0.1") - bought.fee - sold.fee


def test_a_large_order_walks_the_book_and_pays_more_level_by_level():
    state = new_state(1_000_000)
    place(state, at(40_000), quantity="2")

    prices = [trade.price for trade in state.trades]
    assert [t.quantity for t in state.trades] == [Decimal("0.625")] * 3 + [Decimal("0.125")]
    assert prices == [Decimal("40002.0"), Decimal("40004.0"), Decimal("40006.0"), Decimal("40008.0")]


def test_closing_in_parts_realises_exactly_the_cash_in_and_out_however_odd_the_average_price():
    state = new_state()
    for price, quantity in ((40_000, "0.013"), (40_111, "0.057")):
        place(state, at(price), quantity=quantity)
    for price, quantity in ((41_003, "0.03"), (40_507, "0.04")):
        place(state, at(price), quantity=quantity, side="SELL", reduceOnly="true")

    cash = sum((-account.signed(trade.side, trade.quantity) * trade.price for trade in state.trades), Decimal(0))
    assert sum((trade.realized_pnl for trade in state.trades), Decimal(0)) == cash
    assert state.position("BTCUSDT").cost == state.position("BTCUSDT").margin == 0


def test_a_flip_closes_the_old_position_and_opens_the_rest():
    state = new_state()
    place(state, at(40_000), quantity="0.1")
    place(state, at(40_000), quantity="0.15", side="SELL")

    position = state.position("BTCUSDT")
    assert position.quantity == Decimal("-0.05")
    assert position.entry_price == state.trades[1].price


def test_a_reduce_only_order_neither_opens_nor_flips():
    state = new_state()
    with pytest.raises(VenueError) as refused:
        place(state, at(40_000), quantity="0.1", reduceOnly="true")
    assert refused.value.code == -2022

    place(state, at(40_000), quantity="0.1")
    closing = place(state, at(40_000), quantity="0.3", side="SELL", reduceOnly="true")
    assert (closing.status, closing.filled) == ("FILLED", Decimal("0.1"))
    assert state.position("BTCUSDT").quantity == 0


def test_a_refused_order_changes_nothing():
    state = new_state(100)
    state.put(SymbolConfig("BTCUSDT", 1, True))
    state.touched.clear()
    with pytest.raises(VenueError) as refused:
        place(state, at(40_000), quantity="0.1")

    assert refused.value.code == -2019
    assert (state.wallet, state.orders, state.touched) == (Decimal(100), {}, {})


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"quantity": "0.0001"}, -1111),
        ({"quantity": "0"}, -4003),
        ({"quantity": "121"}, -4005),
        ({"quantity": "abc"}, -1102),
        ({"quantity": "NaN"}, -1102),
        ({"quantity": "0.002"}, -4164),
        ({"quantity": "0.1", "type": "LIMIT", "price": "40000.05", "timeInForce": "GTC"}, -1111),
        ({"quantity": "0.1", "type": "LIMIT", "price": "500", "timeInForce": "GTC"}, -4013),
        ({"quantity": "0.1", "type": "LIMIT", "price": "43000", "timeInForce": "GTC"}, -4016),
        ({"quantity": "0.1", "type": "LIMIT", "price": "40000"}, -1115),
        ({"quantity": "0.1", "type": "LIMIT", "price": "41000", "timeInForce": "GTX"}, -5022),
        ({"quantity": "0.1", "type": "LIMIT", "price": "39000", "timeInForce": "FOK"}, -5021),
        ({"quantity": "0.1", "type": "STOP_MARKET", "stopPrice": "1"}, -4120),
        ({"quantity": "0.1", "type": "OTHER"}, -1116),
        ({"quantity": "0.1", "side": "buy"}, -1117),
        ({"quantity": "0.1", "positionSide": "LONG"}, -4061),
        ({"quantity": "0.1", "newClientOrderId": "x" * 37}, -4015),
        ({"quantity": "0.1", "newClientOrderId": "a b"}, -1100),
    ],
)
def test_f19_what_breaks_a_filter_is_refused_with_the_venues_code(params, code):
    with pytest.raises(VenueError) as refused:
        place(new_state(), at(40_000), **params)
    assert refused.value.code == code


def test_an_immediate_or_cancel_order_takes_what_its_limit_allows_and_the_rest_expires():
    state = new_state(1_000_000)
    order = place(state, at(40_000), quantity="2", type="LIMIT", price="40004", timeInForce="IOC")
    assert (order.status, order.filled) == ("EXPIRED", Decimal("1.25"))


def test_an_isolated_position_is_closed_by_the_venue_when_its_margin_is_used_up():
    state = new_state()
    state.put(SymbolConfig("BTCUSDT", 50, True))
    mark = partial(WORLD.price, now_ms=START)
    place(state, mark, quantity="0.1", side="SELL")
    level = account.liquidation_price(state, state.position("BTCUSDT"), BTC)
    entry = state.trades[0].price

    assert entry < level < entry * Decimal("1.02")
    while state.position("BTCUSDT").quantity and state.now_ms < START + 190 * HOUR:
        replay.advance(state, WORLD, START + 190 * HOUR)
    assert state.position("BTCUSDT").quantity == 0
    assert state.orders[2].client_order_id == "autoclose-2"
    assert state.wallet > 10_000 - entry * Decimal("0.1") / 50 - 10


actions = st.one_of(
    st.tuples(st.just("market"), st.sampled_from(SYMBOLS), st.booleans(), st.integers(1, 40), st.booleans()),
    st.tuples(st.just("limit"), st.sampled_from(SYMBOLS), st.booleans(), st.integers(1, 40), st.integers(-30, 30)),
    st.tuples(st.just("stop"), st.sampled_from(SYMBOLS), st.booleans(), st.integers(1, 40), st.integers(-30, 30)),
    st.tuples(st.just("advance"), st.integers(1, 40)),
    st.tuples(st.just("cancel"), st.integers(0, 5)),
)


def perform(state: VenueState, action) -> None:
    """One command; the venue may refuse it."""
    if action[0] == "advance":
        replay.advance(state, WORLD, state.now_ms + action[1] * HOUR)
        return
    if action[0] == "cancel":
        for order in list(state.open_orders.values())[: action[1]]:
            trading.cancel_order(state, order)
        return
    kind, symbol, buy, hundreds, extra = action
    rules, mark = WORLD.rules[symbol], partial(WORLD.price, now_ms=state.now_ms)
    price = mark(symbol)
    quantity = max((Decimal(100 * hundreds) / price // rules.step) * rules.step, rules.step)
    away = rules.round_to_tick(price * (1 + Decimal(extra) / 1000)) if kind != "market" else price
    params = {
        "symbol": symbol, "side": "BUY" if buy else "SELL", "quantity": f"{quantity:f}",
        "reduceOnly": str(kind == "market" and extra is True).lower(),
    }  # fmt: skip
    if kind == "stop":
        params |= {"algoType": "CONDITIONAL", "type": "STOP_MARKET", "triggerPrice": f"{away:f}"}
        trading.place_algo(state, parse_algo(params, rules), rules, mark)
        return
    params |= {"type": "MARKET"} if kind == "market" else {"type": "LIMIT", "price": f"{away:f}", "timeInForce": "GTC"}
    trading.place_order(state, parse_order(params, rules), rules, TERMS, mark)


def run(commands) -> VenueState:
    state = new_state()
    for command in commands:
        try:
            perform(state, command)
        except VenueError:
            continue
    return state


@settings(max_examples=60, deadline=None)
@given(st.lists(actions, max_size=40))
def test_the_wallet_is_what_came_in_and_went_out_to_the_last_digit(commands):
    state = run(commands)

    fees = sum((trade.fee for trade in state.trades), Decimal(0))
    realized = sum((trade.realized_pnl for trade in state.trades), Decimal(0))
    funding = sum((row.amount for row in state.incomes if row.type == "FUNDING_FEE"), Decimal(0))
    assert state.wallet == state.initial_balance + realized - fees + funding
    for symbol in SYMBOLS:
        cash = sum(
            (-account.signed(t.side, t.quantity) * t.price for t in state.trades if t.symbol == symbol), Decimal(0)
        )
        gained = sum((t.realized_pnl for t in state.trades if t.symbol == symbol), Decimal(0))
        position = state.position(symbol)
        held = sum((account.signed(t.side, t.quantity) for t in state.trades if t.symbol == symbol), Decimal(0))
        assert held == position.quantity
        assert gained == cash + position.cost
        if not held:
            assert (position.cost, position.margin) == (0, 0)
    assert [trade.trade_id for trade in state.trades] == list(range(1, len(state.trades) + 1))
    for order in state.orders.values():
        assert order.filled <= order.quantity


@settings(max_examples=15, deadline=None)
@given(st.lists(actions, max_size=30))
def test_the_same_commands_give_the_same_trades_and_ids(commands):
    assert msgspec.json.encode(run(commands).trades) == msgspec.json.encode(run(commands).trades)

"""The venue as an unmodified ccxt client sees it, over loopback."""

from __future__ import annotations

import hashlib
import hmac
from decimal import Decimal

import ccxt.async_support as ccxt
import pytest

from exchange_sim.settings import SimSettings

HOUR = 3_600_000
START = 1_704_067_200_000
BTC = "BTC/USDT:USDT"
ETH = "ETH/USDT:USDT"


def code_of(error: Exception) -> int:
    """The venue's code in a ccxt error: `binanceusdm {"code":-2019,"msg":…}`."""
    return int(str(error).split('"code":')[1].split(",")[0])


def code_in(info: pytest.ExceptionInfo[Exception]) -> int:
    return code_of(info.value)


async def test_markets_load_with_the_venues_filters(venue):
    market = venue.exchange.market(BTC)

    assert (market["precision"]["price"], market["precision"]["amount"]) == (0.1, 0.001)
    assert (market["limits"]["amount"]["min"], market["limits"]["cost"]["min"]) == (0.001, 100.0)
    assert market["swap"] is True
    assert market["linear"] is True


async def test_server_time_is_wall_time_and_market_time_stands_still(venue):
    assert abs(await venue.exchange.fetch_time() - venue.exchange.milliseconds()) < 1_000
    assert (await venue.status())["now_ms"] == START


async def test_candles_end_with_the_one_in_progress_of_which_only_the_open_is_known(venue):
    await venue.advance(START + 2 * HOUR)

    bars = await venue.exchange.fetch_ohlcv(BTC, "1h", limit=2)

    assert bars == [
        [START + HOUR, 40000.0, 40200.0, 39800.0, 40100.0, 100.0],
        [START + 2 * HOUR, 40100.0, 40100.0, 40100.0, 40100.0, 0.0],
    ]


async def test_candles_since_a_time_come_oldest_first_and_limited(venue):
    await venue.advance(START + 5 * HOUR)

    bars = await venue.exchange.fetch_ohlcv(BTC, "1h", since=START + HOUR, limit=2)
    everything = await venue.exchange.fetch_ohlcv(BTC, "1h", since=START)
    until = await venue.exchange.fetch_ohlcv(BTC, "1h", limit=2, params={"until": START + 2 * HOUR})

    assert [bar[0] for bar in bars] == [START + HOUR, START + 2 * HOUR]
    assert [bar[0] for bar in everything] == [START + n * HOUR for n in range(6)]
    assert [bar[0] for bar in until] == [START + HOUR, START + 2 * HOUR]


async def test_after_the_last_bar_there_is_no_candle_in_progress(venue):
    await venue.advance(START + 20 * HOUR)

    bars = await venue.exchange.fetch_ohlcv(BTC, "1h", limit=2)

    assert [bar[0] for bar in bars] == [START + 10 * HOUR, START + 11 * HOUR]


async def test_an_unknown_symbol_and_interval_are_refused(venue):
    for query, code in (("symbol=NOPE&interval=1h", -1121), ("symbol=BTCUSDT&interval=7m", -1120)):
        reply = await venue.http.get(f"/fapi/v1/klines?{query}")
        assert (reply.status_code, reply.json()["code"]) == (400, code)


async def test_book_and_tickers_stand_around_the_market_price(venue):
    ticker = await venue.exchange.fetch_ticker(BTC)
    quote = (await venue.exchange.fetch_bids_asks([BTC]))[BTC]
    book = await venue.exchange.fetch_order_book(BTC, 5)

    assert ticker["last"] == 40000.0
    assert (quote["bid"], quote["ask"]) == (39998.0, 40002.0)
    assert (book["bids"][0][0], book["asks"][0][0]) == (39998.0, 40002.0)
    assert len(book["bids"]) == len(book["asks"]) == 5


async def test_f20_a_fresh_account_has_twenty_times_leverage_until_it_is_set_and_read_back(venue):
    before = await venue.exchange.fetch_leverage(BTC)
    await venue.exchange.set_leverage(1, BTC)
    await venue.exchange.set_margin_mode("isolated", BTC)
    after = await venue.exchange.fetch_leverage(BTC)

    assert (before["longLeverage"], before["marginMode"]) == (20, "cross")
    assert (after["longLeverage"], after["marginMode"]) == (1, "isolated")
    assert (await venue.exchange.fetch_margin_mode(BTC))["marginMode"] == "isolated"
    assert (await venue.exchange.fetch_position_mode())["hedged"] is False


async def test_settings_that_need_no_change_or_cannot_change_are_refused_as_at_binance(venue):
    await venue.exchange.set_margin_mode("isolated", BTC)
    with pytest.raises(ccxt.MarginModeAlreadySet):
        await venue.exchange.set_margin_mode("isolated", BTC)
    with pytest.raises(ccxt.OperationRejected) as same:
        await venue.exchange.set_position_mode(False)
    with pytest.raises(ccxt.ExchangeError) as hedge:
        await venue.exchange.set_position_mode(True)
    with pytest.raises(ccxt.BadRequest) as leverage:
        await venue.exchange.set_leverage(51, ETH.replace("ETH", "BTC"), {"leverage": 151})
    await venue.exchange.create_order(BTC, "market", "buy", 0.01)
    with pytest.raises(ccxt.OperationRejected) as held:
        await venue.exchange.set_margin_mode("cross", BTC)

    assert [code_in(e) for e in (same, hedge, leverage, held)] == [-4059, -4084, -4028, -4048]


async def test_a_market_order_fills_at_once_and_is_found_by_its_client_id(venue):
    placed = await venue.exchange.create_order(BTC, "market", "buy", 0.02, None, {"newClientOrderId": "qt-entry"})
    found = await venue.exchange.fetch_order(None, BTC, {"origClientOrderId": "qt-entry"})
    trades = await venue.exchange.fetch_my_trades(BTC)
    (position,) = await venue.exchange.fetch_positions([BTC])

    assert (placed["status"], placed["filled"], placed["average"]) == ("closed", 0.02, 40002.0)
    assert (found["id"], found["clientOrderId"]) == (placed["id"], "qt-entry")
    assert [(t["order"], t["price"], t["amount"], t["takerOrMaker"]) for t in trades] == [
        (placed["id"], 40002.0, 0.02, "taker")
    ]
    assert trades[0]["fee"] == {"currency": "USDT", "cost": 0.400020}
    assert (position["side"], position["contracts"], position["entryPrice"]) == ("long", 0.02, 40002.0)


async def test_a_limit_order_rests_until_the_path_reaches_it_and_the_clock_halts_there(venue):
    order = await venue.exchange.create_order(BTC, "limit", "buy", 0.01, 39000, {"newClientOrderId": "qt-limit"})
    assert (order["status"], order["filled"]) == ("open", 0.0)
    assert [o["id"] for o in await venue.exchange.fetch_open_orders(BTC)] == [order["id"]]

    stopped = await venue.advance(START + 8 * HOUR)

    assert stopped["halted"] is True
    assert START + 4 * HOUR < stopped["now_ms"] < START + 5 * HOUR
    assert stopped["last_trade_id"] == 1
    filled = await venue.exchange.fetch_order(order["id"], BTC)
    assert (filled["status"], filled["average"]) == ("closed", 39000.0)
    (trade,) = await venue.exchange.fetch_my_trades(BTC)
    assert (trade["takerOrMaker"], trade["timestamp"]) == ("maker", stopped["now_ms"])
    assert await venue.advance(START + 8 * HOUR) == {
        "now_ms": START + 8 * HOUR,
        "halted": False,
        "last_trade_id": 1,
    }


async def test_of_several_resting_orders_the_one_that_the_path_reaches_first_fills_first(venue):
    exchange = venue.exchange
    await exchange.create_order(BTC, "limit", "buy", 0.01, 38900)
    await exchange.create_order(ETH, "limit", "buy", 0.1, 1965)
    await exchange.create_order(BTC, "limit", "buy", 0.01, 39500)

    halts = []
    while (reply := await venue.advance(START + 6 * HOUR))["halted"]:
        halts.append(reply["now_ms"])
    trades = await exchange.fetch_my_trades(BTC) + await exchange.fetch_my_trades(ETH)
    by_time = sorted(trades, key=lambda trade: int(trade["id"]))

    assert [trade["price"] for trade in by_time] == [39500.0, 1965.0, 38900.0]
    assert [trade["timestamp"] for trade in by_time] == halts
    assert halts == sorted(set(halts))


async def test_a_stop_triggers_into_an_ordinary_market_order_linked_to_it(venue):
    await venue.exchange.create_order(BTC, "market", "buy", 0.02)
    params = {"clientAlgoId": "qt-stop", "stopPrice": 39500, "reduceOnly": True}
    stop = await venue.exchange.create_order(BTC, "STOP_MARKET", "sell", 0.02, None, params)
    by_client_id = {"clientAlgoId": "qt-stop", "trigger": True}
    with pytest.raises(ccxt.OrderNotFound):
        await venue.exchange.fetch_order(None, BTC, {"origClientOrderId": "qt-stop"})
    assert [o["id"] for o in await venue.exchange.fetch_open_orders(BTC, params={"trigger": True})] == [stop["id"]]
    assert await venue.exchange.fetch_open_orders(BTC) == []

    stopped = await venue.advance(START + 6 * HOUR)

    algo = await venue.exchange.fetch_order(None, BTC, by_client_id)
    spawned = await venue.exchange.fetch_order(algo["info"]["actualOrderId"], BTC)
    assert stopped["halted"] is True
    assert (algo["status"], algo["info"]["algoStatus"]) == ("closed", "FINISHED")
    assert (spawned["status"], spawned["average"], spawned["filled"]) == ("closed", 39498.0, 0.02)
    assert await venue.exchange.fetch_positions([BTC]) == []
    assert await venue.exchange.fetch_open_orders(BTC, params={"trigger": True}) == []


async def test_a_target_that_the_market_gaps_over_fills_around_the_open(venue):
    await venue.advance(START + 5 * HOUR)
    await venue.exchange.create_order(BTC, "market", "buy", 0.02)
    params = {"clientAlgoId": "qt-target", "stopPrice": 40000, "reduceOnly": True}
    await venue.exchange.create_order(BTC, "TAKE_PROFIT_MARKET", "sell", 0.02, None, params)

    stopped = await venue.advance(START + 8 * HOUR)

    algo = await venue.exchange.fetch_order(None, BTC, {"clientAlgoId": "qt-target", "trigger": True})
    assert (stopped["now_ms"], stopped["halted"]) == (START + 6 * HOUR, True)
    assert float(algo["info"]["actualPrice"]) == 40497.9


async def test_a_reduce_only_stop_without_a_position_is_rejected_when_it_triggers(venue):
    params = {"clientAlgoId": "qt-lonely", "stopPrice": 39500, "reduceOnly": True}
    await venue.exchange.create_order(BTC, "STOP_MARKET", "sell", 0.02, None, params)
    await venue.advance(START + 6 * HOUR)

    algo = await venue.exchange.fetch_order(None, BTC, {"clientAlgoId": "qt-lonely", "trigger": True})
    assert (algo["status"], algo["info"]["actualOrderId"]) == ("rejected", "")
    assert await venue.exchange.fetch_my_trades(BTC) == []


async def test_orders_of_both_kinds_are_cancelled_once_and_unknown_ones_are_not_found(venue):
    exchange = venue.exchange
    await exchange.create_order(BTC, "limit", "buy", 0.01, 39000, {"newClientOrderId": "qt-limit"})
    await exchange.create_order(BTC, "STOP_MARKET", "buy", 0.01, None, {"clientAlgoId": "qt-stop", "stopPrice": 41000})

    cancelled = await exchange.cancel_order(None, BTC, {"origClientOrderId": "qt-limit"})
    await exchange.cancel_order(None, BTC, {"clientAlgoId": "qt-stop", "trigger": True})
    algo = await exchange.fetch_order(None, BTC, {"clientAlgoId": "qt-stop", "trigger": True})

    assert (cancelled["status"], algo["status"]) == ("canceled", "canceled")
    for request in (
        exchange.cancel_order(None, BTC, {"origClientOrderId": "qt-limit"}),
        exchange.cancel_order(None, BTC, {"clientAlgoId": "qt-stop", "trigger": True}),
        exchange.cancel_order("77", BTC),
        exchange.fetch_order("77", BTC),
        exchange.fetch_order(None, BTC, {"clientAlgoId": "none", "trigger": True}),
    ):
        with pytest.raises(ccxt.OrderNotFound):
            await request


async def test_everything_resting_on_a_symbol_can_be_cancelled_at_once(venue):
    exchange = venue.exchange
    await exchange.create_order(BTC, "limit", "buy", 0.01, 39000)
    await exchange.create_order(ETH, "limit", "buy", 0.1, 1950)
    await exchange.create_order(BTC, "STOP_MARKET", "buy", 0.01, None, {"stopPrice": 41000})
    await exchange.cancel_all_orders(BTC)
    await exchange.cancel_all_orders(BTC, {"trigger": True})

    assert (await venue.status())["open_orders"] == 1
    assert (await venue.status())["open_algo_orders"] == 0


async def test_a_client_id_may_not_be_used_twice_while_its_order_rests(venue):
    exchange, params = venue.exchange, {"newClientOrderId": "qt-1"}
    await exchange.create_order(BTC, "limit", "buy", 0.01, 39000, params)
    with pytest.raises(ccxt.ExchangeError) as order:
        await exchange.create_order(BTC, "limit", "buy", 0.01, 39000, params)
    algo_params = {"clientAlgoId": "qt-1", "stopPrice": 41000}
    await exchange.create_order(BTC, "STOP_MARKET", "buy", 0.01, None, algo_params)
    with pytest.raises(ccxt.ExchangeError) as algo:
        await exchange.create_order(BTC, "STOP_MARKET", "buy", 0.01, None, algo_params)

    assert (code_in(order), code_in(algo)) == (-4116, -4116)
    assert len(await exchange.fetch_open_orders(BTC)) == 1


async def test_f19_orders_below_the_notional_without_margin_or_with_a_passed_trigger_are_refused(venue):
    exchange = venue.exchange
    await exchange.set_leverage(1, BTC)
    refused = [
        ("market", "buy", 0.002, {}, -4164),
        ("market", "buy", 0.3, {}, -2019),
        ("market", "sell", 0.01, {"reduceOnly": True}, -2022),
        ("STOP_MARKET", "sell", 0.01, {"stopPrice": 40000}, -2021),
        ("TAKE_PROFIT_MARKET", "sell", 0.01, {"stopPrice": 39000}, -2021),
    ]
    for kind, side, amount, params, code in refused:
        with pytest.raises(ccxt.ExchangeError) as error:
            await exchange.create_order(BTC, kind, side, amount, None, params)
        assert code_in(error) == code

    assert (await venue.status())["wallet_balance"] == "10000"


async def test_the_wallet_is_start_plus_profit_less_fees_plus_funding_to_the_last_digit(venue):
    exchange = venue.exchange
    await exchange.set_leverage(1, BTC)
    await exchange.set_margin_mode("isolated", BTC)
    await exchange.create_order(BTC, "market", "buy", 0.05)
    await venue.advance(START + 9 * HOUR)  # over the funding of 08:00, where the bar opens at 41,600
    await exchange.create_order(BTC, "market", "sell", 0.05, None, {"reduceOnly": True})

    trades = await exchange.fetch_my_trades(BTC)
    (funding,) = await exchange.fetch_funding_history(BTC)
    balance = await exchange.fetch_balance()
    profit = sum(Decimal(trade["info"]["realizedPnl"]) for trade in trades)
    fees = sum(Decimal(trade["info"]["commission"]) for trade in trades)
    paid = Decimal(funding["info"]["income"])

    assert (funding["timestamp"], paid) == (START + 8 * HOUR, -Decimal("0.05") * 41600 * Decimal("0.0001"))
    assert profit == (Decimal("41497.9") - Decimal("40002.0")) * Decimal("0.05")
    assert Decimal(balance["info"]["totalWalletBalance"]) == 10_000 + profit - fees + paid
    assert balance["USDT"]["total"] == float(10_000 + profit - fees + paid)


async def test_what_positions_and_resting_orders_hold_is_not_free(venue):
    exchange = venue.exchange
    await exchange.set_leverage(1, BTC)
    await exchange.set_margin_mode("isolated", BTC)
    await exchange.create_order(BTC, "market", "buy", 0.05)
    await exchange.create_order(BTC, "limit", "buy", 0.05, 39000)
    usdt = (await exchange.fetch_balance())["USDT"]

    assert usdt["free"] == pytest.approx(10_000 - 0.05 * 40002 * 1.0005 - 0.05 * 39000)
    assert usdt["used"] == pytest.approx(0.05 * 40002 + 0.05 * 39000)


async def test_trades_are_paged_by_id_and_by_time(venue):
    exchange = venue.exchange
    for number in range(4):
        await exchange.create_order(BTC, "market", "buy" if number % 2 == 0 else "sell", 0.01)
        await venue.advance(START + (number + 1) * 60_000)

    ids = [t["id"] for t in await exchange.fetch_my_trades(BTC, params={"fromId": 3})]
    since = [t["id"] for t in await exchange.fetch_my_trades(BTC, since=START + 60_000, limit=2)]
    newest = [t["id"] for t in await exchange.fetch_my_trades(BTC, limit=1)]
    assert (ids, since, newest) == (["3", "4"], ["2", "3"], ["4"])


async def test_an_order_on_a_symbol_that_is_not_there_is_refused(venue):
    with pytest.raises(ccxt.BadSymbol):
        await venue.exchange.fapiPrivatePostOrder(
            {"symbol": "NOPEUSDT", "side": "BUY", "type": "MARKET", "quantity": "1"}
        )


async def test_wrong_keys_and_signatures_are_refused(venue):
    exchange = venue.exchange
    for field, value, code in (("secret", "other", -1022), ("apiKey", "other", -2015)):
        kept = getattr(exchange, field)
        setattr(exchange, field, value)
        with pytest.raises(ccxt.AuthenticationError) as error:
            await exchange.fetch_balance()
        setattr(exchange, field, kept)
        assert code_in(error) == code
    naked = await venue.http.get("/fapi/v3/account?timestamp=1")
    assert (naked.status_code, naked.json()["code"]) == (401, -2014)


async def test_a_request_changed_on_the_way_is_refused(venue):
    query = f"symbol=BTCUSDT&timestamp={venue.exchange.milliseconds()}"
    signature = hmac.new(b"paper", query.encode(), hashlib.sha256).hexdigest()
    headers = {"X-MBX-APIKEY": "paper"}

    good = await venue.http.get(f"/fapi/v1/openOrders?{query}&signature={signature}", headers=headers)
    bad = await venue.http.get(
        f"/fapi/v1/openOrders?{query.replace('BTC', 'ETH')}&signature={signature}", headers=headers
    )
    unsigned = await venue.http.get(f"/fapi/v1/openOrders?{query}", headers=headers)
    assert good.status_code == 200
    assert (bad.json()["code"], unsigned.json()["code"]) == (-1022, -1102)


@pytest.mark.parametrize("skew_ms", [-4_000, 2_000])
async def test_f35_a_skewed_clock_is_refused_until_the_client_syncs_with_the_server_time(settings, serve, skew_ms):
    wall_ms = ccxt.binanceusdm.milliseconds
    async with serve(settings, wall_clock=lambda: wall_ms() - skew_ms) as served:
        exchange = served.exchange
        exchange.options["recvWindow"] = 3_000
        with pytest.raises(ccxt.InvalidNonce) as error:
            await exchange.fapiPrivateGetOpenOrders({})
        await exchange.load_time_difference()
        synced = await exchange.fapiPrivateGetOpenOrders({"timestamp": wall_ms() - exchange.options["timeDifference"]})

    assert code_in(error) == -1021
    assert synced == []


async def test_replies_tell_the_weight_used_and_orders_their_count(venue):
    await venue.exchange.create_order(BTC, "market", "buy", 0.01)
    order = venue.exchange.last_response_headers
    depth = await venue.http.get("/fapi/v1/depth?symbol=BTCUSDT")
    again = await venue.http.get("/fapi/v1/depth?symbol=BTCUSDT")

    shown = {name.lower(): value for name, value in order.items()}
    assert (shown["x-mbx-order-count-10s"], shown["x-mbx-order-count-1m"]) == ("1", "1")
    assert int(again.headers["x-mbx-used-weight-1m"]) - int(depth.headers["x-mbx-used-weight-1m"]) == 5


async def test_the_clock_never_goes_back(venue):
    await venue.advance(START + HOUR)
    reply = await venue.http.post("/sim/advance", json={"to_ms": START})
    nonsense = await venue.http.post("/sim/advance", json={"to": 1})

    assert (reply.status_code, nonsense.status_code) == (400, 400)
    assert (await venue.status())["now_ms"] == START + HOUR


async def test_where_the_fleet_has_a_token_the_clock_needs_it(settings, serve):
    guarded = SimSettings(**{**settings.model_dump(), "api_token": "let-me"})
    async with serve(guarded) as served:
        refused = await served.http.post("/sim/advance", json={"to_ms": START + HOUR})
        let_in = await served.http.post(
            "/sim/advance", json={"to_ms": START + HOUR}, headers={"Authorization": "Bearer let-me"}
        )
    assert (refused.status_code, let_in.status_code) == (401, 200)

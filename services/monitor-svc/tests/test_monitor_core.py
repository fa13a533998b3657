"""From facts to the view: windows in market time, lamps, shares, sources and ages."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from browser.line import HOUR_MS, Line
from monitor_svc.activity import shares_pct, silent_symbols
from monitor_svc.core import Choice, Place, view
from monitor_svc.documents import Info, Model, Readiness, RiskLimits, RiskStatus
from monitor_svc.facts import BARS_SHOWN, Facts, window_bars
from monitor_svc.reader import StreamReader
from monitor_svc.settings import Settings
from monitor_svc.view import View
from monitor_svc.view_of_fleet import AgentRow, Source
from quantum_common.bus import MemoryBus
from quantum_common.domain import AGENTS, SERVICE_PORTS, Action

NOW = 1_700_000_000_000
BAR = 1_699_999_200_000 // HOUR_MS * HOUR_MS
BTC, ETH = "BTCUSDT", "ETHUSDT"
PLACE = Place("paper", "1h", "replay")


class Scene:
    """A line, the monitor's reader, and the facts it has read by `now_ms`."""

    def __init__(self) -> None:
        self.line = Line(MemoryBus(), NOW - 60_000)
        self.facts = Facts.empty("1h", SERVICE_PORTS)
        self.now_ms = NOW
        self.reader = StreamReader(Settings(), self.line.bus, self.facts, lambda: self.now_ms)
        for seen in self.facts.services.values():
            seen.alive.good(True, NOW - 1_000)

    async def view(self, choice: Choice = Choice(), place: Place = PLACE) -> View:  # noqa: B008
        await self.reader.turn()
        return view(self.facts, place, self.now_ms, choice)

    async def agent(self, name: str) -> AgentRow:
        return next(row for row in (await self.view()).activity.agents if row.name == name)


async def full_bar(line: Line, bar_ms: int, symbols: tuple[str, ...] = (BTC,)) -> None:
    for symbol in symbols:
        await line.bar(symbol, bar_ms)
        await line.votes(symbol, bar_ms, Action.HOLD)
        await line.decide(symbol, bar_ms, Action.HOLD)


@pytest.mark.parametrize(("timeframe", "bars"), [("1m", 5), ("5m", 1), ("15m", 24), ("1h", 24), ("1d", 24)])
def test_the_window_is_five_minutes_or_24_bars_where_a_bar_is_longer(timeframe: str, bars: int) -> None:
    assert window_bars(timeframe) == bars


async def test_counts_are_of_the_last_24_bars_of_market_time_whatever_the_wall_clock_says() -> None:
    scene = Scene()
    for number in range(30):
        await full_bar(scene.line, BAR + number * HOUR_MS)
    scene.now_ms += 10 * 24 * HOUR_MS
    seen = await scene.view()
    assert [row.predictions for row in seen.activity.agents] == [24] * 5
    assert seen.variety.total == 24
    assert (seen.window.heading, seen.window.newest_bar_ms) == ("last 24 bars", BAR + 29 * HOUR_MS)
    assert seen.window.from_ms == BAR + 6 * HOUR_MS


async def test_a_gap_in_the_bars_does_not_stretch_the_window() -> None:
    scene = Scene()
    await full_bar(scene.line, BAR)
    await full_bar(scene.line, BAR + 24 * HOUR_MS)
    assert (await scene.agent("xgb-agent")).predictions == 1


async def test_votes_and_abstentions_are_counted_apart() -> None:
    scene = Scene()
    await scene.line.bar(BTC, BAR)
    await scene.line.vote("xgb", BTC, BAR, Action.BUY)
    await scene.line.abstain("nhits", BTC, BAR)
    voted, abstained = await scene.agent("xgb-agent"), await scene.agent("nhits-agent")
    assert (voted.predictions, voted.actions, voted.abstentions) == (1, {"BUY": 1}, 0)
    assert (abstained.predictions, abstained.actions, abstained.abstentions) == (0, {}, 1)
    assert abstained.abstain_reasons == ("not_enough_history",)


async def test_agents_that_each_say_one_thing_do_not_look_varied_together() -> None:
    scene = Scene()
    for number in range(24):
        await scene.line.bar(BTC, BAR + number * HOUR_MS)
        for agent, action in (("xgb", Action.HOLD), ("lgbm", Action.SELL)):  # P(HOLD) 0.5 and 0.2, always
            await scene.line.vote(agent, BTC, BAR + number * HOUR_MS, action)
    low, high = (await scene.view()).variety.hold_range or (0.0, 1.0)
    assert high == pytest.approx(low)
    await scene.line.bar(BTC, BAR + 24 * HOUR_MS)
    for number in range(12):
        await scene.line.vote("nhits", BTC, BAR + 24 * HOUR_MS, (Action.HOLD, Action.SELL)[number % 2])
    assert (await scene.view()).variety.hold_range == pytest.approx((0.2, 0.5))


async def test_an_abstention_on_the_newest_bar_is_a_sign_of_life_and_no_vote_is_not() -> None:
    scene = Scene()
    await scene.line.bar(BTC, BAR)
    await scene.line.abstain("nhits", BTC, BAR)
    assert (await scene.agent("nhits-agent")).green
    silent = await scene.agent("xgb-agent")
    assert not silent.green
    assert silent.why == "silent on the newest bar of BTCUSDT"


async def test_a_vote_on_one_symbol_does_not_speak_for_another() -> None:
    scene = Scene()
    for symbol in (BTC, ETH):
        await scene.line.bar(symbol, BAR)
    await scene.line.votes(BTC, BAR, Action.HOLD)
    assert (await scene.agent("xgb-agent")).why == "silent on the newest bar of ETHUSDT"


async def test_a_bar_of_this_moment_still_waits_for_its_votes() -> None:
    scene = Scene()
    await full_bar(scene.line, BAR)
    scene.line.at_ms = scene.now_ms - 1_000
    await scene.line.bar(BTC, BAR + HOUR_MS)
    assert (await scene.agent("xgb-agent")).green
    scene.now_ms += 5_000
    assert silent_symbols(scene.facts.market, "xgb-agent", scene.now_ms) == [BTC]


@pytest.mark.parametrize(("age_s", "green"), [(0, True), (15, True), (16, False)])
async def test_an_agent_without_a_heartbeat_for_15_s_is_red(age_s: int, green: bool) -> None:
    scene = Scene()
    await full_bar(scene.line, BAR)
    alive = scene.facts.services["xgb-agent"].alive
    alive.good(True, scene.now_ms - age_s * 1_000)
    alive.bad("xgb-agent cannot be reached")
    row = await scene.agent("xgb-agent")
    assert row.green is green
    assert row.why == ("" if green else "no heartbeat for 16 s: xgb-agent cannot be reached")


async def test_an_agent_that_never_answered_is_shown_red_with_the_reason() -> None:
    scene = Scene()
    scene.facts = Facts.empty("1h", SERVICE_PORTS)
    scene.reader = StreamReader(Settings(), scene.line.bus, scene.facts, lambda: scene.now_ms)
    await full_bar(scene.line, BAR)
    row = await scene.agent("lgbm-agent")
    assert (row.green, row.why, row.predictions) == (False, "not asked yet", 1)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=5).filter(any))
def test_shares_add_up_to_one_hundred_and_are_right_to_a_tenth(counts: list[int]) -> None:
    shares = shares_pct(counts)
    assert round(sum(shares), 6) == 100.0
    for count, share in zip(counts, shares, strict=True):
        assert abs(share - 100 * count / sum(counts)) < 0.1 + 1e-9


def test_shares_of_nothing_are_zero() -> None:
    assert shares_pct([0, 0, 0]) == [0.0, 0.0, 0.0]


def sources(seen: View) -> dict[str, Source]:
    parts = {name: getattr(seen, name) for name in View.__struct_fields__}
    return {name: part.source for name, part in parts.items() if hasattr(part, "source")}


async def test_f24_no_part_of_the_view_is_without_source_and_age() -> None:
    scene = Scene()
    await full_bar(scene.line, BAR)
    decision_id = await scene.line.decide(ETH, BAR, Action.BUY)
    await scene.line.reject(decision_id, ETH, BAR, Action.BUY, "LOW_CONFIDENCE", "LOW_CONFIDENCE (0.600 < 0.650)")
    await scene.line.account("10000", "9990", BAR)
    seen = await scene.view()
    facts = {"updated_at_ms", "account", "timeframe", "clock", "window"}
    assert set(sources(seen)) == set(View.__struct_fields__) - facts
    for name, source in sources(seen).items():
        assert source.name, name
        assert source.age_s is not None or source.problem, name
    assert seen.prices.source.age_s == 60.0


async def test_a_stream_that_cannot_be_read_makes_its_tiles_stale_after_15_s_and_keeps_what_was_seen() -> None:
    scene = Scene()
    await full_bar(scene.line, BAR)
    await scene.view()
    scene.facts.read.bad("bus unavailable: refused")
    for age_s, stale in ((15, False), (16, True)):
        seen = view(scene.facts, PLACE, NOW + age_s * 1_000)
        assert seen.variety.source == Source("decisions stream", 60.0 + age_s, stale, "bus unavailable: refused")
        assert seen.variety.total == 1


async def test_live_a_bar_that_is_overdue_makes_its_tiles_stale_and_in_a_replay_it_does_not() -> None:
    scene = Scene()
    await full_bar(scene.line, BAR)
    scene.now_ms += 2 * HOUR_MS
    assert not (await scene.view()).prices.source.stale
    live = await scene.view(place=Place("paper", "1h", "live"))
    assert live.prices.source.stale
    assert "two bars" in live.prices.source.problem


async def test_nothing_is_made_up_where_nothing_is_known() -> None:
    seen = await Scene().view()
    assert (seen.risk.balance_usd, seen.risk.drawdown_pct, seen.risk.emergency_stop) == (None, None, None)
    assert (seen.meta.override_rate, seen.variety.hold_range, seen.decisions.explained) == (None, None, None)
    assert seen.risk.source.problem == "not asked yet"
    assert all(not row.green for row in seen.activity.agents)
    assert {row.version for row in seen.models.rows} == {None}


def risk_status(*pnls: str, **changed: object) -> RiskStatus:
    document = {
        "initial_balance": 10_000.0, "current_balance": 10_031.29, "peak_balance": 10_085.97, "equity": 10_024.87,
        "trade_history": [{"pnl": float(pnl)} for pnl in pnls], "daily_trades": 8, "max_daily_trades": 20,
        "drawdown": 0.0061, "trading_state": "ACTIVE", "emergency_stop": False, "exposure_usd": 0.0,
        "exposure_limit_usd": 5_000.0,
    } | changed  # fmt: skip
    return msgspec.json.decode(msgspec.json.encode(document), type=RiskStatus)


async def test_the_win_rate_is_of_the_last_20_closed_trades_and_money_stays_exact() -> None:
    scene = Scene()
    scene.facts.risk.good(risk_status(*["-1"] * 5, *["2"] * 13, *["0"] * 7), NOW - 2_000)
    scene.facts.limits.good(RiskLimits(0.15), NOW)
    risk = (await scene.view()).risk
    assert (risk.wins, risk.recent_trades, risk.win_rate_pct) == (13, 20, 65.0)
    assert (str(risk.balance_usd), str(risk.peak_balance_usd)) == ("10031.29", "10085.97")
    assert (round(risk.drawdown_pct or 0, 6), risk.max_drawdown_pct) == (0.61, 15.0)
    assert risk.source == Source("governer-svc /api/risk/status", 2.0, False)


async def test_an_answer_that_is_16_s_old_is_stale() -> None:
    scene = Scene()
    scene.facts.risk.good(risk_status(), NOW - 16_000)
    scene.facts.risk.bad("governer-svc cannot be reached")
    risk = (await scene.view()).risk
    assert risk.source == Source("governer-svc /api/risk/status", 16.0, True, "governer-svc cannot be reached")
    assert risk.balance_usd is not None


async def test_model_ages_are_market_time_up_to_the_close_of_the_newest_bar() -> None:
    scene = Scene()
    await full_bar(scene.line, BAR)
    served = Model("20260101-ab", "unproven", BAR - 35 * HOUR_MS)
    scene.facts.services["xgb-agent"].info.good(Info("0.1.0", served), NOW)
    row = (await scene.view()).models.rows[0]
    assert (row.agent, row.version, row.quality, row.age_days) == ("xgb", "20260101-ab", "unproven", 1.5)


async def test_a_service_says_why_it_is_not_ready_and_one_beside_the_line_may_be_absent() -> None:
    scene = Scene()
    services = scene.facts.services
    services["feature-svc"].readiness.good(Readiness(False, ("stale: BTCUSDT",)), NOW)
    services["meta-svc"].readiness.good(Readiness(True), NOW)
    services["trainer-svc"].alive.at_ms = None
    services["xgb-agent"].alive.at_ms = NOW - 60_000
    rows = {row.name: row for row in (await scene.view()).services.rows}
    assert (rows["feature-svc"].state, rows["feature-svc"].reasons) == ("not ready", ("stale: BTCUSDT",))
    states = [rows[name].state for name in ("meta-svc", "trainer-svc", "xgb-agent")]
    assert states == ["ready", "not running", "down"]


async def test_a_service_that_lives_and_no_longer_says_whether_it_is_ready_is_not() -> None:
    scene = Scene()
    seen = scene.facts.services["meta-svc"]
    seen.readiness.good(Readiness(True), NOW - 60_000)
    seen.readiness.bad("meta-svc does not answer within 1.5 s")
    seen.info.good(Info("0.1.0", Model("20260101-ab", "proven")), NOW - 60_000)
    seen.info.bad("meta-svc answers 500 to /info")
    view = await scene.view()
    [row] = [row for row in view.services.rows if row.name == "meta-svc"]
    assert (row.state, row.reasons) == ("not ready", ("meta-svc does not answer within 1.5 s",))
    assert view.models.rows[-1].problem == "meta-svc answers 500 to /info"


async def test_the_chosen_decision_is_explained_with_its_contributions_sorted_and_its_verdict() -> None:
    scene = Scene()
    await full_bar(scene.line, BAR)
    chosen = await scene.line.decide(ETH, BAR - HOUR_MS, Action.BUY)
    await scene.line.reject(chosen, ETH, BAR - HOUR_MS, Action.BUY, "LOW_CONFIDENCE", "LOW_CONFIDENCE (0.600 < 0.650)")
    told = (await scene.view(Choice(decision_id=chosen))).decisions.explained
    assert told
    assert (told.row.symbol, told.row.action, told.row.verdict) == (ETH, "BUY", "LOW_CONFIDENCE")
    assert told.verdict_detail == "LOW_CONFIDENCE (0.600 < 0.650)"
    assert [(row.name, row.contribution) for row in told.contributions] == [("volatility", -0.75), ("xgb_buy", 0.25)]
    assert [vote.agent for vote in told.votes] == list(AGENTS)
    newest = (await scene.view()).decisions
    assert newest.explained
    assert newest.explained.row.bar_ts_ms == BAR
    gone = (await scene.view(Choice(decision_id="gone"))).decisions
    assert (gone.explained, gone.problem) == (None, "this decision is not among the newest any more")


async def test_the_price_tile_shows_the_chosen_symbol_with_its_own_decisions_and_fills() -> None:
    scene = Scene()
    for number in range(3):
        await full_bar(scene.line, BAR + number * HOUR_MS, (BTC, ETH))
    await scene.line.fill(ETH, BAR + HOUR_MS, "101.5")
    shown = (await scene.view(Choice(symbol=ETH))).prices
    assert (shown.symbol, shown.symbols) == (ETH, (BTC, ETH))
    assert len(shown.bars) == len(shown.decisions) == 3
    assert {row.symbol for row in shown.decisions} == {ETH}
    assert [str(fill.price) for fill in shown.fills] == ["101.5"]
    assert (await scene.view(Choice(symbol="NOPE"))).prices.symbol == BTC


async def test_what_is_held_stays_bounded() -> None:
    scene = Scene()
    for number in range(BARS_SHOWN + 40):
        await full_bar(scene.line, BAR + number * HOUR_MS)
        await scene.line.account("10000", str(10_000 + number), BAR + number * HOUR_MS)
    seen = await scene.view()
    assert len(seen.prices.bars) == BARS_SHOWN
    assert len(scene.facts.market.tallies) <= 24 + 2
    assert str(seen.money.equity[-1].equity_usd) == str(10_000 + BARS_SHOWN + 39)


async def test_the_newest_account_is_shown_though_the_executor_counts_from_the_start_again() -> None:
    scene = Scene()
    for number in range(3):
        await scene.line.account("10000", str(10_000 + number), BAR + number * HOUR_MS)
    scene.line._sequence = 0
    await scene.line.account("10000", "9000", BAR + 3 * HOUR_MS)
    assert str((await scene.view()).money.equity[-1].equity_usd) == "9000"


async def test_a_bar_of_another_timeframe_is_none_of_this_fleets() -> None:
    scene = Scene()
    scene.facts.market.timeframe = "15m"
    await full_bar(scene.line, BAR)
    scene.reader._timeframe = "15m"
    assert (await scene.view()).window.newest_bar_ms is None


async def test_symbols_of_every_partition_are_read() -> None:
    settings = Settings(partitions=4)
    line = Line(MemoryBus(), NOW - 60_000, settings.keys)
    facts = Facts.empty("1h", SERVICE_PORTS)
    reader = StreamReader(settings, line.bus, facts, lambda: NOW)
    for symbol in (*settings.symbols, "XRPUSDT"):
        await full_bar(line, BAR, (symbol,))
    await reader.turn()
    await full_bar(line, BAR + HOUR_MS, (*settings.symbols,))
    await reader.turn()
    seen = view(facts, PLACE, NOW)
    assert len({settings.keys.tag(symbol) for symbol in settings.symbols}) > 1
    assert seen.prices.symbols == tuple(sorted((*settings.symbols, "XRPUSDT")))
    assert seen.variety.total == 2 * len(settings.symbols) + 1

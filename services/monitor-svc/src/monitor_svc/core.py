"""From facts to the view of one moment. Pure: `now_ms` (wall clock) comes in as an argument."""

from __future__ import annotations

from typing import Any, NamedTuple

from monitor_svc.activity import activity, variety, window
from monitor_svc.decisions import decisions, prices, verdicts
from monitor_svc.facts import Facts
from monitor_svc.fleet import meta_layer, models, risk, services, streams
from monitor_svc.sources import stream_source
from monitor_svc.view import View
from monitor_svc.view_of_market import Account, Position
from quantum_common.contracts.streams import EXECUTIONS


class Place(NamedTuple):
    """Which fleet is looked at."""

    account: str
    timeframe: str
    clock: str

    @property
    def is_live(self) -> bool:
        return self.clock == "live"


class Choice(NamedTuple):
    """What the reader has chosen to see; None: the first symbol, the newest decision."""

    symbol: str | None = None
    decision_id: str | None = None


NOTHING_CHOSEN = Choice()


def view(facts: Facts, place: Place, now_ms: int, choice: Choice = NOTHING_CHOSEN) -> View:
    """Everything that both dashboards show."""
    live = place.is_live
    return View(
        updated_at_ms=now_ms,
        account=place.account,
        timeframe=place.timeframe,
        clock=place.clock,
        window=window(facts.market),
        activity=activity(facts, now_ms, live),
        variety=variety(facts, now_ms, live),
        risk=risk(facts, now_ms),
        meta=meta_layer(facts, now_ms),
        prices=prices(facts, now_ms, live, choice.symbol),
        money=money(facts, now_ms),
        decisions=decisions(facts, now_ms, live, choice.decision_id),
        verdicts=verdicts(facts, now_ms, live),
        models=models(facts, now_ms, live),
        streams=streams(facts, now_ms),
        services=services(facts, now_ms),
    )


def money(facts: Facts, now_ms: int) -> Account:
    """Equity curve, open positions and closed trades, as the venue reported them through the executor."""
    market = facts.market
    held: tuple[Any, ...] = market.account.positions if market.account else ()
    return Account(
        source=stream_source(facts, EXECUTIONS, now_ms),
        equity=tuple(market.equity),
        positions=tuple(
            Position(row.symbol, row.side.value, row.quantity, row.entry_price, row.notional_usd, row.unrealised_pnl)
            for row in held
        ),
        trades=tuple(reversed(market.trades)),
    )

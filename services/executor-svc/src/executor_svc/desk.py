"""The work at the venue that the book says is due: send, ask, cancel, take in trades and funding, tell the account.

Nothing is queued elsewhere, so this is also what happens after a crash. An order is sent only by the process that has
just written its intent; every other SUBMITTING order is asked for first (F26, F27).
"""

from __future__ import annotations

import asyncio
import logging
import time
from decimal import Decimal

import msgspec

from executor_svc import core
from executor_svc.adapters.port import VenuePort
from executor_svc.core.account import WALLET_TOLERANCE, Cause, wallet_drift
from executor_svc.core.book import ID_PREFIX, Book, Order
from executor_svc.core.guards import SubmitContext
from executor_svc.core.plan import funding_due
from executor_svc.errors import VenueRefused, VenueUnreachable
from executor_svc.journal import Journal
from executor_svc.metrics import FOREIGN_TRADES, SUBMIT_LATENCY, WALLET_DRIFT
from executor_svc.settings import ExecutorSettings
from quantum_common.domain.signal import Role
from quantum_common.service.clock import MarketClock, wall_ms

log = logging.getLogger(__name__)

CLOCK_ALLOWANCE_MS = 500
"""On top of the receive window before "not found" is believed."""
IDLE_ROUNDS = 6
"""Rounds without progress (about a second) after which `settle` gives up for now."""
SETTLE_S = 5.0
"""However much it progresses, `settle` lets others have a turn after so long."""


class Desk:
    def __init__(self, journal: Journal, venue: VenuePort, clock: MarketClock, settings: ExecutorSettings) -> None:
        self._journal, self._venue, self._clock = journal, venue, clock
        self._rules, self._receive_window_ms = settings.rules, settings.venue_receive_window_ms
        self.account_trusted = False

    @property
    def minima(self) -> dict[str, Decimal]:
        return {symbol: market.min_notional_usd for symbol, market in self._venue.markets.items()}

    async def settle(self) -> bool:
        """Work until nothing is left to do; False when what is left has to wait. Raises VenueUnreachable."""
        idle, deadline = 0, time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            before = self._journal.version
            await self._round()
            if not self._journal.book.unsettled:
                return True
            idle = 0 if self._journal.version != before else idle + 1
            if idle > IDLE_ROUNDS:
                return False
            if idle:
                await asyncio.sleep(0.01 * 2**idle)
        return False

    async def look(self) -> bool:
        """Take in what happened at the venue on every exposed symbol, then settle."""
        work = core.Unfolding(self._journal.book)
        for symbol in sorted(work.book.positions):
            await self._take_trades(work, symbol)
        await self._plan_and_commit(work)
        return await self.settle()

    async def ask_all(self) -> None:
        """Ask for every resting order by its id: finds what ended at the venue without a trade."""
        work = core.Unfolding(self._journal.book)
        for order in list(work.book.orders.values()):
            if order.resting and (report := await self._venue.look_up(order)):
                work.take(core.take_report(work.book, report, wall_ms()))
        await self._plan_and_commit(work)

    async def sweep(self) -> None:
        """Open orders the book lacks: ours are cancelled, others are a drift that stops entries (F18, F29).

        Ours stay where the book lacks the position too: what was lost then is the book, and they protect it.
        """
        foreign: dict[str, int] = {}
        for symbol in sorted(self._venue.markets):
            unknown = [found for found in await self._venue.open_orders(symbol) if not self._known(symbol, found)]
            book_lost = bool(unknown) and await self._holds_beyond_the_book(symbol)
            for found in unknown:
                ours = found.client_order_id.startswith(ID_PREFIX)
                if ours and not book_lost:
                    log.error("%s: order %s is not in the book: cancelled", symbol, found.client_order_id)
                    asked_wall_ms = wall_ms()
                    await self._journal.require_lease()
                    await self._venue.cancel_open(found, asked_wall_ms)
                else:
                    why = "protects a position that is not in the book" if ours else "is not ours"
                    log.error("%s: open order %s %s", symbol, found.venue_order_id, why)
                    foreign[symbol] = foreign.get(symbol, 0) + 1
        await self._journal.commit(msgspec.structs.replace(self._journal.book, foreign_orders=foreign))

    def _known(self, symbol: str, found: core.OpenOrder) -> bool:
        known = self._journal.book.orders_of(symbol)
        ids = {order.client_order_id for order in known}
        return found.client_order_id in ids or found.venue_order_id in {order.spawned_order_id for order in known}

    async def _holds_beyond_the_book(self, symbol: str) -> bool:
        if symbol in self._journal.book.positions:
            return False
        return bool((await self._venue.account()).quantity(symbol))

    async def _round(self) -> None:
        work = core.Unfolding(self._journal.book)
        try:
            for order in list(work.book.orders.values()):
                work.take(await self._move(work.book, order))
            for symbol in sorted({o.symbol for o in work.book.orders.values() if _executing(o)}):
                await self._take_trades(work, symbol)
            for position in list(work.book.positions.values()):
                if not position.quantity and funding_due(position):
                    await self._take_funding(work, position.symbol)
        except VenueUnreachable:
            await self._plan_and_commit(work, tell=False)  # what is known stays known
            raise
        await self._plan_and_commit(work)

    async def _plan_and_commit(self, work: core.Unfolding, *, tell: bool = True) -> None:
        work.take(core.plan(work.book, self._venue.markets, self._rules, wall_ms()))
        failure: VenueUnreachable | None = None
        if tell and work.book.account_due and work.book.quiet:
            try:
                await self.tell_account(work, work.book.account_due)
            except VenueUnreachable as error:
                failure = error
        await self._journal.commit(work.book, work.drafts)
        if failure:
            raise failure

    async def _move(self, book: Book, order: Order) -> core.Outcome:
        """One step of an order that is neither resting nor over."""
        match order.state:
            case core.OrderState.SUBMITTING if self._journal.take_unsent(order.client_order_id):
                return await self._send(book, order)
            case core.OrderState.SUBMITTING:
                return await self._resolve(book, order)
            case core.OrderState.CANCELING:
                asked_wall_ms = wall_ms()
                await self._journal.require_lease()
                report = await self._venue.cancel(order, asked_wall_ms) or await self._venue.look_up(order)
                if report is None:
                    report = core.OrderReport(order.client_order_id, core.ReportStatus.CANCELED, order.venue_order_id)
            case _ if order.resting or order.executed is not None:
                report = None
            case _:
                report = await self._venue.look_up(order)
        return core.take_report(book, report, wall_ms()) if report else (book, ())

    async def _send(self, book: Book, order: Order) -> core.Outcome:
        """The only place from which an order leaves."""
        trading_state = await self._journal.trading_state() if order.role is Role.ENTRY else ""
        context = SubmitContext(self._clock.now_ms(), trading_state, self.account_trusted)
        if reason := core.refusal(book, order, self._venue.markets[order.symbol], context):
            log.error("%s %s not sent: %s", order.symbol, order.role, reason)
            return core.refuse(book, order, reason)
        if wall_ms() - order.submitted_wall_ms > self._receive_window_ms:
            log.warning("%s %s: held up for too long, the venue will be asked", order.symbol, order.role)
            return book, ()
        await self._journal.require_lease()
        try:
            with SUBMIT_LATENCY.labels(order.role).time():
                report = await self._venue.submit(order)
        except VenueRefused as error:
            return core.refuse(book, order, error.code, str(error))
        except VenueUnreachable as error:
            log.warning("%s %s: no answer, the venue will be asked: %s", order.symbol, order.role, error)
            return core.resubmit(book, order, wall_ms()), ()
        return core.take_report(book, report, wall_ms())

    async def _resolve(self, book: Book, order: Order) -> core.Outcome:
        """An intent that may or may not have reached the venue."""
        report = await self._venue.look_up(order)
        if report is not None:
            return core.take_report(book, report, wall_ms())
        if order.role is Role.ENTRY and not self.account_trusted:
            return book, ()  # no entry leaves before the first reconciliation
        latest = max(order.submitted_wall_ms, self._journal.loaded_wall_ms)
        if wall_ms() <= latest + self._receive_window_ms + CLOCK_ALLOWANCE_MS:
            return book, ()
        log.warning("%s %s never arrived: it is sent again under its id", order.symbol, order.role)
        return await self._again(book, order)

    async def _again(self, book: Book, order: Order) -> core.Outcome:
        """Write the intent again, an entry's at today's prices."""
        drafts: tuple[core.Draft, ...] = ()
        if order.role is Role.ENTRY:
            market = self._venue.markets[order.symbol]
            try:
                quote = await self._venue.quote(order.symbol)
            except VenueRefused as error:
                return core.refuse(book, order, error.code, str(error))
            book, drafts, reason = core.entry_again(book, order, market, quote, self._rules, wall_ms())
            if reason:
                return core.refuse(book, order, reason)
        else:
            book = core.resubmit(book, order, wall_ms())
        self._journal.resend_allowed(order.client_order_id)
        return book, drafts

    async def _take_trades(self, work: core.Unfolding, symbol: str) -> None:
        trades = await self._venue.trades(symbol, work.book.last_trade_ids.get(symbol, 0))
        while True:
            book, drafts, unplaced = core.take_trades(work.book, symbol, trades)
            work.take((book, drafts))
            if unplaced is None:
                return
            await self._find_owner(work, unplaced)

    async def _find_owner(self, work: core.Unfolding, trade: core.Trade) -> None:
        """A trade of an order id the book does not know: a triggered conditional order's, or not ours at all."""
        for order in work.book.orders_of(trade.symbol):
            if order.conditional and not order.spawned_order_id and (report := await self._venue.look_up(order)):
                work.take(core.take_report(work.book, report, wall_ms()))
                if report.spawned_order_id == trade.venue_order_id:
                    return
        if any(order.state is core.OrderState.SUBMITTING for order in work.book.orders_of(trade.symbol)):
            raise VenueUnreachable(f"trade {trade.trade_id} of {trade.symbol} waits for an order still being resolved")
        log.error("trade %d of %s is from no order of ours", trade.trade_id, trade.symbol)
        FOREIGN_TRADES.inc()
        work.take((core.pass_over(work.book, trade), ()))

    async def _take_funding(self, work: core.Unfolding, symbol: str) -> None:
        position = work.book.positions[symbol]
        payments = await self._venue.funding(symbol, position.opened_ts_ms)
        checked = max(position.last_fill_ts_ms, self._clock.now_ms())
        work.take(core.take_funding(work.book, symbol, payments, checked))

    async def account(self, work: core.Unfolding) -> core.AccountSnapshot:
        """The venue's account; where it is not what the book expects, after another look at trades and funding. What
        others took from a position by then is booked as its exit."""
        snapshot = await self._venue.account()
        suspects = {*core.position_drifts(work.book, snapshot)}
        if wallet_drift(work.book, snapshot):
            suspects |= {*self._venue.markets}
        for symbol in sorted(suspects & {*self._venue.markets}):
            await self._take_trades(work, symbol)
            if symbol in work.book.positions and work.book.positions[symbol].entry_quantity:
                await self._take_funding(work, symbol)
        if suspects:
            snapshot = await self._venue.account()
        drifts = core.position_drifts(work.book, snapshot)
        for position in [p for p in work.book.positions.values() if p.foreign]:
            work.take(core.take_drifts(work.book, drifts))
            work.take(core.adopt(work.book, position.symbol, snapshot.quantity(position.symbol)))
        unexplained = wallet_drift(work.book, snapshot)
        WALLET_DRIFT.set(float(unexplained))
        if abs(unexplained) > WALLET_TOLERANCE and unexplained != work.book.wallet_drift:
            log.error("the wallet differs by %s USDT from what fills, fees and funding explain", unexplained)
        return snapshot

    async def tell_account(self, work: core.Unfolding, cause: Cause) -> None:
        snapshot = await self.account(work)
        now_ms = self._clock.now_ms()
        work.take(core.take_account(work.book, snapshot, cause, market_now_ms=now_ms, min_notional_usd=self.minima))


def _executing(order: Order) -> bool:
    return order.state is not core.OrderState.SUBMITTING and not order.resting

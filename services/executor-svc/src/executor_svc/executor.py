"""The executor: one actor that takes approvals, closed bars and wake-ups one after the other."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from executor_svc import core
from executor_svc.adapters.port import VenuePort
from executor_svc.core.account import Cause
from executor_svc.core.approvals import is_repeat
from executor_svc.desk import Desk
from executor_svc.errors import StandsBy, Superseded, VenueRefused, VenueUnreachable
from executor_svc.journal import Journal
from executor_svc.settings import ExecutorSettings
from quantum_common.bus import Bus, BusUnavailable, Entry, Lease
from quantum_common.bus.consumer import Received
from quantum_common.contracts import Envelope, FeaturesComputed, Look, PositionApproved
from quantum_common.domain.signal import Intent
from quantum_common.domain.timeframe import decision_ts_ms
from quantum_common.service import MarketClock, Stop
from quantum_common.service.clock import wall_ms

log = logging.getLogger(__name__)

Key = tuple[str, str]
Work = dict[Key, Received]


def _key(entry: Entry) -> Key:
    return entry.stream, entry.entry_id


class Executor:
    """Works while it holds the account's lease; without it, it only shows the book."""

    _NOT_STARTED = -1

    def __init__(self, settings: ExecutorSettings, bus: Bus, venue: VenuePort, clock: MarketClock) -> None:
        self._settings, self._venue, self._clock = settings, venue, clock
        self.lease = Lease(bus, settings.keys.lease(settings.service), settings.instance)
        self.journal = Journal(bus, settings.keys, settings.producer, self.lease)
        self.desk = Desk(self.journal, venue, clock, settings)
        self._lock = asyncio.Lock()
        self._held: Work = {}
        self._started_under = self._NOT_STARTED
        """Token of the lease under which the account was set up and reconciled."""
        self._look_due = False
        self._trouble = "starting"
        self._next_reconcile = 0.0

    def not_ready(self) -> list[str]:
        """An instance that stands by is ready: to take over."""
        if self.lease.elsewhere:
            return []
        reasons = [self._trouble] if self._trouble else []
        if abs(self._venue.skew_ms) > self._settings.max_skew_ms:
            reasons.append(f"clock differs from the venue's by {self._venue.skew_ms} ms")
        book = self.journal.book
        reasons += [f"position of {symbol} differs from the venue's" for symbol in book.drifts]
        reasons += [f"open orders of {symbol} that are not ours" for symbol in book.foreign_orders]
        if book.wallet_drift:
            reasons.append(f"wallet differs by {book.wallet_drift} USDT from what was booked: explain it, then restart")
        return reasons

    @property
    def _started(self) -> bool:
        return self._started_under == self.lease.token

    async def start(self, stop: Stop, beat: Callable[[], None]) -> None:
        """Forget what is held, since the bus hands it out again; under a new lease set the account up and reconcile, as
        often as it takes. Raises RefusesToTrade."""
        async with self._lock:
            self._held.clear()
            self.journal.forget()
        delay_s = 0.1
        while not stop.requested and self.lease.held and not self._started:
            beat()
            try:
                await self._start_once()
            except (VenueUnreachable, BusUnavailable, Superseded) as error:
                self._trouble = "venue or bus unreachable"
                log.warning("start waits: %s", error)
                await stop.wait(delay_s)
                delay_s = min(2 * delay_s, 5.0)

    async def _start_once(self) -> None:
        async with self._lock:
            token = self.lease.token
            self.desk.account_trusted = False
            await self.journal.load()
            await self._venue.start(sorted({*self._settings.symbols, *self.journal.book.positions}))
            await self._baseline()
            await self._reconcile("start")
            self.desk.account_trusted = True
            self._started_under, self._trouble = token, ""

    async def _baseline(self) -> None:
        """Trades from before the first start with a symbol are none of ours."""
        known = self.journal.book.last_trade_ids
        new = {s: await self._venue.newest_trade_id(s) for s in sorted(self._venue.markets) if s not in known}
        await self.journal.commit(msgspec.structs.replace(self.journal.book, last_trade_ids={**known, **new}))

    async def handle(self, batch: Sequence[Received]) -> None:
        """Take a batch in. What cannot be done now (the venue does not answer) is held and tried again; after any
        other error nothing of the batch is, so that the caller can find the entry that causes it (F03)."""
        fresh = {_key(received.entry): received for received in batch}
        self._held.update(fresh)
        try:
            await self._guarded(lambda: self._work_off(frozenset(fresh)))
        except Exception:
            self._forget([received.entry for received in batch])
            raise

    async def look(self, look: Look) -> None:
        """The conductor moved the venue's clock: take in what happened there, as often as it takes."""
        if look.subject == "clock":
            self._look_due = True
            if self.lease.held and self._started:
                await self._guarded(self._look)

    async def flatten(self) -> int:
        """Close every position at market; returns how many there were. Raises StandsBy."""
        if not (self.lease.held and self._started):
            raise StandsBy("this instance does not work for the account now")
        async with self._lock:
            await self._loaded()
            book = core.flatten(self.journal.book)
            await self.journal.commit(book)
            await self.desk.settle()
            return len(book.positions)

    async def refresh(self) -> None:
        """For readers: what an instance that does not work has in memory is old."""
        if not self.lease.held:
            async with self._lock:
                await self.journal.load()

    async def watch(self, stop: Stop, beat: Callable[[], None]) -> None:
        """Retry what is held or unsettled; live also look at the venue while exposed, and reconcile."""
        replay = self._clock.is_replay
        while not await stop.wait(0.2 if replay else self._settings.look_every_s):
            beat()
            if self.lease.held and self._started:
                try:
                    await self._guarded(self._retry if replay else self._tend)
                except BusUnavailable as error:
                    log.warning("bus unavailable, retrying: %s", error)

    async def _guarded(self, work: Callable[[], Any]) -> None:
        async with self._lock:
            try:
                await self._loaded()
                await work()
                self._trouble = ""
            except Superseded as error:
                log.warning("%s", error)
            except VenueUnreachable as error:
                self._trouble = "venue unreachable"
                log.warning("venue unreachable, retrying: %s", error)

    async def _loaded(self) -> None:
        if not self.journal.loaded:
            await self.journal.load()

    async def _look(self) -> None:
        if self.journal.book.exposed:
            await self.desk.look()
        self._look_due = False

    async def _retry(self) -> None:
        if self._look_due:
            await self._look()
        if self.journal.book.unsettled:
            await self.desk.settle()
        await self._work_off()

    async def _tend(self) -> None:
        await self.journal.commit(core.time_stops(self.journal.book, self._clock.now_ms(), self._settings.rules))
        if time.monotonic() >= self._next_reconcile:
            await self._venue.measure_skew()
            await self._reconcile("reconcile")
        elif self.journal.book.exposed:
            await self.desk.look()
        await self._work_off()

    async def _reconcile(self, cause: Cause) -> None:
        await self.desk.settle()
        await self.desk.ask_all()
        await self.desk.look()
        await self.desk.sweep()
        self._next_reconcile = time.monotonic() + self._settings.reconcile_every_s
        work = core.Unfolding(self.journal.book)
        await self.desk.tell_account(work, cause)
        await self.journal.commit(work.book, work.drafts)
        if self.journal.book.unsettled:
            await self.desk.settle()  # the account showed that something ended there

    async def _work_off(self, fresh: frozenset[Key] = frozenset()) -> None:
        """Do all that is held; `fresh`: what the caller brought, and is told of when it fails."""
        bars: dict[tuple[int, str], list[Entry]] = {}
        approvals: list[Received] = []
        ignored: list[Entry] = []
        for received in self._held.values():
            match received.event.payload:
                case FeaturesComputed():
                    key = (received.event.bar_ts_ms, received.event.timeframe)
                    bars.setdefault(key, []).append(received.entry)
                case PositionApproved():
                    approvals.append(received)
                case _:
                    ignored.append(received.entry)
        if ignored:
            await self._acknowledge(ignored)
        for received in approvals:
            await self._alone([received.entry], fresh, self._approval(received.entry, received.event))
        for (bar_ts_ms, timeframe), entries in sorted(bars.items()):
            await self._alone(entries, fresh, self._bar(bar_ts_ms, timeframe, entries))

    async def _alone(self, entries: Sequence[Entry], fresh: frozenset[Key], work: Awaitable[None]) -> None:
        """An unexpected error is that of these entries: they are held no longer. One held from an earlier call is
        pending still, comes again by being claimed, and fails in that call."""
        try:
            await work
        except (VenueUnreachable, BusUnavailable, Superseded):
            raise
        except Exception:
            self._forget(entries)
            if any(_key(entry) in fresh for entry in entries):
                raise
            log.exception("a held entry failed; it is handed out again")

    async def _acknowledge(self, entries: Sequence[Entry]) -> None:
        await self._commit(self.journal.book, (), entries)

    async def _commit(self, book: core.Book, drafts: Sequence[core.Draft], entries: Sequence[Entry]) -> None:
        try:
            await self.journal.commit(book, drafts, entries)
        except Superseded as error:
            if error.lost:
                self._forget(entries)
            raise
        self._forget(entries)

    def _forget(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._held.pop(_key(entry), None)

    async def _approval(self, entry: Entry, event: Envelope[PositionApproved]) -> None:
        book = self.journal.book
        if is_repeat(book, event):
            return await self._acknowledge([entry])
        if event.payload.intent is Intent.CLOSE:
            book, drafts = core.approve_close(book, event)
        else:
            book, drafts = await self._entry(book, event)
        await self._commit(book, drafts, [entry])
        await self.desk.settle()

    async def _entry(self, book: core.Book, event: Envelope[PositionApproved]) -> core.Outcome:
        symbol, quote = event.symbol, core.Quote((), ())
        now_ms, rules = self._clock.now_ms(), self._settings.rules
        market = self._venue.markets.get(symbol)
        if market and symbol not in book.positions and now_ms <= event.payload.expires_at_ms:
            try:
                quote = await self._venue.quote(symbol)
            except VenueRefused as error:
                return core.refuse_open(book, event, error.code, str(error))
        return core.approve_open(book, event, market, quote, rules, market_now_ms=now_ms, wall_now_ms=wall_ms())

    async def _bar(self, bar_ts_ms: int, timeframe: str, entries: Sequence[Entry]) -> None:
        """Time stops to completion, then exactly one AccountUpdated(cause=bar): the governer waits for it."""
        if bar_ts_ms <= self.journal.book.bar_ts_ms:
            return await self._acknowledge(entries)
        self._clock.advance(decision_ts_ms(bar_ts_ms, timeframe))
        if self.journal.book.exposed:
            await self.desk.look()
            closed_at_ms = decision_ts_ms(bar_ts_ms, timeframe)
            await self.journal.commit(core.time_stops(self.journal.book, closed_at_ms, self._settings.rules))
            if not await self.desk.settle() and self._clock.is_replay:
                return None  # held: a replay waits as long as it takes
        work = core.Unfolding(self.journal.book)
        snapshot = work.book.snapshot
        if snapshot is None or work.book.exposed or not self._clock.is_replay:
            snapshot = await self.desk.account(work)
        # else: in a replay nothing but our own orders, positions and their funding can change the account
        now_ms, minima = self._clock.now_ms(), self.desk.minima
        work.take(core.finish_bar(work.book, bar_ts_ms, snapshot, market_now_ms=now_ms, min_notional_usd=minima))
        await self._commit(work.book, work.drafts, entries)

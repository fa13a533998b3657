"""feature-svc wired: when to look at the venue, when to be ready."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from feature_svc import metrics
from feature_svc.adapters.ccxt_source import CcxtSource, make_exchange
from feature_svc.core import Rules
from feature_svc.feed import Feed
from feature_svc.look import Looker, Outcome
from feature_svc.settings import Settings
from feature_svc.source import CandleSource
from quantum_common.bus import Bus, BusUnavailable, RedisBus
from quantum_common.bus.lease import RENEW_EVERY_S
from quantum_common.contracts import Look
from quantum_common.service import Control, Loop, MarketClock, Service, Stop

log = logging.getLogger(__name__)

SLOWEST_POLL_MS = 10_000
TURN_S = 1.0
"""How long a loop rests at most, so that it shows that it lives."""


class FeatureApp:
    """Live: looks at each bar close until the bar is there. Replay: looks whenever the market clock moved."""

    def __init__(self, settings: Settings, looker: Looker, clock: MarketClock) -> None:
        self._settings, self._looker, self._clock = settings, looker, clock
        self._woken = asyncio.Event()
        self._bus_problem: str | None = None
        self._looked = False

    async def on_look(self, look: Look) -> None:
        if look.subject == "clock":
            self._woken.set()

    async def run(self, stop: Stop, beat: Callable[[], None]) -> None:
        """Look while the lease is held."""
        async with self._looker.lease.keep(lambda: stop.requested):
            await self._run(stop, beat)

    async def _run(self, stop: Stop, beat: Callable[[], None]) -> None:
        """Ask until everything that is closed is published, ever more slowly; then wait for the next close."""
        lease, looked_under = self._looker.lease, -1
        done_ms, asked_ms, poll_ms = 0, 0, self._settings.poll_ms
        while not stop.requested:
            beat()
            if not lease.held:
                await stop.wait(RENEW_EVERY_S / 5)
                continue
            if lease.token != looked_under:
                self._looker.forget()
                looked_under, done_ms = lease.token, 0
            now_ms = self._clock.now_ms()
            due_ms = now_ms - now_ms % self._looker.rules.bar_ms
            if due_ms <= done_ms:
                await self._rest(stop, now_ms)
                continue
            if due_ms != asked_ms:
                asked_ms, poll_ms = due_ms, self._settings.poll_ms
            outcome = await self._look(now_ms, now_ms - due_ms, beat)
            if outcome is Outcome.DONE or (outcome is Outcome.LATE and self._clock.is_replay):
                done_ms = due_ms
                continue
            await stop.wait(min(poll_ms, self._until_close_ms(now_ms)) / 1000)
            if self._clock.is_replay or now_ms - due_ms > self._settings.late_bar_wait_ms:
                poll_ms = min(2 * poll_ms, SLOWEST_POLL_MS)

    async def _look(self, now_ms: int, late_ms: int, beat: Callable[[], None]) -> Outcome:
        patient = self._clock.is_replay or late_ms < self._settings.late_bar_wait_ms
        try:
            outcome = await self._looker.look(now_ms, wait_for_all=patient, beat=beat)
            if self._clock.is_replay:
                if outcome is Outcome.LATE:  # the venue has said all it has for this time: what is late never comes
                    outcome = await self._looker.look(now_ms, wait_for_all=False, beat=beat)
                if outcome is not Outcome.AGAIN:
                    await self._looker.report(now_ms)
        except BusUnavailable as error:
            log.warning("bus unavailable, retrying: %s", error)
            self._bus_problem = error.reason
            return Outcome.AGAIN
        self._bus_problem = None
        self._looked = True
        return outcome

    def _until_close_ms(self, now_ms: int) -> int:
        bar_ms = self._looker.rules.bar_ms
        return bar_ms - now_ms % bar_ms

    async def _rest(self, stop: Stop, now_ms: int) -> None:
        if not self._clock.is_replay:
            await stop.wait(min(TURN_S, self._until_close_ms(now_ms) / 1000))
            return
        try:
            async with asyncio.timeout(TURN_S):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()

    def not_ready(self) -> list[str]:
        """In a replay nothing can be said before the market clock has been set. An instance that stands by is ready."""
        if self._looker.lease.elsewhere:
            return []
        reasons = [problem for problem in (self._bus_problem, self._looker.venue_problem) if problem]
        if not self._looked:
            return reasons or ([] if self._clock.is_replay else ["the venue has not been looked at yet"])
        for feed in self._looker.feeds.values():
            if feed.stale:
                reasons.append(f"stale: {feed.symbol}, newest bar opened at {feed.state.last_ts}")
            elif missing := feed.missing_history(self._looker.rules):
                reasons.append(f"warming up: {feed.symbol} lacks {missing} bars")
        return reasons

    def show(self) -> None:
        """Have ages told as of the moment somebody asks: between two looks data grows old, too."""
        metrics.begin(self._looker.feeds)
        rules, clock = self._looker.rules, self._clock
        for symbol, feed in self._looker.feeds.items():
            metrics.DATA_AGE_SECONDS.labels(symbol).set_function(partial(_age_s, feed, rules, clock))
        metrics.STALE_SYMBOLS.set_function(self._stale_symbols)

    def _stale_symbols(self) -> int:
        now_ms = self._clock.now_ms()  # 0: a replay's clock has not been set
        feeds = self._looker.feeds.values()
        return sum(feed.is_stale(now_ms, self._looker.rules) for feed in feeds) if now_ms else 0

    def info(self) -> dict[str, Any]:
        return {
            "works": self._looker.lease.held,
            "feature_hash": self._looker.rules.feature_hash,
            "newest_bars": {feed.symbol: feed.state.last_ts for feed in self._looker.feeds.values()},
        }


def _age_s(feed: Feed, rules: Rules, clock: MarketClock) -> float:
    return feed.age_s(clock.now_ms(), rules)


def build(settings: Settings, bus: Bus | None = None, source: CandleSource | None = None) -> Service:
    """Wire the service; nothing is connected yet."""
    bus = bus or RedisBus.connect(settings.redis_url.get_secret_value())
    source = source or CcxtSource(make_exchange(settings), settings.timeframe)
    clock = MarketClock(settings.clock)
    app = FeatureApp(settings, Looker(settings, bus, source), clock)
    app.show()
    loops: dict[str, Loop] = {"bars": app.run}
    if clock.is_replay:
        loops["control"] = Control(bus, clock, app.on_look).run
    return Service(
        settings=settings,
        loops=loops,
        bus=bus,
        not_ready=app.not_ready,
        info=app.info,
        closing=[source.close, bus.close],
    )

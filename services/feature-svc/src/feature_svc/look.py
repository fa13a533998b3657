"""A look at the venue: fetch what is new, take it in bar by bar, publish each bar's symbols together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from feature_svc import metrics
from feature_svc.core import Rules, Taken, decode_state
from feature_svc.errors import VenueUnavailable
from feature_svc.feed import Feed
from feature_svc.publishing import Publisher
from feature_svc.settings import Settings
from feature_svc.source import CandleSource, Row, fetch, fetch_history
from quantum_common.bus import Bus, BusUnavailable, Lease, Status, Unit
from quantum_common.domain import timeframe_ms
from quantum_common.features.hygiene import Bar, Refused, Sifted

log = logging.getLogger(__name__)

Beat = Callable[[], None]


class Behind(Exception):
    """A commit was refused, since another instance was faster: what is in memory has been dropped."""


class Outcome(StrEnum):
    DONE = "done"
    """Everything that is closed has been dealt with."""
    LATE = "late"
    """The venue answered, but lacks the newest closed bar of some symbol."""
    AGAIN = "again"
    """The venue failed or another instance was faster: look again, with the same time or a later one."""


class Looker:
    """All symbols, and the one way they move forward.

    One lease for all partitions: every event says how many symbols have the bar, and only who looks at all can count.
    """

    def __init__(self, settings: Settings, bus: Bus, source: CandleSource) -> None:
        self._settings, self._bus, self._source = settings, bus, source
        self.lease = Lease(bus, settings.keys.lease(settings.service, 0), settings.instance)
        self.rules = Rules(timeframe_ms(settings.timeframe), settings.warmup_bars)
        self.feeds = {symbol: Feed(symbol) for symbol in settings.symbols}
        self._publisher = Publisher(settings, self.rules)
        self.venue_problem: str | None = None
        """Why the last look got no candles of some symbol."""

    async def look(self, now_ms: int, *, wait_for_all: bool, beat: Beat = lambda: None) -> Outcome:
        """Publish what is closed at `now_ms`, every bar's symbols together.

        `wait_for_all`: change nothing while a symbol that is not stale lacks the newest closed bar, or its fetch
        failed. BusUnavailable passes through, after dropping what is in memory.
        """
        newest_closed = now_ms // self.rules.bar_ms * self.rules.bar_ms - self.rules.bar_ms
        try:
            await self._load(newest_closed)
            lacking = [feed for feed in self.feeds.values() if feed.lacks(newest_closed)]
            fetched = await self._fetch(lacking, now_ms, beat)
            sifted = {feed.symbol: feed.sift(fetched.get(feed.symbol, []), now_ms, self.rules) for feed in lacking}
            failed = len(fetched) < len(lacking)
            late = [feed for feed in lacking if _newest(sifted[feed.symbol]) < newest_closed]
            if wait_for_all and (failed or not all(feed.stale for feed in late)):
                return Outcome.AGAIN if failed else Outcome.LATE
            await self._take_in(sifted, beat)
        except Behind:
            return Outcome.AGAIN
        except BusUnavailable:
            self.forget()
            raise
        return Outcome.AGAIN if failed else Outcome.LATE if late else Outcome.DONE

    async def report(self, now_ms: int) -> None:
        """Tell the replay's conductor that everything up to `now_ms` is published, and how many symbols with the
        newest bar."""
        newest_closed = now_ms // self.rules.bar_ms * self.rules.bar_ms - self.rules.bar_ms
        published = sum(feed.published_ts == newest_closed for feed in self.feeds.values())
        key = self._settings.keys.features_progress()
        write = ("HSET", key, "looked_ms", now_ms, "published", published)
        await self._bus.commit([self.lease.fence(Unit(writes=[write]))])

    def forget(self) -> None:
        """Read every symbol's state again before the next bar: another instance may have moved it."""
        for feed in self.feeds.values():
            feed.forget()

    async def _load(self, newest_closed: int) -> None:
        for feed in self.feeds.values():
            if feed.loaded:
                continue
            stored = await self._bus.state(self._publisher.state_key(feed.symbol))
            mark = self._publisher.watermark(feed.symbol, 0)
            marks = await self._bus.counters(mark.key)
            published_ts = marks.get(f"{mark.service}|{mark.symbol}", -1)
            feed.load(decode_state(stored.data, self.rules), stored.version, published_ts)
            feed.first_ts = self._first_ts(feed, newest_closed)

    def _first_ts(self, feed: Feed, newest_closed: int) -> int:
        """A symbol published before goes on where it stopped; a new one starts as set, or with the newest bar."""
        from_ms = self._settings.from_ms or 0
        if not feed.is_new or feed.published_ts >= 0:
            return max(from_ms, feed.published_ts + 1)
        return from_ms if self._settings.clock == "replay" and from_ms else max(from_ms, newest_closed)

    async def _fetch(self, lacking: Sequence[Feed], now_ms: int, beat: Beat) -> dict[str, list[Row]]:
        """New rows per symbol; a symbol for which the venue failed is not among them."""
        self.venue_problem = None
        found = await asyncio.gather(*(self._fetch_one(feed, now_ms, beat) for feed in lacking), return_exceptions=True)
        fetched = {}
        for feed, rows in zip(lacking, found, strict=True):
            if isinstance(rows, VenueUnavailable):
                log.warning("candles: %s", rows)
                metrics.VENUE_FAILURES.inc()
                self.venue_problem = f"venue unavailable: {rows}"
            elif isinstance(rows, BaseException):
                raise rows
            else:
                fetched[feed.symbol] = rows
        return fetched

    async def _fetch_one(self, feed: Feed, now_ms: int, beat: Beat) -> list[Row]:
        if feed.state.cursor_ts is None:
            first_ts = feed.first_ts // self.rules.bar_ms * self.rules.bar_ms
            rows = await fetch_history(self._source, feed.symbol, first_ts, now_ms, self.rules)
        else:
            since_ms = feed.state.cursor_ts + self.rules.bar_ms
            rows = await fetch(self._source, feed.symbol, since_ms, now_ms, self.rules.bar_ms)
        beat()
        return rows

    async def _take_in(self, sifted: Mapping[str, Sifted], beat: Beat) -> None:
        by_time: dict[int, list[tuple[Feed, Bar | Refused]]] = {}
        for symbol, each in sifted.items():
            for refused in each.refused:
                by_time.setdefault(refused.bar.ts, []).append((self.feeds[symbol], refused))
            for bar in each.bars:
                by_time.setdefault(bar.ts, []).append((self.feeds[symbol], bar))
        for ts in sorted(by_time):
            beat()
            await asyncio.sleep(0)  # a warm-up of many symbols must not starve the health endpoint
            await self._publish(ts, self._advance(by_time[ts]))
        await self._save()

    def _advance(self, arrived: Sequence[tuple[Feed, Bar | Refused]]) -> list[tuple[Feed, Taken]]:
        """Take in one bar time; returns what is to be published of it."""
        published = []
        for feed, bar in arrived:
            if isinstance(bar, Refused):
                feed.refuse(bar, self.rules)
                continue
            taken = feed.take(bar, self.rules)
            _count(taken)
            if feed.publishes(taken, self.rules):
                published.append((feed, taken))
        return published

    async def _publish(self, ts: int, published: Sequence[tuple[Feed, Taken]]) -> None:
        if not published:
            return
        if history := [feed for feed, _ in published if len(feed.vectors) > 1]:
            await self._bus.commit([self.lease.fence(self._publisher.early_window(feed)) for feed in history])
            for feed in history:
                del feed.vectors[:-1]
        before = sum(feed.published_ts == ts for feed in self.feeds.values())
        await self._commit(self._publisher.bar(published, before + len(published)))
        for feed, _ in published:
            feed.published_ts = ts
            metrics.BARS_PUBLISHED.labels(feed.symbol).inc()

    async def _save(self) -> None:
        await self._commit([([feed], self._publisher.save(feed)) for feed in self.feeds.values() if feed.dirty])

    async def _commit(self, units: Sequence[tuple[list[Feed], Unit]]) -> None:
        if not units:
            return
        letters = [(feed.symbol, refused) for feeds, _ in units for feed in feeds for refused in feed.letters]
        statuses = await self._bus.commit([self.lease.fence(unit) for _, unit in units])
        for (feeds, _), status in zip(units, statuses, strict=True):
            for feed in feeds:
                feed.saved() if status is Status.OK else feed.forget()
            if status is not Status.OK:
                metrics.COMMITS_REFUSED.labels(status).inc()
        if any(status is not Status.OK for status in statuses):
            log.warning("a commit answered %s: reading the state again", [str(status) for status in statuses])
            raise Behind
        for symbol, refused in letters:
            log.error("%s: bar %d goes to the dead-letter stream: %s", symbol, refused.bar.ts, refused.reason)
            metrics.BARS_REFUSED.labels(refused.reason).inc()


def _newest(sifted: Sifted) -> int:
    """Newest bar time that a fetch settles, refused ones included."""
    return max((bar.ts for bar in (*sifted.bars, *(refused.bar for refused in sifted.refused))), default=-1)


def _count(taken: Taken) -> None:
    metrics.ZERO_VOLUME_DIVISIONS.inc(taken.zero_divisions)
    if taken.gap_bars:
        metrics.GAPS.labels("restarted" if taken.restarted else "stepped_over").inc()
        metrics.GAP_BARS.inc(taken.gap_bars)

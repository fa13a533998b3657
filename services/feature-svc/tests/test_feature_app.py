"""feature-svc on a bus in memory and a venue in memory: what is published, when, and exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from prometheus_client import REGISTRY

from feature_svc.app import FeatureApp, build
from feature_svc.errors import UnknownSymbol, VenueUnavailable
from feature_svc.look import Looker, Outcome
from feature_svc.settings import Settings
from feature_svc.source import Row
from quantum_common.bus import Bus, BusUnavailable, DeadLetter, MemoryBus, RedisBus, Status, Unit
from quantum_common.candles import Candles
from quantum_common.contracts import CONTROL, FEATURES, Keys, Look, Producer, decode, encode, envelope
from quantum_common.features import FEATURE_COUNT, batch, feature_hash, unpack_vectors
from quantum_common.service import MarketClock, Stop, build_app
from quantum_common.service.clock import wall_ms
from quantum_common.testing import eventually, running_server

MINUTE = 60_000
WARMUP = 60
FIRST = WARMUP + 63
KEYS = Keys()
FEATURE_STREAM = KEYS.stream(FEATURES, "A")


def settings(**changes: Any) -> Settings:
    values = {"symbols": ("A", "B", "C"), "timeframe": "1m", "clock": "replay", "warmup_bars": WARMUP}
    return Settings(**(values | {"from_ms": FIRST * MINUTE, "poll_ms": 10} | changes))


@dataclass
class Venue:
    """Closed bars per symbol, visible from the moment they close."""

    rows: dict[str, list[Row]]
    now_ms: int = 0
    failing: set[str] = field(default_factory=set)
    late: set[tuple[str, int]] = field(default_factory=set)

    async def candles(self, symbol: str, since_ms: int, limit: int) -> list[Row]:
        await asyncio.sleep(0)
        if symbol in self.failing:
            raise VenueUnavailable(f"{symbol}: 503")
        if symbol not in self.rows:
            raise UnknownSymbol(symbol)
        return [
            row
            for row in self.rows[symbol]
            if row[0] >= since_ms and row[0] + MINUTE <= self.now_ms and (symbol, row[0] // MINUTE) not in self.late
        ][:limit]

    async def close(self) -> None:
        return None


def walk(seed: int, count: int = 300) -> list[Row]:
    random = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(random.normal(0.0, 0.01, count)))
    volume = random.exponential(10.0, count)
    return [
        [i * MINUTE, c, c * 1.01, c * 0.99, c, v] for i, (c, v) in enumerate(zip(close.tolist(), volume, strict=True))
    ]


def market(*symbols: str) -> Venue:
    return Venue({symbol: walk(seed) for seed, symbol in enumerate(symbols or ("A", "B", "C"))})


def table_of(rows: Sequence[Row]) -> batch.FeatureTable:
    columns = list(zip(*rows, strict=True))
    candles = Candles(np.array(columns[0], np.int64), *(np.array(column, np.float64) for column in columns[1:]))
    return batch.compute(candles, "1m", warmup_bars=WARMUP)


async def look_at(looker: Looker, venue: Venue, minute: int, **options: Any) -> Outcome:
    """The market clock stands where the bar that opened at `minute` has just closed."""
    venue.now_ms = (minute + 1) * MINUTE
    return await looker.look(venue.now_ms, **({"wait_for_all": True} | options))


async def published(bus: Bus) -> list[Any]:
    return [decode(entry.data) for entry in reversed(await bus.newest(FEATURE_STREAM, 10_000))]


async def bars_published(bus: Bus) -> list[tuple[str, int]]:
    return [(event.symbol, event.bar_ts_ms // MINUTE) for event in await published(bus)]


async def letters(bus: Bus) -> list[tuple[str, dict[str, Any]]]:
    entries = reversed(await bus.newest(f"{FEATURE_STREAM}:dead", 100))
    found = [msgspec.json.decode(entry.data, type=DeadLetter) for entry in entries]
    return [(letter.reason, msgspec.json.decode(letter.data)) for letter in found]


async def test_every_bar_from_the_first_on_is_published_once_with_the_features_of_the_batch() -> None:
    bus, venue = MemoryBus(), market()
    looker = Looker(settings(), bus, venue)
    for minute in range(FIRST, FIRST + 20):
        assert await look_at(looker, venue, minute) is Outcome.DONE
    events = await published(bus)
    assert [(e.symbol, e.bar_ts_ms // MINUTE) for e in events] == [
        (symbol, minute) for minute in range(FIRST, FIRST + 20) for symbol in ("A", "B", "C")
    ]
    tables = {symbol: table_of(rows) for symbol, rows in venue.rows.items()}
    for event in events:
        row = event.bar_ts_ms // MINUTE
        table = tables[event.symbol]
        assert event.payload.values == tuple(table.values[row].tolist())
        assert len(event.payload.values) == FEATURE_COUNT
        assert (event.payload.volatility, event.payload.trend_strength) == (
            table.volatility[row],
            table.trend_strength[row],
        )
        assert event.payload.candle.close == table.close[row]
        assert event.payload.live_symbols == 3
        assert event.payload.feature_hash == feature_hash("raw", WARMUP)


async def test_at_the_first_event_its_window_of_64_vectors_is_complete() -> None:
    bus, venue = MemoryBus(), market("A")
    looker = Looker(settings(symbols=("A",)), bus, venue)
    await look_at(looker, venue, FIRST + 3)
    members = await bus.vectors([(KEYS.window("A", "1m"), FIRST * MINUTE, 64)])
    ts, vectors = unpack_vectors(members[0])
    assert ts.tolist() == [minute * MINUTE for minute in range(WARMUP, FIRST + 1)]
    assert vectors.tobytes() == table_of(venue.rows["A"]).vectors()[WARMUP : FIRST + 1].tobytes()


async def test_the_window_keeps_512_vectors() -> None:
    venue = Venue({"A": walk(1, 900)})
    bus = MemoryBus()
    looker = Looker(settings(symbols=("A",), from_ms=800 * MINUTE), bus, venue)
    for minute in (850, 851, 852, 899):
        await look_at(looker, venue, minute)
    [members] = await bus.vectors([(KEYS.window("A", "1m"), 10**15, 1000)])
    ts, _ = unpack_vectors(members)
    assert len(ts) <= 512
    assert ts[-1] == 899 * MINUTE
    assert (np.diff(ts) == MINUTE).all()


async def test_nothing_is_published_before_the_first_bar_of_the_run_however_long_the_history() -> None:
    bus, venue = MemoryBus(), market()
    looker = Looker(settings(from_ms=200 * MINUTE), bus, venue)
    await look_at(looker, venue, 198)
    assert await bars_published(bus) == []
    await look_at(looker, venue, 200)
    assert await bars_published(bus) == [("A", 200), ("B", 200), ("C", 200)]


async def test_several_bars_at_once_are_published_in_order_of_time() -> None:
    bus, venue = MemoryBus(), market()
    looker = Looker(settings(), bus, venue)
    await look_at(looker, venue, FIRST + 2)
    minutes = [minute for _, minute in await bars_published(bus)]
    assert minutes == sorted(minutes)
    assert set(minutes) == {FIRST, FIRST + 1, FIRST + 2}


async def test_a_restarted_service_goes_on_bit_for_bit_without_a_doubled_or_missing_bar() -> None:
    bus, venue = MemoryBus(), market()
    for minute in range(FIRST, FIRST + 12):
        looker = Looker(settings(), bus, venue)  # nothing survives but the bus
        await look_at(looker, venue, minute)
        if minute % 3 == 0:
            await look_at(looker, venue, minute)
    other_bus = MemoryBus()
    looker = Looker(settings(), other_bus, venue)
    for minute in range(FIRST, FIRST + 12):
        await look_at(looker, venue, minute)
    assert [e.payload for e in await published(bus)] == [e.payload for e in await published(other_bus)]
    assert [e.event_id for e in await published(bus)] == [e.event_id for e in await published(other_bus)]


async def test_two_instances_at_once_publish_every_bar_once() -> None:
    bus, venue = MemoryBus(), market()
    lookers = [Looker(settings(), bus, venue), Looker(settings(), bus, venue)]
    for minute in range(FIRST, FIRST + 15):
        venue.now_ms = (minute + 1) * MINUTE
        for _ in range(3):
            await asyncio.gather(*(looker.look(venue.now_ms, wait_for_all=True) for looker in lookers))
    found = await bars_published(bus)
    assert sorted(found) == sorted({(s, m) for m in range(FIRST, FIRST + 15) for s in ("A", "B", "C")})


async def test_f13_an_instance_whose_lease_was_taken_over_publishes_and_reports_nothing() -> None:
    bus, venue = MemoryBus(), market()
    looker = Looker(settings(), bus, venue)
    assert await looker.lease.renew()
    assert await look_at(looker, venue, FIRST) is Outcome.DONE
    await bus.lease(looker.lease.key, looker.lease._owner, 0)
    assert await bus.lease(looker.lease.key, "another", 600_000)
    before = await bars_published(bus)
    assert await look_at(looker, venue, FIRST + 1) is Outcome.AGAIN
    await looker.report(venue.now_ms)
    assert await bars_published(bus) == before
    assert not await bus.counters(KEYS.features_progress())


async def test_a_lost_reply_does_not_double_a_bar() -> None:
    class Lossy(MemoryBus):
        """Commits, and then breaks the connection every other time."""

        calls = 0

        async def commit(self, units: Sequence[Unit]) -> list[Status]:
            statuses = await super().commit(units)
            self.calls += 1
            if self.calls % 2:
                raise BusUnavailable("reply lost")
            return statuses

    bus, venue = Lossy(), market()
    looker = Looker(settings(), bus, venue)
    for minute in range(FIRST, FIRST + 10):
        for _ in range(4):
            try:
                await look_at(looker, venue, minute)
            except BusUnavailable:
                continue
    found = await bars_published(bus)
    assert found == [(symbol, minute) for minute in range(FIRST, FIRST + 10) for symbol in ("A", "B", "C")]


async def test_a_bad_bar_is_set_aside_once_with_its_reason_and_the_rest_goes_on() -> None:
    bus, venue = MemoryBus(), market()
    venue.rows["B"][FIRST + 1][4] = float("nan")
    venue.rows["C"][FIRST + 1][2] = 0.5
    looker = Looker(settings(), bus, venue)
    for minute in range(FIRST, FIRST + 3):
        assert await look_at(looker, venue, minute) is Outcome.DONE
    found = await bars_published(bus)
    assert [pair for pair in found if pair[1] == FIRST + 1] == [("A", FIRST + 1)]
    aside = await letters(bus)
    assert [(reason, data["symbol"], data["ts"] // MINUTE) for reason, data in aside] == [
        ("bad_bar: close_not_finite", "B", FIRST + 1),
        ("bad_bar: high_below_low", "C", FIRST + 1),
    ]
    after = {e.symbol: e.payload for e in await published(bus) if e.bar_ts_ms == (FIRST + 2) * MINUTE}
    assert {symbol: payload.gap_bars for symbol, payload in after.items()} == {"A": 0, "B": 1, "C": 1}
    assert after["A"].live_symbols == 3


async def test_live_symbols_counts_the_symbols_of_that_bar() -> None:
    bus, venue = MemoryBus(), market()
    del venue.rows["B"][FIRST]
    looker = Looker(settings(), bus, venue)
    assert await look_at(looker, venue, FIRST) is Outcome.LATE
    assert await bars_published(bus) == []
    assert await look_at(looker, venue, FIRST, wait_for_all=False) is Outcome.LATE
    assert [(e.symbol, e.payload.live_symbols) for e in await published(bus)] == [("A", 2), ("C", 2)]


async def test_a_symbol_that_is_late_is_published_when_it_comes() -> None:
    bus, venue = MemoryBus(), market()
    venue.late = {("B", FIRST)}
    looker = Looker(settings(clock="live", from_ms=None), bus, venue)
    assert await look_at(looker, venue, FIRST) is Outcome.LATE
    await look_at(looker, venue, FIRST, wait_for_all=False)
    venue.late = set()
    assert await look_at(looker, venue, FIRST) is Outcome.DONE
    assert [(e.symbol, e.payload.live_symbols) for e in await published(bus)] == [("A", 2), ("C", 2), ("B", 3)]


async def test_a_gap_longer_than_24_bars_warms_up_again() -> None:
    bus = MemoryBus()
    rows = walk(1, 400)
    del rows[FIRST + 2 : FIRST + 2 + 25]
    venue = Venue({"A": rows})
    looker = Looker(settings(symbols=("A",)), bus, venue)
    for minute in range(FIRST, 400):
        await look_at(looker, venue, minute)
        await look_at(looker, venue, minute, wait_for_all=False)
    again = FIRST + 27 + FIRST
    assert await bars_published(bus) == [("A", m) for m in (FIRST, FIRST + 1, *range(again, 400))]


async def test_f32_a_stale_symbol_is_not_published_and_readiness_says_so() -> None:
    bus, venue = MemoryBus(), market("A", "B")
    configuration = settings(symbols=("A", "B"))
    del venue.rows["B"][FIRST + 1 :]
    looker = Looker(configuration, bus, venue)
    clock = MarketClock("replay")
    app = FeatureApp(configuration, looker, clock)
    assert app.not_ready() == []
    for minute in range(FIRST, FIRST + 5):
        clock.advance((minute + 1) * MINUTE)
        venue.now_ms = clock.now_ms()
        await app._look(clock.now_ms(), 0, lambda: None)
        await looker.look(clock.now_ms(), wait_for_all=False)
    assert app.not_ready() == [f"stale: B, newest bar opened at {FIRST * MINUTE}"]
    assert [pair for pair in await bars_published(bus) if pair[0] == "B"] == [("B", FIRST)]


async def test_the_age_of_data_is_told_as_of_the_scrape_also_while_nobody_looks() -> None:
    bus, venue = MemoryBus(), market("A")
    configuration, clock = settings(symbols=("A",)), MarketClock("replay")
    looker = Looker(configuration, bus, venue)
    FeatureApp(configuration, looker, clock).show()

    def told() -> tuple[float | None, float | None]:
        age = REGISTRY.get_sample_value("quantum_data_age_seconds", {"symbol": "A"})
        return age, REGISTRY.get_sample_value("quantum_stale_symbols")

    assert told()[1] == 0  # the market clock is not set
    await look_at(looker, venue, FIRST)
    clock.advance((FIRST + 1) * MINUTE)
    assert told() == (0, 0)
    clock.advance((FIRST + 3) * MINUTE)
    assert told() == (120, 0)
    clock.advance((FIRST + 3) * MINUTE + 1)
    assert told() == (120.001, 1)


async def test_f32_bars_that_arrive_long_after_their_time_are_taken_in_but_not_published() -> None:
    bus, venue = MemoryBus(), market("A")
    looker = Looker(settings(symbols=("A",)), bus, venue)
    await look_at(looker, venue, FIRST)
    venue.late = {("A", minute) for minute in range(FIRST + 3, 300)}
    await look_at(looker, venue, FIRST + 10, wait_for_all=False)
    assert looker.feeds["A"].stale
    assert await bars_published(bus) == [("A", FIRST)]
    venue.late = set()
    await look_at(looker, venue, FIRST + 10)
    assert await bars_published(bus) == [("A", FIRST), *(("A", m) for m in range(FIRST + 3, FIRST + 11))]


async def test_a_failing_venue_holds_the_bar_back_and_is_named() -> None:
    bus, venue = MemoryBus(), market()
    looker = Looker(settings(), bus, venue)
    await look_at(looker, venue, FIRST)
    venue.failing = {"B"}
    assert await look_at(looker, venue, FIRST + 1) is Outcome.AGAIN
    assert looker.venue_problem == "venue unavailable: B: 503"
    venue.failing = set()
    assert await look_at(looker, venue, FIRST + 1) is Outcome.DONE
    assert looker.venue_problem is None
    assert len(await bars_published(bus)) == 6


async def test_an_unknown_symbol_stops_the_service() -> None:
    looker = Looker(settings(symbols=("A", "NOPE")), MemoryBus(), market("A"))
    with pytest.raises(UnknownSymbol):
        await looker.look(FIRST * MINUTE, wait_for_all=True)


async def test_after_a_change_of_the_warm_up_no_published_bar_comes_again() -> None:
    bus, venue = MemoryBus(), market("A")
    await look_at(Looker(settings(symbols=("A",)), bus, venue), venue, FIRST + 2)
    changed = Looker(settings(symbols=("A",), warmup_bars=WARMUP + 1), bus, venue)
    await look_at(changed, venue, FIRST + 5)
    assert await bars_published(bus) == [("A", minute) for minute in range(FIRST, FIRST + 6)]


async def test_partitions_are_published_side_by_side() -> None:
    bus, venue = MemoryBus(), market()
    looker = Looker(settings(partitions=4), bus, venue)
    await look_at(looker, venue, FIRST)
    keys = Keys(4)
    streams = {keys.tag(symbol) + ":features" for symbol in ("A", "B", "C")}
    events = [decode(entry.data) for stream in streams for entry in await bus.newest(stream, 10)]
    assert sorted(event.symbol for event in events) == ["A", "B", "C"]
    assert {event.payload.live_symbols for event in events} == {3}


def clock_look(market_ts_ms: int) -> bytes:
    producer = Producer("quantum", "1", "0")
    return encode(
        envelope(Look("clock", market_ts_ms), producer=producer, produced_at_ms=0, natural_key=str(market_ts_ms))
    )


async def test_in_a_replay_the_service_looks_whenever_the_market_clock_moves() -> None:
    bus, venue = MemoryBus(), market()
    service = build(settings(), bus, venue)
    stop = Stop()
    loops = [asyncio.create_task(loop(stop, lambda: None)) for loop in service.loops.values()]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(service)), base_url="http://test") as client:
        assert (await client.get("/health/ready")).status_code == 200
        for minute in (FIRST, FIRST + 1, FIRST + 3):
            venue.now_ms = (minute + 1) * MINUTE
            await bus.append(KEYS.stream(CONTROL), clock_look(venue.now_ms))
            await eventually(lambda minute=minute: arrived(bus, minute))
        assert (await client.get("/health/ready")).json() == {"ready": True, "reasons": []}
        assert (await client.get("/info")).json()["newest_bars"]["A"] == (FIRST + 3) * MINUTE
        assert "quantum_bars_published_total" in (await client.get("/metrics")).text
    stop.request()
    await asyncio.gather(*loops)
    assert len(await bars_published(bus)) == 12


async def arrived(bus: Bus, minute: int) -> bool:
    return ("C", minute) in await bars_published(bus)


async def test_a_replay_waits_for_a_venue_that_fails() -> None:
    bus, venue = MemoryBus(), market()
    venue.failing = {"B"}
    service = build(settings(), bus, venue)
    stop = Stop()
    loops = [asyncio.create_task(loop(stop, lambda: None)) for loop in service.loops.values()]
    venue.now_ms = (FIRST + 1) * MINUTE
    await bus.append(KEYS.stream(CONTROL), clock_look(venue.now_ms))
    await eventually(lambda: "venue unavailable: B: 503" in service.not_ready())
    assert await bars_published(bus) == []
    venue.failing = set()
    await eventually(lambda: arrived(bus, FIRST))
    stop.request()
    await asyncio.gather(*loops)


async def test_live_it_publishes_the_newest_closed_bar_at_once_and_says_when_it_is_ready() -> None:
    bus = MemoryBus()
    day = 24 * 60 * MINUTE
    configuration = settings(clock="live", from_ms=None, timeframe="1d", symbols=("A",))
    today = wall_ms() // day
    rows = [[(today - 300 + i) * day, *row[1:]] for i, row in enumerate(walk(1))]
    venue = Venue({"A": rows}, now_ms=today * day)
    service = build(configuration, bus, venue)
    assert service.not_ready() == ["the venue has not been looked at yet"]
    stop = Stop()
    [loop] = [asyncio.create_task(loop(stop, lambda: None)) for loop in service.loops.values()]
    await eventually(lambda: not service.not_ready())
    stop.request()
    await loop
    assert [event.bar_ts_ms // day for event in await published(bus)] == [today - 1]


async def test_on_a_real_server_a_bar_and_its_state_window_and_event_are_there_together(tmp_path: Any) -> None:
    with running_server(tmp_path) as url:
        bus = RedisBus.connect(url)
        venue = market()
        for minute in range(FIRST, FIRST + 4):
            assert await look_at(Looker(settings(), bus, venue), venue, minute) is Outcome.DONE
        found = await bars_published(bus)
        [members] = await bus.vectors([(KEYS.window("A", "1m"), (FIRST + 3) * MINUTE, 64)])
        state = await bus.state(KEYS.state("feature-svc", "A"))
        await bus.close()
    assert found == [(symbol, minute) for minute in range(FIRST, FIRST + 4) for symbol in ("A", "B", "C")]
    ts, vectors = unpack_vectors(members)
    assert ts[-1] == (FIRST + 3) * MINUTE
    assert vectors.tobytes() == table_of(venue.rows["A"]).vectors()[FIRST - 60 : FIRST + 4].tobytes()
    assert state.version == 4
    assert state.fields == {"bar_ts_ms": str((FIRST + 3) * MINUTE)}


async def test_a_replay_publishes_a_bar_that_one_symbol_does_not_have_and_reports_how_many_did() -> None:
    bus, venue = MemoryBus(), market()
    del venue.rows["B"][FIRST + 1]
    service = build(settings(), bus, venue)
    stop = Stop()
    loops = [asyncio.create_task(loop(stop, lambda: None)) for loop in service.loops.values()]
    for minute, expected in ((FIRST, 3), (FIRST + 1, 2), (FIRST + 2, 3)):
        venue.now_ms = (minute + 1) * MINUTE
        await bus.append(KEYS.stream(CONTROL), clock_look(venue.now_ms))
        progress = {"looked_ms": venue.now_ms, "published": expected}
        await eventually(lambda progress=progress: reported(bus, progress))
    stop.request()
    await asyncio.gather(*loops)
    assert [pair for pair in await bars_published(bus) if pair[1] == FIRST + 1] == [("A", FIRST + 1), ("C", FIRST + 1)]


async def reported(bus: Bus, progress: dict[str, int]) -> bool:
    return await bus.counters(KEYS.features_progress()) == progress


async def test_f02_after_the_server_came_back_empty_it_warms_up_from_the_venue_and_goes_on(tmp_path: Any) -> None:
    with running_server(tmp_path) as url:
        bus, venue, stop = RedisBus.connect(url), market(), Stop()
        service = build(settings(), RedisBus.connect(url), venue)
        loops = [asyncio.create_task(loop(stop, lambda: None)) for loop in service.loops.values()]

        async def close_of(minute: int) -> None:
            venue.now_ms = (minute + 1) * MINUTE
            await bus.append(KEYS.stream(CONTROL), clock_look(venue.now_ms))
            await eventually(lambda: reported(bus, {"looked_ms": venue.now_ms, "published": 3}))

        await close_of(FIRST)
        await bus._redis.flushall()
        await bus._redis.function_flush()
        await close_of(FIRST + 1)
        stop.request()
        await asyncio.gather(*loops)
        found = await published(bus)
        for close in service.closing:
            await close()
        await bus.close()
    assert [(event.symbol, event.bar_ts_ms // MINUTE) for event in found] == [
        (symbol, minute) for minute in (FIRST, FIRST + 1) for symbol in ("A", "B", "C")
    ]
    assert found[-1].payload.values == tuple(table_of(venue.rows["C"]).values[FIRST + 1].tolist())

"""The service on the bus: when a bar is settled, what one commit holds, and what a restart finds."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from governer_svc.app import RiskService, build
from governer_svc.errors import InvalidRiskConfig, StateUnreadable
from governer_svc.settings import Settings
from governer_svc.state import RiskState, decode_state, encode_state
from governer_svc.view import Mirror
from quantum_common.bus import (
    Bus,
    BusUnavailable,
    Consumer,
    DeadLetter,
    MemoryBus,
    Received,
    RedisBus,
    StateWrite,
    Status,
    Unit,
)
from quantum_common.contracts import (
    ALLOCATIONS,
    CONTROL,
    DECISIONS,
    EXECUTIONS,
    FEATURES,
    AccountPosition,
    AccountUpdated,
    ApprovalExpired,
    Candle,
    DecisionMade,
    Envelope,
    FeaturesComputed,
    OrderFilled,
    PositionApproved,
    PositionRejected,
    Producer,
    TradeClosed,
    decode,
    encode,
    envelope,
)
from quantum_common.domain.signal import Action, OrderSide, Role
from quantum_common.service import Stop, build_app
from quantum_common.testing import eventually, running_server

HOUR = 3_600_000
BAR = 480_000 * HOUR
CLOSE = BAR + HOUR
BTC, ETH = "BTCUSDT", "ETHUSDT"


class Fleet:
    """The governer and everybody it talks to, on one bus."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self.bus, self.settings, self.wall_ms = bus, settings, CLOSE
        self.sequence = 0
        self.restart()

    def restart(self) -> None:
        settings = self.settings
        self.service = RiskService(settings, self.bus, clock=lambda: self.wall_ms)
        streams = settings.keys.subscribed(settings.service)
        self.consumer = Consumer(self.bus, streams, settings.service, settings.instance)

    async def start(self) -> None:
        await self.service.store.ensure_loaded()
        await self.consumer.start()
        while batch := await self.consumer.read(10):
            await self.consumer.handle(batch, self.service.handle)

    async def turn(self) -> None:
        await self.consumer.handle(await self.consumer.read(10), self.service.handle)

    async def publish(
        self, stream: str, payload: msgspec.Struct, service: str, symbol: str, bar: int, key: str, timeframe: str = "1h"
    ) -> str:
        event = envelope(
            payload,
            producer=Producer(service, "1", "0"),
            produced_at_ms=self.wall_ms,
            symbol=symbol,
            timeframe=timeframe,
            bar_ts_ms=bar,
            natural_key=key,
        )
        await self.bus.append(stream, encode(event))
        return event.event_id

    async def features(self, symbol: str, live_symbols: int, bar: int = BAR) -> None:
        payload = FeaturesComputed(Candle(1, 1, 1, 1, 1), (0.0,) * 18, 0.5, 0.0, "h", 0, live_symbols)
        await self.publish(self.settings.keys.stream(FEATURES, symbol), payload, "feature-svc", symbol, bar, "")

    async def decision(self, symbol: str, action: str, confidence: float, bar: int = BAR, timeframe: str = "1h") -> str:
        payload = DecisionMade(
            action=Action(action),
            confidence=confidence,
            reason="meta_low_confidence_0.58",
            use_meta=False,
            meta_action=None,
            meta_confidence=None,
            base_ensemble_action=Action(action),
            base_ensemble_confidence=confidence,
            consensus_strength=0.5,
            votes=(),
            explanation=None,
            trigger="complete",
            input_event_ids=(),
            meta_version="v2",
            meta_model_version=None,
            volatility=0.5,
            trend_strength=0.0,
        )
        stream = self.settings.keys.stream(DECISIONS, symbol)
        return await self.publish(stream, payload, "meta-svc", symbol, bar, "", timeframe)

    async def account(
        self,
        bar: int = BAR,
        as_of_ms: int = CLOSE,
        equity: int = 10_000,
        positions: tuple[AccountPosition, ...] = (),
    ) -> None:
        self.sequence += 1
        minimums = {BTC: Decimal(5), ETH: Decimal(5)}
        payload = AccountUpdated(
            "bar", Decimal(10_000), Decimal(equity), positions, as_of_ms, bar, self.sequence, minimums
        )
        stream = self.settings.keys.stream(EXECUTIONS)
        await self.publish(stream, payload, "executor-svc", "", bar, str(self.sequence))

    async def verdicts(self) -> list[Envelope[Any]]:
        newest = await self.bus.newest(self.settings.keys.stream(ALLOCATIONS), 100)
        return [decode(entry.data) for entry in reversed(newest)]

    async def dead(self, stream: str) -> list[DeadLetter]:
        entries = await self.bus.newest(f"{stream}:dead", 100)
        return [msgspec.json.decode(entry.data, type=DeadLetter) for entry in reversed(entries)]

    async def pending(self) -> int:
        settings = self.settings
        infos = await self.bus.stream_infos(settings.keys.subscribed(settings.service))
        return sum(info.groups[settings.service].pending for info in infos.values())


async def fleet_on(bus: Bus, state_dir: Path, **settings: Any) -> Fleet:
    fleet = Fleet(bus, Settings(**{"clock": "replay", "state_dir": state_dir, "partitions": 3, **settings}))
    await fleet.start()
    return fleet


async def test_a_bar_is_settled_when_all_decisions_and_the_account_are_in(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    await fleet.features(BTC, 2)
    await fleet.features(ETH, 2)
    btc = await fleet.decision(BTC, "BUY", 0.7)
    await fleet.turn()
    await fleet.account()
    await fleet.turn()
    assert await fleet.verdicts() == []
    eth = await fleet.decision(ETH, "SELL", 0.9)
    await fleet.turn()
    first, second = await fleet.verdicts()
    assert (first.payload.decision_id, first.payload.batch_rank) == (eth, 0)
    assert (second.payload.decision_id, second.payload.batch_rank) == (btc, 1)
    assert (first.symbol, first.bar_ts_ms, first.timeframe) == (ETH, BAR, "1h")
    assert first.payload.expires_at_ms == CLOSE + 60_000
    assert await fleet.pending() == 0


async def test_a_replay_waits_for_the_executors_work_on_the_bar_without_end(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    await fleet.account(bar=BAR - HOUR)
    await fleet.features(BTC, 1)
    await fleet.decision(BTC, "BUY", 0.7)
    await fleet.turn()
    fleet.wall_ms += 3 * HOUR
    await fleet.turn()
    assert await fleet.verdicts() == []
    await fleet.account()
    await fleet.turn()
    assert [type(event.payload) for event in await fleet.verdicts()] == [PositionApproved]


async def test_every_decision_has_its_verdict_hold_included(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    await fleet.account()
    await fleet.features(BTC, 2)
    await fleet.decision(BTC, "HOLD", 0.99)
    await fleet.decision(ETH, "BUY", 0.3)
    await fleet.turn()
    reasons = [event.payload.reason for event in await fleet.verdicts()]
    assert reasons == ["HOLD_SIGNAL", "LOW_CONFIDENCE"]


async def test_live_a_missing_symbol_is_given_up_after_250_ms_and_judged_when_it_comes(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path, clock="live")
    await fleet.account()
    await fleet.features(BTC, 2)
    await fleet.decision(BTC, "BUY", 0.7)
    await fleet.turn()
    fleet.wall_ms += 249
    await fleet.turn()
    assert await fleet.verdicts() == []
    fleet.wall_ms += 1
    await fleet.turn()
    assert [event.symbol for event in await fleet.verdicts()] == [BTC]
    await fleet.decision(ETH, "BUY", 0.7)
    await fleet.turn()
    fleet.wall_ms += 250
    await fleet.turn()
    assert [event.symbol for event in await fleet.verdicts()] == [BTC, ETH]
    assert await fleet.pending() == 0


async def test_f21_live_without_a_fresh_account_a_bar_is_refused_after_5_s(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path, clock="live")
    await fleet.account(bar=BAR - HOUR)
    await fleet.features(BTC, 1)
    await fleet.decision(BTC, "BUY", 0.9)
    await fleet.turn()
    fleet.wall_ms += 4_999
    await fleet.turn()
    assert await fleet.verdicts() == []
    fleet.wall_ms += 1
    await fleet.turn()
    assert [event.payload.reason for event in await fleet.verdicts()] == ["NO_EQUITY"]


async def test_what_was_held_is_delivered_again_after_a_restart_and_judged_once(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    await fleet.features(BTC, 2)
    await fleet.decision(BTC, "BUY", 0.7)
    await fleet.turn()
    fleet.restart()
    await fleet.start()
    await fleet.account()
    await fleet.decision(ETH, "BUY", 0.8)
    await fleet.turn()
    assert [event.symbol for event in await fleet.verdicts()] == [ETH, BTC]
    assert await fleet.pending() == 0


class CutAfterCommit(MemoryBus):
    """Cuts the connection within the next commit that writes verdicts: they are there, the features are acknowledged,
    the decision is not, and no reply arrives.
    """

    cut = False

    async def commit(self, units: Sequence[Unit]) -> list[Status]:
        if not (self.cut and units[0].outputs):
            return await super().commit(units)
        self.cut = False
        await super().commit([replace(unit, inputs=()) for unit in units])
        features = [entry for unit in units for entry in unit.inputs if entry.stream.endswith("features")]
        await super().commit([Unit(inputs=features)])
        raise BusUnavailable("reply lost")


@pytest.mark.parametrize("restarted", [False, True])
async def test_f15_a_lost_reply_gives_neither_a_second_verdict_nor_a_second_reservation(
    tmp_path: Path, restarted: bool
) -> None:
    bus = CutAfterCommit()
    fleet = await fleet_on(bus, tmp_path)
    await fleet.account()
    await fleet.features(BTC, 1)
    await fleet.decision(BTC, "BUY", 0.8)
    bus.cut = True
    with pytest.raises(BusUnavailable):
        await fleet.turn()
    if restarted:
        fleet.restart()
    await fleet.start()
    assert len(await fleet.verdicts()) == 1
    assert await fleet.pending() == 0
    state = fleet.service.store.state
    assert (len(state.reservations), state.daily_trades) == (1, 1)


class LostReply(MemoryBus):
    """A cut between the server's work and its reply: everything is done, nobody is told."""

    cut = False

    async def commit(self, units: Sequence[Unit]) -> list[Status]:
        statuses = await super().commit(units)
        if self.cut:
            self.cut = False
            raise BusUnavailable("reply lost")
        return statuses


async def test_an_account_taken_in_under_a_lost_reply_lets_its_bar_be_settled(tmp_path: Path) -> None:
    bus = LostReply()
    fleet = await fleet_on(bus, tmp_path)
    await fleet.features(BTC, 1)
    await fleet.decision(BTC, "BUY", 0.8)
    await fleet.turn()
    assert await fleet.verdicts() == []
    await fleet.account()
    bus.cut = True
    with pytest.raises(BusUnavailable):
        await fleet.turn()
    await fleet.start()
    assert len(await fleet.verdicts()) == 1
    assert await fleet.pending() == 0


async def test_f25_the_emergency_stop_works_through_an_instance_that_stands_by(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    assert await fleet.service.lease.renew()
    standby = RiskService(fleet.settings, fleet.bus, clock=lambda: fleet.wall_ms)
    assert not await standby.lease.renew()
    await standby.change_limits({"emergency_stop": True}, who="operator", why="drill")
    await fleet.features(BTC, 1)
    await fleet.decision(BTC, "BUY", 0.8)
    await fleet.account()
    await fleet.turn()
    (verdict,) = await fleet.verdicts()
    assert verdict.payload.reason == "EMERGENCY_STOP_ACTIVE"
    await standby.refresh()
    assert standby.store.state.account is not None


async def test_an_instance_that_stands_by_is_ready_even_if_it_started_before_there_was_an_account(
    tmp_path: Path,
) -> None:
    bus = MemoryBus()
    works, waits = (
        RiskService(Settings(state_dir=tmp_path, instance=name), bus, clock=lambda: CLOSE) for name in ("1", "2")
    )
    assert waits.not_ready() == ["the risk state is not loaded"]
    for instance in (works, waits):
        await instance.store.ensure_loaded()
        await instance.lease.renew()
    assert works.not_ready() == ["no account state from the venue yet"]
    assert waits.not_ready() == []


async def test_the_instance_that_works_shows_limits_changed_through_one_that_stands_by(tmp_path: Path) -> None:
    bus, stop = MemoryBus(), Stop()
    settings = Settings(clock="replay", state_dir=tmp_path)
    works, path = build(settings, bus), settings.mirror_path
    async with asyncio.TaskGroup() as tasks:
        for loop in works.loops.values():
            tasks.create_task(loop(stop, lambda: None))
        await eventually(lambda: works.info()["works"])
        standby = RiskService(settings, bus)
        await standby.change_limits({"emergency_stop": True}, who="operator", why="drill")

        async def shown() -> bool:
            transport = httpx.ASGITransport(build_app(works))
            async with httpx.AsyncClient(transport=transport, base_url="http://risk") as client:
                return (await client.get("/api/risk/status")).json()["emergency_stop"]

        await eventually(shown)
        await eventually(lambda: path.exists() and json.loads(path.read_text())["emergency_stop"])
        stop.request()


async def test_the_last_write_of_the_mirror_is_left_to_the_successor(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    path, old = fleet.settings.mirror_path, fleet.service
    await old.lease.renew()
    last = Mirror(path, "paper", old.store, old.lease)
    await old.lease._give_back()
    fleet.restart()
    assert await fleet.service.lease.renew()
    await fleet.service.change_limits({"emergency_stop": True}, who="operator", why="drill")
    await Mirror(path, "paper", fleet.service.store, fleet.service.lease).write()
    await last.close()
    assert json.loads(path.read_text())["emergency_stop"]


async def overtaken(fleet: Fleet) -> None:
    """Another process has the account's lease, and has changed nothing yet."""
    lease = fleet.service.lease
    assert await lease.renew()
    await fleet.bus.lease(lease.key, lease._owner, 0)
    assert await fleet.bus.lease(lease.key, "another", 600_000)


async def test_f13_a_governer_whose_account_was_taken_over_gives_no_verdict(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    await fleet.features(BTC, 1)
    await fleet.decision(BTC, "BUY", 0.8)
    await overtaken(fleet)
    version = fleet.service.store._version
    await fleet.account()
    await fleet.turn()
    assert await fleet.verdicts() == []
    assert (await fleet.bus.state(fleet.settings.keys.account_state("governer-svc"))).version == version


async def test_an_instance_that_stands_by_leaves_the_mirror_alone(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    await overtaken(fleet)
    assert not await fleet.service.lease.renew()
    stop = Stop()
    mirror = asyncio.create_task(
        Mirror(fleet.settings.mirror_path, "paper", fleet.service.store, fleet.service.lease).run(stop, lambda: None)
    )
    await asyncio.sleep(0.05)
    stop.request()
    await mirror
    assert not fleet.settings.mirror_path.exists()


async def test_two_instances_that_hold_the_same_bar_give_one_verdict(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    await fleet.features(BTC, 2)
    await fleet.decision(BTC, "BUY", 0.8)
    await fleet.turn()
    zombie = fleet.service
    fleet.restart()
    await fleet.start()
    await fleet.account()
    await fleet.decision(ETH, "BUY", 0.7)
    batch = await fleet.consumer.read(10)
    await fleet.service.handle(batch)
    await zombie.handle(batch)
    assert len(await fleet.verdicts()) == 2
    assert len(fleet.service.store.state.reservations) == 2


async def test_a_zombie_that_holds_more_than_was_decided_adds_only_what_is_missing(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path, clock="live")
    await fleet.account()
    await fleet.features(BTC, 2)
    await fleet.decision(BTC, "BUY", 0.8)
    await fleet.turn()
    zombie = fleet.service
    fleet.restart()
    await fleet.start()
    fleet.wall_ms += 250
    await fleet.turn()
    await fleet.decision(ETH, "BUY", 0.7)
    await zombie.handle(await fleet.consumer.read(10))
    assert [event.symbol for event in await fleet.verdicts()] == [BTC, ETH]
    assert await fleet.pending() == 0


async def test_two_instances_that_change_limits_lose_neither_change(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    other = await fleet_on(fleet.bus, tmp_path)
    await fleet.service.change_limits({"max_daily_trades": 3}, who="ada", why="calm")
    await other.service.change_limits({"kelly_fraction": 0.1}, who="bob", why="calmer")
    config = other.service.store.config
    assert (config.max_daily_trades, config.kelly_fraction) == (3, 0.1)


async def test_an_approval_never_submitted_expires_as_an_event(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    await fleet.account()
    await fleet.features(BTC, 1)
    decision_id = await fleet.decision(BTC, "BUY", 0.8)
    await fleet.turn()
    await fleet.account(bar=BAR + HOUR, as_of_ms=CLOSE + HOUR)
    await fleet.turn()
    expired = (await fleet.verdicts())[-1]
    assert isinstance(expired.payload, ApprovalExpired)
    assert (expired.payload.decision_id, expired.payload.released_usd) == (decision_id, Decimal("714.28"))
    assert (expired.symbol, expired.bar_ts_ms) == (BTC, BAR)
    assert fleet.service.store.state.daily_trades == 0


async def test_an_event_of_impossible_numbers_is_set_aside_and_those_behind_it_count(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    bad = AccountUpdated("bar", Decimal("NaN"), Decimal(1), (), CLOSE, BAR, 1, {})
    stream = fleet.settings.keys.stream(EXECUTIONS)
    await fleet.publish(stream, bad, "executor-svc", "", BAR, "bad")
    await fleet.account()
    await fleet.turn()
    assert fleet.service.store.state.account is not None
    assert len(await fleet.bus.newest(f"{stream}:dead", 10)) == 1
    assert await fleet.pending() == 0


@pytest.mark.parametrize(("bar", "timeframe"), [(BAR, "5m"), (BAR + 1, "1h"), (BAR + 100 * HOUR, "1h"), (10**20, "1h")])
async def test_f06_a_decision_of_no_bar_of_ours_is_set_aside_alone(tmp_path: Path, bar: int, timeframe: str) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    await fleet.account()
    await fleet.features(BTC, 1)
    poison = await fleet.decision(ETH, "BUY", 0.9, bar, timeframe)
    await fleet.decision(BTC, "BUY", 0.8)
    # Handed over as received, so that the guard here is seen to work without the codec's.
    entries = await fleet.bus.read(
        fleet.settings.keys.subscribed("governer-svc"), "governer-svc", "1", count=9, block_ms=1
    )
    batch = [Received(entry, msgspec.json.decode(entry.data, type=KINDS[_kind(entry.data)])) for entry in entries]
    await fleet.consumer.handle(batch, fleet.service.handle)
    assert [event.symbol for event in await fleet.verdicts()] == [BTC]
    (letter,) = await fleet.dead(fleet.settings.keys.stream(DECISIONS, ETH))
    assert poison in letter.data.decode()
    assert letter.reason.startswith("NotOurBar")
    assert await fleet.pending() == 0


def _kind(data: bytes) -> str:
    return str(msgspec.json.decode(data)["kind"])


KINDS = {
    payload.__name__: Envelope[payload]  # type: ignore[valid-type]
    for payload in (AccountUpdated, FeaturesComputed, DecisionMade)
}


class RefusesOneBar(MemoryBus):
    """Cannot take the verdicts of one bar, whatever the reason."""

    async def commit(self, units: Sequence[Unit]) -> list[Status]:
        if any(mark.position == BAR for unit in units for mark in unit.watermarks):
            raise OverflowError("a number too long")
        return await super().commit(units)


async def test_f06_a_bar_that_cannot_be_settled_is_set_aside_and_the_next_bars_are_settled(tmp_path: Path) -> None:
    fleet = await fleet_on(RefusesOneBar(), tmp_path)
    await fleet.account(bar=BAR + HOUR, as_of_ms=CLOSE + HOUR)
    for bar in (BAR, BAR + HOUR):
        await fleet.features(BTC, 1, bar)
        await fleet.decision(BTC, "BUY", 0.8, bar)
    await fleet.turn()
    assert [event.bar_ts_ms for event in await fleet.verdicts()] == [BAR + HOUR]
    (letter,) = await fleet.dead(fleet.settings.keys.stream(DECISIONS, BTC))
    assert letter.reason == "OverflowError: a number too long"
    assert await fleet.pending() == 0


async def test_a_decision_that_comes_after_its_bars_verdicts_is_judged_at_once(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    await fleet.account()
    await fleet.features(BTC, 1)
    await fleet.decision(BTC, "BUY", 0.8)
    await fleet.turn()
    await fleet.decision(ETH, "BUY", 0.8)
    await fleet.turn()
    assert [event.symbol for event in await fleet.verdicts()] == [BTC, ETH]
    assert await fleet.pending() == 0


async def test_features_that_disagree_on_the_live_symbols_wait_for_the_most(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    await fleet.account()
    await fleet.features(BTC, 2)
    await fleet.features(ETH, 1)
    await fleet.decision(BTC, "BUY", 0.7)
    await fleet.turn()
    assert await fleet.verdicts() == []
    await fleet.decision(ETH, "BUY", 0.8)
    await fleet.turn()
    assert [event.symbol for event in await fleet.verdicts()] == [ETH, BTC]


UNUSABLE = {
    "no state": b'{"daily_trades": "many"}',
    "no JSON": b"\xff",
    "limits that do not fit": encode_state(RiskState(overrides={"avg_win_loss_ratio": 60.0})),
}


@pytest.mark.parametrize("stored", UNUSABLE.values(), ids=UNUSABLE)
async def test_f28_a_stored_state_that_cannot_be_used_ends_the_process_and_condemns_no_entry(
    tmp_path: Path, stored: bytes
) -> None:
    bus = MemoryBus()
    settings = Settings(clock="replay", state_dir=tmp_path)
    key = settings.keys.account_state("governer-svc")
    await bus.commit([Unit(states=[StateWrite(key, 0, stored)])])
    service = RiskService(settings, bus)
    with pytest.raises(StateUnreadable, match=key):
        await service.consume(Stop(), lambda: None)
    fleet = Fleet(bus, settings)
    await fleet.consumer.start()
    await fleet.account()
    for _ in range(2):
        with pytest.raises(StateUnreadable):
            await fleet.turn()
        await fleet.consumer.start()
    assert not fleet.service.store.loaded
    assert await fleet.pending() == 1
    assert await fleet.dead(settings.keys.stream(EXECUTIONS)) == []


async def test_f28_what_is_delivered_twice_is_booked_once(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    stream = fleet.settings.keys.stream(EXECUTIONS)
    fill = OrderFilled(
        "c1", "d1", BAR, Role.ENTRY, "t1", OrderSide.BUY, Decimal(1), Decimal(9), Decimal(0), Decimal(0), CLOSE, 0
    )
    sums = [Decimal(number) for number in (1, 9, 8, 0, 0, -1)]
    closed = TradeClosed("d0", BAR, OrderSide.BUY, *sums, Role.STOP, "stop", BAR, CLOSE)
    for _ in range(2):
        await fleet.publish(stream, closed, "executor-svc", ETH, BAR, "d0")
        await fleet.publish(stream, fill, "executor-svc", BTC, BAR, "filled:t1")
        await fleet.turn()
    state = fleet.service.store.state
    assert state.positions[BTC].quantity == Decimal(1)
    assert (len(state.trade_history), len(state.recent_results[ETH])) == (1, 1)


def test_f13_a_limit_out_of_range_stops_the_start_with_the_name_of_its_setting(tmp_path: Path) -> None:
    with pytest.raises(InvalidRiskConfig, match=r"^QT_MAX_DRAWDOWN_PCT must be in \(0, 1\]$"):
        build(Settings(max_drawdown_pct=2, state_dir=tmp_path), MemoryBus())


async def test_f25_the_kill_switch_stands_beside_the_state_for_the_executor(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    key = fleet.settings.keys.account_state("governer-svc")
    assert (await fleet.bus.state(key)).fields["trading_state"] == "ACTIVE"
    await fleet.service.change_limits({"emergency_stop": True}, who="ada", why="outage")
    fields = (await fleet.bus.state(key)).fields
    assert (fields["trading_state"], fields["emergency_stop"]) == ("REDUCING", "1")
    look = decode((await fleet.bus.newest(fleet.settings.keys.stream(CONTROL), 1))[0].data)
    assert look.payload.subject == "config"
    assert await fleet.verdicts() == []


async def test_an_operators_flatten_approves_the_exit_of_every_open_position(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    await fleet.account(
        positions=(
            AccountPosition(ETH, OrderSide.SELL, Decimal(1), Decimal(9), Decimal(9), Decimal(0)),
            AccountPosition(BTC, OrderSide.BUY, Decimal(1), Decimal(9), Decimal(9), Decimal(0)),
        )
    )
    await fleet.turn()
    for _ in range(2):
        await fleet.service.change_limits({"emergency_stop": True}, who="ada", why="outage", flatten=True)
    exits = await fleet.verdicts()
    assert [(event.symbol, event.payload.intent, event.payload.action) for event in exits[:2]] == [
        (BTC, "close", "SELL"),
        (ETH, "close", "BUY"),
    ]
    assert {event.bar_ts_ms for event in exits} == {BAR}
    assert len({event.event_id for event in exits}) == 4


async def test_limits_changed_at_run_time_survive_a_restart_and_the_others_follow_the_settings(tmp_path: Path) -> None:
    bus = MemoryBus()
    fleet = await fleet_on(bus, tmp_path)
    await fleet.service.change_limits({"max_daily_trades": 3}, who="ada", why="calm")
    again = await fleet_on(bus, tmp_path, min_confidence_threshold=0.40)
    config = again.service.store.config
    assert (config.max_daily_trades, config.min_confidence_threshold) == (3, 0.40)
    change = again.service.store.state.changes[-1]
    assert (change.who, change.why, change.changes) == ("ada", "calm", {"max_daily_trades": 3})


async def test_the_mirror_has_the_documented_fields(tmp_path: Path) -> None:
    fleet = await fleet_on(MemoryBus(), tmp_path)
    await fleet.account(equity=9_900)
    await fleet.turn()
    await Mirror(fleet.settings.mirror_path, "paper", fleet.service.store, fleet.service.lease).write()
    document = msgspec.json.decode((tmp_path / "governer_state.json").read_bytes())
    assert set(document) >= {
        "initial_balance",
        "current_balance",
        "peak_balance",
        "trade_history",
        "active_positions",
        "daily_trades",
        "trading_state",
        "last_updated",
    }
    assert (document["current_balance"], document["equity"]) == (10_000, 9_900)


async def test_on_a_real_server_a_bar_is_settled_across_slots_and_survives_a_restart(tmp_path: Path) -> None:
    with running_server(tmp_path) as url:
        bus = RedisBus.connect(url)
        fleet = await fleet_on(bus, tmp_path)
        await fleet.account()
        for symbol in (BTC, ETH):
            await fleet.features(symbol, 2)
            await fleet.decision(symbol, "BUY", 0.8)
        while await fleet.pending() or not await fleet.verdicts():
            await fleet.turn()
        await fleet.consumer.stop()
        fleet.restart()
        await fleet.start()
        assert [event.payload.reason for event in await fleet.verdicts()] == ["APPROVED", "APPROVED"]
        stored = await bus.state(fleet.settings.keys.account_state("governer-svc"))
        assert stored.data is not None
        assert decode_state(stored.data) == fleet.service.store.state
        assert len(fleet.service.store.state.reservations) == 2
        await fleet.consumer.stop()
        await bus.close()


def test_a_rejection_is_told_with_code_and_numbers_apart() -> None:
    assert PositionRejected.__struct_fields__[3:5] == ("reason", "detail")

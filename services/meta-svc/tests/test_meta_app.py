"""The service on the bus: one decision per bar, exactly once, whatever crashes or comes late."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator

import msgspec
import numpy as np
import pytest

from meta_svc.app import MetaApp
from meta_svc.board import Board
from meta_svc.core import Policy
from meta_svc.serving import MetaSlot, load_meta
from meta_svc.settings import Settings
from meta_svc.versions import VERSIONS
from quantum_common.bus import Bus, BusUnavailable, Consumer, MemoryBus, RedisBus
from quantum_common.contracts import (
    DECISIONS,
    FEATURES,
    PREDICTIONS,
    Candle,
    FeaturesComputed,
    Keys,
    PredictionAbstained,
    PredictionMade,
    Producer,
    decode,
    encode,
    envelope,
)
from quantum_common.domain import AGENTS, Action
from quantum_common.service import Stop
from quantum_common.service.clock import wall_ms
from quantum_common.testing import eventually, running_server

KEYS = Keys()
BAR, HOUR = 1_700_000_000_000, 3_600_000
PROBABILITIES = {Action.SELL: (0.7, 0.2, 0.1), Action.HOLD: (0.2, 0.7, 0.1), Action.BUY: (0.1, 0.2, 0.7)}
STREAMS = [KEYS.stream(FEATURES), KEYS.stream(PREDICTIONS)]


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(params=["memory", "redis"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    if request.param == "memory":
        yield MemoryBus()
        return
    bus = RedisBus.connect(request.getfixturevalue("server_url"))
    await bus._redis.flushall()
    yield bus
    await bus.close()


def settings(**changes):
    return Settings(**{"clock": "replay", **changes})


class Instance:
    """One process of meta-svc, driven batch by batch."""

    def __init__(self, bus, name="1", slot=None, **changes):
        self.settings = settings(instance=name, **changes)
        slot = slot or MetaSlot(None, Policy())
        self.app, self.board = MetaApp(self.settings, bus, slot), Board(self.settings, bus, slot)
        self.consumer = Consumer(bus, STREAMS, "meta-svc", name)

    async def start(self):
        await self.consumer.start()
        await self.app.start()
        while batch := await self.consumer.read(10):
            await self.consumer.handle(batch, self.app.handle)
        return self

    async def turn(self):
        """One read and its handling, as the loop does it."""
        await self.consumer.handle(await self.consumer.read(10), self.app.handle)


async def put(bus, payload, service, *, symbol="BTCUSDT", bar=BAR, produced_at_ms=None, key=""):
    event = envelope(
        payload,
        producer=Producer(service, "1", "0.1.0"),
        produced_at_ms=produced_at_ms or wall_ms(),
        symbol=symbol,
        timeframe="1h",
        bar_ts_ms=bar,
        natural_key=key,
    )
    await bus.append(KEYS.stream(FEATURES if service == "feature-svc" else PREDICTIONS, symbol), encode(event))
    return event


async def put_features(bus, **where):
    return await put(
        bus, FeaturesComputed(Candle(1, 1, 1, 1, 1), (0.0,) * 18, 0.4, -0.2, "hash", 0, 1), "feature-svc", **where
    )


async def put_vote(bus, agent, action=Action.BUY, *, role="champion", **where):
    vote = PredictionMade(agent, action, 0.7, PROBABILITIES[action], "v1", role, 0.1)
    return await put(bus, vote, f"{agent}-agent", key=f"v1:{role}", **where)


async def put_abstention(bus, agent, **where):
    return await put(bus, PredictionAbstained(agent, "not_enough_history", ""), f"{agent}-agent", **where)


async def put_bar(bus, **where):
    return [await put_features(bus, **where), *[await put_vote(bus, agent, **where) for agent in AGENTS]]


async def decisions(bus):
    return [decode(entry.data) for entry in reversed(await bus.newest(KEYS.stream(DECISIONS), 1000))]


async def pending(bus):
    infos = await bus.stream_infos(STREAMS)
    return sum(group.pending for info in infos.values() for group in info.groups.values())


async def test_a_complete_bar_becomes_one_decision_and_leaves_nothing_pending(bus):
    meta = await Instance(bus).start()
    events = await put_bar(bus)
    await meta.turn()
    (made,) = await decisions(bus)
    assert (made.symbol, made.bar_ts_ms, made.timeframe) == ("BTCUSDT", BAR, "1h")
    assert (made.payload.action, made.payload.reason, made.payload.trigger) == (
        Action.BUY,
        "model_not_loaded",
        "complete",
    )
    assert made.payload.input_event_ids == tuple(sorted(event.event_id for event in events))
    assert await pending(bus) == 0


async def test_an_abstention_counts_as_there(bus):
    meta = await Instance(bus).start()
    await put_features(bus)
    for agent in AGENTS[:3]:
        await put_vote(bus, agent)
    await meta.turn()
    assert await decisions(bus) == []
    await put_abstention(bus, AGENTS[3])
    await meta.turn()
    assert [made.payload.trigger for made in await decisions(bus)] == ["complete"]


async def test_nothing_is_acknowledged_before_the_decision_is_there(bus):
    meta = await Instance(bus).start()
    await put_features(bus)
    await put_vote(bus, "xgb")
    await meta.turn()
    assert await pending(bus) == 2


async def test_a_crash_with_a_half_joined_bar_loses_nothing(bus):
    meta = await Instance(bus).start()
    await put_features(bus)
    await put_vote(bus, "xgb", Action.SELL)
    await meta.turn()
    reborn = await Instance(bus).start()  # the same consumer name, an empty memory
    for agent in AGENTS[1:]:
        await put_vote(bus, agent)
    await reborn.turn()
    (made,) = await decisions(bus)
    assert [vote.action for vote in made.payload.votes] == [Action.SELL, Action.BUY, Action.BUY, Action.BUY]
    assert await pending(bus) == 0


async def test_votes_that_came_while_the_service_was_down_beat_a_deadline_long_past(bus):
    meta = await Instance(bus, clock="live").start()
    await put_features(bus, produced_at_ms=wall_ms() - HOUR)
    await meta.turn()
    for agent in AGENTS:
        await put_vote(bus, agent)
    reborn = await Instance(bus, clock="live").start()
    await reborn.turn()
    assert [made.payload.trigger for made in await decisions(bus)] == ["complete"]


async def test_the_deadline_decides_with_the_votes_that_are_there(bus):
    meta = await Instance(bus, clock="live", join_deadline_ms=50).start()
    await put_features(bus)
    await put_vote(bus, "xgb", Action.SELL)

    async def decided():
        await meta.turn()
        return await decisions(bus)

    (made,) = await eventually(decided)
    assert (made.payload.trigger, made.payload.action) == ("deadline", Action.SELL)
    assert [vote.abstain_reason for vote in made.payload.votes] == [None, "missing", "missing", "missing"]


async def test_a_late_vote_is_acknowledged_without_an_effect(bus):
    meta = await Instance(bus, clock="live", join_deadline_ms=1).start()
    await put_features(bus)
    await meta.turn()
    await meta.turn()
    await put_vote(bus, "xgb")
    await meta.turn()
    assert [made.payload.reason for made in await decisions(bus)] == ["no_predictions"]
    assert await pending(bus) == 0


async def test_a_late_vote_is_known_as_late_after_a_restart(bus):
    await put_bar(bus)
    await (await Instance(bus).start()).turn()
    reborn = await Instance(bus).start()
    await put_vote(bus, "xgb")
    await reborn.turn()
    assert await pending(bus) == 0
    assert len(await decisions(bus)) == 1


async def test_a_shadow_is_acknowledged_and_never_votes(bus):
    meta = await Instance(bus).start()
    await put_bar(bus)
    await put_vote(bus, "xgb", Action.SELL, role="shadow")
    await meta.turn()
    (made,) = await decisions(bus)
    assert made.payload.votes[0].action is Action.BUY
    assert await pending(bus) == 0


async def test_f08_the_weight_that_each_agent_really_had_is_known_after_a_restart_too(bus):
    meta = await Instance(bus).start()
    await put_features(bus)
    await put_abstention(bus, "nhits")
    for agent in ("xgb", "lgbm", "patchtst"):
        await put_vote(bus, agent)
    await meta.turn()
    shares = {"xgb": 0.25 / 0.7, "lgbm": 0.25 / 0.7, "nhits": 0.0, "patchtst": 0.2 / 0.7}
    assert meta.app._weights.shares() == pytest.approx(shares)
    assert (await Instance(bus, "2").start()).app._weights.shares() == pytest.approx(shares)


async def test_the_next_bar_ends_the_wait_and_decisions_stay_in_order(bus):
    meta = await Instance(bus).start()
    await put_features(bus)
    await put_vote(bus, "xgb")
    await put_bar(bus, bar=BAR + HOUR)
    await meta.turn()
    assert [(made.bar_ts_ms, made.payload.trigger) for made in await decisions(bus)] == [
        (BAR, "next_bar"),
        (BAR + HOUR, "complete"),
    ]


async def test_a_redone_bar_is_refused_by_the_watermark_and_counted_once(bus):
    meta = await Instance(bus).start()
    await put_bar(bus)
    await meta.turn()
    forgetful = Instance(bus, "2")
    forgetful.app._join.mark_decided = lambda symbol, bar_ts_ms: None  # as if it had not looked which are decided
    await forgetful.start()
    await put_bar(bus)
    await forgetful.turn()
    assert len(await decisions(bus)) == 1
    assert (await meta.board.status())["total_predictions"] == 1
    assert await pending(bus) == 0


async def take_over(bus, name):
    for stream in STREAMS:
        await bus.claim(stream, "meta-svc", name, min_idle_ms=0, count=100)


async def test_entries_that_another_instance_took_are_left_to_it(bus):
    slow = await Instance(bus, "slow").start()
    await put_features(bus)
    for agent in AGENTS[:3]:
        await put_vote(bus, agent)
    await slow.turn()
    await take_over(bus, "fast")
    await put_abstention(bus, AGENTS[3])
    await slow.turn()
    assert await decisions(bus) == []
    await take_over(bus, "fast")
    await Instance(bus, "fast").start()
    assert len(await decisions(bus)) == 1
    assert await pending(bus) == 0


async def test_f06_an_entry_of_another_family_is_set_aside_and_its_neighbours_are_decided(bus):
    meta = await Instance(bus).start()
    await bus.append(KEYS.stream(PREDICTIONS), b"no event at all")
    stray = await decisions_event(bus)
    await bus.append(KEYS.stream(PREDICTIONS), stray)
    await put_bar(bus, bar=BAR + HOUR)
    await meta.turn()
    assert [made.bar_ts_ms for made in await decisions(bus)] == [BAR, BAR + HOUR]
    assert await pending(bus) == 0
    assert len(await bus.newest(KEYS.stream(PREDICTIONS) + ":dead", 10)) == 2


async def decisions_event(bus):
    """A published decision's bytes."""
    other = await Instance(bus).start()
    await put_bar(bus)
    await other.turn()
    return (await bus.newest(KEYS.stream(DECISIONS), 1))[0].data


async def test_many_symbols_are_decided_in_one_turn_with_one_call_of_the_model(bus, tmp_path, publish_meta):
    publish_meta(tmp_path, "v1")
    slot = MetaSlot(tmp_path / "meta", Policy(), "1h")
    slot.look()
    meta = await Instance(bus, slot=slot).start()
    symbols = [f"COIN{number:03d}USDT" for number in range(50)]
    for symbol in symbols:
        await put_bar(bus, symbol=symbol)
    while len(made := await decisions(bus)) < len(symbols):
        await meta.turn()
    assert sorted(event.symbol for event in made) == symbols
    assert {event.payload.meta_model_version for event in made} == {"v1"}
    assert all(event.payload.explanation is not None for event in made)


@pytest.mark.parametrize("name", VERSIONS)
async def test_every_learner_decides_bars_with_its_own_inputs_and_its_name_on_the_decision(
    bus, tmp_path, publish_meta, name
):
    publish_meta(tmp_path, "model-7", meta=VERSIONS[name])
    own = settings(version=name, models_dir=tmp_path)
    slot = MetaSlot(own.model_dir, own.policy, "1h")
    slot.look()
    meta = await Instance(bus, slot=slot, version=name, models_dir=tmp_path).start()
    await put_features(bus)
    for agent, action in zip(AGENTS, [Action.BUY, Action.SELL, Action.HOLD], strict=False):
        await put_vote(bus, agent, action)
    await put_abstention(bus, AGENTS[3])
    await meta.turn()
    (made,) = await decisions(bus)
    assert (made.payload.meta_version, made.payload.meta_model_version) == (name, "model-7")
    why = made.payload.explanation
    assert why.feature_names == VERSIONS[name].feature_names
    assert bool(why.contributions) is VERSIONS[name].linear
    if name == "v2p":
        stated = [math.log(p) for vote in made.payload.votes[:3] for p in vote.probabilities]
        assert why.inputs[26:] == (*stated, 0.0, 0.0, 0.0)


async def test_statistics_are_fleet_wide_and_survive_a_restart(bus):
    await put_bar(bus)
    await (await Instance(bus).start()).turn()
    await put_bar(bus, symbol="ETHUSDT")
    await (await Instance(bus, "2").start()).turn()
    status = await Instance(bus, "3").board.status()
    assert status["total_predictions"] == status["fallback_reasons"]["model_not_loaded"] == 2


async def test_a_lost_reply_is_redone_without_a_second_decision():
    class LosesOneReply(MemoryBus):
        lost = False

        async def commit(self, units):
            statuses = await super().commit(units)
            if not self.lost and any(unit.outputs for unit in units):
                self.lost = True
                raise BusUnavailable("the reply was lost")
            return statuses

    bus = LosesOneReply()
    meta = Instance(bus)
    stop = Stop()
    loop = asyncio.create_task(meta.app.consume(stop, lambda: None))
    await put_bar(bus)
    await put_bar(bus, bar=BAR + HOUR)

    async def both():
        return len(await decisions(bus)) == 2 and await pending(bus) == 0

    await eventually(both)
    await put_vote(bus, "xgb")  # late: what has been decided meanwhile is known again

    async def late_is_acknowledged():
        return (await bus.stream_infos(STREAMS))[STREAMS[1]].groups["meta-svc"].last_delivered_id == "9-0" and (
            await pending(bus) == 0
        )

    await eventually(late_is_acknowledged)
    stop.request()
    await loop
    assert [made.bar_ts_ms for made in await decisions(bus)] == [BAR, BAR + HOUR]
    assert (await meta.board.status())["total_predictions"] == 2


async def test_f06_a_bar_that_cannot_be_decided_is_set_aside_and_its_neighbours_are_decided(
    bus, tmp_path, publish_meta
):
    class BrokenForSell:
        """Answers with a row too many when an agent says SELL: a defect no reason code covers."""

        def __init__(self, model):
            self.version, self.quality, self.width, self.linear = "v1", "proven", 26, model.linear
            self._model = model

        def predict(self, rows):
            answer = self._model.predict(rows)
            return np.vstack([answer, answer]) if rows[:, 0].any() else answer

    class Slot:
        problem = None

        def __init__(self, model):
            self.model = model

    publish_meta(tmp_path, "v1")
    meta = await Instance(bus, slot=Slot(BrokenForSell(load_meta(tmp_path / "meta")))).start()
    await put_features(bus, symbol="BADUSDT")
    for agent in AGENTS:
        await put_vote(bus, agent, Action.SELL, symbol="BADUSDT")
    await put_bar(bus, symbol="GOODUSDT")
    await put_bar(bus, symbol="FINEUSDT")
    await meta.turn()
    assert sorted(made.symbol for made in await decisions(bus)) == ["FINEUSDT", "GOODUSDT"]
    assert await pending(bus) == 0
    assert len(meta.app._join) == 0
    letters = [await bus.newest(f"{stream}:dead", 10) for stream in STREAMS]
    assert [len(found) for found in letters] == [1, 4]
    reasons = {msgspec.json.decode(entry.data)["reason"] for found in letters for entry in found}
    assert len(reasons) == 1
    assert reasons.pop().startswith("ValueError: zip()")


async def test_f06_a_bar_that_cannot_be_committed_is_set_aside_and_its_neighbours_are_decided():
    class RefusesOneSymbol(MemoryBus):
        async def commit(self, units):
            if any(mark.symbol == "BADUSDT" for unit in units for mark in unit.watermarks):
                raise OverflowError("a number too long")
            return await super().commit(units)

    bus = RefusesOneSymbol()
    meta = await Instance(bus).start()
    for symbol in ("AUSDT", "BADUSDT", "CUSDT"):
        await put_bar(bus, symbol=symbol)
    await meta.turn()
    assert [made.symbol for made in await decisions(bus)] == ["AUSDT", "CUSDT"]
    assert await pending(bus) == 0
    assert [len(await bus.newest(f"{stream}:dead", 10)) for stream in STREAMS] == [1, 4]


async def test_too_many_overrides_warn_in_the_documented_words(tmp_path, publish_meta, caplog):
    publish_meta(tmp_path, "v1", class_bias=(0.0, 0.0, 9.0))
    slot = MetaSlot(tmp_path / "meta", Policy(), "1h")
    slot.look()
    bus = MemoryBus()
    meta = await Instance(bus, slot=slot).start()
    for number in range(60):
        for agent, action in zip(AGENTS, (Action.BUY, Action.SELL, Action.HOLD, Action.SELL), strict=True):
            await put_vote(bus, agent, action, bar=BAR + number * HOUR)
        await put_features(bus, bar=BAR + number * HOUR)
    while len(await decisions(bus)) < 60:
        await meta.turn()
    assert "High override rate: 100 % (threshold: 40 %)" in caplog.messages
    assert (await meta.board.status())["override_rate"] == 1.0


async def decided_all(bus, count):
    infos = await bus.stream_infos(STREAMS)
    groups = [info.groups.get("meta-svc") for info in infos.values()]
    idle = all(group and not group.pending and group.lag == 0 for group in groups)
    return idle and len(await decisions(bus)) >= count


@pytest.mark.parametrize("functions_too", [False, True])
async def test_f02_groups_lost_while_bars_arrive_lose_and_double_no_decision(server_url, functions_too):
    bus, bars = RedisBus.connect(server_url), 60
    await bus._redis.flushall()
    meta, stop = Instance(bus), Stop()
    running = asyncio.create_task(meta.app.consume(stop, lambda: None))
    await eventually(lambda: meta.app.lease.held)
    for number in range(bars):
        await put_bar(bus, bar=BAR + number * HOUR)
        if number % 10 == 5:
            for stream in STREAMS:
                await bus._redis.xgroup_destroy(stream, "meta-svc")
            if functions_too:
                await bus._redis.function_flush()
    await eventually(lambda: decided_all(bus, bars), within_s=20)
    stop.request()
    await running
    assert [made.bar_ts_ms for made in await decisions(bus)] == [BAR + number * HOUR for number in range(bars)]
    assert all(len(made.payload.votes) == 4 for made in await decisions(bus))
    assert await bus.newest(f"{STREAMS[0]}:dead", 1) == await bus.newest(f"{STREAMS[1]}:dead", 1) == []
    await bus.close()


async def test_f02_a_server_that_came_back_empty_gets_decisions_of_the_bars_after_it(server_url):
    bus = RedisBus.connect(server_url)
    await bus._redis.flushall()
    meta, stop = Instance(bus), Stop()
    running = asyncio.create_task(meta.app.consume(stop, lambda: None))
    await eventually(lambda: meta.app.lease.held)
    await put_bar(bus)
    await eventually(lambda: decided_all(bus, 1))
    token = meta.app.lease.token
    await bus._redis.flushall()
    await bus._redis.function_flush()
    await put_bar(bus, bar=BAR + HOUR)
    await eventually(lambda: decided_all(bus, 1))
    assert [made.bar_ts_ms for made in await decisions(bus)] == [BAR + HOUR]
    assert meta.app.lease.token > token
    stop.request()
    await running
    await bus.close()

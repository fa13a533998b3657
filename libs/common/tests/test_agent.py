"""An agent votes or says why not; it never covers an error with HOLD."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantum_common.agent.app import Agent, build
from quantum_common.agent.collapse import SMALLEST_RANGE, WATCHED_OUTPUTS, CollapseWatch, recalled
from quantum_common.agent.core import RAW_HASH, vote
from quantum_common.agent.slot import AgentSlot, ShadowSlot
from quantum_common.agent.spec import ModelSpec
from quantum_common.bus import Bus, Consumer, MemoryBus, RedisBus, Unit, run_consumer
from quantum_common.contracts import (
    FEATURES,
    PREDICTIONS,
    Candle,
    FeaturesComputed,
    PredictionAbstained,
    PredictionMade,
    Producer,
    decode,
    encode,
    envelope,
)
from quantum_common.domain import Action
from quantum_common.features import SEQUENCE_BARS, pack_vector
from quantum_common.models.serving import Graph, LoadedModel
from quantum_common.service import FleetSettings, Stop, build_app
from quantum_common.testing import eventually

ROW = ModelSpec("xgb", "row", "relative")
WINDOW = ModelSpec("nhits", "window", "relative")
HOUR_MS = 3_600_000
RNG = np.random.default_rng(3)


class Settings(FleetSettings):
    service: ClassVar[str] = "xgb-agent"


class Manifest:
    version, quality = "v7", "unproven"


def softmax_graph(shape: tuple[int, ...], bias: Sequence[float] = (0.0, 0.0, 0.0)) -> Graph:
    """Softmax of a fixed projection of the flattened input."""
    size = int(np.prod(shape))
    weights = RNG.normal(0, 0.05, (size, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array(bias, np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return Graph(model.SerializeToString())


def slot_with(model: Any, tmp_path: Path) -> AgentSlot:
    slot = AgentSlot(Settings(models_dir=tmp_path), ROW)
    slot.model = model
    return slot


def feature_event(bar: int, symbol: str = "BTCUSDT", feature_hash: str = RAW_HASH) -> bytes:
    values = tuple(float(value) for value in RNG.uniform(1, 2, 18))
    payload = FeaturesComputed(Candle(1, 2, 0.5, 1.5, 10), values, 0.5, 0.1, feature_hash, 0, 1)
    return encode(
        envelope(
            payload,
            producer=Producer("feature-svc", "1", "0"),
            produced_at_ms=0,
            symbol=symbol,
            timeframe="1h",
            bar_ts_ms=bar * HOUR_MS,
        )
    )


async def run_agent(bus: Bus, agent: Agent, settings: FleetSettings) -> list[Any]:
    consumer = Consumer(bus, settings.keys.all_streams(FEATURES), settings.service, "1")
    await consumer.start()
    await consumer.handle(await consumer.read(50), agent.handle)
    entries = await bus.newest(settings.keys.stream(PREDICTIONS, "BTCUSDT"), 100)
    return [decode(entry.data) for entry in reversed(entries)]


@pytest.fixture
def settings(tmp_path: Path) -> FleetSettings:
    return Settings(models_dir=tmp_path)


@pytest.fixture
def features(settings: FleetSettings) -> str:
    return settings.keys.stream(FEATURES, "BTCUSDT")


async def test_a_batch_of_bars_gets_one_vote_each_and_is_acknowledged(
    bus: Bus, settings: FleetSettings, features: str, tmp_path: Path
) -> None:
    model = LoadedModel(Manifest(), softmax_graph((18,)))  # type: ignore[arg-type]
    for bar in range(3):
        await bus.append(features, feature_event(bar))
    events = await run_agent(bus, Agent(settings, ROW, bus, slot_with(model, tmp_path)), settings)
    assert [event.bar_ts_ms for event in events] == [0, HOUR_MS, 2 * HOUR_MS]
    for event in events:
        assert isinstance(event.payload, PredictionMade)
        assert sum(event.payload.probabilities) == pytest.approx(1)
        assert event.payload.confidence == max(event.payload.probabilities)
    assert (await bus.stream_infos([features]))[features].groups["xgb-agent"].pending == 0


async def test_f14_the_same_bar_delivered_twice_is_voted_on_once(
    bus: Bus, settings: FleetSettings, features: str, tmp_path: Path
) -> None:
    model = LoadedModel(Manifest(), softmax_graph((18,)))  # type: ignore[arg-type]
    for _ in range(2):
        await bus.append(features, feature_event(1))
    assert len(await run_agent(bus, Agent(settings, ROW, bus, slot_with(model, tmp_path)), settings)) == 1


async def test_f09_without_a_model_it_abstains_and_says_so(
    bus: Bus, settings: FleetSettings, features: str, tmp_path: Path
) -> None:
    await bus.append(features, feature_event(1))
    (event,) = await run_agent(bus, Agent(settings, ROW, bus, slot_with(None, tmp_path)), settings)
    assert isinstance(event.payload, PredictionAbstained)
    assert event.payload.reason == "model_not_loaded"


async def test_f09_a_failing_model_abstains_for_the_batch(
    bus: Bus, settings: FleetSettings, features: str, tmp_path: Path
) -> None:
    model = LoadedModel(Manifest(), softmax_graph((5,)))  # type: ignore[arg-type]
    await bus.append(features, feature_event(1))
    (event,) = await run_agent(bus, Agent(settings, ROW, bus, slot_with(model, tmp_path)), settings)
    assert event.payload.reason == "prediction_error"


async def test_f07_features_made_by_other_code_are_not_predicted_on(
    bus: Bus, settings: FleetSettings, features: str, tmp_path: Path
) -> None:
    model = LoadedModel(Manifest(), softmax_graph((18,)))  # type: ignore[arg-type]
    await bus.append(features, feature_event(1, feature_hash="other"))
    await bus.append(features, feature_event(2))
    events = await run_agent(bus, Agent(settings, ROW, bus, slot_with(model, tmp_path)), settings)
    assert [getattr(event.payload, "reason", "vote") for event in events] == ["feature_mismatch", "vote"]


@pytest.mark.parametrize(("bars", "newest", "expected"), [(64, 100, "vote"), (63, 100, "short"), (64, 99, "late")])
async def test_a_window_model_needs_the_64_bars_that_end_at_this_bar(
    bus: Bus, settings: FleetSettings, features: str, tmp_path: Path, bars: int, newest: int, expected: str
) -> None:
    model = LoadedModel(Manifest(), softmax_graph((SEQUENCE_BARS, 19)))  # type: ignore[arg-type]
    key = settings.keys.window("BTCUSDT", "1h")
    writes = [
        ("ZADD", key, bar * HOUR_MS, pack_vector(bar * HOUR_MS, 1.5, [0.01, *RNG.uniform(1, 2, 18)]))
        for bar in range(newest - bars + 1, newest + 1)
    ]
    await bus.commit([Unit(writes=writes)])
    await bus.append(features, feature_event(100))
    (event,) = await run_agent(bus, Agent(settings, WINDOW, bus, slot_with(model, tmp_path)), settings)
    if expected == "vote":
        assert isinstance(event.payload, PredictionMade)
    else:
        assert event.payload.reason == "not_enough_history"


@pytest.mark.parametrize("row", [[np.nan, 0.5, 0.5], [0.5, 0.5, 0.5], [-0.1, 0.6, 0.5]])
def test_f09_an_impossible_row_abstains(row: list[float]) -> None:
    made = vote(ROW, np.array(row), "v", 0.1)
    assert isinstance(made, PredictionAbstained)
    assert made.reason == "invalid_output"


def test_the_action_is_the_most_probable_class() -> None:
    made = vote(ROW, np.array([0.2, 0.1, 0.7]), "v", 0.1)
    assert isinstance(made, PredictionMade)
    assert (made.action, made.confidence) == (Action.BUY, 0.7)


@pytest.mark.parametrize("lost", ["group", "group and functions", "everything"])
async def test_f02_what_the_server_loses_while_bars_arrive_costs_no_vote_and_doubles_none(
    server_url: str, settings: FleetSettings, features: str, tmp_path: Path, lost: str
) -> None:
    """After a loss of everything, the bars after it are voted on: those before are gone with the server's memory."""
    bus, stop, bars, loss_at = RedisBus.connect(server_url), Stop(), 60, 30
    await bus._redis.flushall()
    model = LoadedModel(Manifest(), softmax_graph((18,)))  # type: ignore[arg-type]
    agent = Agent(settings, ROW, bus, slot_with(model, tmp_path))
    consumer = Consumer(bus, settings.keys.all_streams(FEATURES), settings.service, "1")
    running = asyncio.create_task(
        run_consumer(consumer, agent.handle, stopping=lambda: stop.requested, beat=lambda: None, block_ms=20)
    )
    await eventually(lambda: bus._redis.exists(features))
    for bar in range(bars):
        if bar == loss_at and lost == "everything":
            await bus._redis.flushall()
        elif bar % 10 == 5 and lost != "everything":
            await bus._redis.xgroup_destroy(features, settings.service)
        if bar == loss_at and lost != "group":
            await bus._redis.function_flush()
        await bus.append(features, feature_event(bar))

    async def done() -> bool:
        group = (await bus.stream_infos([features]))[features].groups.get(settings.service)
        return group is not None and group.lag == 0 and not group.pending

    await eventually(done)
    stop.request()
    await running
    entries = await bus.newest(settings.keys.stream(PREDICTIONS, "BTCUSDT"), 1000)
    voted = [decode(entry.data).bar_ts_ms // HOUR_MS for entry in reversed(entries)]
    assert voted == list(range(loss_at if lost == "everything" else 0, bars))
    await bus.close()


class SlowGraph:
    def run(self, rows: Any) -> Any:
        time.sleep(0.5)
        return np.full((len(rows), 3), 1 / 3)


async def test_f23_inference_does_not_starve_the_event_loop_that_answers_for_health(
    settings: FleetSettings, features: str, tmp_path: Path
) -> None:
    bus, ticks = MemoryBus(), 0
    await bus.append(features, feature_event(1))
    agent = Agent(settings, ROW, bus, slot_with(LoadedModel(Manifest(), SlowGraph()), tmp_path))  # type: ignore[arg-type]
    working = asyncio.create_task(run_agent(bus, agent, settings))
    while not working.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert len(await working) == 1
    assert ticks > 10


class VersionedManifest:
    agent, quality, labels_to_ms = "xgb", "proven", 0

    def __init__(self, version: str) -> None:
        self.version = version


def model_saying(version: str, predict: Any) -> Any:
    """A model in a slot: `predict` from (batch, 18) inputs to (batch, 3) probabilities."""

    class Fixed:
        manifest = VersionedManifest(version)

        def predict(self, rows: Any) -> Any:
            return predict(rows)

    return Fixed()


def constant(rows: Any) -> Any:
    return np.tile([0.2, 0.5, 0.3], (len(rows), 1))


def varied(rows: Any) -> Any:
    hold = 0.3 + 0.4 * (rows[:, :1] - 1)
    return np.hstack([(1 - hold) / 2, hold, (1 - hold) / 2])


def failing(rows: Any) -> Any:
    raise ValueError("shadow is broken")


def impossible(rows: Any) -> Any:
    return np.full((len(rows), 3), np.nan)


def agent_with(bus: Bus, settings: FleetSettings, champion: Any, shadow: Any = None) -> Agent:
    slots = AgentSlot(settings, ROW), ShadowSlot(settings, ROW)
    slots[0].model, slots[1].model = champion, shadow
    return Agent(settings, ROW, bus, *slots)


async def play(
    bus: Bus,
    agent: Agent,
    settings: FleetSettings,
    bars: range,
    per_batch: int = 50,
    symbols: Sequence[str] = ("BTCUSDT", "ETHUSDT"),
) -> None:
    """Bars of two symbols through the agent."""
    stream = settings.keys.stream(FEATURES, "BTCUSDT")
    for bar in bars:
        for symbol in symbols:
            await bus.append(stream, feature_event(bar, symbol))
    consumer = Consumer(bus, [stream], settings.service, "1", batch=per_batch)
    await consumer.start()
    while batch := await consumer.read(1):
        await consumer.handle(batch, agent.handle)


async def said(bus: Bus, settings: FleetSettings) -> list[Any]:
    """Payloads on the predictions stream, oldest first."""
    entries = await bus.newest(settings.keys.stream(PREDICTIONS, "BTCUSDT"), 10_000)
    return [decode(entry.data).payload for entry in reversed(entries)]


async def test_a_shadow_predicts_beside_the_champion_on_every_bar_and_is_marked(
    bus: Bus, settings: FleetSettings
) -> None:
    agent = agent_with(bus, settings, model_saying("v1", varied), model_saying("v2", constant))
    await play(bus, agent, settings, range(3))
    payloads = await said(bus, settings)
    assert [(payload.role, payload.model_version) for payload in payloads] == [("champion", "v1"), ("shadow", "v2")] * 6
    assert {payload.probabilities for payload in payloads if payload.role == "shadow"} == {(0.2, 0.5, 0.3)}
    entries = await bus.newest(settings.keys.stream(PREDICTIONS, "BTCUSDT"), 100)
    assert len({decode(entry.data).event_id for entry in entries}) == 12


@pytest.mark.parametrize("shadow", [failing, impossible])
async def test_a_shadow_that_fails_says_nothing_and_the_champion_votes(
    bus: Bus, settings: FleetSettings, shadow: Any
) -> None:
    agent = agent_with(bus, settings, model_saying("v1", varied), model_saying("v2", shadow))
    await play(bus, agent, settings, range(3))
    assert [(payload.role, payload.model_version) for payload in await said(bus, settings)] == [("champion", "v1")] * 6


async def test_a_shadow_goes_on_while_the_champion_cannot_vote(bus: Bus, settings: FleetSettings) -> None:
    agent = agent_with(bus, settings, None, model_saying("v2", varied))
    await play(bus, agent, settings, range(1))
    payloads = await said(bus, settings)
    assert [getattr(payload, "reason", "shadow") for payload in payloads] == ["model_not_loaded", "shadow"] * 2
    assert agent.predicting.effective_weight == 0.0


async def test_a_shadow_that_cannot_even_be_looked_for_leaves_the_champion_alone(settings: FleetSettings) -> None:
    (settings.models_dir / "xgb" / "shadow").mkdir(parents=True)

    class Broken(ShadowSlot):
        def _look(self, models_dir: Path, again: bool) -> None:
            raise RuntimeError("a bug")

    for slot in (ShadowSlot(settings, ROW), Broken(settings, ROW)):
        slot.look(again=True)
        assert slot.model is None


async def test_f08_a_model_that_says_the_same_of_everything_loses_its_vote(bus: Bus, settings: FleetSettings) -> None:
    agent = agent_with(bus, settings, model_saying("v1", constant))
    await play(bus, agent, settings, range(110))
    payloads = await said(bus, settings)
    assert all(isinstance(payload, PredictionMade) for payload in payloads[:WATCHED_OUTPUTS])
    assert {(payload.reason, payload.model_version) for payload in payloads[WATCHED_OUTPUTS:]} == {("collapsed", "v1")}
    assert len(payloads) == 220
    assert (agent.predicting.effective_weight, agent.predicting.collapsed) == (0.0, True)


async def test_f08_a_model_whose_probabilities_range_keeps_its_vote(bus: Bus, settings: FleetSettings) -> None:
    agent = agent_with(bus, settings, model_saying("v1", varied))
    await play(bus, agent, settings, range(110))
    assert all(isinstance(payload, PredictionMade) for payload in await said(bus, settings))
    assert agent.predicting.effective_weight == 1.0
    assert agent.predicting.output_range > 0.2


async def test_f08_the_verdict_survives_restarts_and_ends_with_another_version(
    bus: Bus, settings: FleetSettings
) -> None:
    await play(bus, agent_with(bus, settings, model_saying("v1", constant)), settings, range(90))
    await play(bus, agent_with(bus, settings, model_saying("v1", constant)), settings, range(90, 105))
    payloads = await said(bus, settings)
    assert [isinstance(payload, PredictionMade) for payload in payloads] == [True] * 200 + [False] * 10
    again = agent_with(bus, settings, model_saying("v1", varied))
    await play(bus, again, settings, range(105, 107))
    assert {payload.reason for payload in (await said(bus, settings))[-4:]} == {"collapsed"}
    again._slot.model = model_saying("v2", constant)
    await play(bus, again, settings, range(107, 108))
    assert {payload.model_version for payload in (await said(bus, settings))[-2:]} == {"v2"}
    again._slot.model = model_saying("v1", constant)  # promoted again on purpose: it gets another 200 outputs
    await play(bus, again, settings, range(108, 109))
    assert all(isinstance(payload, PredictionMade) for payload in (await said(bus, settings))[-4:])


async def test_f08_what_a_bar_says_does_not_depend_on_its_batches(settings: FleetSettings) -> None:
    for per_batch in (1, 2, 256):
        bus, symbols = MemoryBus(), ("BTCUSDT", "ETHUSDT", "SOLUSDT")
        agent = agent_with(bus, settings, model_saying("v1", constant))
        await play(bus, agent, settings, range(70), per_batch, symbols)
        payloads = await said(bus, settings)
        voted = [isinstance(payload, PredictionMade) for payload in payloads]
        assert voted == [True] * 201 + [False] * 9  # the 200th output lies within the 67th bar, which is not split


async def test_f08_a_collapsed_model_is_not_even_asked_and_another_version_has_its_weight_at_once(
    bus: Bus, settings: FleetSettings
) -> None:
    agent = agent_with(bus, settings, model_saying("v1", constant))
    await play(bus, agent, settings, range(101))
    agent._slot.model = model_saying("v1", failing)
    await play(bus, agent, settings, range(101, 102))
    assert {payload.reason for payload in (await said(bus, settings))[-2:]} == {"collapsed"}
    agent._slot.model = model_saying("v2", varied)
    assert (agent.predicting.effective_weight, agent.predicting.collapsed) == (1.0, False)


def test_f08_once_collapsed_a_version_stays_so_whatever_it_says() -> None:
    watch = CollapseWatch("v1")
    assert all(watch.admits(bar, (0.2, 0.5, 0.3)) for bar in range(WATCHED_OUTPUTS))
    assert not any(watch.admits(WATCHED_OUTPUTS + bar, (bar / 500, 0.5, 0.5 - bar / 500)) for bar in range(250))


@pytest.mark.parametrize(("step", "collapsed"), [(SMALLEST_RANGE * 1.05, False), (SMALLEST_RANGE * 0.95, True)])
def test_f08_one_class_that_ranges_is_enough_and_outliers_are_not(step: float, collapsed: bool) -> None:
    """`step` between the values of P(HOLD); 4 % of the outputs lie far away."""
    watch = CollapseWatch("v1")
    for bar in range(WATCHED_OUTPUTS + 1):
        hold = 0.9 if bar % 25 == 0 else 0.4 + step * (bar % 2)
        watch.admits(bar, (0.0, hold, 1.0 - hold))
    assert watch.collapsed is collapsed


def test_f08_a_verdict_is_recalled_when_the_outputs_it_was_based_on_are_gone() -> None:
    def event(bar: int, payload: Any) -> Any:
        made = envelope(
            payload,
            producer=Producer("xgb-agent", "1", "0"),
            produced_at_ms=0,
            symbol="BTCUSDT",
            timeframe="1h",
            bar_ts_ms=bar,
        )
        return decode(encode(made))

    abstained = [event(bar, PredictionAbstained("xgb", "collapsed", "", "v1")) for bar in range(9, 4, -1)]
    others = [
        event(9, PredictionAbstained("lgbm", "collapsed", "", "v2")),
        event(9, PredictionAbstained("xgb", "not_enough_history", "")),
    ]
    assert recalled("xgb", "v1", [*others, *abstained]).collapsed
    assert not recalled("xgb", "v2", [*others, *abstained]).collapsed
    assert not recalled("xgb", "v1", others).collapsed


async def test_f08_outputs_of_a_shadow_are_not_taken_for_the_champions(bus: Bus, settings: FleetSettings) -> None:
    agent = agent_with(bus, settings, None, model_saying("v2", constant))
    await play(bus, agent, settings, range(110))
    promoted = agent_with(bus, settings, model_saying("v2", constant))
    await play(bus, promoted, settings, range(110, 112))
    assert all(isinstance(payload, PredictionMade) for payload in (await said(bus, settings))[-4:])


async def test_f08_weight_age_and_shadow_of_an_agent_can_be_seen_from_outside(settings: FleetSettings) -> None:
    live = Settings(models_dir=settings.models_dir, clock="live")
    slot = AgentSlot(live, ROW)
    service = build(live, ROW, MemoryBus(), slot)

    async def shown() -> tuple[Any, dict[str, str], Any]:
        transport = httpx.ASGITransport(app=build_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
            lines = (await client.get("/metrics")).text.splitlines()
            info, ready = (await client.get("/info")).json(), await client.get("/health/ready")
        return info, dict(line.rsplit(" ", 1) for line in lines if line[0] != "#"), ready.json()

    info, metrics, ready = await shown()
    assert (info["model"], info["shadow"], info["effective_weight"]) == (None, None, 0.0)
    assert metrics['quantum_agent_effective_weight{agent="xgb"}'] == "0.0"
    assert metrics['quantum_agent_model_age_seconds{agent="xgb"}'] == "NaN"
    assert ready["ready"] is False
    slot.model = model_saying("v1", varied)
    info, metrics, ready = await shown()
    assert (info["model"]["version"], info["effective_weight"], ready["ready"]) == ("v1", 1.0, True)
    assert metrics['quantum_agent_effective_weight{agent="xgb"}'] == "1.0"
    assert 1.7e9 < float(metrics['quantum_agent_model_age_seconds{agent="xgb"}']) < 4e9

"""Releases while bars flow: the real agents and meta-svc on a real server, and an operator with `quantum models`.

One replay, in which xgb gets a shadow, that shadow as its model, a model that must be refused, its old model back, a
model that collapses on live features, and its old model once more. The other agents stand beside it, and nobody waits.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from chaos.service_line import FakeSlot, Market, feed
from meta_svc.app import build as build_meta
from meta_svc.settings import Settings as MetaSettings
from quantum_cli.main import app
from quantum_common.agent import ModelSpec, build
from quantum_common.agent.slot import AgentSlot
from quantum_common.bus import RedisBus
from quantum_common.contracts import DECISIONS, PREDICTIONS, PredictionMade, decode
from quantum_common.domain import AGENT_SERVICES, AGENTS
from quantum_common.domain.signal import CLASS_ORDER
from quantum_common.features import FEATURE_NAMES, feature_hash
from quantum_common.models import Golden, Manifest, promote, publish
from quantum_common.models.serving import Graph
from quantum_common.service import FleetSettings, Service, Stop
from quantum_common.testing import eventually, running_server

SYMBOLS = tuple(f"COIN{number:02d}USDT" for number in range(20))
ROW_COUNT = 8


def graph(seed: int, scale: float, *, ceiling: float) -> bytes:
    """softmax(min(input, ceiling) @ weights)."""
    weights = (np.random.default_rng(seed).normal(size=(18, 3)) * scale).astype(np.float32)
    nodes = [
        helper.make_node("Clip", ["input", "", "ceiling"], ["seen"]),
        helper.make_node("MatMul", ["seen", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    body = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 18])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.float32(ceiling), "ceiling")],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def published(models_dir: Path, version: str, seed: int, *, scale: float = 0.02, ceiling: float = 1e6) -> None:
    """Golden rows lie around 0 and live features between 0 and 100, so that a `ceiling` of 0 collapses live only."""
    rows = np.random.default_rng(seed).normal(0, 20, (ROW_COUNT, 18)).astype(np.float32)
    onnx_bytes = graph(seed, scale, ceiling=ceiling)
    manifest = Manifest(
        agent="xgb", version=version, kind="row", feature_hash=feature_hash("raw"), view="raw",
        feature_names=FEATURE_NAMES, class_order=tuple(CLASS_ORDER), timeframe="1h", horizon_bars=5,
        label_threshold=0.015, window_bars=1, symbols=SYMBOLS, library_versions={}, data_from_ms=0, labels_to_ms=1,
        metrics={}, quality="proven", parameters=54,
        golden=Golden(rows.tolist(), Graph(onnx_bytes).run(rows).tolist()),
    )  # fmt: skip
    publish(models_dir, manifest, onnx_bytes)


async def soon(check: Callable[[], Any]) -> None:
    """However busy the machine is."""
    await eventually(check, within_s=60)


@dataclass
class Play:
    """What the replay left behind, and what was seen on the way."""

    predictions: list[Any] = field(default_factory=list)
    decisions: list[Any] = field(default_factory=list)
    bars: int = 0
    exit_codes: dict[str, int] = field(default_factory=dict)
    problem_after_refusal: str = ""

    def versions(self, symbol: str) -> list[str]:
        """What xgb said, bar by bar: the version that voted, or why it abstained; runs of the same once."""
        said = [event for event in self.of("xgb", "champion") if event.symbol == symbol]
        said.sort(key=lambda event: event.bar_ts_ms)
        return [name for name, _ in groupby(getattr(e.payload, "reason", e.payload.model_version) for e in said)]

    def of(self, agent: str, role: str) -> list[Any]:
        return [
            event
            for event in self.predictions
            if event.payload.agent == agent and getattr(event.payload, "role", "champion") == role
        ]


@dataclass
class Line:
    """The line while it runs."""

    market: Market
    bus: RedisBus
    url: str
    models_dir: Path
    xgb: Service
    slot: AgentSlot
    played: Play

    async def bars(self, count: int) -> None:
        """Let some bars pass."""
        until = self.market.bar + count
        await soon(lambda: self.market.bar >= until)

    async def quantum(self, name: str, *arguments: str) -> None:
        """What an operator types, in a shell where QT_REDIS_URL is exported."""
        self.played.exit_codes[name] = (
            await asyncio.to_thread(
                CliRunner().invoke,
                app,
                ["models", *arguments, "--models", str(self.models_dir)],
                env={"QT_REDIS_URL": self.url},
            )
        ).exit_code

    async def serves(self, version: str) -> None:
        await soon(lambda: self.slot.model is not None and self.slot.model.manifest.version == version)


async def releases(line: Line) -> None:
    """The operator's morning."""
    await line.serves("v1")
    await line.bars(3)
    await line.quantum("shadow", "promote", "xgb", "v2", "--shadow")
    await soon(lambda: line.xgb.info()["shadow"])
    await line.bars(3)
    await line.quantum("release", "promote", "xgb", "v2")
    await line.serves("v2")
    await soon(lambda: line.xgb.info()["shadow"] is None)
    await line.bars(3)
    await line.quantum("refused", "promote", "xgb", "constant", "--force")
    await line.bars(2)
    promote(line.models_dir, "xgb", "constant", reason="past the command", at_ms=0)  # the agent refuses it itself
    await soon(lambda: "constant_output" in str(line.slot.problem))
    line.played.problem_after_refusal = str(line.slot.problem)
    await line.bars(3)
    await line.quantum("rollback of the refused", "rollback", "xgb")
    await line.quantum("rollback", "rollback", "xgb")
    await line.serves("v1")
    await line.bars(3)
    await line.quantum("collapsing", "promote", "xgb", "collapsing")
    await soon(lambda: line.xgb.not_ready() == ["collapsed: model collapsing"])
    await line.bars(3)
    await line.quantum("rollback of the collapsed", "rollback", "xgb")
    await line.serves("v1")
    await line.bars(3)


class AgentSettings(FleetSettings):
    service: ClassVar[str] = ""


def agent_settings(agent: str, **common: Any) -> FleetSettings:
    named = type("Settings", (AgentSettings,), {"service": AGENT_SERVICES[agent], "__annotations__": {}})
    settings: FleetSettings = named(**common)
    return settings


async def play(url: str, models_dir: Path) -> Play:
    market, played, stop = Market(SYMBOLS, 1), Play(), Stop()
    common: dict[str, Any] = {"clock": "replay", "models_dir": models_dir, "symbols": SYMBOLS}
    buses = [RedisBus.connect(url) for _ in range(3 + len(AGENTS))]
    spec, settings = ModelSpec("xgb", "row", "raw"), agent_settings("xgb", **common)
    slot = AgentSlot(settings, spec)
    xgb = build(settings, spec, buses[0], slot)
    others = [
        build(agent_settings(agent, **common), ModelSpec(agent, "row", "raw"), bus, FakeSlot(agent))  # type: ignore[arg-type]
        for agent, bus in zip([agent for agent in AGENTS if agent != "xgb"], buses[1:], strict=False)
    ]
    services = [xgb, *others, build_meta(MetaSettings(**common), buses[-3])]
    line = Line(market, buses[-2], url, models_dir, xgb, slot, played)

    async def decided(bars: int) -> bool:
        stream = market.keys.all_streams(DECISIONS)[0]
        return (await line.bus.stream_infos([stream]))[stream].length >= bars * len(SYMBOLS)

    async def flow() -> None:
        """One bar is being decided while the next is published already."""
        while not stop.requested:
            await soon(lambda: decided(market.bar))
            market.bar += 1
        await soon(lambda: decided(market.bar + 1))

    async with asyncio.TaskGroup() as tasks:
        ended = Stop()
        for service in services:
            for loop in service.loops.values():
                tasks.create_task(loop(ended, lambda: None))
        tasks.create_task(feed(market, "1")(buses[-1], lambda: ended.requested))
        flowing = tasks.create_task(flow())
        try:
            await releases(line)
        finally:
            stop.request()
            await flowing
            ended.request()
    played.bars = market.bar + 1
    played.predictions = await everything(line.bus, market.keys.all_streams(PREDICTIONS)[0])
    played.decisions = await everything(line.bus, market.keys.all_streams(DECISIONS)[0])
    for bus in buses:
        await bus.close()
    return played


async def everything(bus: RedisBus, stream: str) -> list[Any]:
    return [decode(entry.data) for entry in reversed(await bus.newest(stream, 1_000_000))]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    models_dir = tmp_path_factory.mktemp("models")
    published(models_dir, "v1", 1)
    published(models_dir, "v2", 2)
    published(models_dir, "constant", 3, scale=0.0)
    published(models_dir, "collapsing", 4, ceiling=0.0)
    promote(models_dir, "xgb", "v1", reason="first", at_ms=0)
    with running_server(tmp_path_factory.mktemp("server")) as url:
        yield asyncio.run(play(url, models_dir))


def test_f31_the_operators_commands_did_what_they_say(played: Play) -> None:
    assert played.exit_codes == {
        "shadow": 0, "release": 0, "refused": 1, "rollback of the refused": 0, "rollback": 0, "collapsing": 0,
        "rollback of the collapsed": 0,
    }  # fmt: skip


def test_f31_no_bar_is_missed_or_doubled_across_releases(played: Play) -> None:
    bars = {(event.symbol, event.bar_ts_ms) for event in played.decisions}
    assert len(bars) == len(played.decisions) == played.bars * len(SYMBOLS)
    for agent in AGENTS:
        assert Counter((e.symbol, e.bar_ts_ms) for e in played.of(agent, "champion")) == dict.fromkeys(bars, 1)


def test_f31_each_release_changes_the_version_once_and_the_refused_one_never(played: Play) -> None:
    for symbol in SYMBOLS:
        assert played.versions(symbol) == ["v1", "v2", "v1", "collapsing", "collapsed", "v1"]
    assert "constant_output" in played.problem_after_refusal


def test_f08_the_collapsed_model_abstained_by_name_and_the_others_decided(played: Play) -> None:
    abstained = [event for event in played.of("xgb", "champion") if not isinstance(event.payload, PredictionMade)]
    assert {(event.payload.reason, event.payload.model_version) for event in abstained} == {("collapsed", "collapsing")}
    bars = {(event.symbol, event.bar_ts_ms) for event in abstained}
    votes = [e.payload.votes for e in played.decisions if (e.symbol, e.bar_ts_ms) in bars]
    assert len(votes) == len(bars) >= 3 * len(SYMBOLS)
    for vote in votes:
        assert {each.agent for each in vote if each.abstain_reason == "collapsed"} == {"xgb"}
        assert sum(each.action is not None for each in vote) == len(AGENTS) - 1


def test_a_shadow_is_marked_and_never_votes(played: Play) -> None:
    shadows = played.of("xgb", "shadow")
    assert {event.payload.model_version for event in shadows} == {"v2"}
    assert Counter((event.symbol, event.bar_ts_ms) for event in shadows).most_common(1)[0][1] == 1
    assert len(shadows) >= 3 * len(SYMBOLS)
    used = {event_id for event in played.decisions for event_id in event.payload.input_event_ids}
    assert not used & {event.event_id for event in shadows}
    assert used >= {event.event_id for agent in AGENTS for event in played.of(agent, "champion")}


def test_votes_of_a_decision_are_those_of_the_version_that_served(played: Play) -> None:
    said = {(e.symbol, e.bar_ts_ms): e.payload.model_version for e in played.of("xgb", "champion")}
    for event in played.decisions:
        vote = next(vote for vote in event.payload.votes if vote.agent == "xgb")
        assert vote.action is None or vote.model_version == said[event.symbol, event.bar_ts_ms]

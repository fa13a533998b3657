"""Agents, meta and governer of today between neighbours of the version before and of the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from contracts.builders import BAR_MS, BTC, ETH, account, features
from contracts.compatibility import differences, read_by_previous, written_by_next, written_by_previous
from governer_svc.app import RiskService
from governer_svc.settings import Settings as RiskSettings
from meta_svc.app import MetaApp
from meta_svc.serving import MetaSlot
from meta_svc.settings import Settings as MetaSettings
from quantum_common.agent.app import Agent
from quantum_common.agent.slot import AgentSlot
from quantum_common.agent.spec import ModelSpec
from quantum_common.bus import Consumer, RedisBus
from quantum_common.contracts import (
    ALLOCATIONS,
    DECISIONS,
    EXECUTIONS,
    FEATURES,
    PREDICTIONS,
    Keys,
    StreamSpec,
    decode,
    encode,
)
from quantum_common.domain import AGENT_SERVICES, AGENTS, Action
from quantum_common.models.manifest import ModelRefused
from quantum_common.models.serving import LoadedModel
from quantum_common.service import FleetSettings

KEYS = Keys()
LINE = (FEATURES, PREDICTIONS, DECISIONS, EXECUTIONS, ALLOCATIONS)

Dialect = Callable[[bytes], bytes]
"""Rewrites an event of today as another version would have written it."""


def as_today(data: bytes) -> bytes:
    return data


MIXES: dict[str, dict[str, Dialect]] = {
    "n_minus_1_beside_n_plus_1": {BTC: written_by_previous, ETH: written_by_next},
    "n_plus_1_beside_n_minus_1": {BTC: written_by_next, ETH: written_by_previous},
    "all_n_minus_1": {BTC: written_by_previous, ETH: written_by_previous, "": written_by_previous},
    "all_n_plus_1": {BTC: written_by_next, ETH: written_by_next, "": written_by_next},
}


# -- The services, wired in one place


class FixedModel:
    """Says BUY with the same probabilities for every row."""

    class manifest:
        version, quality = "20260101-1", "proven"

    def predict(self, inputs: Any) -> Any:
        return np.tile([0.05, 0.1, 0.85], (len(inputs), 1))


class FixedSlot(AgentSlot):
    def load(self, version: str) -> LoadedModel:
        raise ModelRefused("unused", version)


def agent_step(bus: RedisBus, agent: str, folder: Path) -> Step:
    class Settings(FleetSettings):
        service: ClassVar[str] = AGENT_SERVICES[agent]

    settings, spec = Settings(clock="replay", models_dir=folder), ModelSpec(agent, "row", "relative")
    slot = FixedSlot(settings, spec)
    slot.model = FixedModel()  # type: ignore[assignment]
    return Step(bus, settings, Agent(settings, spec, bus, slot).handle)


def meta_step(bus: RedisBus, folder: Path) -> Step:
    settings = MetaSettings(clock="replay", models_dir=folder)
    return Step(bus, settings, MetaApp(settings, bus, MetaSlot(None, settings.policy)).handle)


def governer_step(bus: RedisBus, folder: Path) -> Step:
    settings = RiskSettings(clock="replay", state_dir=folder)
    return Step(bus, settings, RiskService(settings, bus).handle)


class Step:
    """One service of the line: reads until its streams are drained."""

    def __init__(self, bus: RedisBus, settings: FleetSettings, handle: Any) -> None:
        streams = settings.keys.subscribed(settings.service)
        self._consumer, self._handle = Consumer(bus, streams, settings.service, settings.instance), handle

    async def run(self) -> None:
        await self._consumer.start()
        while batch := await self._consumer.read(20):
            await self._consumer.handle(batch, self._handle)
        await self._consumer.stop()


# -- The line


class Line:
    """Runs service after service; between them every event is rewritten in the dialect of its symbol."""

    def __init__(self, bus: RedisBus, folder: Path, dialects: dict[str, Dialect]) -> None:
        self._bus, self._folder, self._dialects = bus, folder, dialects

    async def run(self) -> dict[str, list[Any]]:
        """Stream → its events of today, as they were before a neighbour of another version rewrote them."""
        for symbol in (BTC, ETH):
            await self._put(FEATURES, symbol, encode(features(symbol)))
        await self._put(EXECUTIONS, "", encode(account()))
        for agent in AGENTS:
            await agent_step(self._bus, agent, self._folder).run()
        made = {"predictions": await self._rewrite(PREDICTIONS)}
        await meta_step(self._bus, self._folder).run()
        made["decisions"] = await self._rewrite(DECISIONS)
        await governer_step(self._bus, self._folder).run()
        made["allocations"] = await self._rewrite(ALLOCATIONS)
        return made

    async def _put(self, spec: StreamSpec, symbol: str, data: bytes) -> None:
        await self._bus.append(KEYS.stream(spec, symbol), self._dialects.get(symbol, as_today)(data))

    async def _rewrite(self, spec: StreamSpec) -> list[Any]:
        """Nobody has read the stream yet, so it can be written anew."""
        (stream,) = KEYS.all_streams(spec)
        written = [entry.data for entry in reversed(await self._bus.newest(stream, 1000))]
        await self._bus._redis.delete(stream)
        for data in written:
            seen = msgspec.json.decode(msgspec.json.encode(read_by_previous(data)))
            assert differences(seen, msgspec.json.decode(data)) == []
            await self._put(spec, decode(data).symbol, data)
        return [decode(data) for data in written]

    async def symbols_with_unknown_fields(self) -> set[str]:
        entries = [
            entry
            for spec in (FEATURES, PREDICTIONS, DECISIONS, ALLOCATIONS)
            for entry in await self._bus.newest(*KEYS.all_streams(spec), 1000)
        ]
        assert len(entries) == 2 * (3 + len(AGENTS))
        return {decode(entry.data).symbol for entry in entries if b"added_later" in entry.data}

    async def left_over(self) -> dict[str, int]:
        """Stream → entries pending or dead."""
        streams = [stream for spec in LINE for stream in KEYS.all_streams(spec)]
        infos = await self._bus.stream_infos([*streams, *(f"{stream}:dead" for stream in streams)])
        counts = {
            name: info.length if name.endswith(":dead") else sum(group.pending for group in info.groups.values())
            for name, info in infos.items()
        }
        return {name: count for name, count in counts.items() if count}


def content(events: Sequence[Any]) -> list[Any]:
    """Ids and payloads without what the wall clock put in."""
    rows = msgspec.to_builtins(events)
    for row in rows:
        row.pop("produced_at_ms")
        row["payload"].pop("inference_ms", None)
    return sorted(rows, key=lambda row: str(row["event_id"]))


async def test_the_undisturbed_line_ends_in_two_approvals(bus: RedisBus, tmp_path: Path) -> None:
    """What the mixed lines are compared with is worth comparing."""
    made = await Line(bus, tmp_path, {}).run()
    assert len(made["predictions"]) == 2 * len(AGENTS)
    assert [(event.symbol, event.payload.action, event.bar_ts_ms) for event in made["decisions"]] == [
        (BTC, Action.BUY, BAR_MS),
        (ETH, Action.BUY, BAR_MS),
    ]
    assert [event.kind for event in made["allocations"]] == ["PositionApproved"] * 2


@pytest.mark.parametrize("mix", MIXES)
async def test_a_mixed_line_says_what_the_line_of_today_says(bus: RedisBus, tmp_path: Path, mix: str) -> None:
    today = await Line(bus, tmp_path, {}).run()
    await bus._redis.flushall()
    line = Line(bus, tmp_path, MIXES[mix])
    mixed = await line.run()
    for stream, events in today.items():
        assert content(mixed[stream]) == content(events), stream
    assert await line.left_over() == {}
    assert await line.symbols_with_unknown_fields() == {
        symbol for symbol, dialect in MIXES[mix].items() if symbol and dialect is written_by_next
    }


def test_an_event_that_the_old_reader_refuses_is_noticed() -> None:
    """The dialects are real: what lacks a field of version N−1 does not pass as one of its events."""
    torn = msgspec.json.decode(encode(features()))
    del torn["payload"]["volatility"]
    with pytest.raises(msgspec.ValidationError, match="volatility"):
        written_by_previous(msgspec.json.encode(torn))

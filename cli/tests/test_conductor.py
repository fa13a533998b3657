"""What stands on the streams beside the bar in hand must not end the replay."""

from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from quantum_cli.conductor import Conductor
from quantum_cli.errors import RunFailed
from quantum_cli.line import Line
from quantum_common.bus import MemoryBus
from quantum_common.contracts import (
    Candle,
    DecisionMade,
    FeaturesComputed,
    Keys,
    PositionRejected,
    PredictionAbstained,
    PredictionMade,
    Producer,
    encode,
    envelope,
)
from quantum_common.domain import AGENTS, Action

HOUR = 3_600_000
KEYS = Keys()
STREAMS = ("{p00}:features", "{p00}:predictions", "{p00}:decisions", "{paper}:allocations", "{paper}:executions")


async def append(bus: MemoryBus, stream: str, payload: Any, natural_key: str = "") -> str:
    event = envelope(
        payload,
        producer=Producer("test", "1", "0"),
        produced_at_ms=0,
        symbol="BTCUSDT",
        timeframe="1h",
        bar_ts_ms=HOUR,
        natural_key=natural_key,
    )
    await bus.append(stream, encode(event))
    return event.event_id


async def a_bar(bus: MemoryBus) -> None:
    features = FeaturesComputed(Candle(1, 1, 1, 1, 1), (0.0,) * 18, 0.5, 0.0, "hash", 0, 1)
    await append(bus, "{p00}:features", features)
    for agent in AGENTS:
        await append(bus, "{p00}:predictions", PredictionAbstained(agent, "not_enough_history", ""), agent)
    made = DecisionMade(
        Action.HOLD, 0.5, "r", False, None, None, Action.HOLD, 0.5, 0.0, (), None, "complete", (), "v2", None, 0.5, 0.0
    )
    decision_id = await append(bus, "{p00}:decisions", made)
    await append(bus, "{paper}:allocations", PositionRejected(decision_id, "HOLD", 0.5, "HOLD", "", 0))


async def settled(bus: MemoryBus, **options: Any) -> list[str]:
    """Check the bar as the conductor does after a restart; returns the decisions it counted."""
    decisions: list[str] = []
    async with httpx.AsyncClient() as venue, Redis() as never_asked:
        conductor = Conductor(
            bus,
            Line(never_asked, KEYS),
            venue,
            KEYS,
            HOUR,
            lambda *_: None,
            lambda event: decisions.append(event.symbol),
            **options,
        )
        await conductor._rewind(2 * HOUR)
        await conductor._check_bar(HOUR, 1)
    return decisions


async def test_entries_that_are_no_events_are_left_to_the_dead_letters() -> None:
    bus = MemoryBus()
    await a_bar(bus)
    for stream in STREAMS:
        await bus.append(stream, b"poison")
    assert await settled(bus) == ["BTCUSDT"]


async def test_a_bar_with_an_event_too_many_ends_the_run() -> None:
    bus = MemoryBus()
    await a_bar(bus)
    await append(bus, "{p00}:predictions", PredictionAbstained("xgb", "collapsed", ""), "xgb")
    with pytest.raises(RunFailed, match="1 symbols published, but 1.25 predictions"):
        await settled(bus)


async def test_what_a_shadow_says_beside_the_votes_is_not_counted() -> None:
    bus = MemoryBus()
    await a_bar(bus)
    shadow = PredictionMade("xgb", Action.BUY, 0.9, (0.05, 0.05, 0.9), "v2", "shadow", 0.1)
    await append(bus, "{p00}:predictions", shadow, "v2:shadow")
    assert await settled(bus) == ["BTCUSDT"]


async def test_what_a_fault_run_injects_can_be_left_out() -> None:
    bus = MemoryBus()
    await a_bar(bus)
    await append(bus, "{p00}:predictions", PredictionAbstained("xgb", "collapsed", "injected"), "xgb")
    assert await settled(bus, counted=lambda entry: b"injected" not in entry.data) == ["BTCUSDT"]

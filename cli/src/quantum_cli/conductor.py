"""Moving the paper market's clock bar by bar, each bar only when the one before is settled.

Settled: for every symbol that has the bar, features, a vote or abstention of each agent, decision and verdict exist;
every order is terminal or resting; the governer has taken in the account; the recorder has written. Inside a bar the
venue halts at every fill until the executor has acknowledged it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from quantum_cli.errors import RunFailed
from quantum_cli.line import Line, LineState
from quantum_common import __version__
from quantum_common.bus import Bus
from quantum_common.contracts import (
    ALLOCATIONS,
    CONTROL,
    DecisionMade,
    Envelope,
    Keys,
    Look,
    Producer,
    decode,
    encode,
    envelope,
)
from quantum_common.domain import AGENTS
from quantum_common.service.clock import wall_ms

STALLED_AFTER_S = 120.0
POLL_S = 0.0015
ALL = 1_000_000
PRODUCER = Producer("quantum", "conductor", __version__)
EVENTS_PER_SYMBOL = {"features": 1, "predictions": len(AGENTS), "decisions": 1, "allocations": 1}
"""What a settled bar holds for each symbol that was published."""
STAGE_OF = {
    "FeaturesComputed": "features",
    "PredictionMade": "predictions",
    "PredictionAbstained": "predictions",
    "DecisionMade": "decisions",
    "PositionApproved": "allocations",
    "PositionRejected": "allocations",
}


class Conductor:
    """Drives one line. `on_bar` gets a bar's open time and how many symbols had it; `on_decision` each decision."""

    def __init__(
        self,
        bus: Bus,
        line: Line,
        venue: httpx.AsyncClient,
        keys: Keys,
        timeframe_ms: int,
        on_bar: Callable[[int, int], None],
        on_decision: Callable[[Envelope[DecisionMade]], None],
    ) -> None:
        self._bus, self._line, self._venue, self._keys, self._step_ms = bus, line, venue, keys, timeframe_ms
        self._on_bar, self._on_decision = on_bar, on_decision
        self._positions: dict[str, str] = {}
        self._moved_at = time.monotonic()

    async def announce(self) -> None:
        """Tell the market time before the services start, so that their first events carry it."""
        await self._look(await self._now_ms())

    async def run(self, close_times_ms: Sequence[int], bars_per_s: float | None) -> None:
        """Drive the market over all close times, ascending; one that is not behind the venue's clock is (re)played.

        Raises RunFailed when the fleet stalls or the venue refuses to move.
        """
        now_ms = await self._now_ms()
        await self._rewind(now_ms)
        due = time.monotonic()
        for close_ms in close_times_ms:
            if close_ms < now_ms:
                continue
            if bars_per_s is not None:
                due = max(due + 1 / bars_per_s, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
            await self._play_bar(close_ms)

    async def _now_ms(self) -> int:
        return int((await self._venue.get("/sim/status")).json()["now_ms"])

    async def _rewind(self, now_ms: int) -> None:
        """Start reading before the bar in hand: a run that goes on finds what the earlier one wrote of it."""
        for stream in self._line.streams:
            older = (
                entry.entry_id
                for entry in await self._bus.newest(stream, 1000)
                if decode(entry.data).bar_ts_ms < now_ms - self._step_ms
            )
            self._positions[stream] = next(older, "0-0")

    async def _play_bar(self, close_ms: int) -> None:
        while (reply := await self._advance(close_ms))["halted"]:
            trade_id = int(reply["last_trade_id"])
            await self._look(int(reply["now_ms"]))
            await self._until(lambda state, last=trade_id: state.acknowledged_trade_id >= last)  # type: ignore[misc]
        await self._look(close_ms)
        await self._until(lambda state: state.looked_ms >= close_ms, wait_for_verdicts=True)
        bar_ts_ms = close_ms - self._step_ms
        self._on_bar(bar_ts_ms, await self._check_bar(bar_ts_ms))

    async def _advance(self, to_ms: int) -> dict[str, Any]:
        deadline = time.monotonic() + STALLED_AFTER_S
        while True:
            try:
                response = await self._venue.post("/sim/advance", json={"to_ms": to_ms})
                if response.is_client_error:
                    raise RunFailed(f"the venue refuses to move on: {response.status_code} {response.text}")
                response.raise_for_status()
                return dict(response.json())
            except httpx.HTTPError as error:
                if time.monotonic() > deadline:
                    raise RunFailed(f"the venue does not answer: {error!r}") from error
                await asyncio.sleep(0.2)

    async def _look(self, market_ts_ms: int) -> None:
        event = envelope(
            Look("clock", market_ts_ms), producer=PRODUCER, produced_at_ms=wall_ms(), natural_key=str(market_ts_ms)
        )
        await self._bus.append(self._keys.stream(CONTROL), encode(event))
        self._moved_at = time.monotonic()

    async def _until(self, reached: Callable[[LineState], bool], *, wait_for_verdicts: bool = False) -> None:
        """Wait until the condition holds and nothing is in flight; RunFailed when the fleet stalls.

        A bar's verdicts come near its end, so waiting for them first saves most of the polling.
        """
        if wait_for_verdicts:
            stream = self._keys.stream(ALLOCATIONS)
            await self._bus.tail({stream: self._positions[stream]}, count=1, block_ms=200)
        while True:
            state = await self._line.look()
            if reached(state) and not state.in_flight:
                return
            if time.monotonic() - self._moved_at > STALLED_AFTER_S:
                raise RunFailed(f"the fleet stalled: {'; '.join(state.in_flight) or state}")
            await asyncio.sleep(POLL_S)

    async def _check_bar(self, bar_ts_ms: int) -> int:
        """Count the settled bar's events; RunFailed unless each symbol has exactly what it must have."""
        seen = Counter[str]()
        for entry in await self._bus.tail(self._positions, count=ALL, block_ms=None):
            self._positions[entry.stream] = entry.entry_id
            event = decode(entry.data)
            if event.bar_ts_ms == bar_ts_ms and (stage := STAGE_OF.get(event.kind)):
                seen[stage] += 1
                if isinstance(event.payload, DecisionMade):
                    self._on_decision(event)
        published = seen["features"]
        wanted = {stage: each * published for stage, each in EVENTS_PER_SYMBOL.items()}
        if wrong := [f"{seen[stage]} {stage}" for stage, count in wanted.items() if seen[stage] != count]:
            raise RunFailed(f"bar {bar_ts_ms}: {published} symbols published, but {', '.join(wrong)}")
        return published

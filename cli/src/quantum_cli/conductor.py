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
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import msgspec

from quantum_cli.errors import RunFailed
from quantum_common import __version__
from quantum_common.bus import Bus
from quantum_common.contracts import (
    ALLOCATIONS,
    CONTROL,
    DECISIONS,
    EXECUTIONS,
    FEATURES,
    PREDICTIONS,
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
PRODUCER = Producer("quantum", "conductor", __version__)
LINE = (FEATURES, PREDICTIONS, DECISIONS, ALLOCATIONS, EXECUTIONS)


@dataclass
class BarProgress:
    """What has been seen of one bar on the streams."""

    seen: Counter[str] = field(default_factory=Counter)

    def missing(self, published: int) -> list[str]:
        """Stages that have fewer events than the bar needs."""
        wanted = {
            "features": published,
            "predictions": published * len(AGENTS),
            "decisions": published,
            "allocations": published,
        }
        return [f"{name} {self.seen[name]}/{count}" for name, count in wanted.items() if self.seen[name] < count]


class Conductor:
    """`close_times_ms`: market times at which at least one symbol closes a bar, ascending."""

    def __init__(
        self,
        bus: Bus,
        venue: httpx.AsyncClient,
        keys: Keys,
        timeframe_ms: int,
        on_bar: Callable[[int, int], None],
        on_decision: Callable[[Envelope[DecisionMade]], None],
    ) -> None:
        self._bus, self._venue, self._keys, self._step_ms = bus, venue, keys, timeframe_ms
        self._on_bar, self._on_decision = on_bar, on_decision
        self._streams = [name for spec in LINE for name in keys.all_streams(spec)]
        self._positions: dict[str, str] = {}
        self._bar = BarProgress()
        self._bar_ts_ms = 0
        self._moved_at = time.monotonic()

    async def announce(self) -> None:
        """Tell the market time before the services start, so that their first events carry it."""
        await self._look(int((await self._venue.get("/sim/status")).json()["now_ms"]))

    async def run(self, close_times_ms: Sequence[int], bars_per_s: float | None) -> None:
        """Drive the market over all close times; a later run over the same folder goes on where this one ended."""
        status = (await self._venue.get("/sim/status")).json()
        now_ms = int(status["now_ms"])
        self._positions = dict.fromkeys(self._streams, "0-0")
        await self._rewind(now_ms)
        due = time.monotonic()
        for close_ms in close_times_ms:
            if close_ms < now_ms:
                continue
            if bars_per_s is not None:
                due = max(due + 1 / bars_per_s, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
            await self._play_bar(close_ms)

    async def _rewind(self, now_ms: int) -> None:
        """Start reading where the bar in hand begins: everything after a restart, cheaply."""
        for stream in self._streams:
            position = "0-0"
            for entry in await self._bus.newest(stream, 5000):
                if decode(entry.data).bar_ts_ms < now_ms - self._step_ms:
                    position = entry.entry_id
                    break
            self._positions[stream] = position

    async def _play_bar(self, close_ms: int) -> None:
        self._bar_ts_ms = close_ms - self._step_ms
        self._bar = BarProgress()
        while True:
            reply = await self._advance(close_ms)
            if not reply["halted"]:
                break
            await self._look(int(reply["now_ms"]))
            await self._wait(partial(self._fill_acknowledged, int(reply["last_trade_id"])))
        await self._look(close_ms)
        published = await self._wait(lambda: self._published(close_ms))
        await self._wait_for_line(published - 1)
        await self._wait(self._idle)
        self._on_bar(self._bar_ts_ms, published - 1)

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

    async def _wait(self, check: Callable[[], Any]) -> int:
        """Poll until `check` is truthy; RunFailed when the fleet stalls."""
        pause_s = 0.0005
        while not (result := await check()):
            if time.monotonic() - self._moved_at > STALLED_AFTER_S:
                raise RunFailed(f"the fleet stalled at market time {self._bar_ts_ms}: {await self._what_is_missing()}")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.02)
        return int(result)

    async def _published(self, close_ms: int) -> int:
        """1 + symbols that feature-svc published for this bar, 0 while it has not looked yet."""
        progress = await self._bus.counters(self._keys.features_progress())
        return 1 + progress["published"] if progress.get("looked_ms", 0) >= close_ms else 0

    async def _wait_for_line(self, published: int) -> None:
        while missing := self._bar.missing(published):
            for entry in await self._bus.tail(self._positions, count=5000, block_ms=200):
                self._positions[entry.stream] = entry.entry_id
                self._count(decode(entry.data))
            if time.monotonic() - self._moved_at > STALLED_AFTER_S:
                raise RunFailed(f"the fleet stalled at bar {self._bar_ts_ms}: {', '.join(missing)}")

    def _count(self, event: Envelope[Any]) -> None:
        if event.bar_ts_ms != self._bar_ts_ms:
            return
        stage = _STAGES.get(event.kind)
        if stage:
            self._bar.seen[stage] += 1
        if isinstance(event.payload, DecisionMade):
            self._on_decision(event)

    async def _fill_acknowledged(self, last_trade_id: int) -> bool:
        state = await self._bus.state(self._keys.account_state("executor-svc"))
        return int(state.fields.get("acknowledged_trade_id", 0)) >= last_trade_id and await self._idle()

    async def _idle(self) -> bool:
        """Nothing in flight anywhere: no lag, nothing pending, no order under way; twice in a row to be sure."""
        return not await self._in_flight() and not await self._in_flight()

    async def _in_flight(self) -> list[str]:
        found = []
        for stream, info in (await self._bus.stream_infos(self._streams)).items():
            found += [
                f"{stream} {group.name}: {group.pending} pending, {group.lag} unread"
                for group in info.groups.values()
                if group.pending or group.lag != 0
            ]
        state = await self._bus.state(self._keys.account_state("executor-svc"))
        if int(state.fields.get("unsettled", 0)):
            found.append(f"executor-svc: {state.fields['unsettled']} orders under way")
        return found

    async def _what_is_missing(self) -> str:
        progress = await self._bus.counters(self._keys.features_progress())
        return "; ".join([*await self._in_flight(), f"feature-svc {msgspec.json.encode(progress).decode()}"])


_STAGES = {
    "FeaturesComputed": "features",
    "PredictionMade": "predictions",
    "PredictionAbstained": "predictions",
    "DecisionMade": "decisions",
    "PositionApproved": "allocations",
    "PositionRejected": "allocations",
}

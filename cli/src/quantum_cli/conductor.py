"""Moving the paper market's clock bar by bar, each bar only when the one before is settled.

Settled: for every symbol that has the bar, features, a vote or abstention of each agent, decision and verdict exist;
every order is terminal or resting; the governer has taken in the account; the recorder has written. Inside a bar the
venue halts at every fill until the executor has acknowledged it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import httpx
from redis.exceptions import RedisError

from quantum_cli.errors import RunFailed
from quantum_cli.line import Line, LineState
from quantum_common import __version__
from quantum_common.bus import Bus, BusUnavailable, Entry
from quantum_common.contracts import (
    ALLOCATIONS,
    CONTROL,
    BadEvent,
    DecisionMade,
    Envelope,
    Keys,
    Look,
    PredictionAbstained,
    PredictionMade,
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
VERDICTS = ("PositionApproved", "PositionRejected")
"""On a decision of the bar; an operator's flatten approves closes of its own."""

T = TypeVar("T")


def _every(_: Entry) -> bool:
    return True


class Conductor:
    """Drives one line. `on_bar` gets a bar's open time and how many symbols had it; `on_decision` each decision.

    `counted`: entries for which it is false are left out when a bar is checked.
    """

    def __init__(
        self,
        bus: Bus,
        line: Line,
        venue: httpx.AsyncClient,
        keys: Keys,
        timeframe_ms: int,
        on_bar: Callable[[int, int], None],
        on_decision: Callable[[Envelope[DecisionMade]], None],
        counted: Callable[[Entry], bool] = _every,
    ) -> None:
        self._bus, self._line, self._venue = bus, line, venue
        self._keys, self._step_ms = keys, timeframe_ms
        self._on_bar, self._on_decision, self._counted = on_bar, on_decision, counted
        self._positions: dict[str, str] = {}
        self._moved_at = time.monotonic()

    async def announce(self) -> int:
        """Tell the market time before the services start, so that their first events carry it; returns it."""
        now_ms = await self._now_ms()
        await self._look(now_ms)
        return now_ms

    async def run(self, close_times_ms: Sequence[int], bars_per_s: float | None) -> None:
        """Drive the market over all close times, ascending; the newest one that the venue has reached is settled first.

        Raises RunFailed when the fleet stalls or the venue refuses to move.
        """
        now_ms = await self._now_ms()
        await self._keep_trying(partial(self._rewind, now_ms))
        due = time.monotonic()
        for close_ms in close_times_ms:
            if close_ms < now_ms:
                continue
            if bars_per_s is not None:
                due = max(due + 1 / bars_per_s, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
            await self._play_bar(close_ms)

    async def _now_ms(self) -> int:
        return int((await self._ask("GET", "/sim/status"))["now_ms"])

    async def _rewind(self, now_ms: int) -> None:
        """Start reading before the bar in hand: a run that goes on finds what the earlier one wrote of it."""
        for stream in self._line.streams:
            older = (
                entry.entry_id
                for entry in await self._bus.newest(stream, 1000)
                if (event := _event(entry)) and event.bar_ts_ms < now_ms - self._step_ms
            )
            self._positions[stream] = next(older, "0-0")

    async def _play_bar(self, close_ms: int) -> None:
        while (reply := await self._ask("POST", "/sim/advance", {"to_ms": close_ms}))["halted"]:
            await self._look(int(reply["now_ms"]))
            await self._until(partial(_has_acknowledged, int(reply["last_trade_id"])))
        await self._look(close_ms)
        await self._keep_trying(self._wait_for_verdicts)
        state = await self._until(lambda state: state.looked_ms >= close_ms)
        bar_ts_ms = close_ms - self._step_ms
        await self._keep_trying(partial(self._check_bar, bar_ts_ms, state.published))
        self._on_bar(bar_ts_ms, state.published)

    async def _ask(self, method: str, path: str, body: dict[str, int] | None = None) -> dict[str, Any]:
        async def call() -> dict[str, Any]:
            response = await self._venue.request(method, path, json=body)
            if response.is_client_error:
                raise RunFailed(f"the venue refuses {path}: {response.status_code} {response.text}")
            return dict(response.raise_for_status().json())

        return await self._keep_trying(call)

    async def _look(self, market_ts_ms: int) -> None:
        event = envelope(
            Look("clock", market_ts_ms), producer=PRODUCER, produced_at_ms=wall_ms(), natural_key=str(market_ts_ms)
        )
        await self._keep_trying(partial(self._bus.append, self._keys.stream(CONTROL), encode(event)))
        self._moved_at = time.monotonic()

    async def _keep_trying(self, call: Callable[[], Awaitable[T]]) -> T:
        """Server and venue may go away and are started again: RunFailed only when that takes too long."""
        deadline = time.monotonic() + STALLED_AFTER_S
        while True:
            try:
                return await call()
            except (BusUnavailable, RedisError, httpx.HTTPError) as error:
                if time.monotonic() > deadline:
                    raise RunFailed(f"server or venue does not answer: {error!r}") from error
                await asyncio.sleep(0.2)

    async def _wait_for_verdicts(self) -> None:
        """They come near the end of a bar, so waiting for them saves most of the polling."""
        stream = self._keys.stream(ALLOCATIONS)
        await self._bus.tail({stream: self._positions[stream]}, count=1, block_ms=200)

    async def _until(self, reached: Callable[[LineState], bool]) -> LineState:
        """Wait until the condition holds and nothing is in flight; RunFailed when the fleet stalls."""
        while True:
            state = await self._keep_trying(self._line.look)
            if reached(state) and not state.in_flight:
                return state
            if time.monotonic() - self._moved_at > STALLED_AFTER_S:
                raise RunFailed(f"the fleet stalled: {'; '.join(state.in_flight) or state}")
            await asyncio.sleep(POLL_S)

    async def _check_bar(self, bar_ts_ms: int, published: int) -> None:
        """Count the settled bar's events; RunFailed unless each symbol has exactly what it must have."""
        entries = await self._bus.tail(self._positions, count=ALL, block_ms=None)
        self._positions |= {entry.stream: entry.entry_id for entry in entries}
        found = [event for entry in entries if self._counted(entry) and (event := _event(entry))]
        events = [event for event in found if event.bar_ts_ms == bar_ts_ms]
        decisions = {event.event_id: event for event in events if isinstance(event.payload, DecisionMade)}
        verdicts = [event for event in events if event.kind in VERDICTS and event.payload.decision_id in decisions]
        seen = {
            "features": sum(event.kind == "FeaturesComputed" for event in events),
            "predictions": sum(_may_vote(event) for event in events) / len(AGENTS),
            "decisions": len(decisions),
            "verdicts": len(verdicts),
        }
        if wrong := [f"{count:g} {stage}" for stage, count in seen.items() if count != published]:
            raise RunFailed(f"bar {bar_ts_ms}: {published} symbols published, but {', '.join(wrong)}")
        for event in decisions.values():
            self._on_decision(event)


def _may_vote(event: Envelope[Any]) -> bool:
    """A vote or an abstention; what a shadow says beside it is neither."""
    payload = event.payload
    return isinstance(payload, PredictionAbstained) or (
        isinstance(payload, PredictionMade) and payload.role == "champion"
    )


def _event(entry: Entry) -> Envelope[Any] | None:
    """None for what is no event: its readers set it aside as a dead letter, and the market goes on."""
    try:
        return decode(entry.data)
    except BadEvent:
        return None


def _has_acknowledged(trade_id: int, state: LineState) -> bool:
    return state.acknowledged_trade_id >= trade_id

"""The control stream: wake-ups that every instance reads without a group."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from quantum_common.bus.port import Bus, BusUnavailable
from quantum_common.contracts.control import Look
from quantum_common.contracts.envelope import BadEvent, Producer, decode, encode, envelope
from quantum_common.contracts.streams import CONTROL_STREAM
from quantum_common.service.clock import MarketClock, wall_ms
from quantum_common.service.stop import Stop

log = logging.getLogger(__name__)

OnLook = Callable[[Look], Awaitable[None]]


class Control:
    """Follows the control stream, moves the market clock, and calls `on_look` for each Look, oldest first.

    At the start the newest clock Look is taken in first, so that a restarted service knows the market time.
    """

    def __init__(self, bus: Bus, clock: MarketClock, on_look: OnLook | None = None) -> None:
        self._bus, self._clock, self._on_look = bus, clock, on_look

    async def run(self, stop: Stop, beat: Callable[[], None]) -> None:
        position: str | None = None
        while not stop.requested:
            beat()
            try:
                if position is None:
                    position = await self._catch_up()
                for entry in await self._bus.tail({CONTROL_STREAM: position}, count=100, block_ms=1000):
                    position = entry.entry_id
                    await self._take(entry.data)
            except BusUnavailable as error:
                log.warning("control stream unavailable, retrying: %s", error)
                await asyncio.sleep(0.5)

    async def _catch_up(self) -> str:
        newest = await self._bus.newest(CONTROL_STREAM, 100)
        for entry in newest:
            if (look := _look(entry.data)) and look.subject == "clock":
                await self._take(entry.data)
                break
        return newest[0].entry_id if newest else "0-0"

    async def _take(self, data: bytes) -> None:
        if look := _look(data):
            if look.market_ts_ms is not None:
                self._clock.advance(look.market_ts_ms)
            if self._on_look:
                await self._on_look(look)


async def wake(bus: Bus, look: Look, producer: Producer) -> None:
    """Have every instance of the fleet look. Raises BusUnavailable."""
    now_ms = wall_ms()
    event = envelope(look, producer=producer, produced_at_ms=now_ms, natural_key=f"{look.subject}:{now_ms}")
    await bus.append(CONTROL_STREAM, encode(event))


def _look(data: bytes) -> Look | None:
    try:
        payload = decode(data).payload
    except BadEvent as error:
        log.error("control entry ignored: %s", error)
        return None
    return payload if isinstance(payload, Look) else None

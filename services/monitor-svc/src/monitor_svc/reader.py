"""Follows the streams without a group: the line never waits for the monitor.

A monitor that fell behind does not catch up entry by entry: it begins again at the newest entries, as at its start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from monitor_svc.facts import BARS_SHOWN, READ_STREAMS, Facts, Market, window_bars
from quantum_common.bus import Bus, BusUnavailable, Entry
from quantum_common.contracts import BadEvent, decode
from quantum_common.contracts.streams import EXECUTIONS, PREDICTIONS, StreamSpec
from quantum_common.domain.agents import AGENTS
from quantum_common.service import FleetSettings, Stop
from quantum_common.service.clock import wall_ms

log = logging.getLogger(__name__)

TURN_S = 1.0
FEWEST, MOST = 500, 5_000
"""Entries read back per stream; the recorder keeps so many of the newest."""
START = "0-0"


def entries_wanted(spec: StreamSpec, symbols: int, timeframe: str) -> int:
    """So many of the newest entries fill the window and the charts."""
    per_bar = {PREDICTIONS.name: len(AGENTS) * (window_bars(timeframe) + 4), EXECUTIONS.name: 4 * BARS_SHOWN}
    return min(MOST, max(FEWEST, symbols * per_bar.get(spec.name, BARS_SHOWN)))


class StreamReader:
    """Puts what stands on the streams into `facts.market`."""

    def __init__(self, settings: FleetSettings, bus: Bus, facts: Facts, clock: Callable[[], int] = wall_ms) -> None:
        self._bus, self._facts, self._clock = bus, facts, clock
        self._timeframe = settings.timeframe
        self._specs = {name: spec for spec in READ_STREAMS for name in settings.keys.all_streams(spec)}
        self._wanted = {
            name: entries_wanted(spec, len(settings.symbols), settings.timeframe) for name, spec in self._specs.items()
        }
        self._positions: dict[str, str] | None = None

    async def run(self, stop: Stop, beat: Callable[[], None]) -> None:
        while not stop.requested:
            beat()
            await self.turn()
            await stop.wait(TURN_S)

    async def turn(self) -> None:
        """Read once. What is wrong with the server is a fact like others: its age shows in every tile."""
        try:
            if self._positions is None:
                await self._begin()
            else:
                await self._follow(self._positions)
            self._facts.read.good(True, self._clock())
        except BusUnavailable as error:
            self._facts.read.bad(error.reason)

    async def _begin(self) -> None:
        """Facts of the newest entries take the place of all that were held."""
        market, positions = Market(self._timeframe), {}
        for stream, wanted in self._wanted.items():
            newest = await self._bus.newest(stream, wanted)
            positions[stream] = newest[0].entry_id if newest else START
            for entry in reversed(newest):
                self._take(market, entry)
        self._facts.market, self._positions = market, positions

    async def _follow(self, positions: dict[str, str]) -> None:
        most = min(self._wanted.values())
        entries = await self._bus.tail(positions, count=most, block_ms=None)
        if len(entries) >= most:
            self._positions = None
            return
        for entry in entries:
            self._take(self._facts.market, entry)
            positions[entry.stream] = entry.entry_id

    def _take(self, market: Market, entry: Entry) -> None:
        try:
            event: Any = decode(entry.data)
        except BadEvent as error:  # whoever it is meant for sets it aside; here it is only not shown
            log.debug("%s %s is not shown: %s", entry.stream, entry.entry_id, error)
            return
        market.take(self._specs[entry.stream], event)

"""The watch over the streams: looks every few seconds, tells metrics and people, trims nothing itself."""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
from collections.abc import Callable
from typing import Any

import msgspec

from quantum_common.bus import Bus, BusUnavailable
from quantum_common.contracts import REGISTRY
from quantum_common.contracts.streams import StreamSpec, dead
from quantum_common.domain import timeframe_ms
from quantum_common.service import Stop
from quantum_common.service.clock import wall_ms
from recorder_svc import metrics
from recorder_svc.metrics import stream_labels
from recorder_svc.settings import Settings
from recorder_svc.streams import Alarm, Judgement, Kind, Memory, Seen, Storage, StreamRow, judge, never_written

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0


class Watch:
    def __init__(self, settings: Settings, bus: Bus, *, clock: Callable[[], int] = wall_ms) -> None:
        self._settings, self._bus, self._clock = settings, bus, clock
        self._streams = [(stream, spec) for spec in REGISTRY for stream in settings.keys.all_streams(spec)]
        self._last = Judgement([], [], Memory(clock()))
        self._looked_ms: int | None = None
        self._problem: str | None = None

    async def run(self, stop: Stop, beat: Callable[[], None]) -> None:
        """The loop of the watch."""
        while not stop.requested:
            beat()
            try:
                await self.look()
            except BusUnavailable as error:
                if self._problem is None:
                    log.warning("streams are not watched: %s", error)
                self._problem = error.reason
            await stop.wait(LOOK_EVERY_S)

    async def look(self) -> None:
        """One look at everything; says what began and what ended since the one before."""
        seen, storage = await self._seen(), await self._storage()
        now_ms = self._clock()
        if self._looked_ms is None and (silent := never_written(seen)):
            log.info("never written so far, and by whom: %s", ", ".join(silent))
        bar_ms = None if self._settings.clock == "replay" else timeframe_ms(self._settings.timeframe)
        judged = judge(seen, self._last.memory, now_ms, bar_ms=bar_ms, storage=storage)
        _tell_changes(self._last.alarms, judged.alarms, now_ms)
        self._last, self._looked_ms, self._problem = judged, now_ms, None
        self._show(seen)
        metrics.show_storage(storage)

    async def _seen(self) -> list[Seen]:
        names = [stream for stream, _ in self._streams]
        infos = await self._bus.stream_infos([*names, *map(dead, names)])
        seen = []
        for stream, spec in self._streams:
            info = infos[stream]
            undelivered: dict[str, str] = {}
            pending: dict[str, str] = {}
            for group in info.groups.values():
                if group.lag != 0 and (
                    after := await self._bus.tail({stream: group.last_delivered_id}, count=1, block_ms=None)
                ):
                    undelivered[group.name] = after[0].entry_id
                if group.pending and (oldest := await self._bus.oldest_pending(stream, group.name)):
                    pending[group.name] = oldest
            seen.append(Seen(stream, spec, info, undelivered, pending, infos[dead(stream)].length))
        return seen

    async def _storage(self) -> Storage:
        facts = await self._bus.server_facts()
        maximum = int(facts.get("maxmemory", 0))
        memory = int(facts.get("used_memory", 0)) / maximum if maximum else None
        try:
            disk = await asyncio.to_thread(shutil.disk_usage, self._settings.state_dir)
        except OSError:  # not made yet
            return Storage(memory)
        return Storage(memory, 1 - disk.free / disk.total)

    def document(self) -> dict[str, Any]:
        """For people: the numbers of the last look, and the alarms that are on."""
        return {
            "looked_at_ms": self._looked_ms,
            "problem": self._problem,
            "alarms": msgspec.to_builtins(self._last.alarms),
            "streams": msgspec.to_builtins(self._last.rows),
        }

    def _show(self, seen: list[Seen]) -> None:
        for each, row in zip(seen, self._last.rows, strict=True):
            _show_stream(each.spec, row)
        for kind in Kind:
            metrics.ALARMS.labels(kind).set(sum(alarm.kind is kind for alarm in self._last.alarms))
        metrics.WATCHED_AT.set(self._clock() / 1000)


def _tell_changes(before: list[Alarm], now: list[Alarm], now_ms: int) -> None:
    """One line when an alarm begins and one when it ends."""
    old, new = ({alarm.key: alarm for alarm in alarms} for alarms in (before, now))
    for key in new.keys() - old.keys():
        log.error("alarm %s: %s", key[0], new[key].text)
    for key in old.keys() - new.keys():
        log.info("over after %d s: alarm %s: %s", (now_ms - old[key].since_ms) // 1000, key[0], old[key].text)


def _show_stream(spec: StreamSpec, row: StreamRow) -> None:
    labels = stream_labels(spec, row.stream)
    metrics.STREAM_LENGTH.labels(*labels).set(row.length)
    metrics.DEAD_LETTERS_WAITING.labels(*labels).set(row.dead_letters)
    for group in row.groups:
        metrics.GROUP_MISSING.labels(*labels, group.group).set(group.missing)
        metrics.GROUP_PENDING.labels(*labels, group.group).set(group.pending)
        metrics.GROUP_LAG.labels(*labels, group.group).set(math.nan if group.lag is None else group.lag)
        metrics.GROUP_LAG_UNKNOWN.labels(*labels, group.group).set(group.lag is None and not group.missing)
        metrics.GROUP_UNDELIVERED_AGE.labels(*labels, group.group).set(group.undelivered_age_s)
        age = group.last_delivery_age_s
        metrics.GROUP_LAST_DELIVERY_AGE.labels(*labels, group.group).set(math.nan if age is None else age)

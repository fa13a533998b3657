"""The recorder on the bus: archive, then ledger, then acknowledge."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence

from sqlalchemy.exc import OperationalError

from quantum_common.bus import Bus, BusUnavailable, Consumer, Received, RedisBus, Unit, run_consumer
from quantum_common.contracts import REGISTRY
from quantum_common.service import Service, Stop
from recorder_svc import metrics
from recorder_svc.api import router
from recorder_svc.archive import Archive, stream_name
from recorder_svc.errors import StorageUnavailable
from recorder_svc.ledger import EXECUTION_TYPES, Ledger
from recorder_svc.settings import Settings

log = logging.getLogger(__name__)

ACKS_PER_UNIT = 256
BLOCK_MS = 1000
TRIM_EVERY_S = 30
KEPT_ENTRIES = 5_000
"""Newest entries of a stream that stay although all have read them: people and dashboards look back."""


class Recorder:
    """An acknowledged entry is in the ledger's committed transaction, and its archive line is with the operating
    system: it survives a kill of this process; a loss of power may take archive lines, never ledger rows.
    """

    def __init__(self, settings: Settings, bus: Bus) -> None:
        self._settings, self._bus = settings, bus
        self.archive = Archive(settings.archive_dir)
        self.ledger = Ledger(settings.database_url)
        self._created = False

    async def consume(self, stop: Stop, beat: Callable[[], None]) -> None:
        """The loop of the service."""
        settings = self._settings
        consumer = Consumer(self._bus, settings.keys.subscribed(settings.service), settings.service, settings.instance)
        await run_consumer(consumer, self.handle, stopping=lambda: stop.requested, beat=beat, block_ms=BLOCK_MS)

    async def handle(self, batch: Sequence[Received]) -> None:
        """Write a batch and acknowledge it. Raises StorageUnavailable: then nothing is acknowledged."""
        if not batch and self._created:
            return
        with metrics.WRITE_SECONDS.time():
            await asyncio.to_thread(self._write, batch)
        await self._acknowledge(batch)
        for stream, count in Counter(stream_name(received.entry.stream) for received in batch).items():
            metrics.ENTRIES_RECORDED.labels(stream).inc(count)

    def _write(self, batch: Sequence[Received]) -> None:
        lines = self.archive.lines(batch)  # not within the try: an entry of an impossible time is no storage failure
        try:
            self._create()
            self.archive.append(lines)
            booked = [received.event for received in batch if isinstance(received.event.payload, EXECUTION_TYPES)]
            if booked:
                self.ledger.write(booked)
        except (OSError, OperationalError) as error:
            metrics.STORAGE_FAILURES.inc()
            self.archive.close()  # opened again, it sees a line that was cut short
            raise StorageUnavailable(f"{type(error).__name__}: {error}") from error

    def _create(self) -> None:
        if not self._created:
            self.ledger.create()
            self._created = True

    async def _acknowledge(self, batch: Sequence[Received]) -> None:
        by_stream: dict[str, list[Received]] = {}
        for received in batch:
            by_stream.setdefault(received.entry.stream, []).append(received)
        units = [
            Unit(inputs=[received.entry for received in rows[start : start + ACKS_PER_UNIT]])
            for rows in by_stream.values()
            for start in range(0, len(rows), ACKS_PER_UNIT)
        ]
        if units:
            await self._bus.commit(units)

    async def trim(self, stop: Stop, beat: Callable[[], None]) -> None:
        """Drop entries that every registered group has acknowledged: they are in the archive (F22)."""
        while not stop.requested:
            beat()
            for spec in REGISTRY:
                for stream in self._settings.keys.all_streams(spec) if spec.consumers else ():
                    await self._trim(stream, spec.consumers)
            for _ in range(TRIM_EVERY_S):
                beat()
                if await stop.wait(1.0):
                    return

    async def _trim(self, stream: str, groups: Sequence[str]) -> None:
        try:
            dropped = await self._bus.trim(stream, groups, KEPT_ENTRIES)
        except BusUnavailable as error:
            log.warning("trimming of %s put off: %s", stream, error)
            return
        metrics.TRIM_BLOCKED.labels(stream_name(stream)).set(dropped is None)
        metrics.ENTRIES_TRIMMED.labels(stream_name(stream)).inc(dropped or 0)

    def not_ready(self) -> list[str]:
        return [] if self._created else ["the ledger is not open"]

    async def close(self) -> None:
        self.archive.close()
        self.ledger.close()


def build(settings: Settings, bus: Bus | None = None) -> Service:
    """Wire the service; nothing is connected yet."""
    bus = bus or RedisBus.connect(settings.redis_url.get_secret_value())
    recorder = Recorder(settings, bus)
    return Service(
        settings=settings,
        loops={"consume": recorder.consume, "trim": recorder.trim},
        routers=[router(recorder.ledger)],
        not_ready=recorder.not_ready,
        closing=[recorder.close, bus.close],
    )

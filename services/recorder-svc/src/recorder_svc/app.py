"""The recorder on the bus: archive, then ledger, then acknowledge."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from sqlalchemy.exc import OperationalError

from quantum_common.bus import Bus, Consumer, Received, RedisBus, Unit, run_consumer
from quantum_common.service import Service, Stop
from recorder_svc import metrics
from recorder_svc.api import router, streams_router
from recorder_svc.archive import Archive, stream_name
from recorder_svc.errors import StorageUnavailable
from recorder_svc.ledger import EXECUTION_TYPES, Ledger
from recorder_svc.settings import Settings
from recorder_svc.trimming import Trimmer
from recorder_svc.watch import Watch

ACKS_PER_UNIT = 256
BLOCK_MS = 1000


class Recorder:
    """An acknowledged entry is in the ledger's committed transaction, and its archive line is with the operating
    system: it survives a kill of this process; a loss of power may take archive lines, never ledger rows.
    """

    def __init__(self, settings: Settings, bus: Bus) -> None:
        self._bus = bus
        self.archive = Archive(settings.archive_dir)
        self.ledger = Ledger(settings.database_url)
        self._created = False
        streams = settings.keys.subscribed(settings.service)
        self.consumer = Consumer(bus, streams, settings.service, settings.instance)

    async def consume(self, stop: Stop, beat: Callable[[], None]) -> None:
        """The loop of the service."""
        await run_consumer(self.consumer, self.handle, stopping=lambda: stop.requested, beat=beat, block_ms=BLOCK_MS)

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

    def not_ready(self) -> list[str]:
        return [] if self._created else ["the ledger is not open"]

    async def close(self) -> None:
        self.archive.close()
        self.ledger.close()


def build(settings: Settings, bus: Bus | None = None) -> Service:
    """Wire the service; nothing is connected yet."""
    bus = bus or RedisBus.connect(settings.redis_url.get_secret_value())
    recorder, trimmer, watch = Recorder(settings, bus), Trimmer(settings, bus), Watch(settings, bus)
    return Service(
        settings=settings,
        loops={"consume": recorder.consume, "trim": trimmer.run, "watch": watch.run},
        routers=[router(recorder.ledger), streams_router(watch)],
        bus=bus,
        consumers=[recorder.consumer],
        not_ready=recorder.not_ready,
        closing=[recorder.close, trimmer.close, bus.close],
    )

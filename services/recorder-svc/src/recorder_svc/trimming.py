"""Trimming: what every registered group has acknowledged goes, and the oldest dead letters move to the archive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from quantum_common.bus import Bus, BusUnavailable, Entry, Unit
from quantum_common.contracts import REGISTRY
from quantum_common.contracts.streams import StreamSpec, dead
from quantum_common.service import Stop
from recorder_svc import metrics
from recorder_svc.archive import Archive, Lines, stream_name
from recorder_svc.settings import Settings
from recorder_svc.streams import KEPT_ENTRIES

log = logging.getLogger(__name__)

TRIM_EVERY_S = 30
KEPT_LETTERS = 10_000
LETTERS_PER_UNIT = 256
LETTERS_FILE = "dead-letters.jsonl"


class Trimmer:
    def __init__(self, settings: Settings, bus: Bus) -> None:
        self._settings, self._bus = settings, bus
        self._letters = Archive(settings.archive_dir)
        """One of its own: it writes other files than the recorder's, from another thread."""

    async def run(self, stop: Stop, beat: Callable[[], None]) -> None:
        """The loop of the trimmer."""
        while not stop.requested:
            beat()
            await self.trim(beat)
            for _ in range(TRIM_EVERY_S):
                beat()
                if await stop.wait(1.0):
                    return

    async def trim(self, beat: Callable[[], None] = lambda: None) -> None:
        """Every stream of the registry once (F22). What cannot be done now is done at the next turn."""
        for spec in REGISTRY:
            for stream in self._settings.keys.all_streams(spec):
                beat()
                try:
                    if spec.consumers:
                        await self._trim(stream, spec)
                    await self._set_letters_aside(dead(stream), beat)
                except BusUnavailable as error:
                    log.warning("trimming of %s put off: %s", stream, error)
                except OSError as error:
                    metrics.STORAGE_FAILURES.inc()
                    log.error("dead letters of %s stay on the bus: %s", stream, error)

    async def _trim(self, stream: str, spec: StreamSpec) -> None:
        dropped = await self._bus.trim(stream, spec.consumers, KEPT_ENTRIES)
        metrics.TRIM_BLOCKED.labels(*metrics.stream_labels(spec, stream)).set(dropped is None)
        metrics.ENTRIES_TRIMMED.labels(stream_name(stream)).inc(dropped or 0)

    async def _set_letters_aside(self, letters: str, beat: Callable[[], None]) -> None:
        """Beyond `KEPT_LETTERS` the oldest are written to the archive, and only then leave the bus."""
        surplus = (await self._bus.stream_infos([letters]))[letters].length - KEPT_LETTERS
        while surplus > 0:
            beat()
            count = min(surplus, LETTERS_PER_UNIT)
            oldest = await self._bus.tail({letters: "0-0"}, count=count, block_ms=None)
            if not oldest:
                return
            await asyncio.to_thread(self._write, oldest)
            await self._bus.commit([Unit(writes=[("XDEL", letters, *(entry.entry_id for entry in oldest))])])
            log.error("%d dead letters of %s moved to the archive: more than %d wait", count, letters, KEPT_LETTERS)
            metrics.LETTERS_ARCHIVED.labels(stream_name(letters)).inc(len(oldest))
            surplus -= len(oldest)

    def _write(self, entries: Sequence[Entry]) -> None:
        lines: Lines = {}
        for entry in entries:
            day = datetime.fromtimestamp(int(entry.entry_id.partition("-")[0]) / 1000, UTC).date().isoformat()
            lines.setdefault(self._settings.archive_dir / day / LETTERS_FILE, []).append(letter_line(entry))
        try:
            self._letters.append(lines)
        except OSError:
            self._letters.close()  # opened again, it sees a line that was cut short
            raise

    async def close(self) -> None:
        self._letters.close()


def letter_line(entry: Entry) -> bytes:
    """`id` as `quantum dead` knew it, which tells doubles after a crash apart, and the letter as it stood there."""
    try:
        msgspec.json.decode(entry.data)
        letter: msgspec.Raw | str = msgspec.Raw(entry.data.replace(b"\n", b" "))
    except (msgspec.DecodeError, UnicodeDecodeError):
        letter = entry.data.decode(errors="backslashreplace")
    stream = entry.stream.removesuffix(":dead").replace("{", "").replace("}", "")
    return msgspec.json.encode({"id": f"{stream}:{entry.entry_id}", "letter": letter}) + b"\n"

"""The archive: `<folder>/<YYYY-MM-DD>/<stream>.jsonl`, one event per line as it stood on the bus.

Appended at least once: after a crash the same event may stand there twice, so readers drop doubles by event id. A
line that a crash cut short is skipped by readers and never joined with the next one.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from quantum_common.bus import Received
from quantum_common.contracts import Envelope, encode

log = logging.getLogger(__name__)

MAX_OPEN_FILES = 32
_MARKET_TIMES = ("market_ts_ms", "closed_ts_ms", "as_of_ms")


def day_of(event: Envelope[Any]) -> str:
    """UTC day of the event's bar; of its market time when it belongs to no bar; of its production as a last resort.

    Raises ValueError for a time that no calendar has.
    """
    ts_ms = event.bar_ts_ms
    for name in _MARKET_TIMES:
        ts_ms = ts_ms or getattr(event.payload, name, 0)
    ts_ms = ts_ms or event.produced_at_ms
    try:
        return datetime.fromtimestamp(ts_ms / 1000, UTC).date().isoformat()
    except (OSError, OverflowError) as error:  # the entry is wrong, not the disk
        raise ValueError(f"{ts_ms} ms is no time of {event.kind}") from error


def stream_name(stream: str) -> str:
    """`{p00}:features` → `features`."""
    return stream.partition(":")[2]


def _line(received: Received) -> bytes:
    data = received.entry.data
    return (encode(received.event) if b"\n" in data else data) + b"\n"


Lines = dict[Path, list[bytes]]
"""By file, in order of arrival."""


class Archive:
    """Appends to the files of the days at hand. Not thread-safe: one writer per folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[Path, FileIO] = OrderedDict()

    def lines(self, batch: Iterable[Received]) -> Lines:
        """What the batch adds to which file, before anything is written. Raises ValueError: an entry has no day."""
        lines: Lines = {}
        for received in batch:
            path = self._folder / day_of(received.event) / f"{stream_name(received.entry.stream)}.jsonl"
            lines.setdefault(path, []).append(_line(received))
        return lines

    def append(self, lines: Lines) -> None:
        """Hand the lines to the operating system: they survive the end of this process, not a loss of power.

        Raises OSError when the disk does not take them all; the next append starts on a line of its own.
        """
        for path, rows in lines.items():
            _write_whole(self._file(path), b"".join(rows))

    def _file(self, path: Path) -> FileIO:
        if (file := self._open.get(path)) is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            cut_short = _ends_within_a_line(path)
            file = self._open[path] = path.open("ab", buffering=0)
            if cut_short:
                _write_whole(file, b"\n")
            if len(self._open) > MAX_OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return file

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def _write_whole(file: FileIO, data: bytes) -> None:
    written = file.write(data)
    if written != len(data):
        raise OSError(f"{file.name}: {written} of {len(data)} bytes written")


def _ends_within_a_line(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) != b"\n"


class _Identified(Protocol):
    @property
    def event_id(self) -> str: ...


Row = TypeVar("Row", bound=_Identified)


def days(folder: Path) -> list[Path]:
    """Day folders of the archive, oldest first."""
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def read_day(day: Path, stream: str, row_type: type[Row]) -> Iterator[Row]:
    """Events of a day and stream in order of arrival, each once, decoded into `row_type` (unknown fields ignored).

    All copies of an event stand in the same file, because its day derives from its content.
    """
    path = day / f"{stream}.jsonl"
    if not path.exists():
        return
    decoder = msgspec.json.Decoder(row_type)
    seen: set[str] = set()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                log.warning("%s line %d is skipped: %s", path, number, error)
                continue
            if row.event_id not in seen:
                seen.add(row.event_id)
                yield row

"""Log files of a local fleet: the newest lines of several in the order of time, and what is written from now on.

A record is a line that begins with a time and the lines below it that do not, such as a traceback. Files are read from
their end in blocks, so their size does not matter.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

BLOCK_BYTES = 65_536
LONGEST_LINE_BYTES = 1_048_576
"""A longer one is cut: a file without line ends must not fill the memory."""
BYTES_A_LOOK = 1_048_576

_OURS = re.compile(r'(?:\{"time": ")?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z)')
_SERVER = re.compile(r"\d+:[A-Z] (\d\d \w{3} \d{4} \d\d:\d\d:\d\d\.\d{3})")
"""How Redis and Valkey write, in local time."""


class Record(NamedTuple):
    """`at` is UTC and sorts as text; empty: nothing in the file says when."""

    at: str
    service: str
    text: str


def newest(
    files: Mapping[str, Path], count: int, containing: str = "", ends: Mapping[str, int] | None = None
) -> list[Record]:
    """The newest records of all files (by service) that have the text, oldest first.

    `ends`: bytes of a file after which it is no longer read, so that nothing is shown here and by its `Tail` too.
    """
    per_file = [
        islice(
            (each for each in _backwards(service, path, (ends or {}).get(service)) if containing in each.text), count
        )
        for service, path in files.items()
    ]
    merged = heapq.merge(*per_file, key=lambda record: record.at, reverse=True)
    return list(islice(merged, count))[::-1]


class Tail:
    """What is appended to a file from now on, also after it was truncated, replaced, or made for the first time."""

    def __init__(self, service: str, path: Path) -> None:
        self._service, self._path, self._at = service, path, ""
        self._file, self._offset, self._rest = self._opened(), 0, b""
        if self._file is not None:
            self._offset = os.fstat(self._file).st_size
        self.begins = self._offset
        """Bytes that the file had; what stands in them is not told."""

    def look(self) -> list[Record]:
        """Whole lines since the last look; never more than `BYTES_A_LOOK` at once."""
        if self._file is None:
            self._file = self._opened()
        if self._file is None:
            return []
        if os.fstat(self._file).st_size < self._offset:
            self._offset, self._rest = 0, b""
        data = os.pread(self._file, BYTES_A_LOOK, self._offset)
        self._offset += len(data)
        records = self._records(data)
        if not data and self._replaced():
            self.close()
            self._offset, self._rest = 0, b""
        return records

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _opened(self) -> int | None:
        try:
            return os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:  # the service has not started yet, or the file is being replaced
            return None

    def _replaced(self) -> bool:
        assert self._file is not None
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False
        mine = os.fstat(self._file)
        return (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino)

    def _records(self, data: bytes) -> list[Record]:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:LONGEST_LINE_BYTES]
        found = []
        for line in lines:
            text = line.decode(errors="replace")
            self._at = time_of(text) or self._at
            found.append(Record(self._at, self._service, text))
        return found


def time_of(line: str) -> str:
    """When a line says it was written; empty when it does not."""
    if ours := _OURS.match(line):
        return ours.group(1)
    if server := _SERVER.match(line):
        local = datetime.strptime(server.group(1), "%d %b %Y %H:%M:%S.%f").astimezone(UTC)
        return f"{local:%Y-%m-%d %H:%M:%S}.{local.microsecond // 1000:03d}Z"
    return ""


def _backwards(service: str, path: Path, end: int | None) -> Iterator[Record]:
    """The file's records, the last one first."""
    below: list[str] = []
    for line in _lines_backwards(path, end):
        below.append(line)
        if at := time_of(line):
            yield Record(at, service, "\n".join(reversed(below)))
            below.clear()
    if below:
        yield Record("", service, "\n".join(reversed(below)))


def _lines_backwards(path: Path, end: int | None) -> Iterator[str]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        end, rest, first = size if end is None else min(end, size), b"", True
        while end:
            start = max(0, end - BLOCK_BYTES)
            file.seek(start)
            rest, *lines = (file.read(end - start) + rest).split(b"\n")
            if first and lines and not lines[-1]:
                lines.pop()  # behind the last line end is no line
            first, end, rest = False, start, rest[-LONGEST_LINE_BYTES:]
            for line in reversed(lines):
                yield line.decode(errors="replace")
        if rest:
            yield rest.decode(errors="replace")

"""Dead letters: entries that a service set aside because it could not handle them. Read, replayed or dropped here.

A letter's id is its stream and its entry id there, `p00:decisions:1700000000000-0`; braces around the tag may be typed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from quantum_cli.errors import UsageError
from quantum_common.bus import Bus, DeadLetter, Entry, Output, StateWrite, Status, Unit
from quantum_common.contracts import REGISTRY, Keys, dead

PAGE = 500
LAST_SEQUENCE = 2**64 - 1
ENTRY_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter and where it stands. `stream` is where its entry came from."""

    stream: str
    letter_id: str
    """Entry id on `<stream>:dead`."""
    content: DeadLetter

    @property
    def id(self) -> str:
        return f"{typed(self.stream)}:{self.letter_id}"

    @property
    def at_ms(self) -> int:
        """When it was set aside: the server's wall clock."""
        return int(self.letter_id.partition("-")[0])

    @property
    def was_an_entry(self) -> bool:
        """False: a candle that was refused before it became an event, or a letter that cannot be read."""
        return self.content.entry_id != ""

    def is_about_the_entry_of(self, other: Letter) -> bool:
        """Whether another group's letter is about the same entry."""
        same = (self.stream, self.content.entry_id) == (other.stream, other.content.entry_id)
        return same and self.letter_id != other.letter_id


class NoSuchLetter(UsageError):
    """Nothing stands under this id, or not any more."""


class NeverAnEntry(UsageError):
    """There is nothing to replay: the letter's data never stood on a stream."""


class DeadLetters:
    """The dead letters of one line. Errors of every method: BusUnavailable."""

    def __init__(self, bus: Bus, keys: Keys) -> None:
        self._bus = bus
        self._streams = [name for spec in REGISTRY for name in keys.all_streams(spec)]

    async def newest(self, limit: int, stream: str | None = None) -> list[Letter]:
        """The newest letters of all streams or one, newest first."""
        letters = [
            _letter(name, entry) for name in self._chosen(stream) for entry in await self._bus.newest(dead(name), limit)
        ]
        return sorted(letters, key=lambda letter: _order(letter.letter_id), reverse=True)[:limit]

    async def matching(self, stream: str | None = None, reason_contains: str = "") -> list[Letter]:
        """All letters that stand there now, oldest first within a stream."""
        found: list[Letter] = []
        for name in self._chosen(stream):
            after = "0-0"
            while page := await self._bus.tail({dead(name): after}, count=PAGE, block_ms=None):
                found += [_letter(name, entry) for entry in page]
                after = page[-1].entry_id
        return [letter for letter in found if reason_contains in letter.content.reason]

    async def get(self, letter_id: str) -> Letter:
        """UsageError when the id is none, NoSuchLetter when no letter has it."""
        stream, entry_id = self._parsed(letter_id)
        page = await self._bus.tail({dead(stream): _before(entry_id)}, count=1, block_ms=None)
        if not page or page[0].entry_id != entry_id:
            raise NoSuchLetter(f"no dead letter {letter_id}: quantum dead list shows what is there")
        return _letter(stream, page[0])

    async def replay(self, letter_id: str) -> list[Letter]:
        """Append the original bytes to their stream and remove the letter, both or neither; returns what was removed.

        The entry reaches every group of the stream again, so the letters of other groups about the same entry go too.
        Re-delivery is harmless to those that had handled it: each refuses what repeats by its watermark or state (the
        risk state knows the last 256 fills and closed trades). An entry that still cannot be handled comes back as a
        new letter. NoSuchLetter when the letter is gone, NeverAnEntry when there is nothing to replay.
        """
        letter = await self.get(letter_id)
        if not letter.was_an_entry:
            raise NeverAnEntry(
                f"{letter.id} was never an entry of {letter.stream} ({letter.content.reason}): "
                "there is nothing to replay, drop it when you have seen it"
            )
        others = [other for other in await self.matching(letter.stream) if other.is_about_the_entry_of(letter)]
        return await self._remove([letter, *others], [Output(letter.stream, letter.content.data)])

    async def replay_all(self, stream: str | None, reason_contains: str) -> tuple[list[Letter], list[Letter]]:
        """Replay every letter that the filters let through, each entry once; returns the removed and the left ones."""
        removed: list[Letter] = []
        left: list[Letter] = []
        by_entry: dict[tuple[str, str], list[Letter]] = {}
        for letter in await self.matching(stream):
            by_entry.setdefault((letter.stream, letter.content.entry_id), []).append(letter)
        for (name, entry_id), letters in by_entry.items():
            chosen = [letter for letter in letters if reason_contains in letter.content.reason]
            if not entry_id:
                left += chosen
            elif chosen:
                with suppress(NoSuchLetter):  # someone else was faster
                    removed += await self._remove(letters, [Output(name, letters[0].content.data)])
        return removed, left

    async def drop(self, letter_id: str) -> list[Letter]:
        """Remove the letter for good. NoSuchLetter when it is gone."""
        return await self._remove([await self.get(letter_id)], [])

    async def _remove(self, letters: list[Letter], outputs: Sequence[Output]) -> list[Letter]:
        """The version is read before the letter: of two that remove it at the same time, one finds it gone."""
        first = letters[0]
        key = _version_key(first.stream)
        removal = ("XDEL", dead(first.stream), *(letter.letter_id for letter in letters))
        while True:
            version = (await self._bus.state(key)).version
            await self.get(first.id)
            unit = Unit(states=[StateWrite(key, version, b"")], writes=[removal], outputs=outputs)
            if await self._bus.commit([unit]) == [Status.OK]:
                return letters

    def _parsed(self, letter_id: str) -> tuple[str, str]:
        stream, _, entry_id = letter_id.strip().rpartition(":")
        names = {typed(name): name for name in self._streams}
        name = names.get(typed(stream))
        if name is None or not ENTRY_ID.fullmatch(entry_id) or max(_order(entry_id)) > LAST_SEQUENCE:
            raise UsageError(f"{letter_id!r} is no id of a dead letter: it looks like {typed(self._streams[0])}:170-0")
        return name, entry_id

    def _chosen(self, stream: str | None) -> Sequence[str]:
        """All streams, those of a name (every partition), or one with its tag."""
        chosen = [
            name for name in self._streams if stream is None or typed(stream) in (typed(name), name.partition("}:")[2])
        ]
        if not chosen:
            known = ", ".join(dict.fromkeys(name.partition("}:")[2] for name in self._streams))
            raise UsageError(f"--stream {stream!r}: use one of {known}, or one with its tag")
        return chosen


def typed(stream: str) -> str:
    """A stream's name as a person types it: the tag without braces."""
    return re.sub(r"^\{([^}]*)\}", r"\1", stream)


def readable(data: bytes) -> dict[str, Any]:
    """The original bytes: `data` decoded where they are JSON, else `data_repr`."""
    try:
        return {"data": msgspec.json.decode(data)}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {"data_repr": repr(data)}


def _letter(stream: str, entry: Entry) -> Letter:
    try:
        content = msgspec.json.decode(entry.data, type=DeadLetter)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        content = DeadLetter(stream, "", "", 0, f"unreadable letter: {error}", entry.data)
    return Letter(stream, entry.entry_id, content)


def _version_key(stream: str) -> str:
    """One versioned state per stream, which everything that removes a letter moves on."""
    tag, _, name = stream.partition(":")
    return f"{tag}:state:quantum:{dead(name)}"


def _order(entry_id: str) -> tuple[int, int]:
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence)


def _before(entry_id: str) -> str:
    """The id right before: reading after it finds the entry itself."""
    ms, sequence = _order(entry_id)
    if sequence:
        return f"{ms}-{sequence - 1}"
    return f"{ms - 1}-{LAST_SEQUENCE}" if ms else "0-0"

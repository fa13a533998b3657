"""Reading for a service: decoded batches, claimed leftovers, poison set aside, failures retried alone."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from quantum_common.bus.metrics import BATCH_FAILURES, DEAD_LETTERS, ENTRIES_READ
from quantum_common.bus.port import Bus, BusUnavailable, Entry, Output, Status, Unit
from quantum_common.contracts.envelope import BadEvent, Envelope, decode
from quantum_common.contracts.streams import dead, kinds_of

log = logging.getLogger(__name__)

MAX_FAILURES_ALONE = 3
CLAIM_EVERY_S = 5.0
WORST_HANDLER_MS = 10_000
"""Entries idle for longer are claimed: no handler takes so long, their consumer is gone."""


class Received(NamedTuple):
    """An event and the entry it came in; the entry is what a commit acknowledges."""

    entry: Entry
    event: Envelope[Any]


class DeadLetter(msgspec.Struct, frozen=True):
    """What stands on `<stream>:dead`."""

    stream: str
    entry_id: str
    group: str
    attempts: int
    reason: str
    data: bytes
    """The original entry (base64 in JSON)."""


Handle = Callable[[Sequence[Received]], Awaitable[None]]


class Consumer:
    """One service instance's place in its groups.

    The handler gets a batch, commits what is ready and may hold the rest: held entries stay pending, and are handed
    out again after a restart, so a handler must take the same entry twice without harm.
    """

    def __init__(self, bus: Bus, streams: Sequence[str], group: str, instance: str, *, batch: int = 256) -> None:
        self._bus, self._streams, self._group, self._instance = bus, list(streams), group, instance
        self._batch = batch
        self._next_claim = 0.0
        self._leftovers: dict[str, str] = {}
        """Streams whose own pending entries are still to be handed out, and after which id."""

    async def start(self) -> None:
        """Create the groups; the next reads hand out what this instance had read before it stopped, oldest first."""
        for stream in self._streams:
            await self._bus.ensure_group(stream, self._group)
        self._leftovers = dict.fromkeys(self._streams, "0")

    async def read(self, block_ms: int) -> list[Received]:
        """Leftovers of this instance page by page, then new entries and those another consumer left behind."""
        entries = (
            await self._left()
            or await self._claimed()
            or await self._bus.read(self._streams, self._group, self._instance, count=self._batch, block_ms=block_ms)
        )
        ENTRIES_READ.labels(self._group).inc(len(entries))
        return await self._decoded(entries)

    async def _left(self) -> list[Entry]:
        while self._leftovers:
            stream, after = next(iter(self._leftovers.items()))
            page, last_id = await self._bus.read_own_pending(stream, self._group, self._instance, after, self._batch)
            if last_id is None:
                del self._leftovers[stream]
                continue
            self._leftovers[stream] = last_id
            if page:
                return page
        return []

    async def _claimed(self) -> list[Entry]:
        now = time.monotonic()
        if now < self._next_claim:
            return []
        self._next_claim = now + CLAIM_EVERY_S
        found: list[Entry] = []
        for stream in self._streams:
            found += await self._bus.claim(
                stream, self._group, self._instance, min_idle_ms=WORST_HANDLER_MS, count=self._batch
            )
        return found

    async def _decoded(self, entries: Sequence[Entry]) -> list[Received]:
        received = []
        for entry in entries:
            try:
                received.append(Received(entry, _decoded(entry)))
            except BadEvent as error:
                await self.dead_letter(entry, f"bad_event: {error}")
        return received

    async def dead_letter(self, entry: Entry, reason: str, attempts: int = 1) -> None:
        """Set an entry aside with its reason; the stream goes on."""
        letter = DeadLetter(entry.stream, entry.entry_id, entry.group, attempts, reason, entry.data)
        log.error("dead letter from %s %s: %s", entry.stream, entry.entry_id, reason)
        DEAD_LETTERS.labels(entry.stream, self._group).inc()
        await self._bus.commit(
            [Unit(inputs=[entry], outputs=[Output(dead(entry.stream), msgspec.json.encode(letter))])]
        )

    async def handle(self, batch: Sequence[Received], handler: Handle) -> None:
        """Run the handler; after a failure each entry is retried alone, and only failures alone count (F03)."""
        try:
            await handler(batch)
            return
        except BusUnavailable:
            raise
        except Exception:
            BATCH_FAILURES.labels(self._group).inc()
            log.exception("batch of %d failed in %s; its entries are tried alone", len(batch), self._group)
        for received in batch:
            await self._handle_alone(received, handler)

    async def _handle_alone(self, received: Received, handler: Handle) -> None:
        key = (received.entry.stream, received.entry.entry_id)
        for attempt in range(1, MAX_FAILURES_ALONE + 1):
            try:
                await handler([received])
                return
            except BusUnavailable:
                raise
            except Exception as error:
                log.exception("entry %s failed alone, attempt %d", key, attempt)
                reason = f"{type(error).__name__}: {error}"
        await self.dead_letter(received.entry, reason, MAX_FAILURES_ALONE)


def _decoded(entry: Entry) -> Envelope[Any]:
    event = decode(entry.data)
    if event.kind not in kinds_of(entry.stream):
        raise BadEvent(f"kind: {event.kind} does not belong on {entry.stream}")
    return event


async def run_consumer(
    consumer: Consumer,
    handler: Handle,
    *,
    stopping: Callable[[], bool],
    beat: Callable[[], None],
    block_ms: int = 1000,
) -> None:
    """The loop of a service: leftovers first, then new batches, until asked to stop. Survives a lost server.

    The handler is also called with an empty batch after `block_ms` of silence, for its deadlines.
    """
    started = False
    delay_s = 0.05
    while not stopping():
        beat()
        try:
            if not started:
                await consumer.start()
                started = True
            await consumer.handle(await consumer.read(block_ms), handler)
            delay_s = 0.05
        except BusUnavailable as error:
            log.warning("bus unavailable, retrying: %s", error)
            started = False  # what was in flight is pending under this consumer: take it again
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(2 * delay_s, 2.0)


async def commit_together(bus: Bus, units: Sequence[Unit]) -> list[Status]:
    """Commit independent units as one (fast); when anything but OK comes back, each on its own.

    All units must write to the same slot, and none may touch a state that another one touches.
    """
    if not units:
        return []
    merged = Unit(
        inputs=[entry for unit in units for entry in unit.inputs],
        states=[state for unit in units for state in unit.states],
        watermarks=[mark for unit in units for mark in unit.watermarks],
        writes=[write for unit in units for write in unit.writes],
        outputs=[output for unit in units for output in unit.outputs],
        alone=False,
    )
    if len(units) > 1 and (await bus.commit([merged]))[0] is Status.OK:
        return [Status.OK] * len(units)
    return await bus.commit(units)

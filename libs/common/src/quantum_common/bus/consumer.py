"""Reading for a service: decoded batches, claimed leftovers, poison set aside, failures retried alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from quantum_common.bus.lease import RENEW_EVERY_S, Lease
from quantum_common.bus.metrics import BATCH_FAILURES, COMMITS_REFUSED, DEAD_LETTERS, ENTRIES_READ, begin_group, name_of
from quantum_common.bus.port import Bus, BusUnavailable, Entry, Output, Status, Unit, tag_of
from quantum_common.contracts.envelope import BadEvent, Envelope, decode
from quantum_common.contracts.streams import dead, kinds_of

log = logging.getLogger(__name__)

MAX_FAILURES_ALONE = 3
CLAIM_EVERY_S = 5.0
WORST_HANDLER_MS = 10_000
"""Entries idle for longer are claimed: no handler takes so long, their consumer is gone."""
FUTURE_MS = 86_400_000
"""How far ahead of this machine's clock a bar may open."""
RETIRE_EVERY_S = 60.0
RETIRED_AFTER_MS = 600_000
"""A consumer that holds nothing and has not asked for so long is a replica that is gone."""


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
    """One service instance's place in its groups; what it commits goes through it.

    The handler gets a batch, commits what is ready and may hold the rest: held entries stay pending, and are handed
    out again after a restart, so a handler must take the same entry twice without harm.

    With a lease there is one worker at a time: it reads only while it holds the lease, takes over all that is pending
    before it reads new entries, and what it commits is fenced.
    """

    def __init__(
        self,
        bus: Bus,
        streams: Sequence[str],
        group: str,
        instance: str,
        *,
        batch: int = 256,
        lease: Lease | None = None,
    ) -> None:
        self._bus, self._streams, self._group, self._instance = bus, list(streams), group, instance
        self._batch, self.lease = batch, lease
        begin_group(group, streams)
        self.problem: str | None = None
        """Why the last turn could not be done by this server; None when it was."""
        self._next_claim = self._next_retirement = 0.0
        self._leftovers: dict[str, str] = {}
        """Streams whose own pending entries are still to be handed out, and after which id."""
        self._by_slot: dict[str, list[str]] = {}
        for stream in streams:
            self._by_slot.setdefault(tag_of(stream), []).append(stream)
        self._reading: dict[str, asyncio.Task[list[Entry]]] = {}
        """Reads under way, by slot: one call cannot read from two slots, and one that waits is never given up, since
        what it was just handed would lie there until it is claimed."""

    async def start(self) -> None:
        """Create the groups; the next reads hand out what is pending here, oldest first.

        Without a lease that is what this instance had read before it stopped; with one, all that is pending.
        """
        await self._end_reads()
        for stream in self._streams:
            await self._bus.ensure_group(stream, self._group)
            if self.lease is not None:
                await self._bus.take_over(stream, self._group, self._instance)
        self._leftovers = dict.fromkeys(self._streams, "0")

    async def stop(self) -> None:
        """Let the reads under way end; what they hand over stays pending."""
        await self._end_reads()

    async def _end_reads(self) -> None:
        reading, self._reading = self._reading, {}
        for task in reading.values():
            with contextlib.suppress(BusUnavailable):
                await task

    async def read(self, block_ms: int) -> list[Received]:
        """Leftovers page by page, then new entries and those another consumer left behind."""
        entries = await self._left() or await self._claimed() or await self._new(block_ms)
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
        if now >= self._next_retirement:
            self._next_retirement = now + RETIRE_EVERY_S
            for stream in self._streams:
                await self._bus.retire(stream, self._group, idle_ms=RETIRED_AFTER_MS)
        return found

    async def _new(self, block_ms: int) -> list[Entry]:
        deadline = time.monotonic() + block_ms / 1000
        entries: list[Entry] = []
        while not entries:
            left_ms = max(1, round((deadline - time.monotonic()) * 1000))
            for slot in self._by_slot.keys() - self._reading.keys():
                self._reading[slot] = asyncio.create_task(
                    self._bus.read(
                        self._by_slot[slot], self._group, self._instance, count=self._batch, block_ms=left_ms
                    )
                )
            await asyncio.wait(self._reading.values(), return_when=asyncio.FIRST_COMPLETED)
            for slot in [slot for slot, task in self._reading.items() if task.done()]:
                entries += self._reading.pop(slot).result()
            if time.monotonic() >= deadline:
                break
        return entries

    async def commit(self, units: Sequence[Unit]) -> list[Status]:
        """`Bus.commit`, under the lease where there is one."""
        fenced = units if self.lease is None else [self.lease.fence(unit) for unit in units]
        statuses = await self._bus.commit(fenced)
        for status in statuses:
            if status is not Status.OK:
                COMMITS_REFUSED.labels(self._group, status).inc()
        return statuses

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
        DEAD_LETTERS.labels(name_of(entry.stream), self._group).inc()
        await self.commit([Unit(inputs=[entry], outputs=[Output(dead(entry.stream), msgspec.json.encode(letter))])])

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
    if event.bar_ts_ms > time.time() * 1000 + FUTURE_MS:
        # Its watermark would refuse every bar up to then.
        raise BadEvent(f"bar_ts_ms: {event.bar_ts_ms} of {event.kind} lies in the future")
    return event


async def _nothing() -> None:
    return None


async def run_consumer(
    consumer: Consumer,
    handler: Handle,
    *,
    stopping: Callable[[], bool],
    beat: Callable[[], None],
    block_ms: int = 1000,
    on_start: Callable[[], Awaitable[None]] = _nothing,
) -> None:
    """The loop of a service: leftovers first, then new batches, until asked to stop. Survives a lost server.

    `on_start` is called before the first batch, again after every outage and after every gain of the lease: what the
    handler holds in memory may be out of date then, and everything pending is handed out again. The handler is also
    called with an empty batch after `block_ms` of silence, for its deadlines.
    """
    async with contextlib.AsyncExitStack() as stack:
        if consumer.lease is not None:
            await stack.enter_async_context(consumer.lease.keep(stopping))
        stack.push_async_callback(consumer.stop)
        await _turns(consumer, handler, stopping, beat, block_ms, on_start)


async def _turns(
    consumer: Consumer,
    handler: Handle,
    stopping: Callable[[], bool],
    beat: Callable[[], None],
    block_ms: int,
    on_start: Callable[[], Awaitable[None]],
) -> None:
    lease, started_under, delay_s = consumer.lease, -1, 0.05
    while not stopping():
        beat()
        if lease is not None and not lease.held:
            started_under = -1
            if lease.elsewhere:  # the server answered, and the work is another instance's
                consumer.problem = None
            await asyncio.sleep(RENEW_EVERY_S / 5)
            continue
        token = lease.token if lease is not None else 0
        try:
            if token != started_under:
                await consumer.start()
                await on_start()
                if stopping() or (lease is not None and not lease.held):
                    continue  # it may have been cut short: nothing is handled before a whole one
                started_under = token
            await consumer.handle(await consumer.read(block_ms), handler)
            consumer.problem, delay_s = None, 0.05
        except BusUnavailable as error:
            consumer.problem = error.reason
            log.warning("bus unavailable, retrying: %s", error)
            started_under = -1  # what was in flight is pending under this consumer: take it again
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(2 * delay_s, 2.0)


class Committer(Protocol):
    """A bus, or a consumer whose commits carry its lease."""

    async def commit(self, units: Sequence[Unit]) -> list[Status]: ...


async def commit_together(bus: Committer, units: Sequence[Unit]) -> list[Status]:
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

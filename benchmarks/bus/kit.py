"""The bus kit as the services use it: `run_consumer`, decoded and checked events, the atomic commit."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from workload import BATCH, EVENTS, GROUP, HOPS, SOURCE, STREAMS, TARGET, run_client, tasks

from quantum_common.bus import (
    Consumer,
    Output,
    Received,
    RedisBus,
    Unit,
    Watermark,
    commit_together,
    run_consumer,
)

Commit = Callable[[RedisBus, Sequence[Unit]], Awaitable[object]]


async def worked_off(url: str, count: int, commit: Commit, *, watermarks: bool) -> float:
    bus, done = RedisBus.connect(url), 0

    async def handle(batch: Sequence[Received]) -> None:
        nonlocal done
        units = [
            Unit(
                inputs=[received.entry],
                watermarks=[Watermark(TARGET, GROUP, "BTCUSDT", number)] if watermarks else [],
                outputs=[Output(TARGET, received.entry.data)],
            )
            for number, received in enumerate(batch, done + 1)
        ]
        await commit(bus, units)
        done += len(batch)

    consumer = Consumer(bus, [SOURCE], GROUP, "1", batch=BATCH)
    started = time.perf_counter()
    await run_consumer(consumer, handle, stopping=lambda: done >= count, beat=lambda: None)
    seconds = time.perf_counter() - started
    await bus.close()
    return seconds


async def merged(url: str, count: int) -> float:
    """What agents and meta do: a batch commits as one unit."""
    return await worked_off(url, count, commit_together, watermarks=False)


async def merged_with_watermarks(url: str, count: int) -> float:
    return await worked_off(url, count, commit_together, watermarks=True)


async def unit_per_message(url: str, count: int) -> float:
    return await worked_off(url, count, lambda bus, units: bus.commit(units), watermarks=False)


async def hop(url: str, source: str, target: str) -> None:
    bus = RedisBus.connect(url)

    async def handle(batch: Sequence[Received]) -> None:
        units = [Unit(inputs=[received.entry], outputs=[Output(target, EVENTS[target])]) for received in batch]
        await commit_together(bus, units)

    try:
        consumer = Consumer(bus, [source], GROUP, "1", batch=BATCH)
        await run_consumer(consumer, handle, stopping=lambda: False, beat=lambda: None)
    finally:
        await bus.close()


def chain(url: str) -> AbstractAsyncContextManager[None]:
    return tasks(*(hop(url, STREAMS[number], STREAMS[number + 1]) for number in range(HOPS)))


if __name__ == "__main__":
    ways = {"merged": merged, "merged_with_watermarks": merged_with_watermarks, "unit_per_message": unit_per_message}
    run_client(ways, chain)

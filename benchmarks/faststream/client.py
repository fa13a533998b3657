"""FastStream as its documentation shows it: a group of its own, automatic acknowledgement, logging off.

It gives less: no emit-and-ack in one, no dead letter, and a failed entry stays pending for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from faststream.redis import RedisBroker, StreamSub
from faststream.redis.annotations import Pipeline
from faststream.redis.parser import BinaryMessageFormatV1
from workload import BATCH, EVENTS, GROUP, HOPS, SOURCE, STREAMS, TARGET, Fields, run_client

TEXTS = {stream: event.decode() for stream, event in EVENTS.items()}
"""Text, which a handler of single messages gets as it is; bytes would be parsed as JSON first."""


async def in_its_format(event: bytes) -> Fields:
    data = await BinaryMessageFormatV1.encode(message=event.decode(), reply_to=None, headers=None, correlation_id="0")
    return {"__data__": data}


def reading(stream: str, *, batch: bool = False) -> StreamSub:
    return StreamSub(stream, group=GROUP, consumer="1", last_id="0", max_records=BATCH, batch=batch)


async def until(broker: RedisBroker, finished: asyncio.Event) -> float:
    await broker.start()
    started = time.perf_counter()
    await finished.wait()
    seconds = time.perf_counter() - started
    await asyncio.sleep(0.05)  # the last acknowledgement follows the handler
    await broker.stop()
    return seconds


async def per_message(url: str, count: int) -> float:
    broker, finished, done = RedisBroker(url, logger=None), asyncio.Event(), 0

    @broker.subscriber(stream=reading(SOURCE))
    @broker.publisher(stream=TARGET)
    async def handle(message: str) -> str:
        nonlocal done
        done += 1
        if done == count:
            finished.set()
        return message

    return await until(broker, finished)


async def in_batches(url: str, count: int) -> float:
    broker, finished, done = RedisBroker(url, logger=None), asyncio.Event(), 0

    @broker.subscriber(stream=reading(SOURCE, batch=True))
    async def handle(messages: list[Any], pipeline: Pipeline) -> None:
        nonlocal done
        for _ in messages:  # parsed from JSON, which a batch always is; encoding them again is spared
            await broker.publish(TEXTS[SOURCE], stream=TARGET, pipeline=pipeline)
        await pipeline.execute()
        done += len(messages)
        if done == count:
            finished.set()

    return await until(broker, finished)


@asynccontextmanager
async def chain(url: str) -> AsyncIterator[None]:
    broker = RedisBroker(url, logger=None)

    def hop(source: str, target: str) -> None:
        @broker.subscriber(stream=reading(source))
        @broker.publisher(stream=target)
        async def handle(message: str) -> str:
            return TEXTS[target]

    for number in range(HOPS):
        hop(STREAMS[number], STREAMS[number + 1])
    await broker.start()
    try:
        yield
    finally:
        await broker.stop()


if __name__ == "__main__":
    run_client({"in_batches": in_batches, "per_message": per_message}, chain, in_its_format)

"""The same work for every client: what is on the streams, how it is timed, and how the result is checked.

Each client is a process of its own, `python CLIENT URL WAY COUNT`, and prints one JSON object. It imports nothing of
the project, so that a client may live in another environment.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop
from redis.asyncio import Redis

ROOT = Path(__file__).parents[2]
GROUP, BATCH, HOPS = "bench", 256, 4
TIMEOUT_S = 100  # a handler that fails leaves its messages pending, and some clients say nothing
KINDS = {
    "{p00}:features": "FeaturesComputed",
    "{p00}:predictions": "PredictionMade",
    "{p00}:decisions": "DecisionMade",
    "{p00}:allocations": "PositionApproved",
    "{p00}:executions": "OrderFilled",
}
"""Stream → what stands on it. One slot, so that every hop is one commit."""
STREAMS = list(KINDS)
SOURCE, TARGET = STREAMS[:2]


def events() -> dict[str, bytes]:
    """Stream → one encoded event: 450 to 1,800 bytes, FeaturesComputed 890."""
    stored = json.loads((ROOT / "tests/contracts/previous/contracts.json").read_text())
    return {stream: json.dumps(stored[kind]["event"], separators=(",", ":")).encode() for stream, kind in KINDS.items()}


EVENTS = events()

Fields = dict[bytes | str, bytes]
Encode = Callable[[bytes], Awaitable[Fields]]
Throughput = Callable[[str, int], Awaitable[float]]
"""(URL, messages) → seconds from the first read to the last acknowledgement."""
Chain = Callable[[str], AbstractAsyncContextManager[Any]]
"""Runs the four hops while it is entered."""


async def plain(event: bytes) -> Fields:
    return {"e": event}


def run_client(ways: dict[str, Throughput], chain: Chain, encode: Encode = plain) -> None:
    """`WAY` is one of the throughputs, or `chain`."""
    url, way, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    body = timed_chain(url, chain, encode, count) if way == "chain" else timed(url, ways[way], encode, count)
    print(json.dumps(uvloop.run(asyncio.wait_for(body, TIMEOUT_S))))


async def timed(url: str, way: Throughput, encode: Encode, count: int) -> dict[str, float]:
    """Fill the source, let the client work, and look whether it did all of it."""
    async with Redis.from_url(url) as redis:
        fields = await encode(EVENTS[SOURCE])
        for start in range(0, count, 1000):
            pipeline = redis.pipeline(transaction=False)
            for _ in range(min(1000, count - start)):
                pipeline.xadd(SOURCE, fields)
            await pipeline.execute()
        seconds = await way(url, count)
        emitted, pending = await redis.xlen(TARGET), (await redis.xpending(SOURCE, GROUP))["pending"]
        if emitted != count or pending:
            raise SystemExit(f"{emitted} of {count} emitted, {pending} not acknowledged")
    return {"messages_per_s": count / seconds}


async def timed_chain(url: str, chain: Chain, encode: Encode, count: int) -> dict[str, float]:
    """One message at a time through four hops: from before its XADD until it is read at the end."""
    fields, last, took = await encode(EVENTS[STREAMS[0]]), "0-0", []
    async with Redis.from_url(url) as redis, chain(url):
        for _ in range(count + count // 10):
            started = time.perf_counter()
            await redis.xadd(STREAMS[0], fields)
            reply = await redis.xread({STREAMS[HOPS]: last}, block=5000)
            took.append((time.perf_counter() - started) * 1000)
            last = next(iter(reply.values()))[-1][-1][0] if isinstance(reply, dict) else reply[0][1][-1][0]
    took = sorted(took[count // 10 :])  # the first tenth warms up
    return {"p50_ms": took[len(took) // 2], "p99_ms": took[len(took) * 99 // 100]}


@asynccontextmanager
async def tasks(*bodies: Any) -> AsyncIterator[None]:
    """The hops of a chain as tasks, ended on the way out."""
    running = {asyncio.create_task(body) for body in bodies}
    try:
        yield
    finally:
        while running:  # again and again: the client sometimes loses a cancellation while it waits for a reply
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=0.1)

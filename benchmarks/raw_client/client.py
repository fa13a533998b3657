"""The floor: plain redis.asyncio doing the kit's commands, and nothing to fall back on when anything fails."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager
from typing import Any

from redis.asyncio import Redis
from workload import BATCH, EVENTS, GROUP, HOPS, SOURCE, STREAMS, TARGET, run_client, tasks


async def pass_on(redis: Any, source: str, target: str, payload: bytes | None) -> int:
    """One batch: XREADGROUP, then XADD × n and XACK in one pipeline. `payload` None: what came in goes out."""
    reply = await redis.xreadgroup(GROUP, "1", {source: ">"}, count=BATCH, block=1000)
    rows = [row for _, entries in (reply.items() if isinstance(reply, dict) else reply or []) for row in entries]
    if rows:
        pipeline = redis.pipeline(transaction=False)
        for _, fields in rows:
            pipeline.xadd(target, {"e": payload or fields[b"e"]})
        pipeline.xack(source, GROUP, *(entry_id for entry_id, _ in rows))
        await pipeline.execute()
    return len(rows)


async def pipelined(url: str, count: int) -> float:
    async with Redis.from_url(url, protocol=2) as redis:
        await redis.xgroup_create(SOURCE, GROUP, "0", mkstream=True)
        started, done = time.perf_counter(), 0
        while done < count:
            done += await pass_on(redis, SOURCE, TARGET, None)
        return time.perf_counter() - started


async def hop(url: str, source: str, target: str) -> None:
    async with Redis.from_url(url, protocol=2) as redis:
        await redis.xgroup_create(source, GROUP, "0", mkstream=True)
        while True:
            await pass_on(redis, source, target, EVENTS[target])


def chain(url: str) -> AbstractAsyncContextManager[None]:
    return tasks(*(hop(url, STREAMS[number], STREAMS[number + 1]) for number in range(HOPS)))


if __name__ == "__main__":
    run_client({"pipelined": pipelined}, chain)

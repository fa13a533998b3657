"""Playing the paper market through a fleet: its bars, its conductor's connections, and an end by signal."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import numpy as np

from quantum_cli.conductor import Conductor
from quantum_cli.display import RunDisplay
from quantum_cli.line import Line
from quantum_cli.plan import RunPlan
from quantum_common.bus import Entry, RedisBus, connect_client
from quantum_common.candles import Candles
from quantum_common.contracts import REGISTRY, Keys, dead

CANCEL_AGAIN_S = 1.0


class Stopped(Exception):
    """The user asked for the end."""


def close_times_ms(plan: RunPlan, candles: Mapping[str, Candles]) -> list[int]:
    """Every market time at which some symbol closes a bar of the range, ascending."""
    opens = np.unique(np.concatenate([table.between(plan.from_ms, plan.to_ms).ts for table in candles.values()]))
    return [int(ts) + plan.timeframe_ms for ts in opens]


@asynccontextmanager
async def conducting(
    redis_url: str,
    venue_url: str,
    token: str,
    keys: Keys,
    timeframe_ms: int,
    display: RunDisplay,
    counted: Callable[[Entry], bool],
) -> AsyncIterator[Conductor]:
    """A conductor that is connected to the server and the venue of a fleet."""
    async with AsyncExitStack() as stack:
        bus, redis = RedisBus.connect(redis_url), connect_client(redis_url)
        stack.push_async_callback(bus.close)
        stack.push_async_callback(redis.aclose)
        headers = {"Authorization": f"Bearer {token}"}
        venue = await stack.enter_async_context(
            httpx.AsyncClient(base_url=venue_url, headers=headers, timeout=30, trust_env=False)
        )
        line = Line(redis, keys)
        yield Conductor(bus, line, venue, keys, timeframe_ms, display.on_bar, display.on_decision, counted)


async def count_dead_letters(redis_url: str, keys: Keys) -> int:
    """Over all streams of the fleet."""
    bus = RedisBus.connect(redis_url)
    try:
        streams = [dead(name) for spec in REGISTRY for name in keys.all_streams(spec)]
        return sum(info.length for info in (await bus.stream_infos(streams)).values())
    finally:
        await bus.close()


async def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
        try:
            return (await client.get(url)).status_code == 200
        except httpx.HTTPError:
            return False


async def until_stopped(
    coroutine: Coroutine[Any, Any, None], is_cleaning_up: Callable[[], bool] = lambda: False
) -> None:
    """Do the work; Stopped when SIGINT or SIGTERM came before it was done, after it has cleaned up.

    Clients sometimes swallow a cancellation, so it is repeated until the work has ended or says that it cleans up.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    work = asyncio.create_task(coroutine)
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if work.done():
        return await work
    while not (work.done() or is_cleaning_up()):
        work.cancel()
        await asyncio.wait({work}, timeout=CANCEL_AGAIN_S)
    await asyncio.wait({work})
    raise Stopped

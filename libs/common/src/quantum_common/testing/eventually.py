"""Waiting for something to become true, instead of sleeping."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(check: Callable[[], T | Awaitable[T]], *, within_s: float = 5.0) -> T:
    """Return the first truthy result of `check`; AssertionError after `within_s`."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        result = check()
        value: T = await result if inspect.isawaitable(result) else result
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not true within {within_s} s: last value {value!r}")
        await asyncio.sleep(0.01)


def wait_until(check: Callable[[], T], *, within_s: float = 5.0) -> T:
    """The same without an event loop, for tests of processes."""
    deadline = time.monotonic() + within_s
    while not (value := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {within_s} s: last value {value!r}")
        time.sleep(0.05)
    return value

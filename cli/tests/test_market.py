"""Work that ends by a signal: it is told until it hears, and left alone while it cleans up."""

import asyncio
import os
import signal

import pytest

from quantum_cli.market import Stopped, until_stopped


def signal_soon(number: signal.Signals) -> None:
    asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_work_that_swallows_a_cancellation_is_told_again(number: signal.Signals) -> None:
    swallowed = 0

    async def deaf() -> None:
        nonlocal swallowed
        while swallowed < 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    signal_soon(number)
    async with asyncio.timeout(10):
        with pytest.raises(Stopped):
            await until_stopped(deaf())
    assert swallowed == 1


async def test_cleaning_up_is_not_cancelled() -> None:
    cleaning = cleaned = False

    async def careful() -> None:
        nonlocal cleaning, cleaned
        try:
            await asyncio.Event().wait()
        finally:
            cleaning = True
            await asyncio.sleep(1.5)
            cleaned = True

    signal_soon(signal.SIGTERM)
    with pytest.raises(Stopped):
        await until_stopped(careful(), lambda: cleaning)
    assert cleaned


async def test_work_that_is_done_needs_no_signal() -> None:
    await until_stopped(asyncio.sleep(0))
    with pytest.raises(LookupError):
        await until_stopped(fails())


async def fails() -> None:
    raise LookupError

"""Fail points at each await of the kit: every await there is a call of the bus, and each has a point before and after.
The one call that awaits the server twice (the commit, whose inputs in another slot are acknowledged afterwards) has one
in between.

A point can kill the instance (nothing it does afterwards reaches the server, not even a clean-up), pause it (all of it,
as SIGSTOP would: its lease runs out meanwhile) or cut the connection (before the call: the request is lost; after it:
the reply is).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from quantum_common.bus import Bus, BusUnavailable, RedisBus

Kind = Literal["kill", "pause", "cut"]
KINDS: tuple[Kind, ...] = ("kill", "pause", "cut")


class Killed(BaseException):
    """kill -9, as the code in its way sees it."""


@dataclass
class Faults:
    """Which fault strikes where: drawn from the seed at every pass, at most `limit` of them.

    `only` restricts them to some points, such as `commit:before`; a point outside draws nothing.
    """

    seed: int
    rate: float
    limit: int
    only: frozenset[str] = frozenset()
    kinds: tuple[Kind, ...] = KINDS
    pause_s: tuple[float, float] = (0.02, 0.8)
    struck: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By point and kind."""
    passed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    @property
    def count(self) -> int:
        return self.struck.total()

    def draw(self, point: str) -> tuple[Kind, float] | None:
        """The fault of this pass, and how long a pause is."""
        self.passed[point] += 1
        if self.count >= self.limit or (self.only and point not in self.only) or self._random.random() >= self.rate:
            return None
        kind, pause_s = self._random.choice(self.kinds), self._random.uniform(*self.pause_s)
        self.struck[point, kind] += 1
        return kind, pause_s


NO_FAULTS = Faults(0, 0.0, 0)


class FailPoints:
    """A bus whose calls pass two points each. One per life of an instance: killed, it stays dead."""

    def __init__(self, inner: Bus, faults: Faults) -> None:
        self._inner, self._faults = inner, faults
        self.died = asyncio.Event()
        self._inside: set[asyncio.Task[Any]] = set()
        self._running = asyncio.Event()
        self._running.set()
        if isinstance(inner, RedisBus):
            inner._ack_elsewhere = self._pointed("ack_elsewhere", inner._ack_elsewhere)  # type: ignore[method-assign]

    def __getattr__(self, name: str) -> Any:
        return self._pointed(name, getattr(self._inner, name))

    def _pointed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        async def passed(*arguments: Any, **options: Any) -> Any:
            task = asyncio.current_task()
            assert task is not None
            nested = task in self._inside
            self._inside.add(task)
            try:
                await self._pass(f"{name}:before")
                result = await call(*arguments, **options)
                await self._pass(f"{name}:after")
                return result
            finally:
                if not nested:
                    self._inside.discard(task)

        return passed

    async def bury(self) -> None:
        """End the calls that a killed instance has left behind, so that its connections can be closed."""
        self.died.set()
        while inside := set(self._inside):
            for task in inside:
                task.cancel()
            await asyncio.wait(inside, timeout=0.1)

    async def _pass(self, point: str) -> None:
        await self._running.wait()
        if self.died.is_set():
            raise Killed
        match self._faults.draw(point):
            case ("kill", _):
                self.died.set()
                raise Killed
            case ("pause", seconds):
                self._running.clear()
                asyncio.get_running_loop().call_later(seconds, self._running.set)
                await self._running.wait()
            case ("cut", _):
                raise BusUnavailable(f"cut at {point}")


def _unless_killed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Nobody fetches what a call of a killed instance raised, or met."""
    if not isinstance(context.get("exception"), Killed | BusUnavailable):
        loop.default_exception_handler(context)


Loop = Callable[[Any, Callable[[], bool]], Any]
"""What an instance runs: `loop(bus, stopping)`."""


class Fleet:
    """Two instances of every service on one server; one that dies is started again under its name."""

    def __init__(self, connect: Callable[[], RedisBus], faults: Faults, *, replicas: int = 2) -> None:
        self._connect, self._faults, self._replicas = connect, faults, replicas
        self.kills = 0
        self.crashes: list[BaseException] = []
        """Ends that nobody caused: a defect."""
        self._stopping = False

    @contextlib.asynccontextmanager
    async def running(self, services: Mapping[str, Callable[[str], Loop]]) -> AsyncIterator[None]:
        """`services`: per service, what makes the loop of an instance from its name."""
        asyncio.get_running_loop().set_exception_handler(_unless_killed)
        lives = [
            asyncio.create_task(self._live(make(str(number))), name=f"{service} {number}")
            for service, make in services.items()
            for number in range(1, self._replicas + 1)
        ]
        try:
            yield
        finally:
            self._stopping = True
            await asyncio.wait(lives, timeout=10)
            for life in lives:
                life.cancel()
            await asyncio.gather(*lives, return_exceptions=True)

    async def _live(self, loop: Loop) -> None:
        while not self._stopping:
            real = self._connect()
            bus = FailPoints(real, self._faults)
            work = asyncio.create_task(loop(bus, lambda: self._stopping))
            died = asyncio.create_task(bus.died.wait())
            try:
                await asyncio.wait({work, died}, return_when=asyncio.FIRST_COMPLETED)
                if work.done() and not bus.died.is_set() and (error := work.exception()):
                    self.crashes.append(error)
                    return
                self.kills += bus.died.is_set()
            finally:
                bus.died.set()
                for task in (work, died):
                    task.cancel()
                await asyncio.gather(work, died, return_exceptions=True)
                await bus.bury()
                await real.close()
            await asyncio.sleep(0.02)  # a process needs a moment to start

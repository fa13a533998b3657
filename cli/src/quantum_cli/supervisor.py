"""Starting, watching and ending child processes of the local fleet.

Children die with this process whatever happens to it (the kernel kills them when their parent ends), run in sessions
of their own so that Ctrl-C reaches only us, and are started again with growing pauses when they crash.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from quantum_cli.errors import RunFailed
from quantum_common.service.clock import wall_ms

STOP_WAIT_S = 8.0
TAIL_BYTES = 16_384
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_AFTER_S = 0.5, 30.0, 60.0


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Ended(NamedTuple):
    """How a child ended when it was told to; no exit code: it was not running."""

    exit_code: int | None
    killed: bool
    took_s: float


Ready = Callable[[], Awaitable[bool]]


async def at_once() -> bool:
    """Readiness of a child that has nothing to wait for."""
    return True


@dataclass
class Child:
    """One supervised process; `restarts` counts crashes since the fleet came up."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log_path: Path
    ready: Ready = at_once
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    started_at: float = 0.0
    started_at_ms: int = 0
    """Wall clock."""
    stopping: bool = False
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """A stop that comes while a start is under way ends the new process, not the old one."""

    async def start(self, *, piped: bool = False) -> asyncio.subprocess.Process:
        """Start it; output goes to the log, or stdout to a pipe."""
        async with self._turn:
            return await self._start(piped)

    async def _start(self, piped: bool) -> asyncio.subprocess.Process:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.argv,
                env={**os.environ, **self.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if piped else log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self.started_at, self.started_at_ms = time.monotonic(), wall_ms()
        return self.process

    async def stop(self) -> Ended:
        """SIGTERM, and SIGKILL for what has not ended after `STOP_WAIT_S`."""
        self.stopping = True
        async with self._turn:
            return await self._stop()

    async def _stop(self) -> Ended:
        if self.process is None or self.process.returncode is not None:
            return Ended(None, killed=False, took_s=0.0)
        told_at, killed = time.monotonic(), False
        self.process.terminate()
        try:
            code = await asyncio.wait_for(self.process.wait(), STOP_WAIT_S)
        except TimeoutError:
            self.process.kill()
            code, killed = await self.process.wait(), True
        return Ended(code, killed, time.monotonic() - told_at)

    def last_lines(self, count: int = 5) -> str:
        """The end of its log, indented."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-count:])


class Supervisor:
    """Owns the children. Use as an async context manager: leaving it ends them all, last started first."""

    def __init__(self, on_crash: Callable[[Child, int], None], longest_pause_s: float = LONGEST_PAUSE_S) -> None:
        self._children: list[Child] = []
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._on_crash, self._longest_pause_s = on_crash, longest_pause_s
        self.ending = False
        """It stops its children, which must not be cancelled."""

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.ending = True
        services, servers = self._children[1:], self._children[:1]
        await asyncio.gather(*(child.stop() for child in services))
        await asyncio.gather(*(child.stop() for child in servers))
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)

    @property
    def children(self) -> Sequence[Child]:
        return self._children

    async def start(self, child: Child) -> None:
        """Start a child and keep it running."""
        self._children.append(child)
        await self._start(child)

    async def restart(self, child: Child) -> Ended:
        """End a child as `stop` does and start it again, which is no crash; RunFailed once the fleet itself ends."""
        ended = await child.stop()
        if watcher := self._watchers.pop(child.name, None):
            watcher.cancel()  # it may be in a pause after a crash
        if self.ending:
            raise RunFailed(f"the fleet is ending: {child.name} is not started again")
        child.stopping = False
        await self._start(child)
        return ended

    async def _start(self, child: Child) -> None:
        await child.start()
        self._watchers[child.name] = asyncio.create_task(self._watch(child), name=f"watch {child.name}")

    async def _watch(self, child: Child) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            assert child.process is not None
            code = await child.process.wait()
            if child.stopping:
                return
            child.restarts += 1
            self._on_crash(child, code)
            if time.monotonic() - child.started_at > STEADY_AFTER_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._longest_pause_s)
            if child.stopping:
                return
            await child.start()

    async def wait_until_ready(self, child: Child, *, within_s: float) -> None:
        """Poll the child's `ready` until it is true; RunFailed with the child's last lines otherwise."""
        deadline, crashes = time.monotonic() + within_s, child.restarts
        while time.monotonic() < deadline and not child.stopping:
            if await child.ready():
                return
            if child.restarts >= crashes + 3:
                break
            await asyncio.sleep(0.1)
        raise RunFailed(f"{child.name} did not become ready; its last lines ({child.log_path}):\n{child.last_lines()}")

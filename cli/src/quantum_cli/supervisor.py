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
from dataclasses import dataclass
from pathlib import Path

from quantum_cli.errors import RunFailed

STOP_WAIT_S = 8.0
TAIL_BYTES = 16_384
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_AFTER_S = 0.5, 30.0, 60.0


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Child:
    """One supervised process; `restarts` counts crashes since the fleet came up."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log_path: Path
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    started_at: float = 0.0
    stopping: bool = False

    async def start(self, *, piped: bool = False) -> asyncio.subprocess.Process:
        """Start it; output goes to the log, or stdout to a pipe."""
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
        self.started_at = time.monotonic()
        return self.process

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL for what has not ended after `STOP_WAIT_S`."""
        self.stopping = True
        if self.process is None or self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_WAIT_S)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()

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
        self._watchers: list[asyncio.Task[None]] = []
        self._on_crash, self._longest_pause_s = on_crash, longest_pause_s

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(self, *_: object) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        services, servers = self._children[1:], self._children[:1]
        await asyncio.gather(*(child.stop() for child in services))
        await asyncio.gather(*(child.stop() for child in servers))

    @property
    def children(self) -> Sequence[Child]:
        return self._children

    async def start(self, child: Child) -> None:
        """Start a child and keep it running."""
        self._children.append(child)
        await child.start()
        self._watchers.append(asyncio.create_task(self._watch(child), name=f"watch {child.name}"))

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
            await child.start()

    async def wait_until(self, child: Child, ready: Callable[[], Awaitable[bool]], *, within_s: float) -> None:
        """Poll `ready` until it is true; RunFailed with the child's last lines otherwise."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if await ready():
                return
            if child.restarts >= 3:
                break
            await asyncio.sleep(0.1)
        raise RunFailed(f"{child.name} did not become ready; its last lines ({child.log_path}):\n{child.last_lines()}")

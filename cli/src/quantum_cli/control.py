"""What can be asked of a running local fleet over HTTP: who runs, and the redeploy of one service.

A redeploy ends one process after it has drained and starts the same command again; the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

from quantum_cli.errors import RunFailed
from quantum_cli.fleet import READY_WITHIN_S
from quantum_cli.supervisor import Child, Supervisor


class RunningChild(BaseModel):
    """One process of the fleet."""

    name: str
    pid: int | None
    restarts: int
    """After crashes; redeploys do not count."""
    up_since: datetime


class Redeployed(BaseModel):
    """How a redeploy went. `exit_code` is the old process's; None: it was not running."""

    service: str
    good: bool
    exit_code: int | None
    killed: bool
    """It did not end by itself in time."""
    drained_s: float
    ready: bool
    ready_s: float
    problem: str = ""


async def redeploy(supervisor: Supervisor, child: Child) -> Redeployed:
    """End the child, start it again, and wait until it answers. RunFailed when the fleet ends meanwhile."""
    ended = await supervisor.restart(child)
    started, problem = time.monotonic(), ""
    try:
        await supervisor.wait_until_ready(child, within_s=READY_WITHIN_S)
    except RunFailed as error:
        problem = str(error)
    return Redeployed(
        service=child.name,
        good=not problem and ended.exit_code in (0, None),
        exit_code=ended.exit_code,
        killed=ended.killed,
        drained_s=round(ended.took_s, 3),
        ready=not problem,
        ready_s=round(time.monotonic() - started, 3),
        problem=problem,
    )


def control_app(supervisor: Supervisor, token: str, say: Callable[[str], None]) -> FastAPI:
    """GET /fleet and POST /fleet/{service}/redeploy; both want `Authorization: Bearer <token>`."""

    def bearer(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not secrets.compare_digest(given.encode(), token.encode()):
            raise HTTPException(401, "send Authorization: Bearer <the api-token of the state folder>")

    app = FastAPI(title="quantum up", dependencies=[Depends(bearer)], docs_url=None, redoc_url=None, openapi_url=None)
    under_way: set[str] = set()

    @app.get("/fleet")
    async def fleet() -> list[RunningChild]:
        return [_described(child) for child in supervisor.children]

    @app.post("/fleet/{service}/redeploy")
    async def redeploy_one(service: str, response: Response) -> Redeployed:
        """200 when it drained and came back; 500 with the same body when one of the two failed."""
        child = next((child for child in supervisor.children if child.name == service), None)
        if child is None:
            names = ", ".join(child.name for child in supervisor.children)
            raise HTTPException(404, f"no service {service!r} in this fleet; it has {names}")
        if service in under_way:
            raise HTTPException(409, f"a redeploy of {service} is under way")
        under_way.add(service)
        try:
            done = await redeploy(supervisor, child)
        except RunFailed as error:
            raise HTTPException(503, str(error)) from error
        finally:
            under_way.remove(service)
        say(f"{service} redeployed: {in_words(done)}")
        response.status_code = 200 if done.good else 500
        return done

    return app


def _described(child: Child) -> RunningChild:
    alive = child.process is not None and child.process.returncode is None
    return RunningChild(
        name=child.name,
        pid=child.process.pid if child.process and alive else None,
        restarts=child.restarts,
        up_since=datetime.fromtimestamp(child.started_at_ms / 1000, UTC),
    )


def in_words(done: Redeployed) -> str:
    """One line for people."""
    if done.killed:
        left = f"did not end within {done.drained_s:.1f} s and was killed"
    elif done.exit_code is None:
        left = "was not running"
    else:
        left = f"drained in {done.drained_s:.1f} s (exit code {done.exit_code})"
    return f"{left}, " + (f"back after {done.ready_s:.1f} s" if done.ready else f"not back: {done.problem}")


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the fleet's business


@contextlib.asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """Serve on a free port of the loopback interface; yields the base URL. The end waits for requests in hand."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        server = _Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        task = asyncio.create_task(server.serve([listener]), name="control")
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task

"""Running a service: the HTTP server and the loops in one task group, signals owned by the kit.

A crashed loop ends the process with exit code 1: health must not say 200 while nothing works. SIGTERM and SIGINT
stop the reading, let the batch in hand finish and commit, and exit 0 within `DRAIN_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError

from quantum_common import QuantumError, __version__
from quantum_common.bus.port import Bus, BusUnavailable
from quantum_common.bus.server_check import check_server
from quantum_common.service import logs, metrics
from quantum_common.service.definition import Loop, Progress, Service
from quantum_common.service.http import bad_request, kit_router
from quantum_common.service.lag import EventLoopLag
from quantum_common.service.settings import check_names, validated
from quantum_common.service.stop import Stop

log = logging.getLogger(__name__)

DRAIN_S = 5.0
HTTP_DRAIN_S = 1
"""Of these the last, for requests in hand."""
ASK_SERVER_EVERY_S = 0.25


def build_app(service: Service) -> FastAPI:
    """The HTTP surface alone: kit routes and the service's own. Tests drive it without a process."""
    app = FastAPI(title=service.settings.service, version=__version__)
    app.add_exception_handler(RequestValidationError, bad_request)
    for router in (kit_router(service), *service.routers):
        app.include_router(router)
    return app


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the kit owns the signals: uvicorn would exit without draining the loops


def run(make: Callable[[], Service]) -> None:
    """Make the service and run it until a signal or a crash; ends the process with exit code 0 or 1.

    Errors that a person can mend (a setting, a taken port, a state that does not load) end it with one line.
    """
    name, problems = "service", []
    try:
        check_names()
        service = validated(make)
        name = service.settings.service
        logs.configure(service.settings)
        uvloop.run(serve(service))
    except* QuantumError as group:
        problems = [str(error) for error in _leaves(group)]
    if problems:
        sys.exit("\n".join(f"{name} stopped: {problem}" for problem in problems))


async def serve(service: Service, stop: Stop | None = None) -> None:
    """The body of `run`, for tests that bring their own event loop and stop."""
    settings = service.settings
    stop = stop or Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.request)
    server = _Server(
        uvicorn.Config(
            build_app(service),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_keep_alive=60,
            timeout_graceful_shutdown=HTTP_DRAIN_S,
        )
    )
    listener = _listen(settings.host, settings.listen_port)
    lag = EventLoopLag()
    metrics.show(service, lag)
    try:
        async with asyncio.TaskGroup() as tasks:
            web = tasks.create_task(server.serve([listener]), name="http")
            tasks.create_task(lag.measure(stop), name="event-loop lag")
            checked = tasks.create_task(_server_checked(service, stop), name="server check")
            turning = [
                tasks.create_task(_turn(name, body, service.progress, stop, checked), name=name)
                for name, body in service.loops.items()
            ]
            log.info("%s %s listening on %s:%d", settings.service, __version__, *listener.getsockname()[:2])
            try:
                await stop.wait()
            finally:
                stop.request()  # after a crash too: a loop that swallows its cancellation sees it at the next turn
            await _drain([checked, *turning])
            server.should_exit = True
            await web
    finally:
        listener.close()
        for close in service.closing:
            await close()


async def _server_checked(service: Service, stop: Stop) -> None:
    """Wait for the server, then look at its settings. Raises WrongServer."""
    bus: Bus | None = service.bus
    while bus is not None and not stop.requested:
        try:
            for name in check_server(await bus.server_facts()):
                log.warning("the server does not tell %s to this user: see docs/guides/streams.md for the value", name)
            service.bus_problem = None
            return
        except BusUnavailable as error:
            if service.bus_problem is None:
                log.warning("the server cannot be reached, waiting for it: %s", error)
            service.bus_problem = error.reason
            await stop.wait(ASK_SERVER_EVERY_S)


async def _turn(name: str, body: Loop, progress: Progress, stop: Stop, checked: asyncio.Task[None]) -> None:
    await asyncio.wait([checked])
    if checked.exception():  # which ends the process by itself
        return
    progress.beat(name)
    await body(stop, lambda: progress.beat(name))
    if not stop.requested:
        raise LoopEnded(f"loop {name} ended by itself")


class LoopEnded(QuantumError):
    """A loop returned although nobody asked the service to stop."""


async def _drain(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Let the loops end; those that are late are cancelled, again and again, because clients sometimes swallow it."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=DRAIN_S - HTTP_DRAIN_S)
    for task in late:
        log.error("loop %s did not drain in time", task.get_name())
    while late:
        for task in late:
            task.cancel()
        _, late = await asyncio.wait(late, timeout=0.1)


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything starts, so that a taken port is a clear message and not a crash half-way."""
    # The protocol is named so that asyncio turns Nagle's algorithm off: with it a reply can take 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortTaken(f"port {port} on {host}: {error.strerror}; stop what uses it or set QT_PORT_OFFSET") from error
    listener.listen(128)
    return listener


class PortTaken(QuantumError):
    """The service's port is in use."""


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found

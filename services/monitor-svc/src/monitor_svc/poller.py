"""Asks the other services over HTTP every few seconds, all at once and briefly; what does not answer is a fact too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import httpx
import msgspec

from monitor_svc.documents import Info, MetaStatus, Readiness, RiskLimits, RiskStatus, StreamsStatus
from monitor_svc.facts import Answer, Facts
from quantum_common.service import FleetSettings, Stop
from quantum_common.service.clock import wall_ms

TURN_S = 3.0
TIMEOUT_S = 1.5
"""Two in a row, so that a turn ends well within the drain of a redeploy whatever hangs."""

T = TypeVar("T")


class _Live(msgspec.Struct, frozen=True):
    live: bool


class ServicePoller:
    """Puts what the services answer into `facts`."""

    def __init__(
        self, settings: FleetSettings, client: httpx.AsyncClient, facts: Facts, clock: Callable[[], int] = wall_ms
    ) -> None:
        self._url_of, self._client, self._facts, self._clock = settings.url_of, client, facts, clock

    async def run(self, stop: Stop, beat: Callable[[], None]) -> None:
        while not stop.requested:
            beat()
            await self.turn()
            await stop.wait(TURN_S)

    async def turn(self) -> None:
        """Ask everything once."""
        facts = self._facts
        async with asyncio.TaskGroup() as tasks:
            for name in facts.services:
                tasks.create_task(self._service(name))
            tasks.create_task(self._ask("governer-svc", "/api/risk/status", facts.risk, RiskStatus))
            tasks.create_task(self._ask("governer-svc", "/api/risk/config", facts.limits, RiskLimits))
            tasks.create_task(self._ask("meta-svc", "/api/ai/meta/status", facts.meta, MetaStatus))
            tasks.create_task(self._ask("recorder-svc", "/api/streams", facts.streams, StreamsStatus))

    async def _service(self, name: str) -> None:
        """A service that does not say it lives is asked nothing more."""
        seen, live = self._facts.services[name], Answer[_Live]()
        await self._ask(name, "/health/live", live, _Live)
        if live.problem:
            seen.alive.bad(live.problem)
            return
        seen.alive.good(True, live.at_ms or self._clock())
        await asyncio.gather(
            self._ask(name, "/health/ready", seen.readiness, Readiness, also=503),
            self._ask(name, "/info", seen.info, Info),
        )

    async def _ask(self, service: str, path: str, answer: Answer[T], kind: type[T], *, also: int = 200) -> None:
        try:
            response = await self._client.get(self._url_of(service) + path, timeout=TIMEOUT_S)
            if response.status_code not in (200, also):
                answer.bad(f"{service} answers {response.status_code} to {path}")
                return
            answer.good(msgspec.json.decode(response.content, type=kind), self._clock())
        except httpx.TimeoutException:
            answer.bad(f"{service} does not answer within {TIMEOUT_S} s")
        except httpx.HTTPError:
            answer.bad(f"{service} cannot be reached")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            answer.bad(f"{service} answers {path} in another shape: {error}")

"""The monitor: two loops that gather facts, and pages that show them. It reads, and writes nothing to the bus."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from monitor_svc.api import router
from monitor_svc.core import NOTHING_CHOSEN, Choice, Place, view
from monitor_svc.emergency import GovernerClient
from monitor_svc.facts import Facts
from monitor_svc.pages import pages_router
from monitor_svc.poller import ServicePoller
from monitor_svc.reader import StreamReader
from monitor_svc.settings import Settings
from monitor_svc.view import View
from quantum_common.bus import Bus, RedisBus
from quantum_common.domain import SERVICE_PORTS
from quantum_common.service import Service
from quantum_common.service.clock import wall_ms


class Monitor:
    """Facts, who gathers them, and who shows them."""

    def __init__(
        self, settings: Settings, bus: Bus, client: httpx.AsyncClient, clock: Callable[[], int] = wall_ms
    ) -> None:
        self._settings, self._bus, self._client, self._clock = settings, bus, client, clock
        self._place = Place(settings.account, settings.timeframe, settings.clock)
        others = [name for name in SERVICE_PORTS if name != settings.service]
        self.facts = Facts.empty(settings.timeframe, others)
        self.reader = StreamReader(settings, bus, self.facts, clock)
        self.poller = ServicePoller(settings, client, self.facts, clock)

    def view(self, choice: Choice = NOTHING_CHOSEN) -> View:
        return view(self.facts, self._place, self._clock(), choice)

    def not_ready(self) -> list[str]:
        return [self.facts.read.problem] if self.facts.read.problem else []

    def service(self) -> Service:
        """The kit is not given the bus: the monitor needs none of the server's settings, and shows its pages while the
        server is away."""
        return Service(
            settings=self._settings,
            loops={"streams": self.reader.run, "services": self.poller.run},
            routers=[router(self.view), pages_router(self.view, GovernerClient(self._settings, self._client))],
            not_ready=self.not_ready,
            closing=[self._client.aclose, self._bus.close],
        )


def build(settings: Settings, bus: Bus | None = None, client: httpx.AsyncClient | None = None) -> Service:
    """Wire the service; nothing is connected yet."""
    bus = bus or RedisBus.connect(settings.redis_url.get_secret_value())
    return Monitor(settings, bus, client or httpx.AsyncClient(trust_env=False)).service()

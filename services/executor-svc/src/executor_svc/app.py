"""Wiring of the executor: the only place that connects bus, venue and actor."""

from __future__ import annotations

from collections.abc import Callable

from executor_svc import metrics
from executor_svc.adapters.port import VenuePort
from executor_svc.adapters.venue import CcxtVenue, make_exchange
from executor_svc.api import router
from executor_svc.executor import Executor
from executor_svc.settings import ExecutorSettings
from quantum_common.bus import Bus, Consumer, RedisBus, run_consumer
from quantum_common.service import Control, MarketClock, Service, Stop


def build(settings: ExecutorSettings, bus: Bus | None = None, venue: VenuePort | None = None) -> Service:
    """Raises RefusesToTrade when the mode settings do not agree."""
    settings.check_mode()
    metrics.begin()
    bus = bus or RedisBus.connect(settings.redis_url.get_secret_value())
    venue = venue or CcxtVenue(make_exchange(settings))
    clock = MarketClock(settings.clock)
    executor = Executor(settings, bus, venue, clock)
    service = settings.service
    consumer = Consumer(bus, settings.keys.subscribed(service), service, settings.instance, lease=executor.lease)

    async def consume(stop: Stop, beat: Callable[[], None]) -> None:
        await run_consumer(
            consumer,
            executor.handle,
            stopping=lambda: stop.requested,
            beat=beat,
            on_start=lambda: executor.start(stop, beat),
        )

    return Service(
        settings=settings,
        loops={
            "consume": consume,
            "control": Control(bus, clock, executor.look).run,
            "watch": executor.watch,
        },
        routers=[router(settings, executor)],
        bus=bus,
        consumers=[consumer],
        not_ready=executor.not_ready,
        info=lambda: {"mode": settings.mode, "exchange": settings.exchange, "works": executor.lease.held},
        closing=[venue.close, bus.close],
    )

"""Metrics of every process. Prometheus adds the label `service` to all that it scrapes."""

from __future__ import annotations

from functools import partial

from prometheus_client import Gauge

from quantum_common import __version__
from quantum_common.service.definition import Service
from quantum_common.service.lag import EventLoopLag

BUILD_INFO = Gauge("quantum_build_info", "1 for the version that runs", ["version"])
LIVE = Gauge("quantum_live", "1 while every loop turns, as /health/live says")
READY = Gauge("quantum_ready", "1 while useful work is possible, as /health/ready says")
TURN_AGE_SECONDS = Gauge(
    "quantum_loop_turn_age_seconds", "Time since a loop last turned; NaN: it has not begun", ["loop"]
)
EVENT_LOOP_LAG_SECONDS = Gauge(
    "quantum_event_loop_lag_seconds", "How late the event loop was at worst in the last 15 to 30 s"
)


def show(service: Service, lag: EventLoopLag) -> None:
    """Have the metrics tell of this service, asked anew at every scrape."""
    BUILD_INFO.labels(__version__).set(1)
    LIVE.set_function(lambda: not service.progress.stuck())
    READY.set_function(lambda: not service.unready())
    EVENT_LOOP_LAG_SECONDS.set_function(lambda: lag.worst_s)
    for loop in service.loops:
        TURN_AGE_SECONDS.labels(loop).set_function(partial(service.progress.age_s, loop))

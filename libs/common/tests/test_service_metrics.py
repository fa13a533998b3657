"""What every process tells Prometheus of itself."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import ClassVar

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from quantum_common.bus import MemoryBus
from quantum_common.bus.consumer import Consumer
from quantum_common.bus.lease import Lease
from quantum_common.contracts.streams import EXECUTIONS, FEATURES, Keys
from quantum_common.service import FleetSettings, Service, Stop
from quantum_common.service.definition import Progress
from quantum_common.service.lag import EVERY_S, WINDOW_S, EventLoopLag
from quantum_common.service.process import serve
from quantum_common.testing import eventually, free_port

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Settings(FleetSettings):
    service: ClassVar[str] = "probe"


async def scraped(port: int) -> Values:
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


async def steady(stop: Stop, beat: Callable[[], None]) -> None:
    while not stop.requested:
        beat()
        await stop.wait(0.02)


async def hanging(stop: Stop, beat: Callable[[], None]) -> None:
    await stop.wait()


async def test_a_scrape_tells_liveness_readiness_and_the_age_of_each_loops_last_turn() -> None:
    reasons: list[str] = []
    service = Service(
        Settings(port=free_port()),
        {"steady": steady, "hanging": hanging},
        not_ready=lambda: reasons,
        progress=Progress(stuck_after_s=1.5),
    )
    stop, port = Stop(), service.settings.port
    task = asyncio.create_task(serve(service, stop))

    async def told(**expected: float) -> bool:
        try:
            values = await scraped(port)
        except httpx.TransportError:
            return False
        return all(values[key(f"quantum_{name}")] == value for name, value in expected.items())

    await eventually(lambda: told(live=1, ready=1))
    reasons.append("nothing to work on")
    await eventually(lambda: told(live=0, ready=0))
    values = await scraped(port)
    assert values[key("quantum_loop_turn_age_seconds", loop="steady")] < 1.5
    assert values[key("quantum_loop_turn_age_seconds", loop="hanging")] > 1.5
    stop.request()
    await task


async def test_f23_a_blocked_event_loop_is_told_and_how_late_it_was() -> None:
    lag, stop = EventLoopLag(), Stop()
    assert lag.worst_s == 0
    task = asyncio.create_task(lag.measure(stop))
    await asyncio.sleep(0)  # it has asked to be woken
    time.sleep(EVERY_S + 0.2)  # noqa: ASYNC251 (this is what must be noticed)
    assert lag.worst_s > 0.15  # while it lasts
    await eventually(lambda: lag._now_worst > 0.15)
    stop.request()
    await task


def test_the_worst_lag_is_kept_for_one_to_two_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    lag = EventLoopLag()
    lag._window_ends = WINDOW_S

    def woken(at: float, late_s: float) -> float:
        lag._due = at - late_s
        lag.note(at)
        lag._due = math.inf
        return lag.worst_s

    assert woken(5.0, 0.7) == pytest.approx(0.7)
    assert woken(WINDOW_S + 1, 0.1) == pytest.approx(0.7)
    assert woken(2 * WINDOW_S + 2, 0.2) == pytest.approx(0.2)
    assert woken(3 * WINDOW_S + 3, 0.0) == pytest.approx(0.2)


async def test_a_loop_that_has_not_begun_has_no_age() -> None:
    progress = Progress()
    assert math.isnan(progress.age_s("later"))
    progress.beat("later")
    assert progress.age_s("later") < 1


async def test_no_label_of_the_bus_kit_holds_the_name_of_the_account() -> None:
    from prometheus_client import REGISTRY

    keys, bus = Keys(account="my-account"), MemoryBus()
    streams = [keys.stream(EXECUTIONS), keys.stream(FEATURES, "BTCUSDT")]
    Consumer(bus, streams, "probe-svc", "1", lease=Lease(bus, keys.lease("probe-svc"), "1"))
    samples = [sample for family in REGISTRY.collect() for sample in family.samples]
    assert not [sample for sample in samples if "my-account" in " ".join(sample.labels.values())]
    ours = {(s.name, s.labels.get("stream"), s.value) for s in samples if s.labels.get("group") == "probe-svc"}
    assert ("quantum_bus_dead_letters_total", "executions", 0.0) in ours
    assert ("quantum_bus_dead_letters_total", "features", 0.0) in ours

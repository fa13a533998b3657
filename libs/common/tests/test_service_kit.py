"""A service as a process: it stops cleanly, ends when a loop crashes, and its health tells the truth."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar

import httpx
import pytest
from fastapi import APIRouter, Body, Depends

from quantum_common.bus import MemoryBus
from quantum_common.service import FleetSettings, MarketClock, Service, Stop, build_app, require_token
from quantum_common.service.definition import Progress
from quantum_common.service.http import redacted
from quantum_common.service.process import serve
from quantum_common.testing import eventually, free_port

PROGRAM = """
import asyncio, sys
from typing import Annotated, ClassVar
from quantum_common import QuantumError
from quantum_common.service import FleetSettings, Service, run

class Settings(FleetSettings):
    service: ClassVar[str] = "probe"

async def steady(stop, beat):
    while not stop.requested:
        beat()
        await stop.wait(0.05)
    print("drained", flush=True)

async def stubborn(stop, beat):
    for _ in range(2):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
    await asyncio.sleep(60)

async def crashing(stop, beat):
    await asyncio.sleep(0.2)
    raise {error}

run(lambda: Service(Settings(), {{"loop": {loop}}}))
"""


class Settings(FleetSettings):
    service: ClassVar[str] = "probe"


def started(port: int, loop: str, error: str = "ValueError('boom')", **environment: str) -> subprocess.Popen[str]:
    program = textwrap.dedent(PROGRAM).format(loop=loop, error=error)
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "QT_PORT": str(port), **environment},
    )


async def alive(port: int) -> bool:
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"http://127.0.0.1:{port}/health/live")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_the_loops_and_exits_zero(number: signal.Signals) -> None:
    port = free_port()
    process = started(port, "steady")
    await eventually(lambda: alive(port), within_s=15)
    process.send_signal(number)
    output, _ = await asyncio.to_thread(process.communicate, timeout=5)
    assert process.returncode == 0
    assert "drained" in output


async def test_a_loop_that_swallows_its_cancellation_ends_all_the_same() -> None:
    port = free_port()
    process = started(port, "stubborn")
    await eventually(lambda: alive(port), within_s=15)
    process.terminate()
    output, _ = await asyncio.to_thread(process.communicate, timeout=10)
    assert process.returncode == 0
    assert "did not drain in time" in output


async def deaf(stop: Stop, beat: Callable[[], None]) -> None:
    while not stop.requested:
        with contextlib.suppress(asyncio.CancelledError):
            await stop.wait(0.05)


async def test_a_crash_ends_the_service_though_another_loop_swallows_its_cancellation() -> None:
    async def crashing(stop: Stop, beat: Callable[[], None]) -> None:
        raise ValueError("boom")

    task = asyncio.create_task(serve(Service(Settings(port=free_port()), {"deaf": deaf, "crashing": crashing})))
    done, _ = await asyncio.wait([task], timeout=5)
    assert done
    assert isinstance(task.exception(), ExceptionGroup)


async def test_a_server_that_does_not_answer_at_the_start_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("quantum_common.service.process.DRAIN_S", 1.2)

    class Hung(MemoryBus):
        async def server_facts(self) -> dict[str, str]:
            await asyncio.sleep(60)
            return {}

    stop = Stop()
    task = asyncio.create_task(serve(Service(Settings(port=free_port()), {"deaf": deaf}, bus=Hung()), stop))
    await asyncio.sleep(0.1)
    stop.request()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done


async def test_a_request_in_hand_does_not_hold_up_the_end() -> None:
    routes, asked = APIRouter(), asyncio.Event()

    @routes.get("/slow")
    async def slow() -> None:
        asked.set()
        await asyncio.sleep(60)

    settings, stop = Settings(port=free_port()), Stop()
    task = asyncio.create_task(serve(Service(settings, {"deaf": deaf}, [routes]), stop))
    await eventually(lambda: alive(settings.port), within_s=15)
    async with httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.get(f"http://127.0.0.1:{settings.port}/slow"))
        await asked.wait()
        stop.request()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done
        await asyncio.wait([asking])
        assert asking.exception() or asking.result().status_code == 500


async def test_f23_a_crashed_loop_ends_the_process_with_code_one() -> None:
    process = started(free_port(), "crashing")
    output, _ = await asyncio.to_thread(process.communicate, timeout=15)
    assert process.returncode == 1
    assert "boom" in output


async def test_a_known_error_ends_the_process_with_one_line_and_no_traceback() -> None:
    process = started(free_port(), "crashing", "QuantumError('the venue refuses the key')")
    output, _ = await asyncio.to_thread(process.communicate, timeout=15)
    assert process.returncode == 1
    assert "probe stopped: the venue refuses the key" in output
    assert "Traceback" not in output


async def test_a_taken_port_is_named() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    process = started(port, "steady")
    output, _ = await asyncio.to_thread(process.communicate, timeout=15)
    server.close()
    assert process.returncode == 1
    assert f"port {port} on 127.0.0.1" in output


async def test_a_wrong_setting_is_named_in_one_line_without_its_value() -> None:
    process = started(free_port(), "steady", QT_TIMEFRAME="2h-secret")
    output, _ = await asyncio.to_thread(process.communicate, timeout=15)
    assert process.returncode == 1
    assert "QT_TIMEFRAME: " in output
    assert "use one of 1m, 5m" in output
    assert "secret" not in output
    assert "Traceback" not in output


async def test_f13_an_unknown_setting_stops_start_up() -> None:
    process = started(free_port(), "steady", QT_MAX_EXPOSURE_PTC="0.5")
    output, _ = await asyncio.to_thread(process.communicate, timeout=15)
    assert process.returncode == 1
    assert "QT_MAX_EXPOSURE_PTC" in output


def client(service: Service) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(build_app(service)), base_url="http://probe")


async def test_f23_health_is_503_and_names_the_loop_that_does_not_turn() -> None:
    turning, stuck = Service(Settings(), {}), Service(Settings(), {}, progress=Progress(stuck_after_s=-1.0))
    for service in (turning, stuck):
        service.progress.beat("consume")
    async with client(turning) as http:
        assert (await http.get("/health/live")).status_code == 200
    async with client(stuck) as http:
        reply = await http.get("/health/live")
    assert (reply.status_code, reply.json()["stuck_loops"]) == (503, ["consume"])


async def test_readiness_lists_what_is_missing() -> None:
    async with client(Service(Settings(), {}, not_ready=lambda: ["model_not_loaded"])) as http:
        reply = await http.get("/health/ready")
    assert (reply.status_code, reply.json()["reasons"]) == (503, ["model_not_loaded"])


async def test_secrets_are_redacted_on_info() -> None:
    settings = Settings(redis_url="redis://:hunter2@localhost", api_token="hunter2")
    async with client(Service(settings, {})) as http:
        reply = await http.get("/info")
    assert reply.json()["service"] == "probe"
    assert "hunter2" not in reply.text
    assert redacted(settings)["api_token"] == "**********"


@pytest.mark.parametrize(
    ("token", "header", "status"),
    [(None, "Bearer x", 403), ("right", None, 401), ("right", "Bearer wrong", 401), ("right", "Bearer right", 200)],
)
async def test_mutations_need_the_token(token: str | None, header: str | None, status: int) -> None:
    settings = Settings(api_token=token)
    router = APIRouter()

    @router.post("/act", dependencies=[Depends(require_token(settings))])
    async def act() -> dict[str, bool]:
        return {"done": True}

    async with client(Service(settings, {}, routers=[router])) as http:
        reply = await http.post("/act", headers={"authorization": header} if header else {})
    assert reply.status_code == status


async def test_a_body_with_nan_is_answered_by_a_422_that_names_the_field() -> None:
    router = APIRouter()

    @router.post("/size")
    async def size(body: Annotated[float, Body(embed=True, ge=0)]) -> float:
        return body

    async with client(Service(Settings(), {}, routers=[router])) as http:
        reply = await http.post("/size", content=b'{"body": NaN}', headers={"content-type": "application/json"})
    assert reply.status_code == 422
    assert reply.json()["detail"][0]["loc"] == ["body", "body"]


def test_replay_time_only_moves_forward() -> None:
    clock = MarketClock("replay")
    clock.advance(5)
    clock.advance(3)
    assert clock.now_ms() == 5


async def test_stop_wakes_who_waits_for_it() -> None:
    stop = Stop()
    assert not await stop.wait(0.01)
    stop.request()
    assert await stop.wait(1.0)


def test_symbols_come_from_a_comma_separated_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QT_SYMBOLS", "btcusdt, ETHUSDT")
    monkeypatch.setenv("QT_STATE_DIR", str(tmp_path))
    assert Settings().symbols == ("BTCUSDT", "ETHUSDT")


class MetaSettings(FleetSettings):
    service: ClassVar[str] = "meta-svc"


def test_a_secret_comes_from_its_file_unless_the_environment_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "qt_redis_url").write_text("redis://meta-svc:secret@redis:6379/0\n")
    (tmp_path / "qt_api_token").write_text("from-the-file")
    monkeypatch.setenv("QT_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("QT_API_TOKEN", "from-the-environment")
    settings = MetaSettings()
    assert settings.redis_url.get_secret_value() == "redis://meta-svc:secret@redis:6379/0"
    assert settings.api_token
    assert settings.api_token.get_secret_value() == "from-the-environment"


def test_the_other_services_are_found_by_port_or_by_name() -> None:
    assert MetaSettings(port_offset=100).url_of("executor-svc") == "http://127.0.0.1:8103"
    assert MetaSettings(service_url="http://{service}:{port}/").url_of("xgb-agent") == "http://xgb-agent:8011"
    with pytest.raises(ValueError, match="use only"):
        MetaSettings(service_url="http://{host}")

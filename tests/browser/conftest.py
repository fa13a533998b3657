"""A fleet for the dashboard: real server, monitor, meta, risk and recorder; agents that only live, whose votes the test
writes; and a real browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page, async_playwright

from browser.line import Line
from quantum_common.bus import RedisBus
from quantum_common.domain import AGENT_SERVICES, SERVICE_PORTS
from quantum_common.service.clock import wall_ms
from quantum_common.testing import running_server, wait_until
from quantum_common.testing.http import answers

TOKEN = "token-of-this-test"
PORT_OFFSET = 14_300
"""Keeps the ports below those that the system gives to connections."""
REAL = {
    "monitor-svc": "monitor_svc",
    "meta-svc": "meta_svc",
    "governer-svc": "governer_svc",
    "recorder-svc": "recorder_svc",
}


@dataclass(frozen=True)
class Fleet:
    redis_url: str
    port_offset: int
    processes: dict[str, subprocess.Popen[bytes]]

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{SERVICE_PORTS[service] + self.port_offset}"

    def get(self, service: str, path: str) -> dict[str, object]:
        """What a service answers, asked directly."""
        answer: dict[str, object] = httpx.get(self.url(service) + path, trust_env=False).json()
        return answer


def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on PATH: install one to test the dashboard (nothing is downloaded here)")
    return path


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    chromium()
    folder = tmp_path_factory.mktemp("dashboard")
    offset = PORT_OFFSET
    with ExitStack() as stack:
        redis_url = stack.enter_context(running_server(folder / "server"))
        settings = {
            "QT_REDIS_URL": redis_url, "QT_PORT_OFFSET": str(offset), "QT_SYMBOLS": "BTCUSDT,ETHUSDT",
            "QT_CLOCK": "replay", "QT_STATE_DIR": str(folder), "QT_MODELS_DIR": str(folder / "models"),
            "QT_API_TOKEN": TOKEN, "QT_MIN_CONFIDENCE_THRESHOLD": "0.55",
        }  # fmt: skip
        commands = {name: ["-m", name.replace("-", "_")] for name in REAL}
        commands |= {name: ["-m", "browser.heart", name] for name in AGENT_SERVICES.values()}
        processes: dict[str, subprocess.Popen[bytes]] = {}
        for name, command in commands.items():
            process = subprocess.Popen(
                [sys.executable, *command],
                env=os.environ | settings,
                cwd=Path(__file__).parents[1],
                stdout=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            processes[name] = process
        started = Fleet(redis_url, offset, processes)
        try:
            for name in processes:
                wait_until(partial(answers, f"{started.url(name)}/health/live"), within_s=40)
            yield started
        finally:
            for process in processes.values():
                process.terminate()


@pytest.fixture
async def line(fleet: Fleet) -> AsyncIterator[Line]:
    bus = RedisBus.connect(fleet.redis_url)
    yield Line(bus, wall_ms())
    await bus.close()


@pytest.fixture
async def page(fleet: Fleet) -> AsyncIterator[Page]:
    """A page that complains of nothing: no script error, no refused style."""
    complaints: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        opened = await browser.new_page(viewport={"width": 1600, "height": 1000})
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
        yield opened
        await browser.close()
    assert complaints == []

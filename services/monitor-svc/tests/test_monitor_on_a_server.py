"""The reader on a real server that is killed and comes back."""

from __future__ import annotations

import subprocess
from pathlib import Path

from browser.line import HOUR_MS, Line
from monitor_svc.facts import Facts
from monitor_svc.reader import StreamReader
from monitor_svc.settings import Settings
from quantum_common.bus import RedisBus
from quantum_common.bus.embedded import server_command
from quantum_common.domain import SERVICE_PORTS
from quantum_common.service.clock import wall_ms
from quantum_common.testing import eventually, free_port

BAR = 1_700_000_000_000 // HOUR_MS * HOUR_MS


def started(folder: Path, port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(server_command(folder, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def test_a_killed_server_makes_facts_old_and_one_that_is_back_is_read_on(tmp_path: Path) -> None:
    port = free_port()
    bus = RedisBus.connect(f"redis://127.0.0.1:{port}/0")
    facts = Facts.empty("1h", SERVICE_PORTS)
    reader, line = StreamReader(Settings(), bus, facts), Line(bus, wall_ms())

    async def reads() -> bool:
        await reader.turn()
        return not facts.read.problem

    server = started(tmp_path, port)
    try:
        await eventually(reads, within_s=20)
        await line.bar("BTCUSDT", BAR)
        assert await reads()
        server.kill()
        server.wait()
        assert not await reads()
        assert facts.read.problem.startswith("bus unavailable")
        assert facts.market.newest_bar_ms == BAR
        server = started(tmp_path, port)
        await eventually(reads, within_s=20)
        await line.bar("BTCUSDT", BAR + HOUR_MS)
        assert await reads()
        assert [bar.ts_ms for bar in facts.market.bars["BTCUSDT"]] == [BAR, BAR + HOUR_MS]
    finally:
        server.kill()
        server.wait()
        await bus.close()

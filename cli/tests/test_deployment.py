"""`quantum play` beside a venue that takes connections and never answers."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from quantum_common.domain import SERVICE_PORTS


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--until-done"], 1)])
def test_a_market_that_is_stopped_before_its_end_has_failed_only_where_the_end_was_asked_for(
    options: list[str], code: int, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as venue:
        venue.settimeout(20)
        offset = venue.getsockname()[1] - SERVICE_PORTS["exchange-sim"]
        settings = {
            "QT_SYMBOLS": "BTCUSDT", "QT_SIM_CANDLE_VENUE": "synthetic", "QT_SIM_DATA_DIR": str(tmp_path),
            "QT_STATE_DIR": str(tmp_path), "QT_PORT_OFFSET": str(offset),
            "HTTP_PROXY": "http://127.0.0.1:1",  # the way to the world is not the way to the fleet
        }  # fmt: skip
        command = [sys.executable, "-m", "quantum_cli", "play", *options]
        with subprocess.Popen(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True) as market:
            try:
                connection, _ = venue.accept()  # it is asked, so the market waits
                market.send_signal(signal.SIGTERM)
                said, _ = market.communicate(timeout=30)
                connection.close()
            finally:
                market.kill()
    assert (market.returncode, said) == (code, "stopped\n")
